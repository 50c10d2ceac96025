"""HTML tables and numbers as people read them. Everything that comes from a file passes through `escape` here."""

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass

LOWER_IS_BETTER = frozenset({"bits_per_byte", "loss"})


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell says, and the number to sort by where it has one."""

    text: str
    value: float | None = None
    css: str = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """Neighbouring columns of numbers under one title; without a title they stand alone."""

    title: str
    names: tuple[str, ...]


NOTHING = Cell("–")


def escape(text: object) -> str:
    """Text made harmless inside HTML, attributes included."""
    return html.escape(str(text), quote=True)


def table(words: tuple[str, ...], numbers: list[Columns], rows: list[list[Cell]], ident: str = "") -> str:
    """A table whose first columns are words and whose other columns are numbers.

    It scrolls sideways within its own box, the first column stays. With `ident` it can be sorted by a click on a title
    and has a field above it that searches its rows.
    """
    two = any(c.title for c in numbers)
    heads = [_head(w, "word first" if i == 0 else "word", ' rowspan="2"' if two else "") for i, w in enumerate(words)]
    below = [_head(name, "edge" if i == 0 and two else "") for c in numbers for i, name in enumerate(c.names)]
    if two:
        titles = [_head(c.title, "span edge", f' colspan="{len(c.names)}"') for c in numbers]
        head = f"<tr>{''.join(heads + titles)}</tr><tr>{''.join(below)}</tr>"
    else:
        head = f"<tr>{''.join(heads + below)}</tr>"
    edges = {sum(len(c.names) for c in numbers[:i]) + len(words) for i in range(len(numbers))} if two else set()
    lines = ["".join(_cell(c, i, len(words), i in edges) for i, c in enumerate(row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    kind, box = (f' class="sortable" id="{escape(ident)}"', "scroll") if ident else ("", "scroll whole")
    search = ""
    if ident and len(rows) > 12:
        label = f'placeholder="Search {len(rows):,} rows" aria-label="Search the rows"'
        search = f'<input type="search" data-table="{escape(ident)}" {label}>'
    return (
        f'{search}<div class="{box}" tabindex="0"><table{kind}><thead>{head}</thead><tbody>{body}</tbody></table></div>'
    )


def _head(text: str, css: str, more: str = "") -> str:
    return f'<th class="{css}"{more}>{escape(text)}</th>' if css else f"<th>{escape(text)}</th>"


def _cell(cell: Cell, place: int, words: int, edge: bool) -> str:
    names = ("word" if place < words else "", "first" if place == 0 else "", "edge" if edge else "", cell.css)
    css = " ".join(filter(None, names))
    attributes = f' class="{css}"' if css else ""
    if cell.value is not None and not re.fullmatch(r"[+-]?[0-9.]+", cell.text):  # else the text says it
        attributes += f' data-value="{cell.value:.6g}"'
    if place == 0:
        attributes += f' title="{escape(cell.text)}"'
    return f"<td{attributes}>{escape(cell.text)}</td>"


def fold(title: str, inside: str, is_open: bool = False) -> str:
    """A part of the page that opens at a click."""
    return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>{inside}</details>"


def is_share(metric: str) -> bool:
    """Whether a metric is a share of a whole, which is written as a percentage: accuracy, margin_f1, ..."""
    return not {"accuracy", "f1"}.isdisjoint(metric.split("_"))


def metric_cell(metric: str, value: float | None, css: str = "") -> Cell:
    """A result: shares as percentages with one decimal, bits with three."""
    if value is None:
        return NOTHING
    if is_share(metric):
        return Cell(f"{100 * value:.1f}", value, css)
    return Cell(f"{value:.3f}", value, css)


def gap_cell(metric: str, gap: float) -> Cell:
    """A difference of two results, in the unit of `metric_cell`, always with its sign."""
    text = f"{100 * gap:+.1f}" if is_share(metric) else f"{gap:+.3f}"
    return Cell(text.replace("-", "−") if text.strip("+-0.") else text.lstrip("+-"), gap)


def metric_title(metric: str) -> str:
    return f"{metric.replace('_', ' ')}{', %' if is_share(metric) else ''}"


def best(metric: str, values: Iterable[float | None]) -> float | None:
    """The best of several values, or None where no two of them differ."""
    known = [v for v in values if v is not None]
    if len(set(known)) < 2:
        return None
    return min(known) if metric in LOWER_IS_BETTER else max(known)


def tokens(count: float) -> str:
    """Three digits and a unit: 2_345_678 -> `2.35M`."""
    for suffix, unit in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * unit:
            return f"{count / unit:.3g}{suffix}"
    return f"{count:.0f}"


def percent(share: float) -> str:
    """A share as a percentage that keeps two digits however small it is: 0.00012 -> `0.012`."""
    number = 100 * share
    if number == 0 or number >= 10:
        return f"{number:.1f}"
    return f"{number:.2f}" if number >= 0.1 else f"{number:.2g}" if number >= 0.0001 else f"{number:.0e}"


def duration(seconds: float) -> str:
    """48 s, 12 min, 3 h 20 min, 5 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
