"""Streaming readers of rows, whatever the format: jsonl, JSON, CSV, TSV, parquet, plain text, WARC and WET.

Memory is bounded by the longest row allowed and by one batch of parquet, whatever the file and whatever is in it.
"""

import codecs
import csv
import json
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa

from tessera.data import decompress
from tessera.data.decompress import AS_UTF8, NOT_UTF8, NUL, SHOWN_BYTES, lines
from tessera.data.parquet import class_names, named, record_batches
from tessera.data.parquet import values as values_of
from tessera.data.storage import File
from tessera.plan.corpus import Columns, Source
from tessera.plan.shipped import pip_line

UNIT = {".parquet": "row", ".json": "row", ".warc": "record", ".wet": "record"}  # what is counted; lines elsewhere
BROKEN = (OSError, EOFError, lzma.LZMAError, zlib.error, pa.ArrowException)
WARC_LANGUAGE = "WARC-Identified-Content-Language"

Values = dict[str, Any]
Raw = tuple[int, Values | None, str, Any]  # its number, from 1; by column, or None and why; what shows it

_SILENT_RECORDS = ("warcinfo", "metadata", "request", "revisit")  # about a page, never the page

_decode_json = json.JSONDecoder().raw_decode


def rows(file: File, source: Source | None, max_bytes: int) -> Iterator[Raw]:
    """The rows of a file in its order; blank lines are nothing, but are counted.

    source     whose columns are read; None: rows as table programs and `datasets` mean them, with all columns there
               are. A line of plain text is {"text": line}; cells of TSV that are quoted whole are unquoted, quotes of
               CSV are as RFC 4180 has them; numbers of classes in parquet are their names
    max_bytes  of a row; a longer one is not held in memory

    A row with damage in it has a reason. Raises one of BROKEN where the file is damaged, ValueError naming the file
    where it lacks a column, holds no text, or is made to fill the memory.
    """
    if file.compression and file.size == 0 and file.local:
        raise OSError(f"0 bytes are no {file.compression} file")
    match file.kind:
        case ".parquet":
            return _parquet(file, source, max_bytes)
        case ".jsonl":
            return _jsonl(file, max_bytes)
        case ".json":
            return _json(file, max_bytes)
        case ".csv" | ".tsv":
            return _table(file, source, max_bytes)
        case ".txt":
            return _text(file, source.columns.text if source is not None else "text", max_bytes)
        case _ if source is None:
            raise ValueError(f"{file}: has no columns; .jsonl, .csv and .parquet have")
        case _:
            return _warc(file, source, max_bytes)


def _jsonl(file: File, max_bytes: int) -> Iterator[Raw]:
    for number, text, reason, line in lines(file, max_bytes):
        values = None
        if text is not None:
            try:
                try:
                    values, end = _decode_json(text)
                except ValueError:
                    end = 0
                if end != len(text):  # white space around it, or not JSON
                    values = json.loads(text)
                reason = "" if isinstance(values, dict) else "not a JSON object"
            except (ValueError, RecursionError):
                reason = "not JSON"
        yield number, None if reason else values, reason, line


def _json(file: File, max_bytes: int) -> Iterator[Raw]:
    """One array of objects, entry by entry; or lines, as in jsonl."""
    with decompress.text(file) as stream:
        is_array = stream.read().lstrip()[:1] == b"["
    return _array(file, max_bytes) if is_array else _jsonl(file, max_bytes)


def _array(file: File, max_bytes: int) -> Iterator[Raw]:
    """Raises ValueError where the array is damaged: nobody knows where the next entry would begin."""
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    number, whole = 0, False
    with decompress.text(file) as stream:
        buffer = decode(stream.read()).lstrip()
        at = 1  # behind the bracket
        while True:
            while buffer[at : at + 1] in (",", " ", "\n", "\r", "\t"):
                at += 1
            try:
                value, end = _decode_json(buffer, at)
            except (ValueError, RecursionError):
                end = len(buffer)
            if end < len(buffer):
                number += 1
                shown, at = buffer[at : min(end, at + SHOWN_BYTES)], end
                reason = "" if isinstance(value, dict) else "not a JSON object"
                yield number, None if reason else value, reason, shown.encode("utf-8", "surrogateescape")
                continue
            if whole and buffer[at:].strip() == "]":
                return
            if whole or len(buffer) - at > max_bytes:
                raise ValueError(f"{file}: behind row {number}: not JSON, or a row longer than {max_bytes} bytes")
            buffer, wanted = buffer[at:], max(1, len(buffer) - at)
            at = 0
            while not whole and wanted > 0:  # twice as much each time: a long row is not begun again and again
                more = stream.read()
                whole, wanted = not more, wanted - len(more)
                buffer += decode(more, not more)


def _text(file: File, column: str, max_bytes: int) -> Iterator[Raw]:
    for number, text, reason, line in lines(file, max_bytes):
        yield number, None if text is None else {column: text}, reason, line


