"""A plan as an image: what each phase reads of each language, and how often."""

import math
from pathlib import Path
from typing import Any

from tessera.plan.overview import Overview
from tessera.report.charts import altair
from tessera.report.style import INK, LIGHT


def draw_plan(plan: Overview, path: Path) -> Path:
    """Writes the shares of the languages by rank and their epochs by available text, as PNG; returns the file.

    Raises ValueError where the plan knows no languages, ImportError without the extra `report`.
    """
    known = [phase for phase in plan.phases if phase.languages]
    if not known:
        raise ValueError("--plot: the plan knows no languages yet; prepare the shards, or give --counts FILE")
    if path.suffix.lower() != ".png":
        raise ValueError(f"--plot: {path} is no image that can be written; give a name that ends in .png")
    alt = altair()
    colour = alt.Color("phase:N", scale=alt.Scale(domain=[phase.name for phase in known], range=list(LIGHT)))
    shares = [
        {"x": rank, "y": 100 * row.share, "phase": phase.name}
        for phase in known
        for rank, row in enumerate(phase.languages, 1)
    ]
    epochs = [
        {"x": row.available, "y": row.epochs, "phase": phase.name}
        for phase in known
        for row in phase.languages
        if row.available and row.epochs
    ]
    left = alt.Chart(alt.Data(values=shares)).mark_line(strokeWidth=1.6)
    right = alt.Chart(alt.Data(values=epochs)).mark_point(size=16, filled=True, opacity=0.7)
    parts = [left.encode(x=_axis(alt, "x", "rank of the language", shares), color=colour,
                         y=_axis(alt, "y", "share of tokens, %", shares))
             .properties(title="Share of each language", width=360, height=300)]  # fmt: skip
    if epochs:
        parts.append(right.encode(x=_axis(alt, "x", "tokens available", epochs), color=colour,
                                  y=_axis(alt, "y", "epochs", epochs))
                     .properties(title="How often it is read", width=360, height=300))  # fmt: skip
    ink = {"labelColor": INK["muted"], "titleColor": INK["muted"], "gridColor": INK["grid"], "titlePadding": 8}
    chart = (
        alt.hconcat(*parts)
        .configure(background="white", font="Liberation Sans, sans-serif", padding=12)
        .configure_axis(**ink, titleFontWeight="normal")
        .configure_view(stroke=None)
        .configure_title(anchor="start", color=INK["text"], fontSize=14)
        .configure_legend(orient="bottom", title=None, labelColor=INK["text"], columns=6)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    chart.save(str(path), scale_factor=2)
    return path


def _axis(alt: Any, name: str, title: str, rows: list[dict[str, Any]]) -> Any:
    """A logarithmic axis with marks at the powers of ten."""
    values = [row[name] for row in rows if row[name] > 0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    marks = [10.0**n for n in range(low, max(high, low + 1) + 1)]
    label = "replace(format(datum.value, '~s'), 'G', 'B')" if marks[-1] > 1000 else "format(datum.value, '~g')"
    scale = alt.Scale(type="log", domain=[marks[0], marks[-1]], nice=False)
    axis = alt.Axis(title=title, values=marks, labelExpr=label)
    return (alt.X if name == "x" else alt.Y)(f"{name}:Q", scale=scale, axis=axis)
