"""The recipe of a fine-tuning: one strict YAML, whose keys are the flags of `tessera finetune` (a dash is _ here).

    model: models/e5
    data: topics.csv
    out: models/topics
    rates: [3e-5, 1e-4]
    seeds: 5

What is wrong is said with its place, before anything is read or trained.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from tessera.labelled import guess
from tessera.plan.errors import did_you_mean, mistakes
from tessera.plan.fields import Share, Strict
from tessera.plan.loading import read_yaml
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol, Rates
from tessera.plan.task_data import Column

PAIRS = ("retrieve", "distil")  # kinds that make vectors; retrieval/from_files.py trains them
KINDS = (*guess.KINDS, *PAIRS)


class FineTuning(Strict):
    """All that is asked of a fine-tuning. Checks itself."""

    model: str = Field(min_length=1)  # the folder to begin with
    out: str = Field(min_length=1)  # the folder to write
    data: str | None = None  # rows: a file, a folder, a glob; with `task` the folder with its data, None: the Hub
    task: str | None = None  # rows and kind are those of this task, of `tessera evaluate --list` or your file
    kind: str | None = None  # None: guessed
    text: str | None = None  # the columns; None: guessed
    second: str | None = None
    label: str | tuple[str, ...] | None = None  # several of 0 and 1: each is a label
    column: dict[str, Column] = Field(default_factory=dict)  # any other role -> column
    labels: tuple[str, ...] | None = None  # in order; None: those found
    separator: str | None = None  # between several labels of a cell
    held_out: Share | None = None  # of the rows where the data has no splits; None: as the kind has it
    train_language: tuple[str, ...] = ()  # trained on alone; all are tested
    language: tuple[str, ...] = ()  # of a task: tested alone
    skip_bad: bool = False  # rows that cannot be used are left out
    protocol: str = "quick"  # or one of `tessera evaluate`, or your file
    rates: Rates | None = None  # each is tried; this and what follows goes over the protocol
    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    batch: int | None = Field(None, ge=1)  # rows of a step
    seeds: int | None = Field(None, ge=1)  # trainings that the score is the mean of
    patience: int | None = Field(None, ge=1)  # epochs without a better score before training ends
    max_length: int | None = Field(None, ge=8)  # tokens that are read of a text
    frozen: bool = False  # the head alone is trained
    lora: bool = False  # the head and low-rank additions
    balance: bool = False  # rare labels weigh more
    curve: bool = False  # what fewer labels give, and twice as many
    teacher: str | None = None  # distil: the folder whose vectors are learnt
    temperature: float | None = Field(None, ge=0, le=1)  # distil: languages are read in proportion to n ** temperature
    source_share: float | None = Field(None, ge=0, le=1)  # distil: of the pairs, whose first side is read as well
    anchors: int | None = Field(None, ge=0)  # distil: vectors of the teacher, whose similarities are learnt as well
    retriever: str | None = None  # rerank: the folder whose mistakes are learnt from, whose ranking is put in order
    negatives: int | None = Field(None, ge=0)  # rerank, retrieve: documents of each query that do not answer it
    candidates: int | None = Field(None, ge=2)  # rerank: documents of the retriever that are put in order
    listwise: bool = False  # rerank: each answer is to be found among others
    dimensions: tuple[int, ...] = ()  # retrieve, distil: the first so many do alone (Matryoshka)
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; {did_you_mean(self.kind, KINDS)}")
        if self.frozen and self.lora:
            raise ValueError("--frozen leaves the encoder as it is, --lora changes it; give one of them")
        if self.steps is not None and self.epochs is not None:
            raise ValueError("--steps and --epochs both say for how long; give one of them")
        if self.data is None and self.task is None:
            raise ValueError("give DATA, a file or a folder of rows, or --task, one of `tessera evaluate --list`")
        if self.kind == "distil" and self.teacher is None:
            raise ValueError("kind distil needs a teacher: --teacher FOLDER, whose vectors are learnt")
        for key, kinds in _OF.items():
            if self.kind is not None and self.kind not in kinds and _asked(getattr(self, key)):
                flag = key.replace("_", "-")
                raise ValueError(f"--{flag} is of kind {' and '.join(kinds)}, this is of kind {self.kind}")
        if self.kind in PAIRS and (wrong := [key for key in _NOT_OF_PAIRS if getattr(self, key)]):
            raise ValueError(f"--{wrong[0].replace('_', '-')} is of kinds with a head, this is of kind {self.kind}")
        if self.task is None and self.language:
            raise ValueError("--language chooses what a --task is tested on; rows are all read, see --train-language")
        if self.task is not None and (wrong := [key for key in _OF_ROWS if getattr(self, key)]):
            raise ValueError(f"--{wrong[0].replace('_', '-')} says how rows are read, and a task says that itself")
        return self

    @property
    def columns(self) -> dict[str, Column]:
        """By role."""
        plain = {"text": self.text, "second": self.second, "label": self.label}
        return {**{role: name for role, name in plain.items() if name is not None}, **self.column}

    @property
    def method(self) -> Literal["full", "frozen", "lora"]:
        """What learns."""
        return "frozen" if self.frozen else "lora" if self.lora else "full"

    @property
    def machine(self) -> Machine:
        """Where, and in which numbers."""
        return Machine.model_validate({"device": self.device, "dtype": self.dtype})

    def changed(self, protocol: Protocol) -> Protocol:
        """A protocol with what is asked for in its place. Raises ValueError as Protocol does."""
        seeds = None if self.seeds is None else tuple(range(self.seeds))
        mined = self.negatives if self.kind == "retrieve" else None
        changes = {
            "learning_rates": self.rates, "epochs": self.epochs, "steps": self.steps, "batch_size": self.batch,
            "seeds": seeds, "patience": self.patience, "max_length": self.max_length, "negatives": mined,
        }  # fmt: skip
        given = protocol.model_dump(by_alias=True)
        if self.steps is not None or self.epochs is not None:
            given |= {"steps": None, "epochs": None}
        return Protocol.model_validate(given | {key: value for key, value in changes.items() if value is not None})


_OF = {"teacher": ("distil",), "temperature": ("distil",), "source_share": ("distil",), "anchors": ("distil",),
       "retriever": ("rerank",), "candidates": ("rerank",), "listwise": ("rerank",),
       "negatives": ("rerank", "retrieve"), "dimensions": ("retrieve", "distil")}  # fmt: skip
_NOT_OF_PAIRS = ("labels", "separator", "train_language", "balance", "curve", "frozen", "lora", "skip_bad", "task")
_OF_ROWS = ("kind", "text", "second", "label", "column", "labels", "separator", "skip_bad")


def _asked(given: object) -> bool:
    """Whether a key says something; 0 does."""
    return given is not None and given is not False and given != ()


def read(path: str | Path | None, flags: Mapping[str, Any]) -> FineTuning:
    """What a recipe asks for, and flags over it. Raises ValueError with the file and each key that is wrong."""
    given: Any = {} if path is None else read_yaml(Path(path), "recipe")
    if not isinstance(given, dict):
        raise ValueError(f"{path}: keys and values are needed here, as `model: models/e5`")
    whole = {**given, **flags}
    if flags.get("teacher") is not None:
        whole.setdefault("kind", "distil")
    try:
        return FineTuning.model_validate(whole)
    except ValidationError as error:
        lines = (": ".join(filter(None, pair)) for pair in mistakes(error, whole, FineTuning))
        raise ValueError("\n".join(f"{path or 'finetune'}: {line}" for line in lines)) from None
