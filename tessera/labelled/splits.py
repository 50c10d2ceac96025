"""Train, validation and test split of labelled rows: by the names of files, by a column, or by a hash of each row."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.labelled import tables
from tessera.labelled.columns import Row
from tessera.labelled.tables import DataError
from tessera.plan.task_data import SPLITS, Column

_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""How files and cells call a split."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A row and its split; "" where nothing says it."""

    split: str
    row: Row


def split_of(file: str, where: str = "") -> str:
    """The split that a file's name says, or a folder's below `where`: train, validation or test; "" where none does."""
    inside = os.path.relpath(file, where) if where and os.path.isdir(where) else os.path.basename(file)
    for part in reversed(inside.split(os.sep)):
        words = re.split(r"[^a-z]+", part.lower())
        if split := next((_NAMES[word] for word in words if word in _NAMES), ""):
            return split
    return ""


def split_in(by_file: str, row: Mapping[str, Any], columns: Mapping[str, Column]) -> str:
    """The split of a row: what its cell says, else its file."""
    column = columns.get("split")
    return _NAMES.get(str(row.get(column)).strip().lower(), by_file) if isinstance(column, str) else by_file


def side(key: str, held_out: float, parts: Sequence[str] = ("test", "validation")) -> str:
    """On which side of a split a row falls, by a hash of its key alone: each of the parts gets that share."""
    place = int(tables.place_of(key) / held_out) if held_out else len(parts)
    return parts[place] if place < len(parts) else "train"


def divided(rows: list[Placed], kind: str, share: float, said: list[str]) -> tuple[list[Placed], bool]:
    """The rows with a split each, by a hash of what they say where the data names none; and whether test is so drawn.

    Raises DataError where there is nothing to train on.
    """
    there = Counter(one.split for one in rows)
    if "train" not in there:  # none is named, or only one that is no training set: all rows are one set
        if len([name for name in there if name]) > 1:
            raise DataError(
                f"there are rows for {' and '.join(sorted(filter(None, there)))}, but none to train on; "
                "give one of the files alone, and it is divided"
            )
        rows, missing = [Placed("train", one.row) for one in rows], ["test", "validation"]
    else:
        missing = [] if "validation" in there else ["validation"]
    if "train" in there and "test" not in there and "validation" not in there:
        missing = ["test", "validation"]
    counts = ", ".join(f"{name} {there[name]:,}" for name in SPLITS if there[name])
    if missing and not 0 < share < 0.5:
        raise DataError(f"held-out share is {share:g}; give more than 0 and less than a half")
    if not missing:
        said.append(f"splits as the data names them: {counts}")
        return rows, False
    found = [
        Placed(side(_key(one.row, kind), share, missing), one.row) if one.split == "train" else one for one in rows
    ]
    of = Counter(one.split for one in found)
    said.append(
        f"held out of train for {' and '.join(sorted(missing))}, by a hash of each row: {share:.0%} each "
        f"(train {of['train']:,}, validation {of['validation']:,}, test {of['test']:,})"
    )
    return found, "test" in missing


def _key(row: Row, kind: str) -> str:
    """What decides on which side a row falls: rows with the same text, query or paragraph stay together."""
    try:
        if row.has("group"):
            return row.name("group")
        if kind == "span":
            return row.text("context")
        if kind == "rerank":
            return row.text("query")
        return row.text("text") if row.has("text") else row.key(kind)
    except DataError:  # it is refused where it is read
        return row.place
