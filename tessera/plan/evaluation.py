"""The evaluation of a run as strict models: its tasks are those of the catalogue, by name or written out.

Recipes of tessera 0.1 had tasks of their own (`task: bitext`, `task: probe`); `translated` alone knows how those were.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationError, model_validator

from tessera.plan.corpus import Columns
from tessera.plan.errors import did_you_mean, one_line
from tessera.plan.fields import KEYS, PLAIN, PLAIN_OR_KEYS, Ratio, Strict, Tokens, refuse_twins
from tessera.plan.task import LANGUAGE, SPLIT, Task

_OLD = {
    "bitext": {"path", "columns"},
    "probe": {"train", "validation", "test", "text", "label", "languages", "transfer_from"},
}


def translated(given: Any) -> Any:
    """A task as recipes of 0.1 wrote it, as one of the catalogue; anything else as it is.

    Rows that could not be used were left out and counted then, so they still are.
    """
    if not isinstance(given, dict) or "task" not in given:
        return given
    kind, name = given["task"], given.get("name")
    if kind not in _OLD:
        raise ValueError(f"'task' is {kind!r}; {did_you_mean(str(kind), _OLD)}")
    for key in given:
        if key not in _OLD[kind] | {"task", "name"}:
            raise ValueError(f"unknown key {key!r}; {did_you_mean(str(key), _OLD[kind])}")
    for key in ("name", *({"bitext": ("path",), "probe": ("train", "test")}[kind])):
        if not isinstance(given.get(key), str):
            raise ValueError(f"{key} is {given.get(key)!r}; text is needed" if key in given else f"{key} is missing")
    whole = {"name": name, "kind": kind, "metric": "accuracy", "skip": True}
    return {**whole, **(_bitext(given) if kind == "bitext" else _probe(given))}


def _bitext(given: dict[str, Any]) -> dict[str, Any]:
    try:
        columns = Columns.model_validate(given.get("columns") or {})
    except ValidationError as error:
        raise ValueError(f"columns: {one_line(error)}") from None
    sides = {"text": columns.source_text, "second": columns.target_text}
    languages = {"language": columns.source_language, "second_language": columns.target_language}
    data = {"path": given["path"], "splits": {"test": "test"}}
    return {"data": data, "columns": {**sides, **languages}, "train": "none", "also": ["margin_f1"]}


def _probe(given: dict[str, Any]) -> dict[str, Any]:
    train, test = str(given["train"]), str(given["test"])
    validation, source = given.get("validation"), given.get("transfer_from")
    if LANGUAGE not in test:
        raise ValueError(f"test is {test!r}; write {LANGUAGE} where the language stands")
    if source is not None and LANGUAGE not in train:
        raise ValueError(
            f"transfer_from is {source!r}, but train is {train!r} for all; write {LANGUAGE} where the language stands, "
            "or leave transfer_from out"
        )
    if validation is not None and LANGUAGE in str(validation) and LANGUAGE not in train:
        raise ValueError(
            f"validation is {validation!r}, but train is {train!r} for all; one probe is trained and one penalty is "
            "chosen for it, so name one file to choose it on"
        )
    # The files are called by the names of the splits: three paths need not have anything in common.
    return {
        "data": {"path": SPLIT, "splits": {"test": test}},
        "train_data": {"path": SPLIT, "splits": {"train": train, "validation": validation}},
        "columns": {"text": given.get("text", "text"), "label": given.get("label", "label")},
        "also": ["macro_f1"],
        "languages": given.get("languages", "all"),
        "train": source or ("own" if LANGUAGE in train else "all"),
    }


AnyTask = Annotated[Annotated[str, PLAIN] | Annotated[Task, KEYS], PLAIN_OR_KEYS, BeforeValidator(translated)]
"""A task of the catalogue by its name, a group of them, one of a file of yours (my.yaml:name), or one written out."""


class Evaluation(Strict):
    """Held-out bits per byte is always measured; these come on top."""

    mask_ratio: Ratio = 0.15  # of the held-out text, the same for every phase so that phases compare
    every: Tokens | None = None  # held-out loss during training; None: at the end of each phase only
    max_tokens: Tokens = 4_000  # of held-out text for each language during training; at the end all is used
    tasks: tuple[AnyTask, ...] = ()
    data: str | None = None  # folder below which the rows of tasks lie; None: paths as they stand, else the Hub
    protocol: str = "quick"  # of tasks that train the encoder, by name or of a file
    pooling: Literal["mean", "cls"] = "mean"  # of tasks that train no encoder

    @model_validator(mode="after")
    def _tasks_differ(self) -> "Evaluation":
        refuse_twins(list(self.names), "evaluation task")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What results call the tasks; a group by its own name."""
        return tuple(t.name if isinstance(t, Task) else t.rpartition(":")[2] for t in self.tasks)

    def only(self, names: Collection[str]) -> "Evaluation":
        """The same with some of the tasks."""
        kept = tuple(task for task, name in zip(self.tasks, self.names, strict=True) if name in names)
        return self.model_copy(update={"tasks": kept})
