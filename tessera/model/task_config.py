"""Configuration of a task head: which task, the names of its labels, and how both stand in a config.json.

A folder says it in the words of transformers (`architectures`, `id2label`, `problem_type`); what these have no word
for stands under one more key, `task`, which transformers carries along unread.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from tessera.json_files import Strictly, fit, shown

Json = dict[str, Any]
TaskKind = Literal["classify", "multilabel", "regress", "rerank", "choose", "tag", "span"]
"""classify: one of several labels, of a text or a pair. multilabel: any number of them. regress: a number. rerank: how
well a document answers a query (a cross-encoder). choose: which option goes with a text. tag: a label for each token.
span: where an answer starts and ends."""

_CLASSES: dict[TaskKind, str] = {
    "classify": "ForSequenceClassification",
    "multilabel": "ForSequenceClassification",
    "regress": "ForSequenceClassification",
    "rerank": "ForSequenceClassification",
    "choose": "ForMultipleChoice",
    "tag": "ForTokenClassification",
    "span": "ForQuestionAnswering",
}
# Families that lack a class of transformers: another computes the same, two labels a token or one a document.
_INSTEAD = {("eurobert", "span"): "ForTokenClassification", ("eurobert", "choose"): "ForSequenceClassification"}
_PROBLEMS: dict[TaskKind, str] = {
    "classify": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regress": "regression",
}
_SIGMOID = "torch.nn.modules.activation.Sigmoid"


class TaskConfig(Strictly):
    """A task as its head knows it. Raises ValueError where it contradicts itself."""

    model_config = ConfigDict(strict=False, extra="ignore", frozen=True, allow_inf_nan=False)

    kind: TaskKind
    labels: tuple[str, ...] = ()  # in the order of the logits; one of regress, rerank, choose; start and end of span
    pair: bool = False  # whether it was trained on two texts
    thresholds: tuple[float, ...] = ()  # multilabel: from which probability on a label holds; none: 0.5 for each
    labelling: Literal["first", "majority"] = "first"  # tag: which tokens of a word bear its tag
    stride: int = Field(128, ge=0, le=1 << 20)  # span: tokens that two windows of a long text have in common
    no_answer: bool = False  # span: whether a question may have none

    @model_validator(mode="after")
    def _counts(self) -> "TaskConfig":
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels are {shown(list(self.labels))}; no two may be the same")
        if self.kind in ("classify", "tag") and len(self.labels) < 2:
            raise ValueError(f"{self.kind} has the labels {list(self.labels)}; at least two are needed")
        if self.thresholds and (self.kind != "multilabel" or len(self.thresholds) != len(self.labels)):
            raise ValueError("thresholds are of kind multilabel, one for each label")
        return self

    @property
    def outputs(self) -> int:
        """Logits of a document, of an option, or of a token."""
        return {"regress": 1, "rerank": 1, "choose": 1, "span": 2}.get(self.kind, len(self.labels))

    @property
    def by_token(self) -> bool:
        """Whether tokens are scored, not documents."""
        return self.kind in ("tag", "span")


SCORE = TaskConfig(kind="regress", labels=("score",))
"""One number for a text."""


def class_suffix(kind: TaskKind, family: str) -> str:
    """The end of the name of the class of transformers that computes this kind, in a family (its `model_type`)."""
    return _INSTEAD.get((family, kind), _CLASSES[kind])


def names_task(given: Json) -> bool:
    """Whether a config.json names a class with the head of a task."""
    return next(iter(given.get("architectures") or []), "").endswith(tuple(_CLASSES.values()))


def their_fields(task: TaskConfig, family: str) -> Json:
    """What config.json says of a task, but for `architectures`."""
    names = {"span": ("start", "end"), "regress": ("score",), "rerank": ("score",), "choose": ("score",)}
    labels = task.labels if len(task.labels) == task.outputs else names[task.kind]
    fields: Json = {
        "id2label": {str(n): name for n, name in enumerate(labels)},
        "label2id": {name: n for n, name in enumerate(labels)},
        "problem_type": _PROBLEMS.get(task.kind),
        "task": task.model_dump(mode="json", exclude_defaults=True, exclude={"labels"}),
    }
    if task.kind == "rerank":
        fields["sentence_transformers"] = {"activation_fn": _SIGMOID}  # where its CrossEncoder looks
    return {key: value for key, value in fields.items() if value is not None}


class _Fields(Strictly):
    id2label: dict[str, str | int] | None = None
    num_labels: int | None = Field(None, ge=1, le=1 << 20)
    problem_type: str | None = None
    task: Json | None = None
    sentence_transformers: Json | None = None


def read_task(given: Json, place: Path) -> TaskConfig:
    """The task of a folder that tessera or transformers wrote, from its config.json.

    given  what the file holds; place: the file, for errors
    Raises ValueError where it is no folder of a task, or says what cannot be.
    """
    fields = fit(_Fields, given, place)
    name = next(iter(given.get("architectures") or []), "")
    count = fields.num_labels or 2
    said: Any = fields.id2label or {str(n): f"LABEL_{n}" for n in range(count)}
    if sorted(said) != sorted(map(str, range(len(said)))):
        raise ValueError(f"{place}: id2label is {shown(said)}; its keys are the numbers from 0 on, each once")
    labels = tuple(str(said[str(n)]) for n in range(len(said)))
    own = dict(fields.task or {})
    if "kind" not in own:
        own["kind"] = _kind_of(name, fields, len(labels), place)
    kept = () if own["kind"] in ("span", "choose") else labels
    return fit(TaskConfig, {**own, "labels": kept}, place)


def _kind_of(name: str, fields: _Fields, labels: int, place: Path) -> TaskKind:
    """The kind of a folder that transformers wrote."""
    for kind in ("tag", "span", "choose"):
        if name.endswith(_CLASSES[kind]):
            return kind
    if not name.endswith(_CLASSES["classify"]):
        raise ValueError(
            f"{place}: architectures is {shown(name)}, which is no model with the head of a task; give a folder of "
            "...ForSequenceClassification, ...ForTokenClassification, ...ForQuestionAnswering or ...ForMultipleChoice "
            "(tessera finetune writes them)"
        )
    if fields.problem_type == "multi_label_classification":
        return "multilabel"
    if labels == 1 or fields.problem_type == "regression":
        return "rerank" if fields.sentence_transformers and fields.problem_type != "regression" else "regress"
    return "classify"
