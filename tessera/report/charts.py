"""Charts of a run as Vega-Lite, for the page to draw in the reader's browser: loss, schedules, mixture, held-out text.

One colour is one stage (phase or merge) in every chart. Branches of one parent start at the same place and are lines
of their own.
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

from tessera.report.run_files import EVERYTHING, NOT_LANGUAGES, PhaseLog, Run, group_mean, parents_of
from tessera.report.style import TOKENS, altair

_FEW = 15  # languages that can each have a bar and a name; more are points
_RATE = "datum.value == 0 ? '0' : format(datum.value, '~e')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart without width and colours: the page gives those."""

    title: str
    caption: str = ""
    chart: Any  # of altair
    height: int
    stages: tuple[str, ...]  # whose colours it shows
    key: str = ""  # its name on the page


def figures(run: Run) -> dict[str, list[Figure]]:
    """All charts for which there is something to draw, by section of the report.

    They have no legends: the page writes its own, which wraps on a phone.
    """
    drawn = {
        "loss": _loss(run),
        "schedules": _columns(run, "learning_rate", "mask_ratio", "batch_tokens"),
        "mixture": _mixture(run),
        "held_out": _held_out(run),
        "languages": _languages(run),
        "merge": _merges(run),
        "throughput": _columns(run, "tokens_per_second", "mfu"),
    }
    return {
        name: [replace(figure, key=f"{name}-{number}") for number, figure in enumerate(several)]
        for name, several in drawn.items()
    }


