"""Files of rows as inference reads them, jsonl, csv, txt and parquet: once to look at every row, once to work.

A bad row is known before anything is computed. Half characters (lone surrogates) are replaced and counted.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import ValidationError

from tessera.plan.corpus import Columns, Source
from tessera.sources import storage
from tessera.sources.decompress import AS_UTF8
from tessera.sources.readers import BROKEN, rows

_PART_CHARACTERS = 2**20  # what a part holds at most, but for its last row
_MAX_BYTES = 2**26  # of a row
_ROW = "row"  # the id column where the input has none

Values = dict[str, Any]
Take = Callable[[Values], Any]
"""What is needed of a row, by column. Raises ValueError saying what is wrong with it."""


class Found(NamedTuple):
    """What the first reading of the input tells."""

    rows: int
    id_type: pa.DataType
    bad: int
    mended: int
    noun: str = "texts"

    def __str__(self) -> str:
        bad = f"; {self.bad:,} bad rows are left out" if self.bad else ""
        mended = f"; half characters are replaced in {self.mended:,}" if self.mended else ""
        return f"{self.rows:,} {self.noun}{bad}{mended}"


class RowReader:
    """The rows of the input, twice: once to look, once to work.

    id     the column that is kept; None: `id` where the first row has it, else the number of the row in its file, from
           1 (and the file's name, where there are several)
    take   what is worked on, of texts, numbers, lists and mappings
    text   the only column that is read, besides the id; None: all there are (a line of .txt is the column `text`)
    noun   what the rows are called
    """

    found: Found

    def __init__(
        self,
        files: list[storage.File],
        id: str | None,
        skip_bad: bool,
        take: Take,
        text: str | None = None,
        noun: str = "rows",
    ) -> None:
        self.files, self.skip_bad, self.take, self.noun = files, skip_bad, take, noun
        self.source = _source("", text or "text", id)
        self.whole = text is None
        self.first: Values = next((values for _, _, values, _ in self._raw() if values), {})
        self.id_column = id if id is not None else "id" if "id" in self.first else None
        self.id_name = "id" if self.id_column else _ROW

    def look(self, tell: Callable[[int], None]) -> Found:
        """Counts rows (kept as `found`) and checks them. Raises ValueError naming the first bad one."""
        count = bad = mended = 0
        whole = self.id_column is not None or len(self.files) == 1  # whether ids so far are whole numbers
        for place, reason, key, row in self._rows():
            if reason:
                if not self.skip_bad:
                    raise ValueError(
                        f"{place}: {reason}{AS_UTF8.get(reason, '')}; mend it, or leave out such rows with --skip-bad"
                    )
                bad += 1
                continue
            mended += _mend(row) is not row
            whole = whole and isinstance(key, int) and not isinstance(key, bool) and -(2**63) <= key < 2**63
            count += 1
            if count % 10_000 == 0:
                tell(count)
        if not count:
            raise ValueError(f"{self.files[0]}: holds no {self.noun.removesuffix('s')}")
        self.found = Found(count, pa.int64() if whole else pa.string(), bad, mended, self.noun)
        return self.found

    def parts(self, part_rows: int) -> Iterator[tuple[list[Any], list[Any]]]:
        """(ids, rows) of each part."""
        ids: list[Any] = []
        some: list[Any] = []
        size = 0
        for _, reason, key, row in self._rows():
            if reason:
                continue
            ids.append(key if pa.types.is_integer(self.found.id_type) else _name(key))
            some.append(_mend(row))
            size += _characters(row)
            if len(some) == part_rows or size >= _PART_CHARACTERS:
                yield ids, some
                ids, some, size = [], [], 0
        if some:
            yield ids, some

    def _rows(self) -> Iterator[tuple[str, str, Any, Any]]:
        """(file and row, what is wrong with it, id, what is taken of it)"""
        for file, number, values, reason in self._raw():
            key: Any = number if len(self.files) == 1 else f"{file}:{number}"
            row = None
            if not reason:
                try:
                    row = self.take(values or {})
                except ValueError as error:
                    reason = str(error)
            if not reason and self.id_column is not None:
                key = (values or {}).get(self.id_column)
                if key is None:
                    reason = f"has no id in column {self.id_column!r}"
            yield f"{file}:{number}", reason, key, row

    def _raw(self) -> Iterator[tuple[storage.File, int, Values | None, str]]:
        for file in self.files:
            source = None if self.whole else self.source
            try:
                for number, values, reason, _ in rows(file, source, _MAX_BYTES):
                    yield file, number, values, reason
            except BROKEN as error:
                raise ValueError(f"{file}: broken: {error}; copy or download it again") from None


def text_of(column: str) -> Take:
    """Takes the text of one column."""

    def take(values: Values) -> str:
        text = values.get(column)
        if not isinstance(text, str):
            raise ValueError(f"has no text in column {column!r}; its columns are {', '.join(values)}")
        return text

    return take


def text_files(source: str, text: str = "text", id: str | None = None, verb: str = "embed") -> list[storage.File]:
    """The files of a path, a folder, a glob or a URL. Raises ValueError where `verb` does not read one of them."""
    found = storage.files(_source(source, text, id))
    if odd := [file for file in found if file.kind not in (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")]:
        raise ValueError(
            f"{odd[0]}: {verb} reads jsonl, csv, tsv, txt and parquet; `tessera prepare` reads web archives"
        )
    return found


def _source(path: str, text: str, id: str | None) -> Source:
    try:
        return Source(name="input", path=path, columns=Columns(text=text, id=id or "id"))
    except ValidationError as error:
        raise ValueError(f"{path}: {error.errors()[0]['msg']}") from None


def _name(key: Any) -> str:
    return json.dumps(key, default=str) if isinstance(key, dict | list) else _mend(str(key))


def _mend(value: Any) -> Any:
    """The same object where its texts are whole."""
    match value:
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list() | tuple():
            mended = [_mend(one) for one in value]
            if any(new is not old for new, old in zip(mended, value, strict=True)):
                return mended
        case dict():
            found = {key: _mend(one) for key, one in value.items()}
            if any(found[key] is not one for key, one in value.items()):
                return found
    return value


def _characters(value: Any) -> int:
    """Of all texts in a row."""
    if isinstance(value, str):
        return len(value)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_characters, inside))
