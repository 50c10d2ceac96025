"""Data of a task as strict models: where its rows lie, what is train and test, which column is what.

All of it is lines of the task's YAML (docs/evaluate.md has one for each). tessera/evaluation/rows.py reads the rows.
"""

import math
import re
from collections.abc import Iterable
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from tessera.plan.fields import KEYS, PLAIN, PLAIN_OR_KEYS, Share, Strict, refuse_twins

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
LANGUAGE, SPLIT, TASK = "{language}", "{split}", "{task}"

Column = str | tuple[str, ...]
"""A column; `a.b` is what stands inside it, also inside each item of a list. A text may be put together, as in
"Premise: {premise} Hypothesis: {hypothesis}". {language} in a name is the language that is read, as in "{language}" or
"text_{language}". Several columns are the options, the negatives, or numbers to average."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "query": ("query", "question", "anchor", "sentence1", "text1", "premise", "src"),
    "positive": ("positive", "pos", "document", "passage", "answer", "response", "sentence2", "text2", "code", "tgt"),
    "negatives": ("negatives", "negative", "neg", "hard_negative", "hard_negatives"),
    "text": ("text", "sentence", "content", "review", "sentence1", "text1", "premise", "question1", "s1", "src"),
    "second": ("second", "sentence2", "text2", "hypothesis", "question2", "s2", "tgt", "mt"),
    "label": ("label", "labels", "class", "category", "target", "stars", "score", "rating"),
    "words": ("words", "tokens"),
    "tags": ("tags", "ner_tags", "ner", "pos_tags", "upos", "labels"),
    "question": ("question", "query"),
    "context": ("context", "passage", "document", "text"),
    "options": ("options", "choices", "endings"),
    "document": ("document", "text", "passage", "content"),
    "document_id": ("document_id", "corpus-id", "corpus_id", "_id", "docid", "pid", "id"),
}
"""What data sets call the columns of a role; the likeliest first."""

_IN_A_HOLE = re.compile(r"\{([^{}]*)\{language\}([^{}]*)\}")


class Part(Strict):
    """A part of another split, by a hash of the row's group, else of its id, else of what it says.

    So the same rows are in it in every language. Parts of one split do not overlap: shares follow on one another, then
    parts by number, and a split that is named whole gets what they leave.
    """

    from_: str = Field(alias="from")  # a split, by the name that the data gives it
    share: Share | None = None
    rows: int | None = Field(None, ge=1)  # so many; of groups whole ones, until there are so many
    per_label: int | None = Field(None, ge=1)  # so many of each label: few-shot learning

    @model_validator(mode="after")
    def _says_how_much(self) -> Self:
        given = [key for key in ("share", "rows", "per_label") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("a part is one of `share`, `rows` and `per_label`, as in {from: train, rows: 100}")
        return self

    @property
    def number(self) -> int:
        """Of a part by number, of each label or of all."""
        return self.rows or self.per_label or 0


Split = Annotated[Annotated[str, PLAIN] | Annotated[Part, KEYS], PLAIN_OR_KEYS]


class Splits(Strict):
    """What the data calls its splits. None: it has none."""

    train: Split | None = None
    validation: Split | None = None
    test: Split | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        parts = [split for split in (self.train, self.validation, self.test) if isinstance(split, Part)]
        for name in dict.fromkeys(part.from_ for part in parts):
            total = sum(part.share or 0.0 for part in parts if part.from_ == name)
            if total > 1 + 1e-9:
                raise ValueError(f"parts of {name!r} add up to {total:g}; they are parts of one whole, so at most 1")
            if any(p.rows for p in parts if p.from_ == name) and any(p.per_label for p in parts if p.from_ == name):
                raise ValueError(f"parts of {name!r} are by `rows` and by `per_label`; take one of the two for all")
        whole = [split for split in (self.train, self.validation, self.test) if isinstance(split, str)]
        refuse_twins(whole, "split")
        return self

    def place(self, split: SplitName) -> tuple[str, float, float] | None:
        """(name in the data, from, to): the rows whose hash, in [0, 1), lies between; None where there is no split.

        Of parts by number this says what is left to them; `numbers` says who takes how many.
        """
        wanted: str | Part | None = getattr(self, split)
        if wanted is None:
            return None
        name = wanted.from_ if isinstance(wanted, Part) else wanted
        begin = 0.0
        for other in SPLITS:
            part = getattr(self, other)
            if isinstance(part, Part) and part.from_ == name and part.share is not None:
                if other == split:
                    return name, begin, begin + part.share
                begin += part.share
        return name, begin, math.inf

    def numbers(self, split: SplitName) -> tuple[int, int | None, bool] | None:
        """(from, to, of each label): which rows of `place` are a split's, in the order of their hashes; None: all."""
        wanted: str | Part | None = getattr(self, split)
        if wanted is None or (isinstance(wanted, Part) and wanted.share is not None):
            return None
        name = wanted.from_ if isinstance(wanted, Part) else wanted
        parts = [(other, getattr(self, other)) for other in SPLITS]
        numbered = [(o, p) for o, p in parts if isinstance(p, Part) and p.from_ == name and p.number]
        begin = 0
        for other, part in numbered:
            if other == split:
                return begin, begin + part.number, part.per_label is not None
            begin += part.number
        return (begin, None, numbered[0][1].per_label is not None) if numbered else None


