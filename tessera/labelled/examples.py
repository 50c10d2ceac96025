"""Labelled examples out of rows, of every kind of task; what is wrong with a row is a DataError that names it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tessera.data.examples import Choices, Example, Labelled, Question, Tagged, Triple
from tessera.labelled import labels
from tessera.labelled.columns import Row
from tessera.labelled.tables import DataError
from tessera.plan.errors import did_you_mean, some
from tessera.prediction import tags as schemes
from tessera.prediction.words import split
from tessera.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a task asks of its rows, besides their columns.

    names      of the labels, in order
    declared   they stand in the task, so that numbers may be meant as places
    limits     regress: what a label may be
    no_answer  span: whether there may be none
    steps      reward: only solutions of so many steps; whole: one question for each solution, else one for each step
    separator  multilabel: what stands between the labels of a cell
    highest    rerank: the grade of a perfect document
    tokenizer  tag: splits raw text with spans into words
    """

    kind: str
    names: tuple[str, ...] = ()
    declared: bool = False
    limits: tuple[float, float] | None = None
    no_answer: bool = False
    steps: int | None = None
    whole: bool = False
    separator: str | None = None
    highest: float = 1.0
    tokenizer: Tokenizer | None = None


def examples_of(row: Row, asked: Asked) -> list[Example]:
    """What one row says; rows of reward, retrieve and rerank may say more than one thing."""
    head: dict[str, Any] = {"id": row.identity(), "row": row.place}
    match asked.kind:
        case "classify" | "pair" | "regress":
            second = row.text("second") if row.has("second") else None
            label = _number(row, asked) if asked.kind == "regress" else _label(row, asked)
            return [Labelled(text=row.text("text"), second=second, label=label, **head)]
        case "multilabel":
            second = row.text("second") if row.has("second") else None
            return [Labelled(text=row.text("text"), second=second, label=_numbers(row, asked), **head)]
        case "choose":
            return [_choices(row, asked, head)]
        case "tag":
            words, tags, spaced = tagged(row, asked)
            return [Tagged(words=words, tags=tags, spaced=spaced, **head)]
        case "span":
            context = row.text("context")
            answers = row.answers(context, asked.no_answer)
            return [Question(question=row.text("question"), context=context, answers=answers, **head)]
        case "reward":
            return _steps(asked, row)
        case "rerank":
            return _graded(row, asked)
    query, positives = row.text("query"), row.texts(answering(row))
    more: dict[str, Any] = {"negatives": row.texts("negatives") if row.has("negatives") else (), "row": row.place}
    ids = [f"{head['id']}.{n}" for n in range(len(positives))] if len(positives) > 1 else [head["id"]]
    return [Triple(query=query, positive=one, id=name, **more) for one, name in zip(positives, ids, strict=True)]


def labels_of(row: Row, asked: Asked) -> set[str]:
    """The names of the labels that stand in a row, to find out which there are."""
    if asked.kind == "multilabel":
        return set(row.label_set("label", asked.separator))
    if asked.kind == "tag":
        return (
            {f"{s}-{name}" for name in span_labels(row) for s in "BI"} | {"O"}
            if row.has("spans")
            else row.labels("tags")
        )
    return row.labels("label")


def answering(row: Row) -> str:
    """The role of the text that answers the query of the row. Raises DataError where the task names none."""
    return "document" if row.has("document") and not row.has("positive") else "positive"


def _label(row: Row, asked: Asked) -> int:
    return row.label("label", asked.names, declared=asked.declared)


def _number(row: Row, asked: Asked) -> float:
    return row.number("label", asked.limits)


def _numbers(row: Row, asked: Asked) -> tuple[int, ...]:
    return row.numbers("label", asked.names, asked.separator, declared=asked.declared)


def _choices(row: Row, asked: Asked, head: dict[str, Any]) -> Choices:
    options = row.texts("options")
    if len(options) < 2:
        raise DataError(f"{row.place}: {len(options)} option is not a choice; at least two are needed")
    names = asked.names or tuple(map(str, range(len(options))))
    label = row.label("label", names, declared=asked.declared)
    if label >= len(options):
        raise DataError(f"{row.place}: the label is option {label}, but there are only {len(options)}")
    return Choices(text=row.text("text"), options=options, label=label, **head)


def _graded(row: Row, asked: Asked) -> list[Example]:
    """A query with a document and its grade, from 0 to 1; or with documents that answer it and such that do not."""
    query, name = row.text("query"), row.identity()
    if not row.has("label"):
        negatives = row.texts("negatives") if row.has("negatives") else ()
        graded = [(text, 1.0) for text in row.texts(answering(row))] + [(text, 0.0) for text in negatives]
    else:
        truths = {"true": 1.0, "false": 0.0}
        written = next(iter(row.labels("label")))
        grade = truths[written] if written in truths else row.number("label", None) / asked.highest
        if not 0 <= grade <= 1:
            raise DataError(f"{row.place}: the grade is {written}; from 0 to {asked.highest:g} is allowed")
        graded = [(row.text(answering(row)), grade)]
    return [
        Labelled(text=query, second=text, label=grade, id=f"{name}.{n}", row=row.place)
        for n, (text, grade) in enumerate(graded)
    ]


