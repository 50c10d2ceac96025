"""Schema inference for labelled rows: which kind of task they are, which columns play which role, and why."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.labelled.tables import DataError
from tessera.plan.errors import did_you_mean, some
from tessera.plan.task import ROLES
from tessera.plan.task_data import SYNONYMS, Column
from tessera.prediction.roles import ASKED, listed, numbered_options

KINDS = ("classify", "multilabel", "pair", "regress", "tag", "span", "choose", "reward", "rerank")
_NEEDED: dict[str, tuple[set[str], set[str]]] = {
    **{kind: roles for kind, roles in ROLES.items() if kind in KINDS},
    "classify": ({"text", "label"}, {"second"}),
    "pair": ({"text", "second", "label"}, set()),
    "multilabel": ({"text", "label"}, {"second"}),
    "rerank": ({"query"}, {"document", "label", "positive", "negatives"}),
    "tag": (set(), {"words", "tags", "text", "spans"}),
}
"""Of each kind the roles that must have a column, and those that may."""
_ALWAYS = ("id", "group", "language", "split")
_MORE: dict[str, tuple[str, ...]] = {
    **SYNONYMS,
    "text": (*SYNONYMS["text"], "utterance", "comment", "tweet", "body"),
    "label": (*SYNONYMS["label"], "topic", "intent", "sentiment", "emotion", "gold_label", "relevance", "grade"),
    "spans": ("spans", "entities"),
    "document": ("document", "passage", "doc", "code", "content", "text"),
    "query": ("query", "question", "anchor"),
    "steps": ("steps",),
    "language": ("language", "lang"),
    "split": ("split",),
    "group": ("group",),
}
_FIXED: dict[str, dict[str, Column]] = {  # of well-known sets, {column that tells them: the roles}
    "answers.text": {"answers": "answers.text", "starts": "answers.answer_start"},
    "answers.start": {"answers": "answers.text", "starts": "answers.start"},
    "answer_start": {"answers": "answer", "starts": "answer_start"},
}
_FEW = 20  # different whole numbers, up to which they are classes whatever their column is called


@dataclass(frozen=True, slots=True)
class Guess:
    """What rows are taken for."""

    kind: str
    columns: dict[str, Column]
    why: str


def guess(rows: Sequence[Mapping[str, Any]], kind: str | None, given: Mapping[str, Column]) -> Guess:
    """The kind of task and the column of each role, out of the first rows.

    kind   as somebody says; None: guessed
    given  columns that somebody says, by role

    Raises DataError where they fit no kind, or lack a column that theirs needs.
    """
    present = list(dict.fromkeys(name for row in rows for name in row))
    for role, column in given.items():
        _check_given(role, column, present)
    columns, why = {**_found(rows, present), **given}, "as you said"
    if kind is None:
        kind, why = _kind(rows, columns, given)
        if kind == "classify" and not {"text", "label"} <= set(columns):
            columns |= _by_shape(rows, present, columns)
            why = f"{columns['text']!r} is the longest text, {columns['label']!r} has few values"
    elif kind in ("classify", "multilabel", "regress") and not {"text", "label"} <= set(columns):
        columns |= _by_shape(rows, present, columns)
    if kind == "choose" and "text" not in columns:
        columns |= {"text": asked} if (asked := next((name for name in ASKED if name in present), None)) else {}
    return Guess(kind, _of_kind(kind, columns, given, present), why)


def _check_given(role: str, column: Column, present: Sequence[str]) -> None:
    roles = {role for needed, may in _NEEDED.values() for role in needed | may} | set(_ALWAYS)
    if role not in roles:
        raise DataError(f"--column {role}=...: no role is called {role!r}; {did_you_mean(role, roles)}")
    for name in (column,) if isinstance(column, str) else column:
        if "{" not in name and name not in present and name.partition(".")[0] not in present:
            raise DataError(f"no column is called {name!r}; the rows have {some(list(present), 20)}")


def _found(rows: Sequence[Mapping[str, Any]], present: Sequence[str]) -> dict[str, Column]:
    """Each role with the likeliest column, whatever the kind; one column may serve several roles."""
    there = {name.lower(): name for name in present}
    found: dict[str, Column] = {}
    for role, names in _MORE.items():
        if column := next((there[name] for name in names if name in there), None):
            found[role] = column
    answers = next((row["answers"] for row in rows if row.get("answers")), None)
    inner = answers[0] if isinstance(answers, list) and isinstance(answers[0], dict) else answers
    if isinstance(inner, dict):
        found |= _FIXED["answers.text" if "answer_start" in inner else "answers.start"]
    elif "answers" in there:
        start = next((there[n] for n in ("starts", "answer_starts", "answer_start") if n in there), None)
        found |= {"answers": there["answers"], **({"starts": start} if start else {})}
    elif "answer_start" in there and "answer" in there:
        found |= _FIXED["answer_start"]
    if "options" not in found:
        several = numbered_options(present)
        found |= {"options": tuple(several)} if len(several) > 1 else {}
    return found


def _kind(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column], given: Mapping[str, Column]
) -> tuple[str, str]:
    """The kind, and why."""
    has = set(columns).__contains__

    def holds(role: str, kind: type) -> bool:
        column = columns.get(role)
        return isinstance(column, str) and any(isinstance(listed(row.get(column)), kind) for row in rows)

    tests: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
        ("tag", holds("words", list) and holds("tags", list), ("words", "tags")),
        ("tag", holds("spans", list) and has("text"), ("text", "spans")),
        ("span", has("question") and has("context") and has("answers") and has("starts"), ("question", "answers")),
        ("choose", has("options") and has("label"), ("options", "label")),
        ("reward", holds("steps", list) and has("label"), ("steps", "label")),
        ("rerank", _says(columns, "query") and has("document") and has("label"), ("query", "document", "label")),
        ("retrieve", _says(columns, "query") and has("positive") and not has("label"), ("query", "positive")),
    )
    if "text" not in given or "label" not in given:
        for kind, fits, roles in tests:
            if fits:
                return kind, f"there are columns {' and '.join(shown(columns[role]) for role in roles)}"
    if not has("text") or not has("label"):
        return "classify", ""
    labels, label = _values(rows, columns["label"]), shown(columns["label"])
    if not isinstance(columns["label"], str) or any(isinstance(listed(value), list) for value in labels):
        return "multilabel", f"{label} holds several labels of a row"
    numbers = [number for value in labels if (number := _number(value)) is not None]
    if labels and len(numbers) == len(labels) and any(number != int(number) for number in numbers):
        return "regress", f"{label} holds numbers that are not whole"
    if labels and len(numbers) == len(labels) and len(set(numbers)) > _FEW:
        return "regress", f"{label} holds more than {_FEW} different numbers"
    second = columns.get("second")
    if second is not None and second != columns["text"]:
        return "pair", f"there are two texts, {shown(columns['text'])} and {shown(second)}, and a label"
    return "classify", f"there is a text, {shown(columns['text'])}, and a label, {label}"


def _says(columns: Mapping[str, Column], role: str) -> bool:
    return str(columns.get(role, "")).lower() in ("query", "anchor")


def _values(rows: Sequence[Mapping[str, Any]], column: Column) -> list[Any]:
    return [row[column] for row in rows if isinstance(column, str) and row.get(column) not in (None, "")]


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _by_shape(
    rows: Sequence[Mapping[str, Any]], present: Sequence[str], columns: Mapping[str, Column]
) -> dict[str, Column]:
    """Text and label by what stands in the columns: the longest text, and the only other one with few values."""
    taken = {columns[role] for role in ("text", "label", *_ALWAYS) if role in columns}
    free = [name for name in present if name not in taken]
    values = {name: [str(value) for value in _values(rows, name)] for name in free}

    def length(name: str) -> float:
        return sum(map(len, values[name])) / max(1, len(values[name]))

    found: dict[str, Column] = {}
    texts = [name for name in free if values[name] and any(not _is_number(value) for value in values[name])]
    if "text" not in columns and texts:
        found["text"] = max(texts, key=length)
    few: Callable[[str], bool] = lambda name: 1 < len(set(values[name])) <= max(2, len(values[name]) // 2)  # noqa: E731
    labels = [name for name in free if name != found.get("text") and values[name] and few(name)]
    if "label" not in columns and len(labels) == 1:
        found["label"] = labels[0]
    if {"text", "label"} <= {*columns, *found}:
        return found
    raise DataError(
        f"cannot tell what these rows are: their columns are {some(list(present), 20)}. Say it: --text COLUMN and "
        f"--label COLUMN, or --kind ({', '.join(KINDS)}) and --column ROLE=COLUMN"
    )


def _is_number(value: str) -> bool:
    return _number(value) is not None


def _of_kind(
    kind: str, columns: Mapping[str, Column], given: Mapping[str, Column], present: Sequence[str]
) -> dict[str, Column]:
    """The columns that a kind reads. Raises DataError where one is missing, or one was given that it does not read."""
    if kind not in _NEEDED:
        return dict(columns)
    needed, may = _NEEDED[kind]
    if kind == "tag":
        needed = {"text", "spans"} if "spans" in columns and "words" not in given else {"words", "tags"}
        if "words" in columns and "tags" in columns and "spans" not in given:
            needed = {"words", "tags"}
        may = set()
    elif kind == "rerank":
        answers = "positive" if "label" not in columns else "document"
        needed, may = {"query", answers}, {"negatives"} if answers == "positive" else {"label"}
    for role in given:
        if role not in needed | may | set(_ALWAYS):
            raise DataError(f"kind {kind} reads no {role!r}; it reads {some(sorted(needed | may), 20)}")
    for role in sorted(needed - set(columns)):
        flag = f"--{role} COLUMN" if role in ("text", "label", "second") else f"--column {role}=COLUMN"
        raise DataError(f"kind {kind} needs a column for {role!r} ({flag}); the rows have {some(list(present), 20)}")
    wanted = needed | may | set(_ALWAYS) - {"id"}
    if kind in ("classify", "multilabel", "regress") and "second" not in given:
        wanted -= {"second"} if kind != "regress" or columns.get("second") == columns.get("text") else set()
    return {role: column for role, column in columns.items() if role in wanted or (role == "id" and "id" in given)}


def shown(column: Column) -> str:
    """A column in a sentence."""
    return repr(column) if isinstance(column, str) else " and ".join(map(repr, column))
