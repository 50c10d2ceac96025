"""CSV and TSV (delimited text), row by row in bounded memory: quotes, delimiters, the line of names of columns."""

import contextlib
import csv
from collections.abc import Iterator
from typing import Any, Literal

from tessera.plan.corpus import Source
from tessera.sources import decompress
from tessera.sources.decompress import AS_UTF8, NOT_UTF8, NUL, SHOWN_BYTES
from tessera.sources.storage import File

Values = dict[str, Any]
Raw = tuple[int, Values | None, str, Any]  # its number, from 1; by column, or None and why; what shows it


def table(file: File, source: Source | None, max_bytes: int) -> Iterator[Raw]:
    """CSV (RFC 4180) and TSV (no quotes, but see `rows`), the first line of which names the columns."""
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes))
    with decompress.text(file) as stream:
        read = _TableLines(stream, file, max_bytes)
        tabbed = file.kind == ".tsv" and not (source is None and _needs_quotes(file, max_bytes))
        quoting: Literal[0, 3] = csv.QUOTE_NONE if tabbed else csv.QUOTE_MINIMAL
        feed = iter(read)
        first = next(feed, "")
        delimiter = "\t" if file.kind == ".tsv" else max(",;\t", key=first.count)  # most of them; the first of equals
        clean = _unquoted if tabbed and source is None else str
        try:
            names = [
                clean(name).strip() for name in next(csv.reader([first], delimiter=delimiter, quoting=quoting), [])
            ]
        except csv.Error as error:
            raise ValueError(f"{file}: line 1, which names the columns: {error}") from None
        _check_names(file, source, names)
        found = csv.reader(feed, delimiter=delimiter, quoting=quoting, strict=source is None)
        read.since = 0
        while True:
            number = found.line_num + 2
            try:
                values = next(found, None)
            except csv.Error as error:
                raise ValueError(f"{file}: line {number}: {error}; is a quote not closed?") from None
            if values is None:
                return
            if read.ended:
                raise ValueError(f"{file}: line {number}: a quote is not closed")
            read.row, read.since = found.line_num + 1, 0
            if values:
                line = delimiter.join(values)
                shown = line[:SHOWN_BYTES].encode("utf-8", "surrogateescape")
                yield number, *_table_row(names, list(map(clean, values)), line), shown


def _check_names(file: File, source: Source | None, names: list[str]) -> None:
    """Raises ValueError where the first line cannot name the columns that are wanted."""
    if not names:
        if source is None:
            raise ValueError(f"{file}: is empty; the first line names the columns")
        return
    _, reason = _table_row(names, names, "".join(names))
    if reason:
        raise ValueError(f"{file}: line 1, which names the columns: {reason}{AS_UTF8.get(reason, '')}")
    wanted = names if source is None else columns_of(file, source, names)
    if twice := sorted({name for name in wanted if name and wanted.count(name) > 1}):
        raise ValueError(f"{file}: line 1 names the columns, each once; it has {', '.join(map(_short, twice))} twice")


def _needs_quotes(file: File, max_bytes: int) -> bool:
    """Whether quotes of a TSV hold tabs or ends of lines: where only by RFC 4180 all rows have as many cells."""
    plain, quoted = set[int](), set[int]()

    def counted(lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            plain.update([line.count("\t")] if line.strip("\r\n") else [])
            yield line

    with decompress.text(file) as stream, contextlib.suppress(csv.Error, ValueError):
        read = _TableLines(stream, file, max_bytes)
        for cells in csv.reader(counted(iter(read)), delimiter="\t", strict=True):
            read.since = 0
            quoted.update([len(cells)] if cells else [])
            if len(quoted) > 1:
                return False
        return len(plain) > 1
    return False


def _unquoted(cell: str) -> str:
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")
    return cell[1:-1].replace('""', '"') if whole else cell


def _table_row(names: list[str], values: list[str], line: str) -> tuple[Values | None, str]:
    if len(values) != len(names):
        return None, f"{len(values)} fields, not {len(names)} as in the first line"
    if "\0" in line:
        return None, NUL
    try:
        line.encode()
    except UnicodeEncodeError:
        return None, NOT_UTF8
    return dict(zip(names, values, strict=True)), ""


class _TableLines:
    """The lines of a table, with their ends, and how much was read since a row was whole."""

    def __init__(self, stream: decompress.Text, file: File, max_bytes: int) -> None:
        self.stream, self.file, self.max_bytes, self.since, self.row = stream, file, max_bytes, 0, 0
        self.ended = False  # also where a row was still to go on

    def __iter__(self) -> Iterator[str]:
        rest = b""
        while chunk := self.stream.read():
            *lines, rest = (rest + chunk).splitlines(keepends=True)  # \n, \r\n, and \r alone, as of old Macs
            if rest.endswith(b"\n"):
                lines, rest = [*lines, rest], b""
            for line in lines:
                yield self._counted(line)
            if len(rest) > self.max_bytes:
                self._counted(rest)
        if rest:
            yield self._counted(rest)
        self.ended = True

    def _counted(self, line: bytes) -> str:
        self.since += len(line)
        if self.since > self.max_bytes:
            raise ValueError(
                f"{self.file}: behind line {self.row}: a row longer than {self.max_bytes} bytes; is a quote not closed?"
            )
        return line.decode("utf-8", "surrogateescape")


def columns_of(file: File, source: Source, present: list[str]) -> list[str]:
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
