"""Class labels (id2label, label2id): what a label is and which number it has, decided in this one place.

Files write one class in many ways: JSON has true and 1.0, a CSV has "True" and "1", Arrow has bytes. `spelled` says
which of these are one name; what is no label (nothing, NaN, an empty text, a list) is an error and never a class.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?inf|nan", re.IGNORECASE)
_TRUTHS = {"true", "false"}
_BITS = {"0": "false", "1": "true"}
_SHOWN = 40  # characters of a value in an error
_HIDDEN = "-1"  # how sets write that their test labels are hidden


def spelled(value: Any) -> str:
    """The one spelling of a label: true and "True" are `true`; 1, 1.0 and "1.0" are `1`; the ends of a text are bare,
    and its letters composed (NFC): é is one label, however it is typed.

    Upper and lower case are two labels, but for truth values, and so are "01" and "1". Raises ValueError for what is
    no label, in words that follow on "is": "nan; a label is text, a number, true or false". So do the others here.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # of numpy
    if isinstance(value, (bytes, bytearray)):
        try:
            value = bytes(value).decode()
        except UnicodeDecodeError:
            raise ValueError(f"{shown(value)}, bytes that are no UTF-8; a label is text") from None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (float, Decimal)) and math.isfinite(value):
        return str(int(value)) if value == int(value) and -(2**53) < float(value) < 2**53 else str(value)
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)}; a label is text, a number, true or false")
    if not whole_characters(value):
        raise ValueError(f"{shown(value)}, with half a character (a surrogate alone); a label is text")
    text = unicodedata.normalize("NFC", value.strip())
    if not text:
        raise ValueError("empty; a label is text, a number, true or false")
    if text.lower() in _TRUTHS:
        return text.lower()
    whole = _WHOLE.fullmatch(text)
    return text if whole is None else "0" if whole[1] == "-0" else whole[1]


def single(value: Any) -> str:
    """`spelled`, of a list the only one. Raises ValueError for several labels, which are several questions."""
    if isinstance(value, (list, tuple)):
        if len(value) != 1 or isinstance(value[0], (list, tuple)):
            raise ValueError(f"{shown(value)}; one label is needed, several of a row are not read")
        value = value[0]
    return spelled(value)


def number_of(value: Any, names: Sequence[str], *, declared: bool = False) -> int:
    """The number of a label among the names of a task: its place there.

    declared  the names stand in the task, in an order that means something: then a number may be meant as a place,
              where all names are words. Names that were found in rows have no such order

    Raises ValueError for what is no label, and for one that is not among the names.
    """
    written = single(value)
    known = {spelled(name): place for place, name in enumerate(names)}
    if len(known) < len(names):
        raise ValueError(f"{shown(value)}, but two of the labels {list(names)} are one name")
    if written in known:
        return known[written]
    if set(known) <= _TRUTHS and written in _BITS:
        written = _BITS[written]  # true is 1 wherever it stands among the names
    elif set(known) <= set(_BITS) and written in _TRUTHS:
        written = str(int(written == "true"))
    if written in known:
        return known[written]
    words = not any(is_number(name) or name in _TRUTHS for name in known)
    if declared and words and written.isdecimal() and int(written) < len(names):
        return int(written)
    raise UnknownLabel(value, written, f"numbers are 0 to {len(names) - 1}" if declared and words else "")


class UnknownLabel(ValueError):
    """A label that is none of the task's: its spelling, and which are allowed where that are numbers."""

    def __init__(self, value: Any, label: str, numbers: str) -> None:
        super().__init__(f"{shown(value)}, which is no label of the task")
        self.label = label
        self.hidden = "; -1 stands for a hidden label, so take another split" if label == _HIDDEN else ""
        self.numbers = numbers if is_number(label) else ""


def in_order(found: Iterable[str]) -> tuple[str, ...]:
    """The names that were found in rows, each once, sorted; whole numbers by their size.

    Raises ValueError where they cannot be the labels of one column: truth values beside numbers, numbers beside nan.
    """
    names = set(found)
    if names & _TRUTHS and any(is_number(name) for name in names):
        raise ValueError(f"{_quoted(names)} are truth values and numbers in one column; write one of the two")
    odd = {name for name in names if name.lower() in ("nan", "inf", "-inf")}
    if odd and all(is_number(name) for name in names - odd):
        raise ValueError(f"{_quoted(odd)} stands among numbers; it is no label, so leave such rows out")
    whole = all(name.removeprefix("-").isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if whole else 0, name)))


def whole_characters(text: str) -> bool:
    """Whether there is no surrogate alone in a text, as cut emoji leave them: no tokenizer and no file takes one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_number(name: str) -> bool:
    """Whether a name is a number, rather than a word."""
    return _NUMBER.fullmatch(name) is not None


def yaml_line(names: Iterable[str]) -> str:
    """The line of a task that declares these labels, to be copied: `labels: [bad, good, "1"]`."""
    return f"labels: [{', '.join(map(_yaml, names))}]"


def shown(value: Any) -> str:
    """A value in an error, not too long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 4] + " ..."


def _yaml(name: str) -> str:
    plain = re.fullmatch(r"[^\W\d][\w/.+ -]*", name) and name.lower() not in ("true", "false", "yes", "no", "on", "off")
    plain = plain and name.lower() not in ("null", "y", "n") and not name.endswith(" ")
    return name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(repr, names)))
