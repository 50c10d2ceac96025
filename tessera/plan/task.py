"""What is asked of a model and how it is trained for it, as strict models: tasks, where their rows lie, protocols.

A task is a few lines of YAML; tessera/evaluation/catalogue.py has those that come with tessera and reads more from
a file, tessera/evaluation/load.py reads the rows.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tessera.plan.errors import did_you_mean
from tessera.plan.fields import KEYS, PLAIN, PLAIN_OR_KEYS, Name, Ratio, Share, Strict
from tessera.plan.task_data import LANGUAGE, SYNONYMS, Column, Data, Part, SplitName, holds_language
from tessera.plan.task_data import SPLIT as SPLIT
from tessera.plan.task_data import SPLITS as SPLITS
from tessera.plan.task_data import TASK as TASK
from tessera.plan.task_data import Splits as Splits

Kind = Literal[
    "classify", "pair", "regress", "choose", "tag", "span", "retrieve", "bitext", "reward", "probe", "held_out"
]  # fmt: skip
"""classify: one text, one class. pair: two texts, one class. regress: one or two texts, a number. choose: a text and
options, which one. tag: words, a class of each. span: a question and a text, where the answer stands. retrieve: a
query, which documents. bitext: a sentence, which is its translation. reward: a problem and the steps of a solution,
whether each is right. probe: classify, by logistic regression on frozen embeddings. held_out: text with hidden tokens
in a token store, bits per byte."""

Metric = Literal[
    "accuracy",
    "macro_f1",
    "micro_f1",
    "f1",
    "mcc",
    "pearson",
    "spearman",
    "entity_f1",
    "run_f1",
    "squad_f1",
    "exact_match",
    "mlqa_f1",
    "mlqa_exact_match",
    "ndcg@10",
    "recall@10",
    "recall@100",
    "mrr@10",
    "average_precision",
    "margin_f1",
    "bits_per_byte",
    "loss",
]
ROLES: dict[str, tuple[set[str], set[str]]] = {
    "classify": ({"text", "label"}, set()),
    "pair": ({"text", "label"}, {"second"}),
    "regress": ({"text", "label"}, {"second"}),
    "choose": ({"text", "options", "label"}, set()),
    "tag": ({"words", "tags"}, set()),
    "span": ({"question", "context", "answers", "starts"}, set()),
    "retrieve": ({"query"}, {"positive", "negatives", "relevant", "document_id", "document", "grade"}),
    "bitext": ({"text", "second"}, {"language", "second_language"}),
    "reward": ({"text", "steps", "label"}, set()),
    "probe": ({"text", "label"}, set()),
    "held_out": (set(), set()),
}
"""For each kind the roles that a column must be named for, and those it may be. `id` and `group` always may:
rows of one group stay on one side of a split. Where a bitext names columns for its languages, these say what a row is
in, and English becomes the second."""


_CLASSES: tuple[Metric, ...] = ("accuracy", "macro_f1", "micro_f1", "f1", "mcc", "pearson", "spearman")
METRICS: dict[Kind, tuple[Metric, ...]] = {
    "classify": _CLASSES,
    "pair": _CLASSES,
    "reward": _CLASSES,
    "regress": ("pearson", "spearman"),
    "choose": ("accuracy", "micro_f1"),
    "tag": ("accuracy", "macro_f1", "micro_f1", "entity_f1", "run_f1"),
    "span": ("squad_f1", "exact_match", "mlqa_f1", "mlqa_exact_match"),
    "retrieve": ("ndcg@10", "recall@10", "recall@100", "mrr@10", "average_precision"),
    "bitext": ("accuracy", "f1", "margin_f1"),
    "probe": ("accuracy", "macro_f1"),
    "held_out": ("bits_per_byte", "loss"),
}
"""What each kind is measured by."""


LABELLED = ("classify", "pair", "choose", "probe")  # kinds whose rows have one label each
FOLDED = ("classify", "pair", "regress", "choose", "tag", "span", "reward")  # kinds that know cross-validation


class Task(Strict):
    """One thing to ask of a model."""

    name: Name
    group: str = ""  # the file it is written in
    kind: Kind
    data: Data
    train_data: Data | None = None  # where train, and validation if it has one, come from other data than test
    corpus: Data | None = None  # retrieve: documents {document_id, document}; None: the positives of all queries
    relevant: Data | None = None  # retrieve: rows of {query, document_id, grade}; None: columns of the queries
    columns: dict[str, Column] = Field(default_factory=dict)  # role -> column
    labels: tuple[str, ...] | None = None  # their names in order; None: those found in train
    range: tuple[float, float] | None = None  # regress: what a label may be
    metric: Metric  # by which a model is chosen and compared
    also: tuple[Metric, ...] = ()
    languages: Literal["all"] | tuple[str, ...] = "all"  # tested on, as the data calls them; all: those with files
    # own: each language by itself. all: all together. none: nothing is trained. Else the language or languages.
    train: Literal["own", "all", "none"] | str | tuple[str, ...] = "own"
    # cross-validation over `test`, its only split: each part is tested, chosen on the next, trained on the others
    folds: int | None = Field(None, ge=2)
    fold: int | None = Field(None, ge=0)  # only this one of them
    only_relevant: bool = False  # retrieve: only documents that answer some query are searched, the others are left out
    steps: int | None = Field(None, ge=1)  # reward: only solutions of so many steps
    whole: bool = False  # reward: one question for each solution, whether all steps are right; else one for each step
    no_answer: bool = False  # span: whether a question may have none
    # bitext, probe: rows that cannot be used are left out and counted, as long as they are fewer; retrieve: grades of
    # queries and documents that are not there
    skip: bool = False
    mask_ratio: Ratio = 0.15  # held_out: share of the tokens that are hidden
    max_tokens: int | None = Field(None, ge=1)  # held_out: of each language; None: all
    seed: int = 0  # held_out: which tokens are hidden
    cite: str = ""
    notes: str = ""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        needed, may = ROLES[self.kind]
        for place, columns, wanted in (
            ("columns", self.columns, set[str]()),
            ("data.columns", self.columns_of(self.data), needed),
            ("train_data.columns", self.columns_of(self.train_data or self.data), needed),
            ("corpus.columns", self.columns_of(self.corpus), {"document_id", "document"} if self.corpus else set()),
            ("relevant.columns", self.columns_of(self.relevant), {"id", "document_id"} if self.relevant else set()),
        ):
            for role in columns:
                if role not in needed | may | {"id", "group"}:
                    meant = next((r for r in (*sorted(needed), *sorted(may)) if role in SYNONYMS.get(r, ())), None)
                    hint = did_you_mean(role, needed | may | {"id", "group"})
                    hint = f"write it as {meant}: {columns[role]}" if meant and meant not in columns else hint
                    raise ValueError(f"{place}: {role!r} is no role of kind {self.kind}; {hint}")
            for role in sorted(wanted - set(columns)):
                raise ValueError(f"{place}: kind {self.kind} needs a column for {role!r}")
        for metric in (self.metric, *self.also):
            if metric not in METRICS[self.kind]:
                raise ValueError(
                    f"metric {metric} is not of kind {self.kind}, which is measured by {', '.join(METRICS[self.kind])}"
                )
        if self.kind != "retrieve" and (self.corpus or self.relevant or self.only_relevant):
            raise ValueError(f"corpus, relevant and only_relevant are of kind retrieve, this is of kind {self.kind}")
        told = "language" in self.columns or self.kind == "held_out"  # by the rows themselves
        several = not told and (self.languages == "all" or len(self.languages) > 1)
        if several and not self.by_language("test"):
            raise ValueError(
                f"its data is the same for all languages; write {LANGUAGE} in config, files, path, where or a column"
            )
        if self.range is not None and (self.kind != "regress" or not self.range[0] < self.range[1]):
            raise ValueError(f"range is {list(self.range)}; it is of kind regress, the least value first")
        fields = type(self).model_fields
        hidden = [k for k in ("mask_ratio", "max_tokens", "seed") if getattr(self, k) != fields[k].default]
        if self.kind != "held_out" and hidden:
            raise ValueError(f"{hidden[0]} is of kind held_out, this is of kind {self.kind}")
        if self.kind not in ("bitext", "probe", "retrieve") and self.skip:
            raise ValueError(f"skip is of kinds bitext, probe and retrieve, this is of kind {self.kind}")
        if self.kind != "reward" and (self.steps is not None or self.whole):
            raise ValueError(f"steps and whole are of kind reward, this is of kind {self.kind}")
        self._parts_fit()
        self._folds_fit()
        if self.labels is not None and len(set(self.labels)) < max(2, len(self.labels)):
            raise ValueError(f"labels are {list(self.labels)}; at least two are needed, no two the same")
        return self

    def _parts_fit(self) -> None:
        several = [one.splits for one in (self.data, self.train_data) if one is not None]
        parts = [part for one in several for part in (one.train, one.validation, one.test) if isinstance(part, Part)]
        if self.kind not in LABELLED and any(part.per_label for part in parts):
            raise ValueError(f"per_label is of kinds {', '.join(LABELLED)}, this is of kind {self.kind}; say rows")

    def _folds_fit(self) -> None:
        if self.folds is None:
            if self.fold is not None:
                raise ValueError("fold is one of `folds`, which is not given")
            return
        if self.kind not in FOLDED or not self.trained:
            raise ValueError(f"folds is of kinds {', '.join(FOLDED)} that are trained, this is of kind {self.kind}")
        splits = self.data.splits
        if splits.train or splits.validation or not isinstance(splits.test, str) or self.train_data is not None:
            raise ValueError("folds divides one split, all that there is; name it alone, as in splits: {test: test}")
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold is {self.fold}; the first of {self.folds} is 0")

    def has(self, split: SplitName) -> bool:
        """Whether there are rows of a split."""
        if self.folds is not None:
            return split != "validation" or self.folds > 2
        return getattr(self.source(split).splits, split) is not None

    def by_language(self, split: SplitName) -> bool:
        """Whether each language has rows or columns of its own in a split."""
        source = self.source(split)
        return source.by_language or any(map(holds_language, self.columns_of(source).values()))

    @property
    def trained(self) -> bool:
        """Whether anything is trained for it."""
        return self.train != "none"

    def source(self, split: SplitName) -> Data:
        """Where the rows of a split lie: train and validation in `train_data` where it has them."""
        other = self.train_data
        return self.data if other is None or split == "test" or getattr(other.splits, split) is None else other

    def columns_of(self, data: Data | None) -> dict[str, Column]:
        """The columns of one of its sources: its own, else those of the task."""
        return data.columns or self.columns if data is not None else {}

    def trained_on(self, language: str) -> tuple[str, ...]:
        """The languages of the training data of the model that is tested on `language`; () where it is all of them."""
        if self.train == "own":
            return (language,)
        if self.train in ("all", "none"):
            return ()
        return (self.train,) if isinstance(self.train, str) else self.train


class Spaced(Strict):
    """Values at equal ratios, both ends in."""

    from_: float = Field(alias="from", gt=0)
    to: float = Field(gt=0)
    count: int = Field(ge=2)

    def values(self) -> tuple[float, ...]:
        ratio = self.to / self.from_
        inner = (self.from_ * ratio ** (n / (self.count - 1)) for n in range(1, self.count - 1))
        return (self.from_, *(float(f"{value:.6g}") for value in inner), self.to)


Rates = Annotated[
    Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1), PLAIN] | Annotated[Spaced, KEYS],
    PLAIN_OR_KEYS,
]


class Sweep(Strict):
    """Settings that are tried in all combinations, besides the learning rate."""

    weight_decay: tuple[float, ...] = ()
    epochs: tuple[float, ...] = ()


class Protocol(Strict):
    """How a model is fine-tuned and chosen. `steps` or `epochs` says for how long."""

    name: Name
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(ge=1)  # examples
    learning_rates: Rates  # the highest of a training; each is tried
    warmup_ratio: Share = 0.0  # of the steps, up in a line
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after the warm-up; linear and cosine end at 0
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Ratio, Ratio] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    sweep: Sweep = Sweep()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    max_length: int = Field(512, ge=8)  # tokens of a document
    stride: int = Field(128, ge=0)  # span: tokens that two windows have in common
    labelling: Literal["first", "majority"] = "first"  # tag: which tokens of a word bear its tag
    temperature: float = Field(0.05, gt=0)  # retrieve: of InfoNCE, cosines are divided by it; 1 / scale
    negatives: int = Field(1, ge=0)  # retrieve: mined ones of each query, besides those of the batch
    from_task: Name | None = None  # start from a model trained on this task, not from the pre-trained one
    patience: int | None = Field(None, ge=1)  # epochs without a better validation score before it ends; None: no end
    select: Literal["validation", "oracle"] = "validation"  # oracle: on test, which marks the result
    train_examples: int | None = Field(None, ge=1)  # at most so many are trained on, by a hash
    test_examples: int | None = Field(None, ge=1)  # and tested on, of each language
    cite: str = ""
    notes: str = ""

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if (self.steps is None) == (self.epochs is None) and not (self.steps is None and self.sweep.epochs):
            raise ValueError("give either `steps` or `epochs`")
        return self

    def rates(self) -> tuple[float, ...]:
        """The learning rates, each once, in order."""
        return self.learning_rates.values() if isinstance(self.learning_rates, Spaced) else self.learning_rates

    def variants(self) -> list["Protocol"]:
        """This protocol with every combination of `sweep` as its own weight decay and epochs; itself without one."""
        decays = self.sweep.weight_decay or (self.weight_decay,)
        epochs = self.sweep.epochs or (self.epochs,)
        return [
            self.model_copy(update={"weight_decay": decay, "epochs": length, "sweep": Sweep()})
            for length in epochs
            for decay in decays
        ]
