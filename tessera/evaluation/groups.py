"""Data of a sweep by what is trained together: training, validation and test set, and a fingerprint of them.

The labels of the test set are taken off as soon as they are read; `read_labels` reads them again, once all is chosen.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tessera.data.examples import Choices, Labelled, Question, Search, Tagged
from tessera.evaluation import catalogue, load, load_retrieval
from tessera.evaluation.rows import DataError
from tessera.evaluation.trial import Group, Rows
from tessera.labelled.dataset import Dataset, Part
from tessera.labelled.splits import side
from tessera.plan.errors import some
from tessera.plan.task import Protocol, SplitName, Task
from tessera.prediction import metrics
from tessera.prediction.features import KINDS

FOLD = ".fold-"  # between the language and the number of a fold, of cross-validation

_UNKNOWN: dict[type, dict[str, Any]] = {
    Labelled: {"label": None}, Choices: {"label": None}, Tagged: {"tags": ()}, Question: {"answers": ()}
}  # fmt: skip


def read_groups(
    task: Task, protocol: Protocol, folder: Path | None, *, test: bool = True, left_out: list[str] | None = None
) -> list[Group]:
    """The data of a task, by what is trained together.

    test      False: nothing is tested, as when another task is only to begin with what is learned here
    left_out  takes what a task with `skip` leaves out

    Raises one DataError for all that is wrong, as load.load and load_retrieval.search do; ValueError for a metric that
    is not for such labels.
    """
    found = []
    wrong: list[DataError] = []
    for name, sources, languages in _together(task, folder):
        try:
            labels = _labels(task, sources[0], folder)
        except DataError as error:
            wrong.append(error)
            continue
        for metric in (task.metric, *task.also):
            metrics.check(metric, labels)
        for number in range(task.folds or 1):
            one = task.model_copy(update={"fold": number}) if task.folds else task
            read = _reader(one, protocol, folder, labels, wrong, left_out)
            seen: Sequence[Any] = ()
            held: dict[str, Rows] = {}
            if task.trained:
                seen = read("train", sources if task.by_language("train") else sources[0])
            if task.trained and task.has("validation"):
                # Searches of the tested languages where that is the task's own data; all else of those trained on.
                own = task.kind == "retrieve" and task.source("validation") == task.data
                judged = languages if own else sources
                held = {x: read("validation", x) for x in (judged if task.by_language("validation") else judged[:1])}
            fold = f"{FOLD}{number + 1}" if task.folds else ""
            asked = {x + fold: without_labels(read("test", x)) for x in (languages if test else ())}
            whole = fingerprint_of_rows([seen, held, asked])
            found.append(
                Group(task=one, name=name + fold, labels=labels, train=seen, validation=held, test=asked,
                      fingerprint=whole)
            )  # fmt: skip
    load.refuse_all(wrong)
    return found


def task_dataset(
    name: str,
    folder: str | Path | None,
    trained: Sequence[str] = (),
    tested: Sequence[str] = (),
    *,
    held_out: float = 0.15,
) -> Dataset:
    """The rows of a task as a labelled dataset, for fine-tuning outside of a sweep: labels of its test set included.

    folder    with its data; None: the Hub
    trained   languages that are trained on, in place of what the task says
    tested    languages that are tested, in place of all of the task
    held_out  share of the training rows for validation, by a hash, where the task has no such split

    Raises TaskError, DataError, and ValueError for a task that trains no head, or more than one model.
    """
    task, place = catalogue.find(name), None if folder is None else Path(folder)
    learned_from = load.meant(task, trained, place, "train") if trained else task.train
    task = task.model_copy(update={"languages": load.meant(task, tested, place)}) if tested else task
    task = task.model_copy(update={"train": learned_from})
    if task.kind not in KINDS or not task.trained or (task.folds and task.fold is None):
        what = f"kind {task.kind}, trained on {task.train}" + (", in folds" if task.folds else "")
        raise ValueError(f"task {name}: {what}; a head is trained here, on rows for training: give files as DATA")
    all_rows = Protocol(name="all", epochs=1, batch_size=1, learning_rates=(1e-5,))
    groups = read_groups(task, all_rows, place)
    if len(groups) != 1:
        several = some([group.name for group in groups], 20)
        raise ValueError(f"task {name}: trains a model for each of {several}; say which with --train-language")
    (group,), right = groups, read_labels(groups, all_rows, place)
    train, held, said = list(group.train), group.validation, [f"task {name}, kind {task.kind}; trained on {group.name}"]
    if not held:
        sides = [side(repr(replace(one, row="", id="")), held_out, ("validation",)) for one in train]
        held = {"": [one for one, where in zip(train, sides, strict=True) if where != "train"]}
        train = [one for one, where in zip(train, sides, strict=True) if where == "train"]
        said.append(f"no split of it is for validation: {held_out:.0%} of the training rows are, by a hash of each")
    return Dataset(
        source=name, kind=task.kind, columns=dict(task.columns), labels=group.labels, train=_part({"": train}),
        validation=_part(held), test=_part(right), said=tuple(said), left_out=(), no_answer=task.no_answer,
    )  # fmt: skip


def _part(rows: Mapping[str, Rows]) -> Part:
    by_language = {language: list(some) for language, some in rows.items() if not isinstance(some, Search)}
    return Part(
        [one for some in by_language.values() for one in some],
        [language for language, some in by_language.items() for _ in some],
    )


def _reader(
    task: Task, protocol: Protocol, folder: Path | None, labels: tuple[str, ...], wrong: list[DataError],
    left_out: list[str] | None,
) -> Callable[[SplitName, Any], Any]:  # fmt: skip
    """Reads a split in one or several languages; what is wrong is put aside, to be said with all else."""

    def read(split: SplitName, languages: Any) -> Any:
        try:
            if split == "train":
                limit = protocol.train_examples
                return load.load(task, "train", languages, folder, names=labels or None, limit=limit)
            return _load(task, split, languages, folder, labels, protocol.test_examples, left_out)
        except DataError as error:
            wrong.append(error)
            return []

    return read


def read_labels(groups: Sequence[Group], protocol: Protocol, folder: Path | None) -> dict[str, Rows]:
    """The test set of each language that labels were taken off, with its labels."""
    return {
        key: _load(group.task, "test", key.partition(FOLD)[0], folder, group.labels, protocol.test_examples)
        for group in groups
        for key, rows in group.test.items()
        if not isinstance(rows, Search)
    }


def _together(task: Task, folder: Path | None) -> list[tuple[str, tuple[str, ...], list[str]]]:
    """Of each model that a task trains: its name, the languages it is trained on, those it is tested on.

    What trains nothing is one model, which all languages are tested on.
    """
    tested = load.languages(task, folder)
    found: dict[tuple[str, ...], list[str]] = {}
    for language in tested:
        found.setdefault(task.trained_on(language), []).append(language)

    def name(trained: Sequence[str]) -> str:
        if not task.trained:
            return "untrained"
        return "+".join(trained) if 0 < len(trained) < 4 else f"{len(trained or tested)}-languages"

    return [(name(trained), trained or tested, languages) for trained, languages in found.items()]


def _labels(task: Task, language: str, folder: Path | None) -> tuple[str, ...]:
    match task.kind:
        case "regress" | "choose" | "span" | "retrieve":
            return ()
        case "reward":
            return ("wrong", "right")
        case _:
            return load.labels(task, folder, language)


def _load(
    task: Task, split: SplitName, language: str, folder: Path | None, labels: tuple[str, ...], limit: int | None,
    left_out: list[str] | None = None,
) -> Rows:  # fmt: skip
    if task.kind == "retrieve":
        return load_retrieval.search(task, split, language, folder, limit=limit, left_out=left_out)
    return load.load(task, split, language, folder, names=labels or None, limit=limit)


def without_labels(rows: Rows) -> Rows:
    """The same questions with nothing that says what is right; a search stays as it is."""
    return rows if isinstance(rows, Search) else [replace(example, **_UNKNOWN[type(example)]) for example in rows]


def fingerprint_of_rows(what: Any) -> str:
    """A hash of examples: of what they say, not of where they stand."""

    def plain(value: Any) -> Any:
        told = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in ("row", "id")}
        if told.get("spaced", ()) is None:  # younger than trials that people have finished
            del told["spaced"]
        return [type(value).__name__, told]

    whole = hashlib.sha256()
    for piece in json.JSONEncoder(default=plain, ensure_ascii=False).iterencode(what):
        whole.update(piece.encode("utf-8", "surrogatepass"))
    return whole.hexdigest()[:16]
