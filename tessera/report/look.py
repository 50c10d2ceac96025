"""Plot and table of a look at a model: what its vocabulary costs each language, how well hidden words are guessed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.report.style import INK, LIGHT, altair, check_picture, write_picture

COLUMNS = (
    "language", "seems", "verdict", "tokens / word", "tokens / byte", "cost", "unknown", "byte pieces", "tokens used",
    "nearest", "bits / byte of hidden words", "of letters",
)  # fmt: skip
_COLOURS = {"use as it is": 2, "trim": 5, "extend": 1, "continue training": 0, "teach from the start": 6}


def rows(looked: Mapping[str, Any]) -> list[list[str]]:
    """A row for each language, of `Look.as_json()`."""
    return [
        [
            one["language"],
            _seems(one),
            ", ".join(one["verdict"]),
            f"{one['tokens_per_word']:.2f}",
            f"{one['tokens_per_byte']:.3f}",
            f"{one['cost']:.2f}",
            f"{one['unknown_share']:.1%}",
            f"{one['byte_fallback_share']:.1%}",
            f"{one['used_tokens']:,} ({one['used_tokens'] / looked['vocabulary']:.1%})",
            "" if one["nearest"] is None else f"{one['nearest']['language']} {one['nearest']['share']:.0%}",
            _bits(one["bits_per_byte"]),
            "not measured" if one["surprise"] is None else f"{one['surprise']:.0%}",
        ]
        for one in looked["languages"]
    ]


def said(looked: Mapping[str, Any]) -> list[str]:
    """What is said under the table: why, what is uncertain, what it costs here."""
    lines = []
    for one in looked["languages"]:
        lines += [f"{one['language']}: {why}" for why in one["reasons"]]
        lines += [f"{one['language']}: uncertain: {why}" for why in one["doubts"] if why not in _shared(looked)]
    lines += [f"uncertain: {why}" for why in _shared(looked)]
    lines.append(
        f"{looked['parameters'] / 1e6:.1f}M parameters, {looked['in_rows'] / 1e6:.1f}M of them in "
        f"{looked['vocabulary']:,} rows of the vocabulary; weights take {looked['memory'] / 1e6:.0f} MB in float32; "
        f"{looked['tokens_a_second']:,.0f} tokens/s here, on {looked['threads']} threads"
    )
    lines += looked["reasons"]
    prices = [
        f"{step} ({_time(looked['hours'][step])})" if looked["hours"][step] else step for step in looked["verdict"]
    ]
    lines.append(f"verdict: {', then '.join(prices)}")
    return lines


def draw_look(looked: Mapping[str, Any], path: Path) -> Path:
    """Writes what each language costs and, where that was measured, how well its hidden words are guessed.

    Raises ValueError where `path` ends in something else than .png, .svg or .html; ImportError without the extra
    `report`.
    """
    check_picture(path)
    alt = altair()
    shown = [
        {
            "language": one["language"],
            "verdict": ", ".join(one["verdict"]),
            "cost": round(one["cost"], 3),
            **({} if one["bits_per_byte"] is None else one["bits_per_byte"]),
        }
        for one in looked["languages"]
    ]
    kinds = list(dict.fromkeys(row["verdict"] for row in shown))
    colours = [LIGHT[_COLOURS.get(kind.rpartition(", ")[2], 7)] for kind in kinds]
    colour = alt.Color("verdict:N", scale=alt.Scale(domain=kinds, range=colours))
    names = alt.Axis(title=None, ticks=False, domain=False, labelColor=INK["text"], labelPadding=6)
    y = alt.Y("language:N", sort=[row["language"] for row in shown], axis=names)
    base = alt.Chart(alt.Data(values=shown)).encode(y=y, color=colour)
    size = {"width": 320, "height": alt.Step(18)}
    cost = alt.X("cost:Q", axis=alt.Axis(title="tokens for the same information (estimate)", tickCount=6))
    chart = base.mark_bar(height={"band": 0.62}).encode(x=cost).properties(**size)
    if any("value" in row for row in shown):
        axis = alt.Axis(title="bits per byte of hidden words, 95% interval", tickCount=6)
        point = base.mark_point(filled=True, size=45).encode(x=alt.X("value:Q", axis=axis))
        line = base.mark_rule().encode(x=alt.X("low:Q"), x2="high:Q")
        chart = chart | (line + point).properties(**size)
    title = alt.Title(
        Path(looked["model"]).name or looked["model"], subtitle=f"verdict: {', '.join(looked['verdict'])}"
    )
    return write_picture(chart.properties(title=title), path, columns=3)


def _shared(looked: Mapping[str, Any]) -> Sequence[str]:
    """Doubts about all languages, said once."""
    first, *rest = (one["doubts"] for one in looked["languages"])
    return [why for why in first if all(why in doubts for doubts in rest)]


def _seems(one: Mapping[str, Any]) -> str:
    seems = one["identified"]
    return f"? ({seems['script'] or 'no letters'})" if seems["language"] is None else str(seems["language"])


def _bits(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not measured"
    between = "" if found["low"] is None else f" ({found['low']:.2f} to {found['high']:.2f})"
    return f"{found['value']:.2f}{between}"


def _time(hours: float) -> str:
    return f"about {max(1, round(60 * hours))} min here" if hours < 1 else f"about {hours:.1f} h here"
