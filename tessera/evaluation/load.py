"""Examples of a task out of its rows, each with the row it comes from; whatever is wrong with a row is said with it.

load(task, "test", "deu_Latn", Path("data"))     below a folder
load(task, "test", "deu_Latn")                   from the Hub, through `datasets`
search(task, "test", "de", Path("data"))         queries and documents of a retrieval task
"""

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from tessera.data.examples import Example
from tessera.evaluation import rows
from tessera.evaluation.rows import DataError
from tessera.labelled.columns import Row, UnknownLabel
from tessera.labelled.examples import Asked, examples_of
from tessera.labelled.labels import in_order, is_number, yaml_line
from tessera.plan.errors import did_you_mean, some
from tessera.plan.languages import resolve
from tessera.plan.task import SplitName, Task
from tessera.plan.task_data import Column, Data, in_language

_MANY = 20  # findings in an error
_SHOWN = 5  # rows that cannot be used, in an error


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
    wrong: list[DataError] = []
    for row in rows_of(task, split, language, folder, limit):
        try:
            found += _examples(task, row, names or ())
        except DataError as error:
            wrong.append(error)
    refuse(task, wrong, names or ())
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
    found: set[str] = set()
    wrong: list[DataError] = []
    for row in (row for one in wanted for row in rows_of(task, split, one, folder)):
        try:
            found |= row.labels(role)
        except DataError as error:
            wrong.append(error)
    refuse(task, wrong)
    try:
        names = in_order(found)
    except ValueError as error:
        raise DataError(f"task {task.name}: its {split} rows have labels of two sorts: {error}") from None
    if len(names) < 2:
        raise DataError(f"task {task.name}: its {split} rows have the labels {list(names)}; at least two are needed")
    return names


def refuse(task: Task, wrong: Sequence[DataError], names: Sequence[str] = ()) -> None:
    """Raises one DataError for all rows that cannot be used, if there are any; a label that is unknown is said once.

    names  of the labels; where they were found in rows the line is said that declares the others too
    """
    if not wrong:
        return
    unknown = {error.label: error for error in reversed(wrong) if isinstance(error, UnknownLabel)}
    others = [error for error in wrong if not isinstance(error, UnknownLabel)]
    lines = [str(error) for error in [*reversed(unknown.values()), *others][:_SHOWN]]
    if len(wrong) > len(lines):
        lines.append(f"and {len(wrong) - len(lines)} more rows that cannot be used")
    if unknown and task.labels is None and task.kind != "choose":
        whole = sorted({*names, *unknown}) if not all(map(is_number, unknown)) else in_order({*names, *unknown})
        lines.append(f"where that is a label, declare all there are in the task: {yaml_line(whole)}")
    raise DataError("\n  ".join(lines))


def refuse_all(wrong: Sequence[DataError]) -> None:
    """Raises one DataError for all findings, each once, if there are any."""
    texts = list(dict.fromkeys(map(str, wrong)))
    if len(texts) == 1:
        raise wrong[0]
    if texts:
        raise DataError(
            "\n".join([*texts[:_MANY], *([f"and {len(texts) - _MANY} more"] if len(texts) > _MANY else [])])
        )


def languages(task: Task, folder: Path | None = None) -> tuple[str, ...]:
    """The languages that the task is tested on; `all` are those with files in the folder, to train on too if `own`."""
    if task.languages != "all":
        return task.languages
    if folder is None:
        raise DataError(f"task {task.name}: its languages are those in your folder; give it (--data FOLDER)")
    found = _languages(task, "test", folder)
    if not found:
        raise rows.missing(task.data, task.name, name_of(task, "test"), folder)
    lacking = without_training(task, folder)
    if found <= lacking:
        raise DataError(f"task {task.name}: {untrained(task, lacking)}")
    return tuple(sorted(found - lacking))


def without_training(task: Task, folder: Path | None = None) -> set[str]:
    """The languages with files to test on, but none to train on, where each is trained by itself: `languages` has not.

    None where the task names its languages: a file that lacks is an error then.
    """
    if task.languages != "all" or task.train != "own" or folder is None or not task.by_language("train"):
        return set()
    return _languages(task, "test", folder) - _languages(task, "train", folder)


def meant(task: Task, asked: Iterable[str], folder: Path | None = None, split: SplitName = "test") -> tuple[str, ...]:
    """The languages of a task that codes or names mean, as its data calls them: ro is ron_Latn there.

    split  train: also those that are only trained on, as far as the files in the folder say

    Raises DataError for one that it does not have.
    """
    there, lacking = list(languages(task, folder)), without_training(task, folder)
    if split == "train":
        own = () if isinstance(task.train, str) and task.train in ("own", "all", "none") else task.trained_on("")
        there += [*own, *sorted(_languages(task, "train", folder) if folder and task.by_language("train") else ())]
    chosen: list[str] = []
    for language in asked:
        found = resolve(language, there)
        if not found and (none := resolve(language, lacking)):
            raise DataError(f"task {task.name}: {untrained(task, none)}")
        if not found:
            raise DataError(f"task {task.name} has no language {language!r}; {did_you_mean(language, there)}")
        chosen += found
    return tuple(dict.fromkeys(chosen))


