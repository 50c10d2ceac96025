"""Examples of a task out of its rows, each with the row it comes from; whatever is wrong with a row is said with it.

load(task, "test", "deu_Latn", Path("data"))     below a folder
load(task, "test", "deu_Latn")                   from the Hub, through `datasets`
search(task, "test", "de", Path("data"))         queries and documents of a retrieval task
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tessera.data.examples import Choices, Example, Labelled, Question, Tagged, Triple
from tessera.evaluation import rows
from tessera.evaluation.columns import Row
from tessera.evaluation.rows import DataError
from tessera.plan.task import SplitName, Task


def load(
    task: Task,
    split: SplitName,
    language: str | Sequence[str] | None = None,
    folder: Path | None = None,
    *,
    names: tuple[str, ...] | None = None,
    limit: int | None = None,
) -> list[Example]:
    """The examples of a split in the order of the data.

    language  as the task names it, or several, one after the other; None: the data holds all of them together
    folder    where local data lies; None: the Hub
    names     of the labels in order, as `labels` gives them; None: those of the task, else those found in train
    limit     at most so many rows, by a hash of what they say: the same ones every time, more of them the higher; the
              others are not looked at

    Raises DataError naming the row, or what to download where data is missing; ImportError where `datasets` is.
    """
    if language is not None and not isinstance(language, str):
        if not language:
            raise DataError(f"task {task.name}: no language is named")
        several = [load(task, split, one, folder, names=names, limit=limit) for one in language]
        return _draw([example for one in several for example in one], limit)
    if names is None and task.kind in ("classify", "pair", "tag"):
        names = labels(task, folder, language)
    found: list[Example] = []
    for row in rows_of(task, split, language, folder, limit):
        found += _examples(task, row, names or ())
    if not found:
        raise DataError(f"task {task.name}: split {split!r} leaves no example of language {language!r}")
    refuse_twins((example.id, example.row) for example in found)
    return found


def labels(task: Task, folder: Path | None = None, language: str | None = None) -> tuple[str, ...]:
    """The names of the labels in order: those that the task declares, else those found in its training rows, sorted.

    language  of the model that is trained, where each has its own
    """
    if task.labels is not None:
        return task.labels
    role = "tags" if task.kind == "tag" else "label"
    split: SplitName = "train" if task.trained else "test"
    if task.trained and (task.train != "own" or language is not None):
        wanted = task.trained_on(language or "") or languages(task, folder)
    else:
        wanted = (language,) if language is not None else languages(task, folder)
    found = {name for one in wanted for row in rows_of(task, split, one, folder) for name in row.labels(role)}
    if len(found) < 2:
        raise DataError(f"task {task.name}: its {split} rows have the labels {sorted(found)}; at least two are needed")
    whole = all(name.removeprefix("-").isdecimal() for name in found)
    return tuple(sorted(found, key=lambda name: (int(name) if whole else 0, name)))


def languages(task: Task, folder: Path | None = None) -> tuple[str, ...]:
    """The languages that the task is tested on; `all` are those with files in the folder, to train on too if `own`."""
    if task.languages != "all":
        return task.languages
    if folder is None:
        raise DataError(f"task {task.name}: its languages are those in your folder; give it (--data FOLDER)")
    found = set(rows.languages(task.data, task.name, name_of(task, "test"), folder))
    if task.train == "own":
        found &= set(rows.languages(task.source("train"), task.name, name_of(task, "train"), folder))
    if not found:
        raise rows.missing(task.data, task.name, name_of(task, "test"), folder)
    return tuple(sorted(found))


def _examples(task: Task, row: Row, names: tuple[str, ...]) -> list[Example]:
    """What one row says; reward rows say more than one thing."""
    head: dict[str, Any] = {"id": row.identity(), "row": row.place}
    match task.kind:
        case "classify" | "pair" | "regress":
            second = row.text("second") if row.has("second") else None
            regress = task.kind == "regress"
            label = row.number("label", task.range) if regress else row.label("label", names)
            return [Labelled(text=row.text("text"), second=second, label=label, **head)]
        case "choose":
            options = row.texts("options")
            if len(options) < 2:
                raise DataError(f"{row.place}: {len(options)} option is not a choice; at least two are needed")
            label = row.label("label", task.labels or tuple(map(str, range(len(options)))))
            if label >= len(options):
                raise DataError(f"{row.place}: the label is option {label}, but there are only {len(options)}")
            return [Choices(text=row.text("text"), options=options, label=label, **head)]
        case "tag":
            words, tags = row.tagged(names)
            return [Tagged(words=words, tags=tags, **head)]
        case "span":
            context = row.text("context")
            answers = row.answers(context, task.no_answer)
            return [Question(question=row.text("question"), context=context, answers=answers, **head)]
        case "reward":
            return _steps(task, row)
    query, positives = row.text("query"), row.texts("positive")
    more: dict[str, Any] = {"negatives": row.texts("negatives") if row.has("negatives") else (), "row": row.place}
    ids = [f"{head['id']}.{n}" for n in range(len(positives))] if len(positives) > 1 else [head["id"]]
    return [Triple(query=query, positive=one, id=name, **more) for one, name in zip(positives, ids, strict=True)]


def _steps(task: Task, row: Row) -> list[Example]:
    """A problem with its solution up to each step, or with the whole of it; label 1: right."""
    steps, right = row.texts("steps"), row.truths("label")
    if len(steps) != len(right):
        raise DataError(f"{row.place}: {len(steps)} steps but {len(right)} labels; each step has one")
    if not steps or (task.steps is not None and len(steps) != task.steps):
        return []
    text, name = row.text("text"), row.identity()
    if task.whole:
        return [Labelled(text=text, second="\n".join(steps), label=int(all(right)), id=name, row=row.place)]
    return [
        Labelled(text=text, second="\n".join(steps[: n + 1]), label=int(right[n]), id=f"{name}.{n}", row=row.place)
        for n in range(len(steps))
    ]


def refuse_twins(ids: Iterable[tuple[str, str]], of: str = "") -> None:
    """Raises DataError where an id is there twice; ids come with the place of their row. of: what they are ids of."""
    first: dict[str, str] = {}
    for name, place in ids:
        if first.setdefault(name, place) is not place:
            raise DataError(f"{place}: {of}id {name!r} is there twice, first at {first[name]}; ids must differ")


def _draw(examples: list[Example], limit: int | None) -> list[Example]:
    if limit is None or len(examples) <= limit:
        return examples
    keys = [(rows.place_of(f"{example.id}\n{example}", "draw"), n) for n, example in enumerate(examples)]
    return [examples[n] for n in sorted(n for _, n in heapq.nsmallest(limit, keys))]


# ------------------------------------------------------------------------------------------------ the rows of a split


def name_of(task: Task, split: SplitName) -> str:
    """What the data calls a split. Raises DataError where it has none."""
    return _place(task, split)[0]


def rows_of(
    task: Task,
    split: SplitName,
    language: str | None,
    folder: Path | None,
    limit: int | None = None,
    skipped: list[str] | None = None,
) -> list[Row]:
    """The rows of a split as the task sees them: its part of what the data calls one.

    limit    at most so many, drawn by a hash of what they say and kept in their order; the others are let go at once
    skipped  as of rows.read

    Raises DataError where there are none.
    """
    found = _rows(task, split, language, folder, skipped)
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


def _rows(
    task: Task, split: SplitName, language: str | None, folder: Path | None, skipped: list[str] | None
) -> Iterator[Row]:
    source = task.source(split)
    name, begin, end = _place(task, split)
    columns = task.columns_of(source)
    divided = begin > 0 or end < float("inf")
    for at, row in rows.read(source, task.name, name, language, folder, skipped=skipped):
        cells = Row(at, row, columns)
        if not divided or begin <= rows.place_of(cells.key(task.kind)) < end:
            yield cells


def _place(task: Task, split: SplitName) -> tuple[str, float, float]:
    place = task.source(split).splits.place(split)
    if place is None:
        raise DataError(f"task {task.name}: has no split {split!r}; it is not among `splits` of its data")
    return place