# --------------------------------------------------------------------------------------------------------------- tables


def _table(file: File, source: Source | None, max_bytes: int) -> Iterator[Raw]:
    """CSV (RFC 4180) and TSV (no quotes), the first line of which names the columns."""
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes))
    with decompress.text(file) as stream:
        read = _TableLines(stream, file, max_bytes)
        tabbed = file.kind == ".tsv"
        quoting: Literal[0, 3] = csv.QUOTE_NONE if tabbed else csv.QUOTE_MINIMAL
        feed = iter(read)
        first = next(feed, "")
        delimiter = "\t" if tabbed else max(",;\t", key=first.count)  # most of them; the first of equals
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
    wanted = names if source is None else _columns(file, source, names)
    if twice := sorted({name for name in wanted if name and wanted.count(name) > 1}):
        raise ValueError(f"{file}: line 1 names the columns, each once; it has {', '.join(map(_short, twice))} twice")


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


def _columns(file: File, source: Source, present: list[str]) -> list[str]:
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


# ------------------------------------------------------------------------------------------------------------- parquet


def _parquet(file: File, source: Source | None, max_bytes: int) -> Iterator[Raw]:
    def choose(present: list[str]) -> list[str] | None:
        return None if source is None else _columns(file, source, present)

    identity = None if source is None else source.columns.id
    number = 0
    for batch in record_batches(file, choose):
        names = batch.schema.names
        classes = class_names(batch) if source is None else {}
        columns = (
            named(classes.get(name), values_of(column)) for name, column in zip(names, batch.columns, strict=True)
        )
        for found in zip(*columns, strict=True):
            number += 1
            values = dict(zip(names, found, strict=True))
            if isinstance(data := values.get(identity or ""), bytes):
                values[identity or ""] = data.hex()
            reason = ""
            for value in values.values():
                if isinstance(value, bytes) and source is not None:
                    reason = NOT_UTF8
                elif isinstance(value, str | bytes) and len(value) > max_bytes:
                    reason = f"longer than {max_bytes} bytes"
            yield number, None if reason else values, reason, values


# ---------------------------------------------------------------------------------------------------------------- WARC


def _warc(file: File, source: Source, max_bytes: int) -> Iterator[Raw]:
    """The plain text of conversion records, as in Common Crawl's WET files; columns are called as WARC headers are."""
    try:
        from warcio.archiveiterator import WARCIterator
        from warcio.exceptions import ArchiveLoadFailed
    except ImportError:
        raise ImportError(f"{file}: WARC needs warcio; {pip_line('prepare')}") from None
    columns, seen = source.columns, False
    with decompress.plain(file) as stream:  # not warcio's own gunzip: to it a file that breaks off is at its end
        records = WARCIterator(stream, no_record_parse=True)
        try:
            for number, record in enumerate(records, 1):
                kind, left = record.rec_type, _length(record, number)
                if kind == "conversion":
                    data = record.raw_stream.read(min(left, max_bytes))
                    left -= len(data)
                    yield _converted(record, number, data, left, columns, max_bytes)
                    seen = True
                elif kind not in _SILENT_RECORDS and not seen:
                    raise ValueError(
                        f"{file}: record {number} is a {kind}, so these are pages as they were sent, not their text; "
                        "extract it first (trafilatura, resiliparse), or take the WET files of the crawl"
                    )
                elif kind not in _SILENT_RECORDS:
                    page = record.rec_headers.get_header("WARC-Target-URI") or ""
                    yield number, None, f"a {kind} record is not text", page
                while left and (data := record.raw_stream.read(min(left, decompress.CHUNK))):
                    left -= len(data)
                if left:
                    raise OSError(f"record {number} breaks off")
        except ArchiveLoadFailed as error:
            raise OSError(str(error).strip()) from None
        if records.err_count:
            raise OSError("a record is not as long as it says")


def _length(record: Any, number: int) -> int:
    given = record.rec_headers.get_header("Content-Length") or ""
    if not given.isdecimal():
        raise OSError(f"record {number} does not say how long it is")
    return int(given)


def _converted(record: Any, number: int, data: bytes, left: int, columns: Columns, max_bytes: int) -> Raw:
    """The text of a page: `data`, of which `left` bytes are too many."""
    if left and len(data) == max_bytes:
        return number, None, f"longer than {max_bytes} bytes", data[:SHOWN_BYTES]
    if left:
        raise OSError(f"record {number} breaks off")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return number, None, NOT_UTF8, data[:SHOWN_BYTES]
    headers = dict(record.rec_headers.headers)
    if WARC_LANGUAGE in headers:  # the commonest first
        headers[WARC_LANGUAGE] = headers[WARC_LANGUAGE].split(",")[0]
    headers.setdefault(columns.id, headers.get("WARC-Record-ID", "").strip("<>"))
    return number, headers | {columns.text: text}, "", data[:SHOWN_BYTES]