def _steps(asked: Asked, row: Row) -> list[Example]:
    """A problem with its solution up to each step, or with the whole of it; label 1: right."""
    steps, right = row.texts("steps"), row.truths("label")
    if len(steps) != len(right):
        raise DataError(f"{row.place}: {len(steps)} steps but {len(right)} labels; each step has one")
    if not steps or (asked.steps is not None and len(steps) != asked.steps):
        return []
    text, name = row.text("text"), row.identity()
    if asked.whole:
        return [Labelled(text=text, second="\n".join(steps), label=int(all(right)), id=name, row=row.place)]
    return [
        Labelled(text=text, second="\n".join(steps[: n + 1]), label=int(right[n]), id=f"{name}.{n}", row=row.place)
        for n in range(len(steps))
    ]


# ---------------------------------------------------------------------------------------------------------------- tags


def tagged(row: Row, asked: Asked) -> tuple[tuple[str, ...], tuple[int, ...], tuple[bool, ...] | None]:
    """The words of a row, the number of the tag of each, and whether a space stands before each, where that is known.

    Raises DataError where tags of BIO or BIOES do not follow on one another, or spans lie over one another.
    """
    if not row.has("spans"):
        return *row.tagged(asked.names, declared=asked.declared), None
    assert asked.tokenizer is not None
    text = row.text("text")
    spans = _spans(row, text)
    found = split(text, asked.tokenizer)
    if not found.texts:
        raise DataError(f"{row.place}: has no words")
    numbers = {name: n for n, name in enumerate(asked.names)}
    if "O" not in numbers:
        raise DataError(f"{row.place}: words outside of spans are tagged O, but the tags are {some(asked.names, 12)}")
    tags = [numbers["O"]] * len(found.texts)
    for begin, end, name in spans:
        inside = [n for n, (a, b) in enumerate(found.places) if a < end and b > begin]
        if not inside:
            raise DataError(f"{row.place}: the span {begin} to {end} holds no word")
        for n in inside:
            if tags[n] != numbers["O"]:
                raise DataError(f"{row.place}: two spans share the word {found.texts[n]!r}; a word has one label")
            wanted = f"{'B' if n == inside[0] else 'I'}-{name}"
            if wanted not in numbers:
                raise DataError(f"{row.place}: {name!r} is no label of the task; {did_you_mean(wanted, numbers)}")
            tags[n] = numbers[wanted]
    return found.texts, tuple(tags), found.spaced


def span_labels(row: Row) -> set[str]:
    """The names of the labels of the spans of a row."""
    return {name for _, _, name in _spans(row, row.text("text"))}


def _spans(row: Row, text: str) -> list[tuple[int, int, str]]:
    """(first character, behind the last, label) of each span, in order; none lies over another."""
    found = []
    for number, span in enumerate(row.dicts("spans"), 1):
        begin, end = span.get("start"), span.get("end")
        if type(begin) is not int or type(end) is not int or not 0 <= begin < end <= len(text):
            raise DataError(
                f"{row.place}: span {number} goes from {begin!r} to {end!r}; characters 0 to {len(text)} of the text "
                "are allowed, start before end"
            )
        try:
            found.append((begin, end, labels.spelled(span.get("label"))))
        except ValueError as error:
            raise DataError(f"{row.place}: the label of span {number} is {error}") from None
    found.sort()
    for (a, b, first), (c, d, second) in itertools.pairwise(found):
        if c < b:
            raise DataError(
                f"{row.place}: the spans {first} {text[a:b]!r} and {second} {text[c:d]!r} overlap at character {c}; "
                "a tagger gives one label to each word, so keep one of them"
            )
    return found


def broken_tags(made: Sequence[Example], asked: Asked) -> dict[str, DataError]:
    """What is wrong with the tags of sentences, by their places; nothing where tags are not of BIO or BIOES."""
    found = {}
    for one in made if asked.kind == "tag" and schemes.scheme(asked.names) else ():
        assert isinstance(one, Tagged)
        said = [asked.names[n] for n in one.tags]
        if (at := schemes.broken_at(said)) is not None:
            found[one.row] = DataError(
                f"{one.row}: word {at + 1} ({one.words[at]!r}) is tagged {said[at]} behind "
                f"{said[at - 1] if at else 'the beginning'}; in {schemes.scheme(asked.names)} an entity begins with B-"
            )
    return found