def thin(x: list[float], y: list[float], points: int, last: bool = False) -> list[tuple[float, float]]:
    """At most `points` points: the means over stretches of equal length, or their last values, which keeps corners.

    Values that are not finite are left out.
    """
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(pairs) <= points:
        return pairs
    edges = [len(pairs) * i // points for i in range(points + 1)]
    pieces = [pairs[a:b] for a, b in itertools.pairwise(edges)]
    return [piece[-1] if last else (piece[-1][0], sum(b for _, b in piece) / len(piece)) for piece in pieces]


# ------------------------------------------------------------------------------------------------------------ sections


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How one column of the steps is drawn."""

    title: str
    unit: str = ""
    label: str | None = None  # Vega expression of the labels of its axis
    zero: bool = True  # whether the axis begins at zero
    points: int = 300  # at most, of one line: more cannot be told apart on a screen
    noisy: bool = False  # each point is a mean; otherwise corners are kept
    height: int


_CURVES = {
    "loss": Curve(
        title="Training loss", unit="nats per predicted token", zero=False, points=120, noisy=True, height=280
    ),
    "learning_rate": Curve(title="Learning rate", label=_RATE, height=150),
    "mask_ratio": Curve(title="Mask ratio", label="format(datum.value, '~%')", height=150),
    "batch_tokens": Curve(title="Tokens per step", label=TOKENS, height=150),
    "tokens_per_second": Curve(
        title="Throughput", unit="tokens per second", label=TOKENS, points=120, noisy=True, height=200
    ),
    "mfu": Curve(title="MFU", label="format(datum.value, '~%')", points=120, noisy=True, height=200),
}


_OBJECTIVES = (
    ("distil", "Training loss of distillation", "distance to the teacher's vector"),
    ("contrast", "Training loss of contrastive training", "nats per pair"),
)


def _loss(run: Run) -> list[Figure]:
    begun = [p for p in run.phases if p.started]
    started = [p for p in begun if p.phase.kind == "masked"]
    made = _curve(run, started, "loss", _CURVES["loss"])
    for kind, title, unit in _OBJECTIVES:  # each loss has a scale of its own
        made += _curve(
            run, [p for p in begun if p.phase.kind == kind], "loss", replace(_CURVES["loss"], title=title, unit=unit)
        )
    for parent in dict.fromkeys(p.phase.from_ for p in started):
        branches = [p for p in started if p.phase.from_ == parent and parent in run.models]
        if len(branches) > 1:
            # Branches differ by less than the noise of a step, so their lines are smoother.
            title = f"Training loss of the branches of {parent}"
            curve = replace(_CURVES["loss"], title=title, points=40, height=220)
            made += _curve(run, branches, "loss", curve)
    return made


def _columns(run: Run, *names: str) -> list[Figure]:
    masked = [log for log in run.phases if log.phase.kind == "masked"]
    logs = {name: masked if name == "mask_ratio" else list(run.phases) for name in names}
    return [figure for name in names for figure in _curve(run, logs[name], name, _CURVES[name])]


def _curve(run: Run, logs: list[PhaseLog], column: str, curve: Curve) -> list[Figure]:
    """One column of the steps over total tokens, a line for each phase; nothing where no phase has such values."""
    rows = [
        {"x": _round(x, 7), "y": _round(y), "stage": log.name}
        for log in logs
        for x, y in thin(log.steps["total_tokens"], log.steps[column], curve.points, last=not curve.noisy)
    ]
    if not rows:
        return []
    alt = altair()
    shown = _stages(rows)
    start = float(min(log.origin for log in logs if log.name in shown))
    label = {"labelExpr": curve.label} if curve.label else {}
    axis = alt.Axis(title=curve.unit or None, tickCount=5, **label)
    value = alt.Tooltip("y:Q", title=column.replace("_", " "), format=".4~g")
    chart = _over_tokens(run, rows, start, alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=curve.zero)), value)
    return [Figure(title=curve.title, chart=chart, height=curve.height, stages=shown)]


def _held_out(run: Run) -> list[Figure]:
    alt, made = altair(), []
    for group, codes in run.groups.items():
        rows = []
        for log in run.phases:
            parent = next((p for p in run.phases if p.name == log.phase.from_ and p.finished), None)
            # A branch begins with the very weights its parent ended with, so its line begins at that measurement.
            events = [*(parent.held_out[-1:] if parent and log.held_out else ()), *log.held_out]
            points = [(e.total_tokens, group_mean(e.bits, codes)) for e in events]
            rows += [{"x": _round(x, 7), "y": _round(y), "stage": log.name} for x, y in points if y is not None]
        if not rows:
            continue
        y = alt.Y("y:Q", axis=alt.Axis(title=None, tickCount=5), scale=alt.Scale(zero=False))
        value = alt.Tooltip("y:Q", title="bits per byte", format=".3f")
        chart = _over_tokens(run, rows, 0.0, y, value, point={"size": 14})
        title = group.capitalize() if group == EVERYTHING else group
        made.append(Figure(title=f"{title} ({len(codes)})", chart=chart, height=190, stages=_stages(rows)))
    return made


def _mixture(run: Run) -> list[Figure]:
    rows: list[dict[str, Any]] = []
    for log in run.phases:
        known = [(r.planned, r.read, code) for code, r in log.mixture.items() if r.planned > 0]
        known.sort(key=lambda item: (-item[0], item[2]))
        kept = {round(len(known) ** (i / 150)) for i in range(151)}  # evenly on the logarithmic axis
        for rank, (planned, read, code) in enumerate(known, 1):
            if len(known) <= 150 or rank in kept:
                row = {"rank": rank, "planned": _round(100 * planned), "stage": log.name, "language": code}
                rows.append(row | ({"read": _round(100 * read)} if read else {}))
    if not rows:
        return []
    if max(row["rank"] for row in rows) <= _FEW:
        rows = [{**row, "x": row["planned"]} for row in rows]
        order = list(dict.fromkeys(row["language"] for row in sorted(rows, key=lambda row: -row["planned"])))
        return [_bars(run, rows, order, "share of tokens, %, as planned", "Share of each language", "")]
    alt = altair()
    least = min(min(row["planned"], row.get("read", math.inf)) for row in rows)
    y_scale = alt.Scale(type="log", domain=[10 ** math.floor(math.log10(least)), 100], nice=False)
    last = max(row["rank"] for row in rows)
    ranks = [n * 10**e for e in range(5) for n in (1, 2, 3, 5) if n * 10**e <= last]
    shares = alt.Axis(title="share of tokens, %", format="~g", values=[10**i for i in range(-9, 3)])
    tooltip = [
        alt.Tooltip("stage:N", title="phase"),
        alt.Tooltip("language:N"),
        alt.Tooltip("rank:Q"),
        alt.Tooltip("planned:Q", title="planned, %", format=".3~g"),
        alt.Tooltip("read:Q", title="read, %", format=".3~g"),
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "rank:Q",
            scale=alt.Scale(type="log", nice=False),
            axis=alt.Axis(title="rank of the language", values=ranks, format="d"),
        ),
        color=_colour(alt, run),
        tooltip=tooltip,
    )
    line = base.mark_line(strokeWidth=1.6).encode(y=alt.Y("planned:Q", scale=y_scale, axis=shares))
    dots = base.mark_point(size=16, filled=True, opacity=0.7).encode(y=alt.Y("read:Q", scale=y_scale))
    dots = dots.transform_filter("isValid(datum.read)")
    caption = "From the largest share to the smallest, both axes logarithmic. Lines: planned; dots: really read."
    stages = _stages(rows)
    return [Figure(title="Share of each language", caption=caption, chart=line + dots, height=320, stages=stages)]


def _languages(run: Run) -> list[Figure]:
    """Held-out bits per byte at the end against the text there was, for models that nothing was built on."""
    bits, _ = run.final_bits()
    built_on = {p.phase.from_ for p in run.phases}
    last = [m for m in run.models if m in bits and m not in built_on] or [m for m in run.models if m in bits][-1:]
    if sum(len(bits[m]) for m in last) > 1200:
        last = last[-1:]  # one cloud of points can be read where four cannot
    available = run.available
    rows = [
        {"x": available[code], "y": _round(value), "stage": model, "language": code}
        for model in last
        for code, value in bits[model].items()
        if available.get(code, 0.0) > 0 and code not in NOT_LANGUAGES
    ]
    if not rows:
        return []
    title = "Held-out bits per byte at the end, by language"
    if len(order := sorted({str(row["language"]) for row in rows}, key=lambda code: (-available[code], code))) <= _FEW:
        rows = [{**row, "x": row["y"]} for row in rows]
        return [
            _bars(
                run, rows, order, "bits per byte", title, "From the language with the most text to that with the least."
            )
        ]
    alt = altair()
    ticks = [n * 10**e for e in range(2, 14) for n in (1, 2, 5)]
    axis = alt.Axis(title="tokens of training text at hand", labelExpr=TOKENS, values=ticks)
    x = alt.X("x:Q", scale=alt.Scale(type="log", nice=False, padding=8), axis=axis)
    y = alt.Y("y:Q", axis=alt.Axis(title="bits per byte", tickCount=6), scale=alt.Scale(zero=False))
    tooltip = [
        alt.Tooltip("stage:N", title="model"),
        alt.Tooltip("language:N"),
        alt.Tooltip("y:Q", title="bits per byte", format=".3f"),
        alt.Tooltip("read:N", title="tokens"),
    ]
    dots = _base(alt, rows).mark_circle(size=34, opacity=0.65)
    dots = dots.encode(x=x, y=y, color=_colour(alt, run), tooltip=tooltip)
    caption = f"Each point is one language. Shown: {', '.join(last)}."
    return [Figure(title=title, caption=caption, chart=dots, height=300, stages=tuple(last))]


def _bars(run: Run, rows: list[dict[str, Any]], order: list[str], unit: str, title: str, caption: str) -> Figure:
    """A bar for each language, with its name, and each stage: for so few languages that all can be read."""
    alt, stages = altair(), _stages(rows)
    x = alt.X("x:Q", axis=alt.Axis(title=unit, tickCount=6), scale=alt.Scale(zero=True))
    y = alt.Y("language:N", sort=order, axis=alt.Axis(title=None, labelLimit=160, ticks=False))
    tooltip = [alt.Tooltip("stage:N"), alt.Tooltip("language:N"), alt.Tooltip("x:Q", title=unit, format=".3~g")]
    offset = alt.YOffset("stage:N", sort=list(stages))
    bars = alt.Chart(alt.Data(values=rows)).mark_bar().encode(
        x=x, y=y, yOffset=offset, color=_colour(alt, run), tooltip=tooltip
    )  # fmt: skip
    height = len(order) * (8 + 9 * len(stages)) + 40
    return Figure(title=title, caption=caption, chart=bars, height=height, stages=stages)


def _merges(run: Run) -> list[Figure]:
    alt, made = altair(), []
    bits, _ = run.final_bits()
    for merge in run.recipe.merges:
        models = [m for m in (*parents_of(merge), merge.name) if m in bits]
        if merge.name not in models or len(models) < 2:
            continue
        rows = [
            {"group": group, "x": _round(value), "stage": model}
            for group, codes in run.groups.items()
            for model in models
            if (value := group_mean(bits[model], codes)) is not None
        ]
        order = list(run.groups)
        x = alt.X("x:Q", axis=alt.Axis(title="bits per byte", tickCount=5), scale=alt.Scale(zero=False, padding=12))
        y = alt.Y("group:N", sort=order, axis=alt.Axis(title=None, labelLimit=160, grid=True, ticks=False))
        tooltip = ["stage:N", "group:N", alt.Tooltip("x:Q", title="bits per byte", format=".3f")]
        # The merge lies between its parents or on them: an outline, larger than they are and above them, stays visible.
        parents, merged = ([r for r in rows if (r["stage"] == merge.name) is own] for own in (False, True))
        dots = alt.Chart(alt.Data(values=parents)).mark_circle(size=70, opacity=0.85)
        diamonds = alt.Chart(alt.Data(values=merged)).mark_point(
            shape="diamond", size=210, strokeWidth=2.2, filled=False, opacity=1
        )
        dots, diamonds = (of.encode(x=x, y=y, color=_colour(alt, run), tooltip=tooltip) for of in (dots, diamonds))
        title = f"{merge.name}: {merge.method} of {', '.join(parents_of(merge))}"
        caption = "Held-out bits per byte by language group; the diamond is the merge."
        made.append(
            Figure(
                title=title, caption=caption, chart=dots + diamonds, height=34 * len(order) + 10, stages=tuple(models)
            )
        )
    return made


# --------------------------------------------------------------------------------------------------- parts of a chart


def _base(alt: Any, rows: list[dict[str, Any]]) -> Any:
    return alt.Chart(alt.Data(values=rows)).transform_calculate(read="replace(format(datum.x, '.3~s'), 'G', 'B')")


def _stages(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row["stage"] for row in rows))


def _over_tokens(run: Run, rows: list[dict[str, Any]], start: float, y: Any, value: Any, **mark: Any) -> Any:
    """Lines over the tokens of the run, and dashed ones where phases begin; branches of one parent share theirs."""
    alt = altair()
    axis = alt.Axis(
        title="tokens since the start of the run", labelExpr=TOKENS, tickCount=6, grid=False, labelFlush=True
    )
    x = alt.X("x:Q", axis=axis, scale=alt.Scale(domain=[start, max(row["x"] for row in rows)], nice=False))
    tooltip = [alt.Tooltip("stage:N", title="phase"), alt.Tooltip("read:N", title="tokens"), value]
    lines = _base(alt, rows).mark_line(strokeWidth=1.6, **mark)
    lines = lines.encode(x=x, y=y, color=_colour(alt, run), tooltip=tooltip)
    begins = sorted({p.origin for p in run.phases if p.started and p.origin > start})
    if not begins:
        return lines
    rules = alt.Chart(alt.Data(values=[{"x": x} for x in begins])).mark_rule(strokeDash=[3, 4], opacity=0.7)
    return rules.encode(x="x:Q") + lines


def _colour(alt: Any, run: Run) -> Any:
    return alt.Color("stage:N", scale=alt.Scale(domain=run.names), legend=None)


def _round(value: float, digits: int = 5) -> float:
    """So many significant digits, which keeps the page small."""
    return float(f"{value:.{digits}g}")
