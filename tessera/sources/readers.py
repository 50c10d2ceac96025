"""Streaming readers of rows, whatever the format: jsonl, JSON, CSV, TSV, parquet, plain text, WARC and WET.

Memory is bounded by the longest row allowed and by one batch of parquet, whatever the file and whatever is in it.
"""

import codecs
import json
import lzma
import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tessera.plan.corpus import Columns, Source
from tessera.plan.shipped import pip_line
from tessera.sources import decompress
from tessera.sources.decompress import NOT_UTF8, SHOWN_BYTES, lines
from tessera.sources.delimited import Raw as Raw
from tessera.sources.delimited import Values as Values
from tessera.sources.delimited import columns_of, table
from tessera.sources.parquet import class_names, named, record_batches
from tessera.sources.parquet import values as values_of
from tessera.sources.storage import File

UNIT = {".parquet": "row", ".json": "row", ".warc": "record", ".wet": "record"}  # what is counted; lines elsewhere
BROKEN = (OSError, EOFError, lzma.LZMAError, zlib.error, pa.ArrowException)
WARC_LANGUAGE = "WARC-Identified-Content-Language"


_SILENT_RECORDS = ("warcinfo", "metadata", "request", "revisit")  # about a page, never the page

_decode_json = json.JSONDecoder().raw_decode


def rows(file: File, source: Source | None, max_bytes: int) -> Iterator[Raw]:
    """The rows of a file in its order; blank lines are nothing, but are counted.

    source     whose columns are read; None: rows as table programs and `datasets` mean them, with all columns there
               are. A line of plain text is {"text": line}; quotes of CSV are as RFC 4180 has them, and so are those of
               TSV where only so each row has as many cells as the first (else cells of TSV that are quoted whole are
               unquoted); numbers of classes in parquet are their names
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
            return table(file, source, max_bytes)
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


# ------------------------------------------------------------------------------------------------------------- parquet


def _parquet(file: File, source: Source | None, max_bytes: int) -> Iterator[Raw]:
    def choose(present: list[str]) -> list[str] | None:
        return None if source is None else columns_of(file, source, present)

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
