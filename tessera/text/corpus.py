"""Documents and pairs out of files: jsonl, parquet or plain text, read in a stream; a skipped line has its reason.

A line that cannot be used is counted and skipped; a file that cannot be used is an error. Memory is bounded by the
longest line allowed, whatever the size of the files.
"""

import fnmatch
import glob
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet

from tessera.plan.corpus import Source
from tessera.text.languages import language_code, language_of_path

MAX_LINE_BYTES = 16_000_000
SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet", ".txt", ".txt.zst", ".txt.gz")

_CHUNK = 2**20
_HOPELESS = 10_000  # lines; where all of the first ones are unusable, nobody waits for the end of a terabyte


@dataclass(frozen=True, slots=True)
class Document:
    """One text in one language."""

    text: str
    language: str
    id: str | None = None
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """One text in two languages."""

    source_text: str
    target_text: str
    source_language: str
    target_language: str


@dataclass(slots=True)
class Skipped:
    """What was not used, and why."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # by (reason, file)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)  # the first of each

    def add(self, reason: str, file: str, example: str) -> None:
        self.counts[reason, file] += 1
        self.examples.setdefault((reason, file), example)

    def by_reason(self) -> dict[str, dict[str, Any]]:
        """{reason: {"count", "files", "example"}}, the most frequent first."""
        reasons: dict[str, dict[str, Any]] = {}
        for (reason, file), count in self.counts.items():
            first = f"{file}, {self.examples[reason, file]}"
            entry = reasons.setdefault(reason, {"count": 0, "files": 0, "example": first})
            entry["count"] += count
            entry["files"] += 1
        return dict(sorted(reasons.items(), key=lambda item: -item[1]["count"]))


class _Bad(Exception):
    """A line that cannot be used: the reason, the same for all of its kind, and what shows it."""

    def __init__(self, reason: str, example: str = "") -> None:
        super().__init__(reason)
        self.example = example


class _Row(NamedTuple):
    place: str  # where in the file, for people
    values: dict[str, Any] | None
    reason: str = ""  # why there are no values
    example: str = ""


def read(
    source: Source,
    skipped: Skipped,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
    on_file: Callable[[Path], None] | None = None,
) -> Iterator[Document | Pair]:
    """The documents (or pairs) of a source, files in sorted order; `on_file` hears which file comes next.

    Skipped and counted: lines that are not JSON, lack a column or a known language, hold no text, are not UTF-8, or are
    longer than `max_line_bytes`. Blank lines are nothing.

    Raises ValueError where no file matches, where a file is broken or lacks its column, and where more than half of the
    source had to be skipped.
    """
    good = bad = 0
    for file in files(source):
        make = _pair if source.kind == "pairs" else _documents_of(file, source)
        name = str(file)
        if on_file is not None:
            on_file(file)
        for row in _rows(file, source, max_line_bytes):
            try:
                if row.values is None:
                    raise _Bad(row.reason, row.example)
                made = make(row.values, source)
            except _Bad as reason:
                skipped.add(str(reason), name, f"{row.place}: {reason.example or _shown(row.values)}")
                bad += 1
                if good == 0 and bad == _HOPELESS:
                    raise ValueError(_too_many(source, skipped, bad, bad)) from None
                continue
            good += 1
            yield made
    if bad > good:
        raise ValueError(_too_many(source, skipped, bad, good + bad))


def files(source: Source) -> list[Path]:
    """The files of a source: of a file itself, a folder with all below it, or a glob. Raises ValueError for none."""
    path = Path(source.path).expanduser()
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = [p for p in path.rglob("*") if p.is_file() and _suffix(p) and not p.name.startswith(".")]
    else:
        found = [Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file()]
    found = sorted(p for p in found if not any(fnmatch.fnmatch(p.name, pattern) for pattern in source.exclude))
    if not found:
        raise ValueError(
            f"source {source.name!r}: no file at {source.path!r}; give a file, a folder or a glob of "
            f"{', '.join(SUFFIXES)} (from {Path.cwd()})"
        )
    for file in found:
        if not _suffix(file):
            raise ValueError(f"source {source.name!r}: {file}: unknown kind of file; known are {', '.join(SUFFIXES)}")
    return found


# ------------------------------------------------------------------------------------------------- rows out of a file


def _rows(file: Path, source: Source, max_line_bytes: int) -> Iterator[_Row]:
    suffix = _suffix(file)
    try:
        if suffix == ".parquet":
            yield from _parquet(file, source, max_line_bytes)
        elif suffix.startswith(".txt"):
            yield from _text(file, source, max_line_bytes)
        else:
            yield from _jsonl(file, max_line_bytes)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{file}: broken ({str(error).strip()}); copy it again, or put it under `exclude` of source {source.name!r}"
        ) from error


def _jsonl(file: Path, max_line_bytes: int) -> Iterator[_Row]:
    for number, line in _lines(file, max_line_bytes):
        place = f"line {number}"
        if line is None:
            yield _Row(place, None, f"longer than {max_line_bytes} bytes")
            continue
        try:
            values = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            yield _Row(place, None, "not UTF-8", _shown(line))
        except (ValueError, RecursionError):
            yield _Row(place, None, "not JSON", _shown(line))
        else:
            if isinstance(values, dict):
                yield _Row(place, values)
            else:
                yield _Row(place, None, "not a JSON object", _shown(line))


def _text(file: Path, source: Source, max_line_bytes: int) -> Iterator[_Row]:
    for number, line in _lines(file, max_line_bytes):
        place = f"line {number}"
        if line is None:
            yield _Row(place, None, f"longer than {max_line_bytes} bytes")
            continue
        try:
            yield _Row(place, {source.columns.text: line.decode("utf-8")})
        except UnicodeDecodeError:
            yield _Row(place, None, "not UTF-8", _shown(line))


def _lines(file: Path, max_line_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """(number, line) for every line that is not blank; None stands for a line that is too long."""
    compression = {".zst": "zstd", ".gz": "gzip"}.get(file.suffix)
    if compression and file.stat().st_size == 0:
        raise OSError(f"0 bytes are no {compression} file")
    number, rest, dropping = 1, b"\xef\xbb\xbf", False
    with pa.input_stream(str(file), compression=compression) as stream:
        start = stream.read(3)
        rest = b"" if start == rest else start  # without a byte order mark
        while True:
            chunk = stream.read(_CHUNK)
            *lines, rest = (rest + chunk).split(b"\n")
            if not chunk:
                lines.append(rest)
            for line in lines:
                if dropping or len(line) > max_line_bytes:
                    yield number, None
                elif not line.isspace() and line:
                    yield number, line.removesuffix(b"\r")
                dropping = False
                number += 1
            if not chunk:
                return
            if len(rest) > max_line_bytes:
                dropping, rest = True, b""


def _parquet(file: Path, source: Source, max_line_bytes: int) -> Iterator[_Row]:
    columns = source.columns
    with pa.parquet.ParquetFile(file) as table:
        present = table.schema_arrow.names
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
        number = 0
        for batch in table.iter_batches(batch_size=256, columns=[c for c in present if c in wanted]):
            names = batch.schema.names
            for values in zip(*(_values(column) for column in batch.columns), strict=True):
                number += 1
                row = dict(zip(names, values, strict=True))
                if any(isinstance(v, bytes) for v in values):
                    yield _Row(f"row {number}", None, "not UTF-8")
                elif any(isinstance(v, str) and len(v) > max_line_bytes for v in values):
                    yield _Row(f"row {number}", None, f"longer than {max_line_bytes} bytes")
                else:
                    yield _Row(f"row {number}", row)


def _values(column: pa.Array) -> list[Any]:
    """A column as Python values; strings that are not UTF-8 stay bytes."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_string_or_bytes(data) for data in column.cast(pa.large_binary()).to_pylist()]


