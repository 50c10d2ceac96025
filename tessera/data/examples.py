"""Labelled examples for fine-tuning, of every kind of task; each with the row of the data set that it comes from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """classify, pair, regress, reward."""

    text: str
    second: str | None = None
    label: int | float | None = None  # the number of a class, or what is to be predicted; None: not known
    id: str
    row: str  # "file:line", or "dataset, split, row n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """choose: which of the options goes with the text."""

    text: str
    options: tuple[str, ...]
    label: int | None = None
    id: str
    row: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """tag: the number of a tag for each word; no tags where they are not known."""

    words: tuple[str, ...]
    tags: tuple[int, ...] = ()
    id: str
    row: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """span: answers as they stand in the context, each with the character it begins at; none: there is no answer."""

    question: str
    context: str
    answers: tuple[tuple[str, int], ...] = ()
    id: str
    row: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Triple:
    """retrieve, to train on: a query, a document that answers it, documents that do not."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    id: str
    row: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """retrieve, to test on: texts by id, and the grade of each document that answers a query."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, dict[str, int]]


Example = Labelled | Choices | Tagged | Question | Triple
