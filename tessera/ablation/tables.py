"""Tables and plot of an ablation: differences to the baseline with their intervals, from its deltas.json only.

The picture is what figures 4 to 6 of EuroBERT (arXiv:2503.05500) show, lying: a row for each variant, a column for each
measure, and the intervals that those figures lack.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.ablation.axes import BASELINE
from tessera.report.style import INK, LIGHT, altair, check_picture, write_picture

Study = Mapping[str, Any]
Row = Mapping[str, Any]
_COLUMNS = ["axis", "value", "mean", "spread", "delta", "± own", "± pooled", "seeds", ""]
_LONG = 46  # letters of a row's name in the picture
KINDS = ("own", "pooled")  # of intervals
_NO_WIDTH = 1e-9  # of an interval, in percent or bits: what rounding leaves
_ENDS = (("low", -1), ("high", 1))
BETTER, WORSE, UNSURE = "better", "worse", "within chance"


def tables(study: Study) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, columns, rows) for each measure; the last column is the verdict."""
    made = []
    for measure in study["measures"]:
        rows = [row for row in study["rows"] if row["measure"] == measure["name"]]
        digits = 2 if measure["unit"] == "%" else 4
        cells = []
        for before, row in zip([None, *rows], rows, strict=False):
            said = "baseline" if row["variant"] == BASELINE else verdict(row, measure)
            numbers = [_number(row[key], digits, key) for key in ("mean", "spread", "delta", "own", "pooled")]
            axis = "" if before and before["axis"] == row["axis"] else row["axis"]
            cells.append([axis, row["label"], *numbers, str(len(row["seeds"])), "" if said == UNSURE else said])
        towards = "lower" if measure["lower_is_better"] else "higher"
        made.append((f"{measure['name']}, {measure['unit']} ({towards} is better)", list(_COLUMNS), cells))
    return made


def verdict(row: Row, measure: Mapping[str, Any]) -> str:
    """better or worse where both intervals of a difference leave out 0, else within chance.

    The pooled one alone would say too much for variants that chance moves more than others, such as those with other
    masks or other text in every batch; the own one alone is a spread out of a few numbers, which may be small by luck.
    """
    if not all(beyond(row, kind) for kind in KINDS):
        return UNSURE
    return BETTER if (row["delta"] < 0) == measure["lower_is_better"] else WORSE


def beyond(row: Row, kind: str) -> bool:
    """Whether a difference is beyond one of its intervals; never beyond one that has no width.

    Equal differences of a few seeds come of a coarse measure, as accuracy over twenty examples: of two seeds they would
    call one variant in twelve different that is not.
    """
    return row[kind] is not None and row[kind] > _NO_WIDTH and abs(row["delta"]) > row[kind]


def said(study: Study) -> list[str]:
    """What a reader should know before believing the tables."""
    by_name = {measure["name"]: measure for measure in study["measures"]}
    judged = [row for row in study["rows"] if row["pooled"] is not None]
    seeds = len({seed for row in study["rows"] for seed in row["seeds"]})
    if not judged:
        return [f"{seeds} seed{'s' if seeds > 1 else ''}: no interval can be given; use --seeds 3 or more"]
    both = sum(verdict(row, by_name[row["measure"]]) != UNSURE for row in judged)
    own, pooled = (sum(beyond(row, kind) for row in judged) for kind in KINDS)
    return [
        f"{both} of {len(judged)} differences are beyond both intervals ({own} beyond their own, {pooled} beyond the "
        f"pooled one); chance alone would take about {0.05 * len(judged):.0f} beyond each",
        "own: from the seeds of the variant; pooled: as if chance moved all variants equally",
    ]


