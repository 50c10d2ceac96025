"""Tables of a page as data, and the formatting of numbers as people read them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LOWER_IS_BETTER = frozenset({"bits_per_byte", "loss"})


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell says, and the number to sort by where it has one."""

    text: str
    value: float | None = None
    css: str = ""

    @property
    def sort_by(self) -> str:
        """The number to sort by; empty where the text says it."""
        said = self.value is None or re.fullmatch(r"[+-]?[0-9.]+", self.text)
        return "" if said else f"{self.value:.6g}"


@dataclass(frozen=True, slots=True)
class Columns:
    """Neighbouring columns of numbers under one title; without a title they stand alone."""

    title: str
    names: tuple[str, ...]


NOTHING = Cell("–")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table whose first columns are words and whose other columns are numbers; templates/parts.html draws it.

    It scrolls sideways within its own box, the first column stays. With `ident` it can be sorted by a click on a title,
    and with more than 12 rows it has a field above it that searches them.
    """

    words: tuple[str, ...]
    numbers: Sequence[Columns]
    rows: Sequence[Sequence[Cell]]
    ident: str = ""
    title: str = ""
    kind: str = ""  # beside the title
    lines: tuple[str, ...] = ()  # small, above
    note: str = ""  # small, below
    fold: str = ""  # what to click at, where the table opens by that

    @property
    def grouped(self) -> bool:
        """Whether some columns stand under a common title."""
        return any(group.title for group in self.numbers)

    @property
    def classes(self) -> list[str]:
        """The classes of the cells of each column: words, the first of them, and where a group begins."""
        words = ["word first" if place == 0 else "word" for place in range(len(self.words))]
        edge = "edge" if self.grouped else ""
        return words + ["" if place else edge for group in self.numbers for place in range(len(group.names))]


def is_share(metric: str) -> bool:
    """Whether a metric is a share of a whole, which is written as a percentage: accuracy, margin_f1, ..."""
    return not {"accuracy", "f1"}.isdisjoint(metric.split("_"))


def metric_cell(metric: str, value: float | None) -> Cell:
    """A result: shares as percentages with one decimal, bits with three."""
    if value is None:
        return NOTHING
    return Cell(f"{100 * value:.1f}" if is_share(metric) else f"{value:.3f}", value)


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
