"""Plot of smaller models: what is kept of the scores, and of the whole model's vectors, against the size of layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tessera.report.style import INK, LIGHT, altair, check_picture, write_picture


def draw_curve(rows: Sequence[dict[str, Any]], path: Path, near: str, title: str = "Smaller models") -> Path:
    """Writes a line for each score, in hundredths of that of the whole model; returns the file.

    rows   the whole model first: {model, in_layers, speed, near, scores: {task: hundredths}}
    near   what nearness to the whole model is: cosine, agreement

    Raises ValueError where `path` ends in something else than .png, .svg or .html; ImportError without the extra
    `report`.
    """
    check_picture(path)
    alt = altair()
    first, near_name = rows[0], f"{near} with the whole model"
    scores = {name: due for name, due in first["scores"].items() if due}  # of a score of 0 nothing is a share
    shown = []
    for row in rows:
        size = 100 * row["in_layers"] / first["in_layers"]
        kept = {name: 100 * row["scores"][name] / due for name, due in scores.items() if name in row["scores"]}
        for name, value in {near_name: 100 * row["near"], **kept}.items():
            shown.append({"model": row["model"], "size": size, "score": name, "kept": value, "speed": row["speed"]})
    order = [near_name, *scores]
    low = min(row["kept"] for row in shown)
    base = alt.Chart(alt.Data(values=shown)).encode(
        x=alt.X("size:Q", scale=alt.Scale(domain=[0, 105], nice=False), axis=alt.Axis(title="parameters in layers, %")),
        y=alt.Y("kept:Q", scale=alt.Scale(domain=[low - 2, 101], nice=False), axis=alt.Axis(title="kept, %")),
        color=alt.Color("score:N", scale=alt.Scale(domain=order, range=list(LIGHT[: len(order)]))),
        tooltip=[alt.Tooltip("model:N"), alt.Tooltip("score:N"), alt.Tooltip("kept:Q", format=".1f"),
                 alt.Tooltip("speed:Q", format=".2f", title="times as fast")],
    )  # fmt: skip
    names = base.transform_filter(alt.datum.score == near_name).mark_text(align="left", dx=6, dy=10, fontSize=10)
    chart = base.mark_line() + base.mark_circle(size=50)
    chart += names.encode(text="model:N", color=alt.value(INK["muted"]))
    return write_picture(chart.properties(width=560, height=320, title=title), path, columns=2)