def _string_or_bytes(data: bytes | None) -> str | bytes | None:
    try:
        return None if data is None else data.decode("utf-8")
    except UnicodeDecodeError:
        return data


# ----------------------------------------------------------------------------------------- documents and pairs of rows


def _documents_of(file: Path, source: Source) -> Any:
    """How a row of this file becomes a Document: the language of the file is looked up once."""
    columns = source.columns
    fallback = language_of_path(file) or (language_code(source.language) if source.language else None)

    def make(values: dict[str, Any], source: Source) -> Document:
        given = values.get(columns.language)
        identity = values.get(columns.id)
        return Document(
            text=_string(values, columns.text),
            language=fallback if given is None and fallback else _language(given),
            id=None if identity is None else str(identity),
            quality=None if columns.quality is None else _number(values, columns.quality),
        )

    return make


def _pair(values: dict[str, Any], source: Source) -> Pair:
    columns = source.columns
    return Pair(
        source_text=_string(values, columns.source_text),
        target_text=_string(values, columns.target_text),
        source_language=_language(values.get(columns.source_language)),
        target_language=_language(values.get(columns.target_language)),
    )


def _string(values: dict[str, Any], column: str) -> str:
    text = values.get(column)
    if text is None:
        raise _Bad(f"no column {column!r}" if column not in values else f"{column!r} is null")
    if not isinstance(text, str):
        raise _Bad(f"{column!r} is not a string")
    if not text or text.isspace():
        raise _Bad("no text")
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair
        raise _Bad("not UTF-8") from None
    return text


def _number(values: dict[str, Any], column: str) -> float:
    value = values.get(column)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _Bad(f"{column!r} is not a number")
    return float(value)


def _language(given: Any) -> str:
    if not isinstance(given, str):
        raise _Bad("no language in a column, in the name of the file (fao_Latn.jsonl) or as `language` of the source")
    try:
        return language_code(given)
    except ValueError:
        raise _Bad("unknown language", repr(given[:80])) from None


def _suffix(file: Path) -> str:
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if file.name.endswith(s)), "")


def _shown(what: Any) -> str:
    shown = what if isinstance(what, (bytes, str)) else "" if what is None else json.dumps(what, ensure_ascii=False)
    return repr(shown[:80])


def _too_many(source: Source, skipped: Skipped, bad: int, all_lines: int) -> str:
    why = "; ".join(
        f"{entry['count']} x {reason} (first: {entry['example']})"
        for reason, entry in itertools.islice(skipped.by_reason().items(), 3)
    )
    return f"source {source.name!r}: {bad} of {all_lines} lines cannot be used: {why}. See its `columns` and `kind`"
