"""Validation errors in words for the person who wrote a recipe: pydantic's findings, retold.

Each mistake is a place (dotted, items of a list by their names) and a message that says what was given and what is
allowed.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tessera.plan.fields import TRUTH

_WORDS = {
    "model_type": "keys and values are needed here",
    "model_attributes_type": "keys and values are needed here",
    "dict_type": "keys and values are needed here",
    "tuple_type": "a list is needed here",
    "string_type": "text is needed here",
    "string_pattern_mismatch": "letters, digits, dots, dashes and underscores are allowed, a letter or digit first",
    "int_parsing": "a whole number is needed here",
    "int_from_float": "a whole number is needed here",
    "float_parsing": "a number is needed here",
    "finite_number": "a finite number is needed here",
    "too_short": "at least one is needed",
}


def mistakes(error: ValidationError, data: Any, root: type[BaseModel]) -> list[tuple[str, str]]:
    """(place, message) of each finding in `error`, raised when `data` was read as `root`; the place of all is ''."""
    found = error.errors()
    deeper = {item["loc"][:n] for item in found for n in range(len(item["loc"]))}
    # A list of which every item is wrong is also found to be empty: that is no mistake of its own.
    return [
        (_place(item["loc"], data), _message(item, root))
        for item in found
        if not (item["type"] == "too_short" and item["loc"] in deeper)
    ]


def one_line(error: ValidationError) -> str:
    """All findings in one line, for an error inside an error."""
    return "; ".join(f"{place}: {message}" if place else message for place, message in mistakes(error, None, BaseModel))


def did_you_mean(word: str, known: Iterable[Any]) -> str:
    """A hint: the known name nearest to `word`, or the known names, of many the first twenty."""
    names = sorted(str(name) for name in known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {some(names, 20)}" if names else "there are none"


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def _message(item: Any, root: type[BaseModel]) -> str:
    kind, last, given = item["type"], item["loc"][-1:], item.get("input")
    if kind == "extra_forbidden":
        return f"unknown key {str(*last)!r}; {did_you_mean(str(*last), _siblings(item['loc'][:-1], root))}"
    if kind == "missing":
        return "is missing"
    if kind == "invalid_key" or last == ("[key]",):
        return f"the key {given!r} is not text; " + (TRUTH if isinstance(given, bool) else "put it in quotes")
    if given is None:
        return "is empty; give a value, or leave the key out"
    if isinstance(given, bool) and kind == "string_type":
        return f"{given} is not text; {TRUTH}"
    message = _WORDS.get(kind) or item["msg"].removeprefix("Value error, ")
    if kind == "value_error" and (isinstance(given, (dict, list)) or repr(given) in message):
        return message
    return message if isinstance(given, (dict, BaseModel)) else f"{message} (given: {given!r})"


def _place(location: tuple[Any, ...], data: Any) -> str:
    parts: list[str] = []
    here = data
    for part in location:
        if part == "[key]":
            return ".".join(parts[:-1])  # pydantic counts the keys that are not text; the message names them
        if isinstance(here, dict):
            inside = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            inside = here[part]
        else:
            inside = None
        if inside is None and isinstance(part, str) and part.startswith("<"):
            continue  # a tag of plan/fields.py: which member of a union pydantic tried
        name = inside.get("name") if isinstance(part, int) and isinstance(inside, dict) else None
        parts.append(name if isinstance(name, str) else str(part))
        here = inside
    return ".".join(parts)


def _siblings(location: tuple[Any, ...], root: type[BaseModel]) -> list[str]:
    """The keys allowed at a place, found by walking the models."""
    models = [root]
    for part in location:
        if isinstance(part, int):
            continue
        fields = [f for m in models for name, f in m.model_fields.items() if part in (name, f.alias)]
        if fields:
            models = [m for f in fields for m in _models_in(f.annotation)]
    return [f.alias or name for m in models for name, f in m.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for a in get_args(annotation) for m in _models_in(a)]
