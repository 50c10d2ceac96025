"""The cells of a row by the roles that a task gives them: texts, labels, tags, answers; each is checked."""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tessera.labelled import labels
from tessera.labelled.labels import shown
from tessera.labelled.tables import DataError
from tessera.plan.errors import did_you_mean, some
from tessera.plan.task_data import Column, guess
from tessera.prediction.roles import listed

_HOLE = re.compile(r"\{([^{}]+)\}")
_TRUTHS = {"1": True, "0": False, "true": True, "false": False, "+": True, "-": False}


Read = TypeVar("Read")


class UnknownLabel(DataError):
    """A label that is none of the task's, with its place."""

    def __init__(self, message: str, label: str) -> None:
        super().__init__(message)
        self.label = label


@dataclass(frozen=True, slots=True)
class Row:
    """One row; everything raises DataError naming it."""

    place: str
    row: dict[str, Any]
    columns: dict[str, Column]  # role -> column

    def has(self, role: str) -> bool:
        """Whether the task names a column for the role."""
        return role in self.columns

    def text(self, role: str) -> str:
        """A text, perhaps put together of several columns; it may be empty."""
        column = self._one(role)
        if "{" not in column or column in self.row:  # a column may be called so
            return self._string(self._get(column), column)
        parts = {name: self._string(self._get(name), name) for name in _HOLE.findall(column)}
        return _HOLE.sub(lambda hole: parts[hole[1]], column).strip()

    def texts(self, role: str) -> tuple[str, ...]:
        """Texts: those of several columns, those of a list, or one."""
        column = self._named(role)
        if not isinstance(column, str):
            return tuple(self._string(self._get(name), name) for name in column)
        if "{" in column and column not in self.row:
            return (self.text(role),)
        return tuple(self._string(item, column) for item in self._several(role))

    def name(self, role: str) -> str:
        """An identifier: text or a whole number."""
        column = self._one(role)
        return self._name(self._get(column), column)

    def names(self, role: str) -> tuple[str, ...]:
        """An identifier or a list of them."""
        return tuple(self._name(item, self._one(role)) for item in self._several(role))

    def identity(self) -> str:
        """The id of the row, or where it stands."""
        return self.name("id") if self.has("id") else self.place

    def cell(self, role: str) -> Any:
        """What stands in the column of a role; None where nothing does, or the row has no such column."""
        try:
            return self._get(self._one(role))
        except DataError:
            return None

    def group(self) -> str | None:
        """What rows share that stay on one side of a split; None where the cell is empty, or there is no column."""
        if not self.has("group") or (value := self.cell("group")) in (None, "") or value != value:
            return None
        return self.name("group")

    def key(self, kind: str) -> str:
        """What decides on which side of a split the row falls."""
        if (group := self.group()) is not None:
            return group
        if self.has("id"):
            return self.name("id")
        role = {"tag": "words", "retrieve": "query", "span": "question"}.get(kind, "text")
        return json.dumps(self._get(self._one(role)) if role == "words" else self.text(role), ensure_ascii=False)

    def content(self) -> str:
        """All that stands in the columns that the task reads."""
        named = [c for column in self.columns.values() for c in ((column,) if isinstance(column, str) else column)]
        names = [
            name for column in named for name in ([column] if column in self.row else _HOLE.findall(column) or [column])
        ]
        return json.dumps([self.row.get(name, self.row.get(name.split(".")[0])) for name in names], default=str)

    def labels(self, role: str) -> set[str]:
        """The names that stand here, to find out which there are; of tags all."""
        column = self._one(role)
        items = self._list(column) if role == "tags" else [self._get(column)]
        return {self._label(f"{column} is", labels.single, item) for item in items}

    def label_set(self, role: str, separator: str | None) -> tuple[str, ...]:
        """The names of all labels of a row: of a list, of a text with separators, or of columns of truths.

        Of several columns those count that hold true or 1; then the columns are the labels.
        """
        column = self._named(role)
        if not isinstance(column, str):
            return tuple(name for name in column if self._truth(self._get(name), name))
        value = listed(self._get(column))
        if isinstance(value, str):
            value = [part for part in value.split(separator) if part.strip()] if separator else [value]
            value = [] if value == [""] else value
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(dict.fromkeys(self._label(f"{column} has", labels.spelled, item) for item in items))

    def numbers(
        self, role: str, names: tuple[str, ...], separator: str | None, *, declared: bool = False
    ) -> tuple[int, ...]:
        """The numbers of all labels of a row, in order: of those of `label_set`, as labels.number_of has each."""
        what = f"{shown(self._named(role))} has"
        found = self.label_set(role, separator)
        return tuple(sorted({self._label(what, labels.number_of, one, names, declared=declared) for one in found}))

    def dicts(self, role: str) -> list[dict[str, Any]]:
        """A list of objects."""
        found = self._list(self._one(role))
        if wrong := [item for item in found if not isinstance(item, dict)]:
            raise DataError(f"{self.place}: {self._one(role)} has {shown(wrong[0])}; a list of objects is needed")
        return found

    def label(self, role: str, names: tuple[str, ...], *, declared: bool = False) -> int:
        """The number of a label, as labels.number_of has it."""
        column = self._one(role)
        return self._label(f"{column} is", labels.number_of, self._get(column), names, declared=declared)

    def _label(self, what: str, read: Callable[..., Read], *given: Any, **how: Any) -> Read:
        try:
            return read(*given, **how)
        except labels.UnknownLabel as error:
            allowed = error.numbers or did_you_mean(error.label, given[1])
            raise UnknownLabel(f"{self.place}: {what} {error}; {allowed}{error.hidden}", error.label) from None
        except ValueError as error:
            raise DataError(f"{self.place}: {what} {error}") from None

    def number(self, role: str, limits: tuple[float, float] | None) -> float:
        """A finite number, the mean where there are several columns."""
        column = self._named(role)
        found = []
        for name in (column,) if isinstance(column, str) else column:
            value = self._get(name)
            try:
                found.append(float(value if not isinstance(value, bool) else "a truth value"))
            except (TypeError, ValueError, OverflowError):
                raise DataError(f"{self.place}: {name} is {shown(value)}; a number is needed") from None
        mean = sum(found) / len(found)
        if not math.isfinite(mean):
            raise DataError(f"{self.place}: {role} is {mean}; a finite number is needed")
        if limits is not None and not limits[0] <= mean <= limits[1]:
            raise DataError(f"{self.place}: {role} is {mean:g}; the task allows {limits[0]:g} to {limits[1]:g}")
        return mean

    def whole(self, role: str) -> int:
        """A whole number."""
        value = self._get(self._one(role))
        written = "" if isinstance(value, bool) else self._label(f"{self._one(role)} is", labels.spelled, value)
        if not written.removeprefix("-").isdecimal():
            raise DataError(f"{self.place}: {self._one(role)} is {shown(value)}; a whole number is needed")
        return int(written)

    def truths(self, role: str) -> tuple[bool, ...]:
        """A list of true and false, also as 1 and 0, + and -."""
        column = self._one(role)
        return tuple(self._truth(item, column) for item in self._list(column))

    def _truth(self, value: Any, column: str) -> bool:
        written = self._label(f"{column} holds what is", labels.spelled, value)
        if written not in _TRUTHS:
            raise DataError(f"{self.place}: {column} has {shown(value)}; true or false is needed")
        return _TRUTHS[written]

    def tagged(self, names: tuple[str, ...], *, declared: bool = False) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Words and the number of the tag of each."""
        words, tags = self._list(self._one("words")), self._list(self._one("tags"))
        if len(words) != len(tags):
            raise DataError(f"{self.place}: {len(words)} words but {len(tags)} tags; each word has one")
        if not words:
            raise DataError(f"{self.place}: has no words")
        for number, word in enumerate(words, 1):
            if not isinstance(word, str) or not word:
                raise DataError(f"{self.place}: word {number} is {shown(word)}; a word is text")
            self._string(word, f"word {number}")
        found = (
            self._label(f"word {n} ({shown(word)}) is tagged", labels.number_of, tag, names, declared=declared)
            for n, (word, tag) in enumerate(zip(words, tags, strict=True), 1)
        )
        return tuple(words), tuple(found)

    def answers(self, context: str, none: bool) -> tuple[tuple[str, int], ...]:
        """Answers with the character that each begins at; they stand there. none: whether there may be none."""
        texts, starts = self._several("answers"), self._several("starts")
        if len(texts) != len(starts):
            raise DataError(f"{self.place}: {len(texts)} answers but {len(starts)} starts; each answer has one")
        if not texts and not none:
            raise DataError(f"{self.place}: has no answer; say no_answer: true in the task where that may be")
        for text, start in zip(texts, starts, strict=True):
            self._check_answer(str(text), start, context)
        return tuple(zip(map(str, texts), starts, strict=True))

    def _check_answer(self, text: str, start: Any, context: str) -> None:
        if isinstance(start, bool) or not isinstance(start, int):
            raise DataError(
                f"{self.place}: the answer {shown(text)} starts at {shown(start)}; a whole number is needed"
            )
        if not text:
            raise DataError(f"{self.place}: an answer is empty; where there is none, leave it out")
        if start >= 0 and context.startswith(text, start):
            return
        places = [m.start() for m in re.finditer(f"(?={re.escape(text)})", context)]
        nearest = min(places, key=lambda place: abs(place - start), default=None)
        there = repr(context[start : start + len(text)]) if 0 <= start < len(context) else "nothing"
        message = f"{self.place}: the answer {text!r} should start at character {start}, but there stands {there}"
        if nearest is None:
            raise DataError(f"{message}, and nowhere else does it stand; mend or drop the row")
        raise DataError(f"{message}; it starts at {nearest}, so mend the row")

    def _one(self, role: str) -> str:
        column = self._named(role)
        if not isinstance(column, str):
            raise DataError(f"{self.place}: {role} is {list(column)}; one column is needed for it")
        return column

    def _named(self, role: str) -> Column:
        column = self.columns.get(role)
        if column is None:
            raise DataError(
                f"{self.place}: the task names no column for {role!r}; the row has {some(list(self.row), 20)}"
                + self._meant([*self.columns, role])
            )
        return column

    def _meant(self, roles: Sequence[str]) -> str:
        """The line of the task that names the columns which are likely meant, if any are."""
        meant = guess(roles, self.row)
        here = {role: column for role, column in self.columns.items() if column in self.row and role in roles}
        meant = {**meant, **{role: str(column) for role, column in here.items()}}
        line = ", ".join(f"{role}: {column}" for role, column in meant.items())
        return f"; write columns: {{{line}}}" if set(roles[-1:]) <= set(meant) else ""

    def _get(self, column: str) -> Any:
        """The value of a column; `a.b` looks inside, also into each item of a list."""
        value = self.row[column] if column in self.row else self._inside(column)
        if value is None:
            raise DataError(f"{self.place}: {column} is missing")
        return value

    def _inside(self, column: str) -> Any:
        value: Any = self.row
        for part in column.split("."):
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and all(isinstance(item, dict) and part in item for item in value):
                value = [item[part] for item in value]
            else:
                hint = did_you_mean(column.split(".")[0], self.row)
                role = next((role for role, name in self.columns.items() if name == column), None)
                hint += self._meant([*(r for r in self.columns if r != role), role]) if role else ""
                raise DataError(f"{self.place}: has no column {column!r}; {hint}")
        return value

    def _list(self, column: str) -> list[Any]:
        value = listed(self._get(column))
        if not isinstance(value, list):
            raise DataError(f"{self.place}: {column} is {shown(value)}; a list is needed")
        return value

    def _several(self, role: str) -> list[Any]:
        value = self._get(self._one(role))
        return value if isinstance(value, list) else [value]

    def _string(self, value: Any, column: str) -> str:
        if not isinstance(value, str):
            raise DataError(f"{self.place}: {column} is {shown(value)}; text is needed")
        if not labels.whole_characters(value):
            raise DataError(f"{self.place}: {column} has half a character (a surrogate alone): {shown(value)}")
        return value

    def _name(self, value: Any, column: str) -> str:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # what pandas makes of whole numbers where one is missing
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise DataError(f"{self.place}: {column} is {shown(value)}; text or a whole number is needed")
        return str(value)
