"""The cells of a row by the roles that a task gives them: texts, labels, tags, answers; each is checked."""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from tessera.evaluation.rows import DataError
from tessera.plan.errors import did_you_mean
from tessera.plan.task import Column

_HOLE = re.compile(r"\{([^{}]+)\}")
_SHOWN = 40  # characters of a text in an error
_HIDDEN = "-1"  # how sets write that their test labels are hidden


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
        if "{" not in column:
            return self._string(self._get(column), column)
        parts = {name: self._string(self._get(name), name) for name in _HOLE.findall(column)}
        return _HOLE.sub(lambda hole: parts[hole[1]], column).strip()

    def texts(self, role: str) -> tuple[str, ...]:
        """Texts: those of several columns, those of a list, or one."""
        column = self.columns[role]
        if not isinstance(column, str):
            return tuple(self._string(self._get(name), name) for name in column)
        if "{" in column:
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

    def key(self, kind: str) -> str:
        """What decides on which side of a split the row falls."""
        for role in ("group", "id"):
            if self.has(role):
                return self.name(role)
        role = {"tag": "words", "retrieve": "query", "span": "question"}.get(kind, "text")
        return json.dumps(self._get(self._one(role)) if role == "words" else self.text(role), ensure_ascii=False)

    def content(self) -> str:
        """All that stands in the columns that the task reads."""
        named = [c for column in self.columns.values() for c in ((column,) if isinstance(column, str) else column)]
        names = [name for column in named for name in (_HOLE.findall(column) or [column])]
        return json.dumps([self.row.get(name, self.row.get(name.split(".")[0])) for name in names], default=str)

    def labels(self, role: str) -> set[str]:
        """The names that stand here, to find out which there are."""
        return {_written(item) for item in self._several(role) if item is not None}

    def label(self, role: str, names: tuple[str, ...]) -> int:
        """The number of a label: given by its name, or by the number itself where the names are words."""
        column = self._one(role)
        return self._number_of(self._get(column), names, f"{column} is")

    def number(self, role: str, limits: tuple[float, float] | None) -> float:
        """A finite number, the mean where there are several columns."""
        column = self.columns[role]
        found = []
        for name in (column,) if isinstance(column, str) else column:
            value = self._get(name)
            try:
                found.append(float(value))
            except (TypeError, ValueError):
                raise DataError(f"{self.place}: {name} is {_shown(value)}; a number is needed") from None
        mean = sum(found) / len(found)
        if not math.isfinite(mean):
            raise DataError(f"{self.place}: {role} is {mean}; a finite number is needed")
        if limits is not None and not limits[0] <= mean <= limits[1]:
            raise DataError(f"{self.place}: {role} is {mean:g}; the task allows {limits[0]:g} to {limits[1]:g}")
        return mean

    def whole(self, role: str) -> int:
        """A whole number."""
        value = self._get(self._one(role))
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or not _is_whole(value):
            raise DataError(f"{self.place}: {self._one(role)} is {_shown(value)}; a whole number is needed")
        return int(float(value))

    def truths(self, role: str) -> tuple[bool, ...]:
        """A list of true and false, also as 1 and 0, + and -."""
        column = self._one(role)
        found = []
        for item in self._list(column):
            if _written(item) not in _TRUTHS:
                raise DataError(f"{self.place}: {column} has {_shown(item)}; true or false is needed")
            found.append(_TRUTHS[_written(item)])
        return tuple(found)

    def tagged(self, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Words and the number of the tag of each."""
        words, tags = self._list(self._one("words")), self._list(self._one("tags"))
        if len(words) != len(tags):
            raise DataError(f"{self.place}: {len(words)} words but {len(tags)} tags; each word has one")
        if not words:
            raise DataError(f"{self.place}: has no words")
        for number, word in enumerate(words, 1):
            if not isinstance(word, str) or not word:
                raise DataError(f"{self.place}: word {number} is {_shown(word)}; a word is text")
        found = (
            self._number_of(tag, names, f"word {n} ({_shown(words[n - 1])}) is tagged") for n, tag in enumerate(tags, 1)
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
                f"{self.place}: the answer {_shown(text)} starts at {_shown(start)}; a whole number is needed"
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
        column = self.columns.get(role)
        if column is None:
            raise DataError(f"{self.place}: the task names no column for {role!r}")
        if not isinstance(column, str):
            raise DataError(f"{self.place}: {role} is {list(column)}; one column is needed for it")
        return column

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
                raise DataError(f"{self.place}: has no column {column!r}; {hint}")
        return value

    def _list(self, column: str) -> list[Any]:
        value = self._get(column)
        if not isinstance(value, list):
            raise DataError(f"{self.place}: {column} is {_shown(value)}; a list is needed")
        return value

    def _several(self, role: str) -> list[Any]:
        value = self._get(self._one(role))
        return value if isinstance(value, list) else [value]

    def _string(self, value: Any, column: str) -> str:
        if not isinstance(value, str):
            raise DataError(f"{self.place}: {column} is {_shown(value)}; text is needed")
        return value

    def _name(self, value: Any, column: str) -> str:
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise DataError(f"{self.place}: {column} is {_shown(value)}; text or a whole number is needed")
        return str(value)

    def _number_of(self, value: Any, names: tuple[str, ...], what: str) -> int:
        written = _written(value)
        if written in names:
            return names.index(written)
        numbered = all(name.isdecimal() for name in names)
        if _is_whole(value) and not numbered and 0 <= int(float(value)) < len(names):
            return int(float(value))
        hidden = "; -1 stands for a hidden label, so take another split" if written == _HIDDEN else ""
        if _is_whole(value) and not numbered:
            allowed = f"numbers are 0 to {len(names) - 1}"
        else:
            allowed = did_you_mean(written, names)
        raise DataError(f"{self.place}: {what} {_shown(value)}, which is no label of the task; {allowed}{hidden}")


_TRUTHS = {"1": True, "0": False, "true": True, "false": False, "+": True, "-": False}


def _written(value: Any) -> str:
    """A label as text; whole numbers without what JSON or a table put around them."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.lower() if isinstance(value, str) and value.lower() in ("true", "false") else str(value)


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool):
        return True
    try:
        return float(value).is_integer()
    except (TypeError, ValueError, OverflowError):
        return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 4] + " ..."
