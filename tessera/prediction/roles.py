"""Columns of a table by the roles that a model reads: texts, questions, words, options; found by name, or as asked."""

import ast
import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tessera.bulk.text_files import Take, Values
from tessera.prediction.requests import PAIR, SPAN, TEXT, example

ASKED = ("question", "query", "prompt", "context", "ctx")  # what options go with, besides the usual names of a text
_LISTS = ("options", "choices", "endings")  # what a column with all options is called
_NUMBERED = re.compile(r"(?:choice|option|ending)(?: |_)?(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which columns are read; what is not named is found by the names that such columns usually have."""

    text: str | None = None  # also the query of a reranker
    second: str | None = None  # of a pair; the document of a reranker
    question: str | None = None
    context: str | None = None
    words: str | None = None  # a list, or a text with spaces between words
    options: str | None = None  # a list, or the names of columns with commas between


def columns_of(kind: str, pair: bool, roles: Roles, first: Values, file: str) -> dict[str, str]:
    """{role: column} of what is read: as asked, else by the usual names, of the first row for all.

    kind, pair  of the model: what it is asked, and whether it was trained on two texts
    first, file  the first row, and where it stands

    Raises ValueError for a role that the model has no use for, and a column that is not there.
    """
    asked = {role: column for role in Roles.__slots__ if (column := getattr(roles, role)) is not None}
    known = _guessed(kind, pair, first, asked)
    allowed = {"tag": ("text", "words"), "span": ("question", "context"), "choose": ("text", "options")}
    takes = allowed.get(kind, ("text", "second"))
    if wrong := next((role for role in asked if role not in takes), None):
        raise ValueError(f"--{wrong} is given, but this model is of {kind}, which reads {' and '.join(takes)}")
    columns = {role: column for role in takes if (column := asked.get(role, known.get(role))) is not None}
    needed = takes if kind in ("rerank", "span", "choose") or pair else takes[:1]
    there = ", ".join(map(str, first))[:200]
    for role in needed if "words" not in columns else ():
        if role not in columns:
            raise ValueError(f"{file}: {kind} needs {role}; name its column with --{role}. The columns are {there}")
    for role, column in columns.items():
        for name in _option_columns(column, first) if role == "options" else [column]:
            if first and name not in first:
                raise ValueError(f"{file}: has no column {name!r} for --{role}; its columns are {there}")
    return columns


def _guessed(kind: str, pair: bool, first: Values, asked: Mapping[str, str]) -> dict[str, str]:
    """Of the roles that are not asked for, by the names of the columns of the first row."""
    texts: list[dict[str, str]] = [{"text": name} for name in TEXT]
    match kind:
        case "span":
            ways = [dict(zip(("question", "context"), names, strict=True)) for names in SPAN]
        case "tag":
            ways = [] if asked else [{"words": "words"}, {"words": "tokens"}, *texts]
        case "choose":
            return _choice(first, asked)
        case _:
            pairs = [dict(zip(("text", "second"), names, strict=True)) for names in PAIR]
            needed = pair or kind == "rerank"
            ways = [*pairs, *texts] if needed or "second" in asked or not asked else texts
    return next((way for way in ways if all(column in first for role, column in way.items() if role not in asked)), {})


def _choice(first: Values, asked: Mapping[str, str]) -> dict[str, str]:
    """Text and options of a choice: a column with a list, or several that are numbered, as choice1 and choice2."""
    ways = [*_LISTS, *([",".join(numbered)] if len(numbered := numbered_options(map(str, first))) > 1 else [])]
    there = (way for way in ways if all(name in first for name in _option_columns(way, first)))
    text = next((name for name in (*TEXT, *ASKED) if name in first), None)
    found = {"text": text, "options": next(there, None)}
    return {role: column for role, column in found.items() if column is not None and role not in asked}


def numbered_options(names: Iterable[str]) -> list[str]:
    """The columns of options that are numbered, in the order of their numbers: choice1, choice2; ending0, ending1."""
    found = {name: match for name in names if (match := _NUMBERED.fullmatch(name))}
    return sorted(found, key=lambda name: int(found[name][1]))


def _option_columns(column: str, values: Mapping[str, Any]) -> list[str]:
    return [column] if column in values or "," not in column else [name.strip() for name in column.split(",")]


def taking(kind: str, columns: dict[str, str]) -> Take:
    """Takes what the model reads of a row, checked."""

    def take(values: Values) -> dict[str, Any]:
        missing = [f"{name!r}" for name in columns.values() if name not in values and "," not in name]
        if missing:
            raise ValueError(f"has no column {missing[0]}; its columns are {', '.join(map(str, values))[:200]}")
        row: dict[str, Any] = {}
        for role, column in columns.items():
            if role == "options":
                names = _option_columns(column, values)
                row[role] = listed(values[column]) if len(names) == 1 else [values.get(name) for name in names]
            else:
                row[role] = _words(values[column]) if role == "words" else values[column]
                if row[role] is None:
                    raise ValueError(f"has nothing in column {column!r}")
        example(_mendless(row), kind)
        return row

    return take


def listed(value: Any) -> Any:
    """A list out of a cell of a table that holds one as JSON, or as Python writes it (pandas does); else the value."""
    if not isinstance(value, str) or not value.lstrip().startswith("[") or not value.rstrip().endswith("]"):
        return value
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = read(value.strip())
            return found if isinstance(found, list) else value
    return value


def _words(value: Any) -> Any:
    found = listed(value)
    return found.split() if isinstance(found, str) else found


def _mendless(value: Any) -> Any:
    """The same for a check that takes no half characters: those are replaced when the row is read."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _mendless(one) for key, one in value.items()}
    return [_mendless(one) for one in value] if isinstance(value, list) else value
