"""CSV and TSV as rows with named columns, in bounded memory; which columns of a table are read."""

import csv
from collections.abc import Iterator
from typing import Any

from tessera.data import decompress
from tessera.data.storage import File
from tessera.plan.corpus import Source

NOT_UTF8 = "not UTF-8"
NUL = "NUL characters, as in UTF-16 without its mark"
SHOWN_BYTES = 400  # what is kept of a row that is too long

Values = dict[str, Any]
Raw = tuple[int, Values | None, str, Any]  # its number, from 1; by column, or None and why; what shows it


def rows(file: File, source: Source | None, max_bytes: int) -> Iterator[Raw]:
    """CSV (RFC 4180) and TSV (no quotes), the first line of which names the columns."""
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes))
    with decompress.text(file) as stream:
        lines = _Lines(stream, file, max_bytes)
        quoting = csv.QUOTE_NONE if file.kind == ".tsv" else csv.QUOTE_MINIMAL
        feed = iter(lines)
        first = next(feed, "")
        delimiter = "\t" if file.kind == ".tsv" else max(",;\t", key=first.count)  # most of them; the first of equals
        names = next(csv.reader([first], delimiter=delimiter, quoting=quoting), [])
        if source is not None and names:
            columns(file, source, names)
        found = csv.reader(feed, delimiter=delimiter, quoting=quoting)
        lines.since = 0
        while True:
            number = found.line_num + 2
            try:
                values = next(found, None)
            except csv.Error as error:
                raise ValueError(f"{file}: line {number}: {error}; is a quote not closed?") from None
            lines.row, lines.since = found.line_num + 1, 0
            if values is None:
                return
            if values:
                line = delimiter.join(values)
                yield number, *_values(names, values, line), line[:SHOWN_BYTES].encode("utf-8", "surrogateescape")


def _values(names: list[str], values: list[str], line: str) -> tuple[Values | None, str]:
    if len(values) != len(names):
        return None, f"{len(values)} fields, not {len(names)} as in the first line"
    if "\0" in line:
        return None, NUL
    try:
        line.encode()
    except UnicodeEncodeError:
        return None, NOT_UTF8
    return dict(zip(names, values, strict=True)), ""


class _Lines:
    """The lines of a table, with their ends, and how much was read since a row was whole."""

    def __init__(self, stream: decompress.Text, file: File, max_bytes: int) -> None:
        self.stream, self.file, self.max_bytes, self.since, self.row = stream, file, max_bytes, 0, 0

    def __iter__(self) -> Iterator[str]:
        rest = b""
        while chunk := self.stream.read():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield self._counted(line + b"\n")
            if len(rest) > self.max_bytes:
                self._counted(rest)
        if rest:
            yield self._counted(rest)

    def _counted(self, line: bytes) -> str:
        self.since += len(line)
        if self.since > self.max_bytes:
            raise ValueError(
                f"{self.file}: behind line {self.row}: a row longer than {self.max_bytes} bytes; is a quote not closed?"
            )
        return line.decode("utf-8", "surrogateescape")


def columns(file: File, source: Source, present: list[str]) -> list[str]:
    """What is read of a table. Raises ValueError where it lacks a column that is needed."""
    named = source.columns
    if source.kind == "pairs":
        needed = [named.source_text, named.target_text, named.source_language, named.target_language]
        wanted = needed
    else:
        needed = [named.text, *filter(None, [named.quality])]
        wanted = [*needed, named.id, named.language]
    for column in needed:
        if column not in present:
            raise ValueError(
                f"{file}: has no column {column!r}; it has {', '.join(map(_short, present[:20]))}. Name the right one "
                f"under `columns` of source {source.name!r}, or put the file under `exclude`"
            )
    return [column for column in present if column in wanted]


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:40]} ..."
