"""Train, validation and test split of labelled rows: by the names of files, by a column, or by a hash of each row."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tessera.labelled import tables
from tessera.labelled.columns import Row
from tessera.labelled.labels import shown
from tessera.labelled.tables import DataError
from tessera.plan.task_data import SPLITS

_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""How files and cells call a split."""


_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Placed:
    """A row, its split, "" where nothing says it, and the name of the folder that its file is in."""

    split: str
    row: Row
    folder: str = ""


def split_of(file: str, where: str = "") -> str:
    """The split that a file's name says, or a folder's below `where`: train, validation or test; "" where none does.

    where  the folder, glob or URL that was asked for; of a glob the folders before the first that is a pattern
    """
    pattern = _PATTERN.search(where)
    above = where[: pattern.start()].rpartition("/")[0] if pattern else where
    if "://" in where:
        inside = file.removeprefix(above) if above != file else file.rpartition("/")[2]
    elif above and os.path.isdir(above):
        inside = os.path.relpath(file, above)
    elif pattern and not above and not os.path.isabs(file):
        inside = file
    else:
        inside = os.path.basename(file)
    for part in reversed(re.split(r"[/\\]", inside)):
        words = re.split(r"[^a-z]+", part.lower())
        if split := next((_NAMES[word] for word in words if word in _NAMES), ""):
            return split
    return ""


def placed(rows: list[Placed], said_so: bool) -> tuple[list[Placed], dict[str, DataError]]:
    """The rows with the splits that their cells say, where there is such a column; and what is wrong with others.

    said_so  somebody named the column. One that is only called so counts where a cell of it names a split
    """
    if not rows or not rows[0].row.has("split"):
        return rows, {}
    cells = [one.row.cell("split") for one in rows]
    names = [_NAMES.get(str(cell).strip().lower()) for cell in cells]
    if not said_so and not any(names):
        return rows, {}
    wrong = {
        one.row.place: DataError(
            f"{one.row.place}: {one.row.columns['split']} is {shown(cell)}; train, validation or test is needed"
        )
        for one, name, cell in zip(rows, names, cells, strict=True)
        if name is None
    }
    return [replace(one, split=name) for one, name in zip(rows, names, strict=True) if name is not None], wrong


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
        rows, missing = [replace(one, split="train") for one in rows], ["test", "validation"]
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
        replace(one, split=side(_key(one.row, kind), share, missing)) if one.split == "train" else one for one in rows
    ]
    of = Counter(one.split for one in found)
    said.append(
        f"held out of train for {' and '.join(sorted(missing))}, by a hash of each {_shared(rows)}: {share:.0%} each "
        f"(train {of['train']:,}, validation {of['validation']:,}, test {of['test']:,})"
    )
    return found, "test" in missing


def _shared(rows: Sequence[Placed]) -> str:
    column = rows[0].row.columns.get("group")
    return f"{column!r}, or row where it is empty" if column else "row"


def _key(row: Row, kind: str) -> str:
    """What decides on which side a row falls: rows with the same group, text, query or paragraph stay together.

    Raises DataError for a group that is no name.
    """
    if (group := row.group()) is not None:
        return group
    try:
        if kind == "span":
            return row.text("context")
        if kind == "rerank":
            return row.text("query")
        return row.text("text") if row.has("text") else row.key(kind)
    except DataError:  # it is refused where it is read
        return row.place
