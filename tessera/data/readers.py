"""Streaming readers of rows, whatever the format: jsonl, parquet, plain text, WARC and WET.

Memory is bounded by the longest row allowed and by one batch of parquet, whatever the size of the file.
"""

import contextlib
import json
import lzma
import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tessera.data.storage import File
from tessera.plan.corpus import Columns, Source
from tessera.plan.shipped import pip_line

UNIT = {".parquet": "row", ".warc": "record", ".wet": "record"}  # what is counted; lines elsewhere
BROKEN = (OSError, EOFError, lzma.LZMAError, zlib.error, pa.ArrowException)
WARC_LANGUAGE = "WARC-Identified-Content-Language"

Values = dict[str, Any]
Raw = tuple[int, Values | None, str, Any]  # its number, from 1; by column, or None and why; what shows it

_CHUNK = 2**18
_SHOWN_BYTES = 400  # what is kept of a row that is too long
_BATCH_BYTES = 2**23  # of parquet, decoded
_SILENT_RECORDS = ("warcinfo", "metadata", "request", "revisit")  # about a page, never the page

_decode_json = json.JSONDecoder().raw_decode


def rows(file: File, source: Source | None, max_bytes: int) -> Iterator[Raw]:
    """The rows of a file in its order; blank lines are nothing, but are counted.

    source  whose columns are read; None: all columns there are, of jsonl and parquet

    Raises one of BROKEN where the file is, ValueError where it lacks a column or holds no text.
    """
    if file.compression and file.size == 0 and file.local:
        raise OSError(f"0 bytes are no {file.compression} file")
    match file.kind:
        case ".parquet":
            return _parquet(file, source, max_bytes)
        case ".jsonl" | ".json":
            return _jsonl(file, max_bytes)
        case _ if source is None:
            raise ValueError(f"{file}: has no columns; .jsonl and .parquet have")
        case ".txt":
            return _text(file, source, max_bytes)
        case _:
            return _warc(file, source, max_bytes)


def _jsonl(file: File, max_bytes: int) -> Iterator[Raw]:
    for number, text, reason, line in _lines(file, max_bytes):
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


def _text(file: File, source: Source, max_bytes: int) -> Iterator[Raw]:
    for number, text, reason, line in _lines(file, max_bytes):
        yield number, None if text is None else {source.columns.text: text}, reason, line


def _lines(file: File, max_bytes: int) -> Iterator[tuple[int, str | None, str, bytes]]:
    """(number, text, or None and why, bytes) of every line that is not blank; of too long ones the beginning."""
    number, head, too_long = 1, b"", f"longer than {max_bytes} bytes"
    with _stream(file) as stream:
        start = stream.read(3)
        rest = b"" if start == b"\xef\xbb\xbf" else start  # without a byte order mark
        while True:
            chunk = stream.read(_CHUNK)
            *lines, rest = (rest + chunk).split(b"\n")
            if not chunk:
                lines.append(rest)
            for line in lines:
                if head:
                    yield number, None, too_long, head
                    head = b""
                elif len(line) > max_bytes:
                    yield number, None, too_long, line[:_SHOWN_BYTES]
                elif line and not line.isspace():
                    line = line.removesuffix(b"\r")
                    try:
                        yield number, line.decode(), "", line
                    except UnicodeDecodeError:
                        yield number, None, "not UTF-8", line
                number += 1
            if not chunk:
                return
            if len(rest) > max_bytes:
                head, rest = head or rest[:_SHOWN_BYTES], b""


@contextlib.contextmanager
def _stream(file: File) -> Iterator[Any]:
    """The decompressed bytes of a file."""
    if file.local and file.compression != "xz":
        with pa.input_stream(str(file.local), compression=file.compression) as stream:
            yield stream
        return
    with file.open() as packed:
        if file.compression == "xz":  # which Arrow does not know
            with lzma.open(packed) as plain:
                yield plain
        else:
            with pa.input_stream(packed, compression=file.compression, buffer_size=_CHUNK) as stream:
                yield stream