def untrained(task: Task, lacking: Collection[str]) -> str:
    """In words, that languages have nothing to train on, and the ways out."""
    return (
        f"{some(sorted(lacking))}: test rows, but none to train on, and `train: own` trains each language by itself; "
        f"add {name_of(task, 'train')!r} rows, or say train: all, or the language to train on"
    )


def _languages(task: Task, split: SplitName, folder: Path) -> set[str]:
    source = task.source(split)
    return set(rows.languages(source, task.name, name_of(task, split), folder, task.columns_of(source)))


def _examples(task: Task, row: Row, names: tuple[str, ...]) -> list[Example]:
    """What one row says; reward rows say more than one thing."""
    declared = task.labels is not None
    # The options of a row are its own labels, unless the task names them.
    given = (task.labels or ()) if task.kind == "choose" else names
    return examples_of(
        row,
        Asked(
            kind=task.kind,
            names=given,
            declared=declared,
            limits=task.range,
            no_answer=task.no_answer,
            steps=task.steps,
            whole=task.whole,
        ),
    )


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
        raise DataError(f"task {task.name}: {_nothing_left(task, split)}")
    return kept


def _nothing_left(task: Task, split: SplitName) -> str:
    """In words, that a part of a split has no rows."""
    name = name_of(task, split)
    if task.folds is not None:
        return (
            f"no row of {name!r} falls into {split} of one of {task.folds} folds; rows are put there by a hash of "
            "group, id or text, so say fewer folds, or give more rows"
        )
    return f"the {split} part of split {name!r} has no rows; give more rows, or take fewer of them for other parts"


def _rows(
    task: Task, split: SplitName, language: str | None, folder: Path | None, skipped: list[str] | None
) -> Iterator[Row]:
    source = task.source(split)
    name, begin, end = _place(task, split)
    columns = columns_in(task, source, language)
    read = rows.read(source, task.name, name, language, folder, skipped=skipped)
    found = (Row(at, row, columns) for at, row in read)
    if task.folds is not None and task.fold is not None:
        found = (row for row in found if _side(task, row) == split)
    elif begin > 0 or end < float("inf"):
        found = (row for row in found if begin <= rows.place_of(row.key(task.kind)) < end)
    numbers = source.splits.numbers(split)
    return found if numbers is None else iter(_numbered(task, split, list(found), *numbers))


def _side(task: Task, row: Row) -> SplitName:
    """Where a row is while one fold is tested: each fold by the hash of the row, the next is to choose on."""
    assert task.folds is not None
    assert task.fold is not None
    after = (int(rows.place_of(row.key(task.kind), "fold") * task.folds) - task.fold) % task.folds
    return "test" if after == 0 else "validation" if after == 1 and task.has("validation") else "train"


def columns_in(task: Task, source: Data, language: str | None) -> dict[str, Column]:
    """The columns of one of the task's sources, as they are called in a language."""
    columns = task.columns_of(source)
    return columns if language is None else {r: in_language(c, source.code(language)) for r, c in columns.items()}


def _numbered(task: Task, split: SplitName, found: list[Row], begin: int, end: int | None, each: bool) -> list[Row]:
    """Those of the rows that come `begin`-th to `end`-th by their hashes, of each label where `each`.

    What has one key stays together: it goes where its first row does.
    """
    keys = [row.key(task.kind) for row in found]
    sides: dict[str, bool] = {}
    seen: Counter[str] = Counter()
    for place in sorted(range(len(found)), key=lambda n: rows.place_of(keys[n])):
        label = "".join(sorted(found[place].labels("label"))) if each else ""
        sides.setdefault(keys[place], seen[label] >= begin and (end is None or seen[label] < end))
        seen[label] += 1
    short = {label: count for label, count in seen.items() if end is not None and count < end}
    for label, count in sorted(short.items()):
        of = f" of label {label!r}" if each else ""
        raise DataError(
            f"task {task.name}: {split} and the parts before it ask for {end} rows{of} of {name_of(task, split)!r}, "
            f"which has {count}; ask for fewer"
        )
    return [row for row, key in zip(found, keys, strict=True) if sides[key]]


def _place(task: Task, split: SplitName) -> tuple[str, float, float]:
    place = task.source(split).splits.place("test" if task.folds is not None else split)
    if place is None:
        raise DataError(f"task {task.name}: has no split {split!r}; it is not among `splits` of its data")
    return place
