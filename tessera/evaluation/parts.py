"""The split of a task: what the data calls it, and which of its rows belong to it."""

import heapq
from collections.abc import Iterator
from pathlib import Path

from tessera.evaluation import rows
from tessera.evaluation.columns import Row
from tessera.evaluation.rows import DataError
from tessera.plan.task import SplitName, Task


def name_of(task: Task, split: SplitName) -> str:
    """What the data calls a split. Raises DataError where it has none."""
    return _place(task, split)[0]


def rows_of(
    task: Task, split: SplitName, language: str | None, folder: Path | None, limit: int | None = None
) -> list[Row]:
    """The rows of a split as the task sees them: its part of what the data calls one.

    limit   at most so many, drawn by a hash of what they say and kept in their order; the others are let go at once

    Raises DataError where there are none.
    """
    found = _rows(task, split, language, folder)
    if limit is None:
        kept = list(found)
    else:
        drawn = heapq.nsmallest(limit, ((rows.place_of(row.content(), "draw"), n, row) for n, row in enumerate(found)))
        kept = [row for _, _, row in sorted(drawn, key=lambda item: item[1])]
    if not kept:
        raise DataError(
            f"task {task.name}: its part of split {name_of(task, split)!r} has no rows; it is too small to be divided"
        )
    return kept


def _rows(task: Task, split: SplitName, language: str | None, folder: Path | None) -> Iterator[Row]:
    source = task.source(split)
    name, begin, end = _place(task, split)
    columns = task.columns_of(source)
    divided = begin > 0 or end < float("inf")
    for at, row in rows.read(source, task.name, name, language, folder):
        cells = Row(at, row, columns)
        if not divided or begin <= rows.place_of(cells.key(task.kind)) < end:
            yield cells


def _place(task: Task, split: SplitName) -> tuple[str, float, float]:
    place = task.source(split).splits.place(split)
    if place is None:
        raise DataError(f"task {task.name}: has no split {split!r}; it is not among `splits` of its data")
    return place
