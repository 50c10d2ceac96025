"""Test rows for a model that is there: read as fine-tuning reads them, given back as a prediction is asked for.

Columns are found as `dataset.read` finds them, so the file that a model was fine-tuned on can be named again; labels
are the model's own.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from tessera.data.examples import Choices, Example, Labelled, Question, Tagged
from tessera.labelled import guess as guessing
from tessera.labelled import tables
from tessera.labelled.columns import Row
from tessera.labelled.dataset import highest_grade
from tessera.labelled.examples import Asked, examples_of
from tessera.labelled.tables import DataError
from tessera.plan.task_data import Column
from tessera.prediction.requests import PAIR, SPAN
from tessera.tokenizer.tokenizer import Tokenizer

_LOOKED_AT = 1_000  # rows, to guess
_SHOWN = 5  # rows that cannot be used, in an error


def rows(where: str, *, kind: str, pair: bool, labels: Sequence[str], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """What the rows of a file ask of a model, and what is right: label, labels, score, choice, tags or answers.

    where         a file, a folder, a glob or a URL, of any kind that fine-tuning reads
    kind, labels  of the model; pair: whether it was trained on two texts
    tokenizer     splits raw text with spans into words

    A row says its language as `lang` where a column has it. Raises DataError for rows that cannot be used.
    """
    found = [(place, row) for file in tables.find(where) for place, row in tables.rows(file)]
    if not found:
        raise DataError(f"{where}: holds no rows")
    kind = _kind(kind, pair, found[0][1])
    columns = _columns([row for _, row in islice(found, _LOOKED_AT)], kind, pair)
    several = [Row(place, row, columns) for place, row in found]
    asked = Asked(
        kind=kind, names=tuple(labels) if kind not in ("regress", "rerank", "choose", "span") else (), declared=True,
        no_answer=True, tokenizer=tokenizer, highest=highest_grade(several) if kind == "rerank" else 1.0,
    )  # fmt: skip
    made: list[dict[str, Any]] = []
    wrong: list[str] = []
    for row in several:
        try:
            language = {"lang": row.name("language")} if row.has("language") else {}
            made += [{**_row(example, tuple(labels), kind), **language} for example in _examples(row, asked)]
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        more = [f"and {len(wrong) - _SHOWN:,} more rows that cannot be used"] * (len(wrong) > _SHOWN)
        raise DataError("\n  ".join([*wrong[:_SHOWN], *more]))
    return made


def _kind(kind: str, pair: bool, first: dict[str, Any]) -> str:
    """What the rows of a model are called where they are labelled: more than its head knows."""
    if kind == "classify" and pair:
        return "reward" if isinstance(first.get("steps"), list) else "pair"
    return kind


def _columns(looked: Sequence[dict[str, Any]], kind: str, pair: bool) -> dict[str, Column]:
    given: dict[str, Column] = {}
    if kind == "choose" and "choice" in looked[0]:
        given["label"] = "choice"
    if kind == "rerank":
        names = next((names for names in PAIR if all(name in looked[0] for name in names)), None)
        given |= dict(zip(("query", "document"), names, strict=True)) if names else {}
    if kind == "span" and "answer_start" not in looked[0] and (name := _plain_answer(looked)):
        names = next((names for names in SPAN if all(name in looked[0] for name in names)), SPAN[0])
        return {**dict(zip(("question", "context"), names, strict=True)), "answers": name}
    found = guessing.guess(looked, kind, given).columns
    return {role: column for role, column in found.items() if role != "second" or pair or kind == "rerank"}


def _plain_answer(looked: Sequence[dict[str, Any]]) -> str | None:
    """The column of answers that do not say where they start: a text, or a list of texts."""
    for name in ("answer", "answers"):
        values = [row[name] for row in looked if row.get(name)]
        texts = [one for value in values for one in (value if isinstance(value, list) else [value])]
        if values and all(isinstance(one, str) for one in texts):
            return name
    return None


def _examples(row: Row, asked: Asked) -> list[Example]:
    if asked.kind != "span" or row.has("starts"):
        return examples_of(row, asked)
    answers = tuple((text, -1) for text in row.texts("answers") if text)  # nobody asks where they stand
    question, context = row.text("question"), row.text("context")
    return [Question(question=question, context=context, answers=answers, id=row.identity(), row=row.place)]


def _row(example: Example, labels: tuple[str, ...], kind: str) -> dict[str, Any]:
    match example:
        case Tagged(words=words, tags=tags):
            return {"words": list(words), "tags": [labels[n] for n in tags]}
        case Question(question=question, context=context, answers=answers):
            return {"question": question, "context": context, "answers": [text for text, _ in answers]}
        case Choices(text=text, options=options, label=label):
            return {"text": text, "options": list(options), "choice": label}
        case Labelled(text=text, second=second, label=label):
            asked: dict[str, Any] = {"text": text} if second is None else {"text": text, "second": second}
            if isinstance(label, tuple):
                return {**asked, "labels": [labels[n] for n in label]}
            if kind in ("regress", "rerank"):
                return {**asked, "score": label}
            assert isinstance(label, int)
            return {**asked, "label": labels[label]}
    raise AssertionError(example)
