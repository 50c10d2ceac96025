"""Files of texts as inference reads them, jsonl, csv, txt and parquet: once to look at every row, once to work.

A bad row is known before anything is computed. Half characters (lone surrogates) are replaced and counted.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import ValidationError

from tessera.data import storage
from tessera.data.readers import BROKEN, rows
from tessera.plan.corpus import Columns, Source

_PART_CHARACTERS = 2**20  # what a part holds at most, but for its last row
_MAX_BYTES = 2**26  # of a row
_ROW = "row"  # the id column where the input has none


class Found(NamedTuple):
    """What the first reading of the input tells."""

    rows: int
    id_type: pa.DataType
    bad: int
    mended: int

    def __str__(self) -> str:
        bad = f"; {self.bad:,} bad rows are left out" if self.bad else ""
        mended = f"; half characters are replaced in {self.mended:,}" if self.mended else ""
        return f"{self.rows:,} texts{bad}{mended}"


class TextReader:
    """The rows of the input, twice: once to look, once to work."""

    found: Found

    def __init__(self, files: list[storage.File], text: str, id: str | None, skip_bad: bool) -> None:
        self.files, self.text, self.id, self.skip_bad = files, text, id, skip_bad
        self.source = _source("", text, id)
        first = next((values for _, _, values, _ in self._raw() if values), {})
        self.id_column = id if id is not None else "id" if "id" in first else None
        self.id_name = "id" if self.id_column else _ROW

    def look(self, tell: Callable[[int], None]) -> Found:
        """Counts rows (kept as `found`) and checks them. Raises ValueError naming the first bad one."""
        count = bad = mended = 0
        whole = self.id_column is not None or len(self.files) == 1  # whether ids so far are whole numbers
        for place, reason, key, text in self._rows():
            if reason:
                if not self.skip_bad:
                    raise ValueError(f"{place}: {reason}; mend it, or leave out such rows with --skip-bad")
                bad += 1
                continue
            mended += _mend(text) is not text
            whole = whole and isinstance(key, int) and not isinstance(key, bool) and -(2**63) <= key < 2**63
            count += 1
            if count % 10_000 == 0:
                tell(count)
        if not count:
            raise ValueError(f"{self.files[0]}: holds no text")
        self.found = Found(count, pa.int64() if whole else pa.string(), bad, mended)
        return self.found

    def parts(self, part_rows: int) -> Iterator[tuple[list[Any], list[str]]]:
        """(ids, texts) of each part."""
        ids: list[Any] = []
        texts: list[str] = []
        size = 0
        for _, reason, key, text in self._rows():
            if reason:
                continue
            ids.append(key if pa.types.is_integer(self.found.id_type) else _name(key))
            texts.append(_mend(text))
            size += len(text)
            if len(texts) == part_rows or size >= _PART_CHARACTERS:
                yield ids, texts
                ids, texts, size = [], [], 0
        if texts:
            yield ids, texts

    def _rows(self) -> Iterator[tuple[str, str, Any, str]]:
        """(file and row, what is wrong with it, id, text)"""
        for file, number, values, reason in self._raw():
            text = None if values is None else values.get(self.text)
            key: Any = number if len(self.files) == 1 else f"{file}:{number}"
            if not reason and not isinstance(text, str):
                known = ", ".join(values or ())
                reason = f"has no text in column {self.text!r}; its columns are {known}"
            if not reason and self.id_column is not None:
                key = (values or {}).get(self.id_column)
                if key is None:
                    reason = f"has no id in column {self.id_column!r}"
            yield f"{file}:{number}", reason, key, text if isinstance(text, str) else ""

    def _raw(self) -> Iterator[tuple[storage.File, int, dict[str, Any] | None, str]]:
        for file in self.files:
            try:
                for number, values, reason, _ in rows(file, self.source, _MAX_BYTES):
                    yield file, number, values, reason
            except BROKEN as error:
                raise ValueError(f"{file}: broken: {error}; copy or download it again") from None


def text_files(source: str, text: str, id: str | None) -> list[storage.File]:
    found = storage.files(_source(source, text, id))
    if odd := [file for file in found if file.kind not in (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")]:
        raise ValueError(
            f"{odd[0]}: embed reads jsonl, csv, tsv, txt and parquet; `tessera prepare` reads web archives"
        )
    return found


def _source(path: str, text: str, id: str | None) -> Source:
    try:
        return Source(name="input", path=path, columns=Columns(text=text, id=id or "id"))
    except ValidationError as error:
        raise ValueError(f"{path}: {error.errors()[0]['msg']}") from None


def _name(key: Any) -> str:
    return json.dumps(key, default=str) if isinstance(key, dict | list) else _mend(str(key))


def _mend(text: str) -> str:
    """The same object where the text is whole."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