class Beside(Strict):
    """Other files whose rows go with those of the data: a cell of them is `beside.text` among the columns."""

    path: str  # files below the data folder
    by: str | None = None  # the column that both have, an id; None: row by row


class Data(Strict):
    """Where rows lie: on the Hub, and below a folder that the user gives.

    {language}, {split} and {task} in a pattern stand for what is read. Without `path`, local rows are looked for at
    {task}/{language}/{split}, as .jsonl.zst, .jsonl, .parquet, .csv, .tsv and the like.
    """

    hub: str | None = None  # a dataset of the Hugging Face Hub
    config: str | None = None  # its configuration
    files: str | None = None  # files of the repository, where it has no configuration for them
    revision: str | None = None
    path: str | None = None  # files below the data folder
    beside: Beside | None = None
    splits: Splits = Splits(train="train", validation="validation", test="test")
    codes: dict[str, str] = Field(default_factory=dict)  # a language -> what the data calls it, wherever {language} is
    columns: dict[str, Column] = Field(default_factory=dict)  # role -> column; instead of those of the task
    where: dict[str, str] = Field(default_factory=dict)  # column -> glob: only such rows; may hold {language}

    @model_validator(mode="after")
    def _codes_differ(self) -> Self:
        refuse_twins(list(self.codes.values()), "code")
        if self.beside is not None and self.path is None:
            raise ValueError("beside: goes with `path`, the files that its rows stand beside")
        return self

    @property
    def by_language(self) -> bool:
        """Whether each language has rows of its own; Task.by_language knows whether it has columns of its own."""
        if self.hub is None and self.path is None:
            return True  # a folder for each
        names = [place[0] for split in SPLITS if (place := self.splits.place(split))]
        places = (self.config, self.files, self.path, self.beside.path if self.beside else None)
        return LANGUAGE in "".join((*filter(None, places), *names, *self.where.values()))

    def code(self, language: str) -> str:
        """What the data calls a language."""
        return self.codes.get(language, language)


def guess(roles: Iterable[str], present: Iterable[str]) -> dict[str, str]:
    """Columns that are likely meant by roles, each of those present once: {query: anchor, positive: positive}."""
    there = {name.lower(): name for name in present}
    found: dict[str, str] = {}
    for role in roles:
        column = next((there[name] for name in SYNONYMS.get(role, ()) if name in there), None)
        if column is not None:
            found[role] = column
            del there[column.lower()]
    return found


def holds_language(column: Column) -> bool:
    """Whether the name of a column depends on the language that is read."""
    if not isinstance(column, str):
        return any(map(holds_language, column))
    if "{" in column.replace(LANGUAGE, ""):
        return _IN_A_HOLE.search(column) is not None
    return LANGUAGE in column


def in_language(column: Column, code: str) -> Column:
    """The column in a language. Beside other holes of a text put together, {language} is a column of that name."""
    if not isinstance(column, str):
        return tuple(str(in_language(one, code)) for one in column)
    if "{" in column.replace(LANGUAGE, ""):
        return _IN_A_HOLE.sub(lambda hole: "{" + hole[1] + code + hole[2] + "}", column)
    return column.replace(LANGUAGE, code)
