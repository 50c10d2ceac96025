"""Plot of tokenizer fertility, what each language pays: all languages by name where they are few, else by rank."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tessera.report.style import INK, LIGHT, altair, check_picture, write_picture

_NAMED = 60  # rows of names fit a page; more languages than this stand side by side as points
_LABELS = 24  # of the points
_OTHER = "other scripts"


def draw_fertility(rows: Sequence[dict[str, Any]], path: Path, title: str = "What each language pays") -> Path:
    """Writes the cost of each language relative to the best-served one, cheapest first; returns the file.

    rows   of `tessera.vocabulary.fertility.fertility`

    Raises ValueError where there are no rows or `path` ends in something else than .png, .svg or .html; ImportError
    without the extra `report`.
    """
    if not rows:
        raise ValueError("--plot: no language was measured; see what the sources hold")
    check_picture(path)
    alt = altair()
    parallel = all(row["relative"] is not None for row in rows)
    axis = "tokens for the same content" if parallel else "tokens for the same information (estimate)"
    ordered = sorted(rows, key=lambda row: (row["cost"], row["language"]))
    scripts = _scripts(ordered)
    shown = [
        {
            "language": row["language"],
            "rank": rank,
            "cost": round(row["cost"], 4),
            "script": scripts[row["language"]],
            "words": round(row["tokens_per_word"], 3),
            "bytes": round(row["bytes_per_token"], 3),
            "fallback": round(100 * row["byte_fallback_share"], 2),
        }
        for rank, row in enumerate(ordered, 1)
    ]
    order = [script for script, _ in Counter(row["script"] for row in shown).most_common() if script != _OTHER]
    order += [_OTHER] if _OTHER in scripts.values() else []
    colours = [*LIGHT[: len(order) - 1], LIGHT[-1]] if _OTHER in order else list(LIGHT[: len(order)])
    colour = alt.Color("script:N", scale=alt.Scale(domain=order, range=colours))
    tooltip = [
        alt.Tooltip("language:N"),
        alt.Tooltip("cost:Q", format=".2f"),
        alt.Tooltip("words:Q", title="tokens per word"),
        alt.Tooltip("bytes:Q", title="bytes per token"),
        alt.Tooltip("fallback:Q", title="byte fallback, %"),
    ]
    draw = _by_name if len(shown) <= _NAMED else _by_rank
    subtitle = f"{axis}, relative to {ordered[0]['language']}"
    chart = draw(alt, shown, axis, colour, tooltip).properties(title=alt.Title(title, subtitle=subtitle))
    return write_picture(chart, path, columns=8)


def _scripts(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The script of each language, as far as there are colours: the most frequent by name, one colour for the rest."""
    names = [row["language"] for row in rows]
    codes = {name: name.rpartition("_")[2] if "_" in name else _OTHER for name in names}
    found = Counter(code for code in codes.values() if code != _OTHER)
    room = len(LIGHT) if len(found) <= len(LIGHT) and _OTHER not in codes.values() else len(LIGHT) - 1
    named = {code for code, _ in found.most_common(room)}
    return {name: code if code in named else _OTHER for name, code in codes.items()}


def _by_name(alt: Any, rows: list[dict[str, Any]], axis: str, colour: Any, tooltip: list[Any]) -> Any:
    """A bar and a number for each language."""
    names = alt.Axis(title=None, ticks=False, domain=False, labelColor=INK["text"], labelPadding=6)
    base = alt.Chart(alt.Data(values=rows)).encode(
        y=alt.Y("language:N", sort=[row["language"] for row in rows], axis=names),
        x=alt.X(
            "cost:Q",
            scale=alt.Scale(domain=[0, 1.1 * rows[-1]["cost"]], nice=False),
            axis=alt.Axis(title=axis, tickCount=6),
        ),
    )
    bars = base.mark_bar(height={"band": 0.62}).encode(color=colour, tooltip=tooltip)
    numbers = base.mark_text(align="left", dx=4, fontSize=10, color=INK["muted"])
    numbers = numbers.encode(text=alt.Text("cost:Q", format=".2f"))
    return (bars + numbers).properties(width=560, height=alt.Step(18))


def _by_rank(alt: Any, rows: list[dict[str, Any]], axis: str, colour: Any, tooltip: list[Any]) -> Any:
    """A point for each language; names of some, evenly over the ranks."""
    top = 1.05 * max(row["cost"] for row in rows)
    ticks = [v for v in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100) if v < top]
    ranks = alt.Axis(title="languages, the best served first", grid=False, tickCount=8)
    x = alt.X("rank:Q", scale=alt.Scale(domain=[1, len(rows) + 1], nice=False, padding=8), axis=ranks)
    y = alt.Y(
        "cost:Q",
        scale=alt.Scale(type="log", domain=[0.85, top], nice=False),
        axis=alt.Axis(title=axis, values=ticks, format="~g"),
    )
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y)
    points = base.mark_circle(size=26, opacity=0.85).encode(color=colour, tooltip=tooltip)
    chosen = sorted({round(i * (len(rows) - 1) / (_LABELS - 1)) for i in range(_LABELS)})
    some = alt.Chart(alt.Data(values=[rows[i] for i in chosen])).encode(x=x, y=y, text="language:N")
    # A curve that only rises leaves the room below and to the right of each point free.
    names = some.mark_text(align="left", angle=60, dx=7, dy=2, fontSize=10, color=INK["muted"])
    return (points + names).properties(width=820, height=400)