# ------------------------------------------------------------------------------------------------------------- parquet


def _parquet(file: File, source: Source | None, max_bytes: int) -> Iterator[Raw]:
    opened = contextlib.nullcontext(str(file.local)) if file.local else file.open()
    # pre_buffer would hold all row groups, no buffer whole columns of one
    with opened as where, pa.parquet.ParquetFile(where, pre_buffer=False, buffer_size=2**20) as table:
        present = table.schema_arrow.names
        wanted = present if source is None else _columns(file, source, present)
        number = 0
        batches = table.iter_batches(batch_size=_batch_rows(table.metadata, wanted), columns=wanted, use_threads=False)
        for batch in batches:
            names = batch.schema.names
            for found in zip(*(_values(column) for column in batch.columns), strict=True):
                number += 1
                values = dict(zip(names, found, strict=True))
                reason = ""
                for value in found:
                    if isinstance(value, bytes):
                        reason = "not UTF-8"
                    elif isinstance(value, str) and len(value) > max_bytes:
                        reason = f"longer than {max_bytes} bytes"
                yield number, None if reason else values, reason, values


def _columns(file: File, source: Source, present: list[str]) -> list[str]:
    """What is read of a parquet file. Raises ValueError where it lacks one that is needed."""
    columns = source.columns
    if source.kind == "pairs":
        needed = [columns.source_text, columns.target_text, columns.source_language, columns.target_language]
        wanted = needed
    else:
        needed = [columns.text, *filter(None, [columns.quality])]
        wanted = [*needed, columns.id, columns.language]
    for column in needed:
        if column not in present:
            raise ValueError(
                f"{file}: has no column {column!r}; it has {', '.join(present)}. Name the right one under "
                f"`columns` of source {source.name!r}"
            )
    return [column for column in present if column in wanted]


def _batch_rows(metadata: Any, wanted: list[str]) -> int:
    """Rows that fill a batch, by the row group with the longest."""
    longest = 1.0
    for n in range(metadata.num_row_groups):
        group = metadata.row_group(n)
        columns = (group.column(c) for c in range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] in wanted)
        longest = max(longest, size / max(1, group.num_rows))
    return max(1, min(4_096, int(_BATCH_BYTES / longest)))


def _values(column: pa.Array) -> list[Any]:
    """A column as Python values; strings that are not UTF-8 stay bytes."""

    def value(data: bytes | None) -> str | bytes | None:
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError:
            return data

    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [value(data) for data in column.cast(pa.large_binary()).to_pylist()]


# ---------------------------------------------------------------------------------------------------------------- WARC


def _warc(file: File, source: Source, max_bytes: int) -> Iterator[Raw]:
    """The plain text of conversion records, as in Common Crawl's WET files; columns are called as WARC headers are."""
    try:
        from warcio.archiveiterator import WARCIterator
        from warcio.exceptions import ArchiveLoadFailed
    except ImportError:
        raise ImportError(f"{file}: WARC needs warcio; {pip_line('prepare')}") from None
    columns, seen = source.columns, False
    with _stream(file) as stream:  # not warcio's own gunzip: to it a file that breaks off is at its end
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
                while left and (data := record.raw_stream.read(min(left, _CHUNK))):
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
        return number, None, f"longer than {max_bytes} bytes", data[:_SHOWN_BYTES]
    if left:
        raise OSError(f"record {number} breaks off")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return number, None, "not UTF-8", data[:_SHOWN_BYTES]
    headers = dict(record.rec_headers.headers)
    if WARC_LANGUAGE in headers:  # the commonest first
        headers[WARC_LANGUAGE] = headers[WARC_LANGUAGE].split(",")[0]
    headers.setdefault(columns.id, headers.get("WARC-Record-ID", "").strip("<>"))
    return number, headers | {columns.text: text}, "", data[:_SHOWN_BYTES]