def draw(study: Study, path: Path) -> Path:
    """Writes the picture (.png, .svg or .html) and returns the file.

    A thin line is the variant's own interval, cut where the column ends, a thick one the pooled interval. Raises
    ValueError for another ending, ImportError without the extra `report`.
    """
    check_picture(path)
    alt = altair()
    order = list(_rows(study))
    columns = [_column(alt, study, measure, order, first=n == 0) for n, measure in enumerate(study["measures"])]
    half = -(-len(columns) // 2) if len(columns) > 4 else len(columns)
    rows = [alt.hconcat(*columns[:half], spacing=14)]
    if columns[half:]:
        columns[half] = _column(alt, study, study["measures"][half], order, first=True)
        rows.append(alt.hconcat(*columns[half:], spacing=14))
    seeds = max(len(row["seeds"]) for row in study["rows"])
    title = alt.TitleParams(
        f"{study['recipe']}, {study['phase']} from {study['from']}: difference to the baseline",
        subtitle=f"{study['tokens']:,} tokens, {seeds} seed{'s' if seeds > 1 else ''}. Thick: 95% interval, chance "
        "pooled over variants; thin: the variant's own seeds. Right of the line is better; coloured: beyond both.",
    )  # fmt: skip
    return write_picture(alt.vconcat(*rows, spacing=22).properties(title=title), path, scale=1.6)


def _column(alt: Any, study: Study, measure: Mapping[str, Any], order: Sequence[str], first: bool) -> Any:
    """One measure: a point and two lines for each variant."""
    rows = []
    for name, by_measure in _rows(study).items():
        if (row := by_measure.get(measure["name"])) is not None:
            ends = {f"{kind}_{end}": row["delta"] + sign * (row[kind] or 0.0) for kind in KINDS for end, sign in _ENDS}
            rows.append({"name": name, "delta": row["delta"], "verdict": verdict(row, measure), **ends})
    widest = max([abs(r[key]) for r in rows for key in ("delta", "pooled_low", "pooled_high")] + [1e-9]) * 1.15
    for r in rows:
        r |= {key: max(-widest, min(widest, r[key])) for key in ("own_low", "own_high")}
    names = alt.Axis(title=None, ticks=False, domain=False, labels=first, labelLimit=330, labelColor=INK["text"])
    scale = alt.Scale(domain=[-widest, widest], nice=False, reverse=measure["lower_is_better"])
    x = alt.X("delta:Q", scale=scale, axis=alt.Axis(title=measure["unit"], tickCount=4, format="+~g"))
    colours = alt.Scale(domain=[BETTER, WORSE, UNSURE], range=[LIGHT[2], LIGHT[1], INK["muted"]])
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("name:N", sort=list(order), axis=names, scale=alt.Scale(domain=list(order))),
        color=alt.Color("verdict:N", scale=colours, legend=None),
        tooltip=["name:N", alt.Tooltip("delta:Q", format="+.4~g"), "verdict:N"],
    )
    zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color=INK["muted"], strokeDash=[3, 3]).encode(x="x:Q")
    thin = base.mark_rule(strokeWidth=1).encode(x=alt.X("own_low:Q", scale=scale), x2="own_high:Q")
    thick = base.mark_rule(strokeWidth=3.5).encode(x=alt.X("pooled_low:Q", scale=scale), x2="pooled_high:Q")
    points = base.mark_point(filled=True, size=52, opacity=1).encode(x=x)
    chart = zero + thin + thick + points
    return chart.properties(width=190, height=alt.Step(19), title=measure["name"])


def _rows(study: Study) -> dict[str, dict[str, Row]]:
    """{name of a variant: {measure: row}} in the order asked, without the values that are the baseline's own."""
    found: dict[str, dict[str, Row]] = {}
    for row in study["rows"]:
        if row["variant"] == BASELINE:
            continue
        name = f"{row['axis'].removeprefix('mixture.')} = {row['label']}"
        if ":" in row["label"]:  # of a whole mixture only what differs is told
            name = f"{row['axis']}: {row['label']}"
        found.setdefault(name if len(name) <= _LONG else f"{name[: _LONG - 1]}…", {})[row["measure"]] = row
    return found


def _number(value: float | None, digits: int, key: str) -> str:
    return "" if value is None else f"{value:+.{digits}f}" if key == "delta" else f"{value:.{digits}f}"
