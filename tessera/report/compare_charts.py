"""The pictures of a comparison: bars by language, means of language groups, scores against length, whole tasks."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import yaml

from tessera.report.compare import Comparison
from tessera.report.style import INK, LIGHT, altair, check_picture, write_picture
from tessera.results.published import EUROPEAN, EUROPEAN_CODES, Score

Kind = Literal["auto", "languages", "groups", "length", "tasks"]
Groups = Literal["family", "script", "european"]
_BARS = 48  # languages that bars have room for; more are points by rank
_MOST = 8  # models: as many as there are colours
_OTHER = "other families"


def draw(comparison: Comparison, path: Path, kind: Kind = "auto", *, groups: Groups = "family") -> Path:
    """Writes the picture and returns the file; auto: the first of length, languages, tasks that there is something for.

    languages   a bar for each language and model; beyond 48 languages a point for each, by rank
    groups      the mean of each language family or script, or of European and other languages, every language once
    length      the score by the length of what is to be found, as in figure 3 of EuroBERT (arXiv:2503.05500)
    tasks       the average of each task, with its interval where there is one

    Raises ValueError where there is nothing to draw, too many models, or an ending that is none of .png, .svg, .html;
    ImportError without the extra `report`.
    """
    check_picture(path)
    if len(comparison.models) > _MOST:
        raise ValueError(
            f"--plot: {len(comparison.models)} models are more than {_MOST}, which is what can be told apart; choose "
            "some with --model"
        )
    alt = altair()
    drawing = kind if kind != "auto" else _fitting(comparison)
    by_task: dict[str, Callable[..., Any]]
    by_task = {"languages": _languages, "groups": partial(_groups, by=groups), "length": _length}
    make = by_task.get(drawing)
    pieces = [make(alt, comparison, task) for task in comparison.tasks] if make else [_tasks(alt, comparison)]
    charts = [piece for piece in pieces if piece is not None]
    if not charts:
        raise ValueError(f"--plot: nothing here has what a picture by {drawing} needs; see the table")
    whole = charts[0] if len(charts) == 1 else alt.vconcat(*charts, spacing=26)
    return write_picture(whole, path, columns=4, labelLimit=260)


def group_of(code: str, by: Groups) -> str:
    """The group of a language such as fao_Latn."""
    language, _, script = code.partition("_")
    if by == "script":
        return script or "no script named"
    if by == "european":
        return "European (EuroBERT's eight)" if language in EUROPEAN_CODES else "others"
    return _families().get(language, _OTHER)


@cache
def _families() -> dict[str, str]:
    given = yaml.safe_load((Path(__file__).with_name("families.yaml")).read_text(encoding="utf-8"))
    return {code: family for family, codes in given.items() for code in codes.split()}


def _fitting(comparison: Comparison) -> str:
    results = [result for several in comparison.tasks.values() for result in several]
    if any(len(result.by_length) > 1 for result in results):
        return "length"
    spoken = max((len(_spoken(result)) for result in results), default=0)
    return "languages" if spoken > 1 and len(comparison.tasks) <= 3 else "tasks"


# ------------------------------------------------------------------------------------------------------------- pictures


def _languages(alt: Any, comparison: Comparison, task: str) -> Any:
    """Best first by the first model that has them."""
    results = [result for result in comparison.tasks[task] if len(_spoken(result)) > 1]
    if not results:
        return None
    first = _spoken(results[0])
    codes = sorted({code for r in results for code in _spoken(r)}, key=lambda code: (-first.get(code, -1e9), code))
    rows = [
        {"language": code, "rank": codes.index(code) + 1, "model": r.label, "value": _spoken(r)[code]}
        for r in results
        for code in codes
        if code in _spoken(r)
    ]
    base = alt.Chart(alt.Data(values=rows), title=f"{task}: {results[0].metric} by language").encode(
        y=_y(alt, results[0].metric),
        color=_colour(alt, comparison),
        tooltip=_tooltip(alt, "language"),
    )
    if len(codes) <= _BARS:  # those of a language side by side
        axis = alt.Axis(title=None, labelAngle=-55 if len(codes) > 8 else 0, ticks=False, labelPadding=6, grid=False)
        scale = alt.Scale(paddingInner=0.22, paddingOuter=0.2)
        x, beside = alt.X("language:N", sort=codes, axis=axis, scale=scale), _models(comparison, rows)
        bars = base.mark_bar().encode(x=x, xOffset=alt.XOffset("model:N", sort=beside))
        return bars.properties(width=max(260, min(1100, len(codes) * (9 * len(beside) + 7))), height=260)
    axis = alt.Axis(title=f"{len(codes)} languages, best of {results[0].label} first", grid=False)
    x = alt.X("rank:Q", scale=alt.Scale(domain=[0, len(codes) + 1], nice=False), axis=axis)
    return base.mark_circle(size=22, opacity=0.85).encode(x=x).properties(width=820, height=340)


def _groups(alt: Any, comparison: Comparison, task: str, by: Groups) -> Any:
    """Only languages that all models have: a mean over others would compare languages rather than models."""
    results = [result for result in comparison.tasks[task] if _spoken(result)]
    if not results:
        return None
    shared = sorted(set.intersection(*(set(_spoken(result)) for result in results)))
    groups: dict[str, list[str]] = {}
    for code in shared:
        groups.setdefault(group_of(code, by), []).append(code)
    if not groups:
        return None
    first = _spoken(results[0])
    mean = {group: sum(first[code] for code in codes) / len(codes) for group, codes in groups.items()}
    names = {group: f"{group} ({len(codes)})" for group, codes in groups.items()}
    order = [names[group] for group in sorted(groups, key=lambda group: -mean[group])]
    rows = [
        {"group": names[group], "model": r.label, "value": sum(_spoken(r)[code] for code in codes) / len(codes)}
        for r in results
        for group, codes in groups.items()
    ]
    word = {"family": "language family", "script": "script", "european": "EuroBERT's split"}[by]
    head = f"{task}: {results[0].metric} by {word} (number of languages)"
    return _rows(alt, comparison, rows, "group", order, results[0].metric, head)


def _length(alt: Any, comparison: Comparison, task: str) -> Any:
    results = [result for result in comparison.tasks[task] if len(result.by_length) > 1]
    if not results:
        return None
    bins = sorted({name for result in results for name in result.by_length}, key=_begin)
    label = {name: _bin(name) for name in bins}
    whose = {result.name: "published" if result.source else "ours" for result in results}
    rows = [
        {"length": label[name], "model": result.name, "value": value, "source": whose[result.name]}
        for result in results
        for name, value in result.by_length.items()
    ]
    axis = alt.Axis(title="length of what is to be found, characters", labelAngle=0, grid=False)
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("length:O", sort=[label[name] for name in bins], axis=axis),
        y=_y(alt, results[0].metric, zero=False),
        color=_colour(alt, comparison),
        tooltip=_tooltip(alt, "length", "source"),
    )
    dash = alt.StrokeDash(
        "source:N", scale=alt.Scale(domain=["ours", "published"], range=[[1, 0], [5, 4]]), legend=None
    )
    lines = base.mark_line(strokeWidth=1.8).encode(strokeDash=dash)
    chart = lines + base.mark_point(filled=True, size=46, opacity=1)
    return chart.properties(width=520, height=300, title=f"{task}: {results[0].metric} by length")


def _tasks(alt: Any, comparison: Comparison) -> Any:
    rows: list[dict[str, Any]] = []
    whiskers = any(r.half for results in comparison.tasks.values() for r in results)
    for task, results in comparison.tasks.items():
        for r in results:
            if r.average is not None:
                half = r.half or 0.0
                ends = {"low": r.average - half, "high": r.average + half} if whiskers else {}
                rows.append({"task": task, "model": r.label, "value": r.average, **ends})
    if not rows:
        return None
    metrics = {result.metric for results in comparison.tasks.values() for result in results}
    unit = metrics.pop() if len(metrics) == 1 else "each task's own metric"
    order: list[str] = list(dict.fromkeys(row["task"] for row in rows))
    head = "Averages" + (", with 95% intervals where there are seeds" if whiskers else "")
    return _rows(alt, comparison, rows, "task", order, unit, head)


# --------------------------------------------------------------------------------------------------- parts of a picture


def _rows(
    alt: Any, comparison: Comparison, rows: list[dict[str, Any]], what: str, order: list[str], unit: str, head: str
) -> Any:
    """Lying bars, for names that need room; with intervals where a row says its `low` and `high`."""
    names = alt.Axis(title=None, ticks=False, domain=False, labelColor=INK["text"], labelPadding=6, labelLimit=320)
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y(f"{what}:N", sort=order, axis=names, scale=alt.Scale(paddingInner=0.3, paddingOuter=0.15)),
        yOffset=alt.YOffset("model:N", sort=_models(comparison, rows)),
    )
    x = alt.X("value:Q", axis=alt.Axis(title=unit, tickCount=6), scale=alt.Scale(zero=True))
    chart = base.mark_bar().encode(x=x, color=_colour(alt, comparison), tooltip=_tooltip(alt, what))
    whiskers = any("low" in row for row in rows)
    if whiskers:
        chart += base.mark_rule(color=INK["text"]).encode(x=alt.X("low:Q"), x2="high:Q")
    numbers = base.mark_text(align="left", dx=4, fontSize=9, color=INK["muted"])
    numbers = numbers.encode(x=alt.X("high:Q" if whiskers else "value:Q"), text=alt.Text("value:Q", format=".1f"))
    return (chart + numbers).properties(width=560, height=alt.Step(13), title=head)


def _models(comparison: Comparison, rows: list[dict[str, Any]]) -> list[str]:
    """The models of some rows, in the order of the comparison."""
    shown = {row["model"] for row in rows}
    return [name for name in comparison.models if name in shown]


def _tooltip(alt: Any, *names: str) -> list[Any]:
    return [*(f"{name}:N" for name in names), "model:N", alt.Tooltip("value:Q", format=".2f")]


def _y(alt: Any, unit: str, zero: bool = True) -> Any:
    return alt.Y(
        "value:Q", axis=alt.Axis(title=unit, tickCount=6), scale=alt.Scale(zero=zero, padding=0 if zero else 12)
    )


def _colour(alt: Any, comparison: Comparison) -> Any:
    """One model has one colour in all charts of a picture."""
    models = comparison.models
    return alt.Color("model:N", scale=alt.Scale(domain=models, range=list(LIGHT[: len(models)])))


def _spoken(result: Score) -> dict[str, float]:
    return {code: value for code, value in result.values.items() if code != EUROPEAN}


def _begin(name: str) -> float:
    """Where a bin such as 1000-5000 or >151000 begins."""
    low = name.lstrip(">").partition("-")[0]
    return float(low) if low.replace(".", "").isdigit() else float("inf")


def _bin(name: str) -> str:
    """1000-5000 as 1K-5K, >151000 as over 151K."""
    if not name.startswith(">") and "-" not in name:
        return name
    short = "-".join(f"{float(number) / 1000:g}K" for number in name.lstrip(">").split("-"))
    return f"over {short}" if name.startswith(">") else short
