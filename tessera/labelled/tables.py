"""Tables of rows, one dict a row: JSON lines, JSON, CSV, TSV, parquet and plain lines, each also compressed.

    for place, row in rows(Path("train.csv")): ...      "train.csv:2", {"text": "gott", "label": "good"}

One row after the other: memory is for one, for one batch of parquet, or for the whole of a .json file. A small file
that unpacks into a very large one is refused.
"""

import contextlib
import csv
import glob
import hashlib
import io
import itertools
import json
import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tessera.data import readers
from tessera.data.storage import COMPRESSIONS, File, files
from tessera.json_files import shown
from tessera.plan.corpus import Source

Row = dict[str, Any]
Placed = tuple[str, Row]  # "file:line", and what stands there

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".conll", ".conllu", ".bio", ".iob")
_ASIDE = ("", ".json", ".txt")  # in a folder more often settings and notes than rows
LONGEST = 2**25  # bytes of a row
_WHOLE_FILE = 2**28  # bytes of a .json file, which is read as one
_UNPACKED, _TIMES = 2**28, 1_000  # a file may unpack into so many bytes, or so many times its size
_A_ROW = "where a row is a JSON object on a line"
_SEPARATORS = (",", ";", "\t")


class DataError(ValueError):
    """Rows that cannot be used, in words for the person who has to mend them."""


def kind_of(name: str) -> str:
    """What a file holds by its name, one of KINDS; "" where it is none of them."""
    stem, ending = os.path.splitext(name.lower())
    if ending in COMPRESSIONS:
        ending = os.path.splitext(stem)[1]
        return "" if ending == ".parquet" else ending if ending in KINDS else ""
    return ending if ending in KINDS else ""


def find(where: str) -> list[File]:
    """The files that a path, a folder, a glob or a URL names, in their order; none where there are none.

    Raises DataError for a file of another kind that is named or found by a glob; in a folder those are passed over.
    """
    if "://" in where:
        try:
            return files(Source(name="data", path=where))
        except ValueError as error:
            raise DataError(str(error).replace("source 'data': ", "", 1)) from None
    found = []
    for hit in [where] if os.path.exists(where) else glob.glob(where, recursive=True):
        if os.path.isdir(hit):
            below = (os.path.join(folder, name) for folder, _, names in os.walk(hit) for name in names)
            inside = [path for path in below if not any(p.startswith(".") for p in Path(path).relative_to(hit).parts)]
            found += [path for path in inside if kind_of(path) not in _ASIDE] or list(filter(kind_of, inside))
        elif kind_of(hit):
            found.append(hit)
        else:
            allowed = f"{', '.join(KINDS)}, each but .parquet also with {', '.join(COMPRESSIONS)}"
            raise DataError(f"{hit}: unknown kind of file; rows are read from {allowed}")
    return [_file(Path(path)) for path in sorted(set(found), key=lambda path: path.split(os.sep))]


def rows(file: File | Path, skipped: list[str] | None = None) -> Iterator[Placed]:
    """The rows of a file, and where each stands.

    skipped  takes what is wrong with lines that are no rows; None: that is an error

    Raises DataError for what is no row, for a file that cannot be read, and for one that unpacks beyond all measure.
    """
    file = _file(file) if isinstance(file, Path) else file
    others = {".csv": _csv, ".tsv": _tsv, ".json": _json, ".ndjson": _json_lines, ".txt": _plain_lines}
    others |= dict.fromkeys((".conll", ".conllu", ".bio", ".iob"), _conll)
    read = others.get(kind_of(file.name), _lines_or_parquet)
    size = 0
    try:
        for number, row, reason, raw in read(file):
            size += _bytes_of(raw)
            if size > max(_UNPACKED, _TIMES * file.size) and file.size:
                raise DataError(
                    f"{file}: {file.size:,} bytes unpack into more than {size:,}; unpack it yourself if that is meant"
                )
            place = f"{file}:{number}"
            if row is not None:
                yield place, row
            elif skipped is None:
                raise DataError(f"{place}: {reason}: {_beginning(raw)}")
            else:
                skipped.append(f"{place}: {reason}")
    except readers.BROKEN as error:
        raise DataError(f"{file}: cannot be read: {str(error).strip()}") from None


def place_of(key: str, salt: str = "split") -> float:
    """A number in [0, 1) that depends on the key alone: where its row falls when rows are split or drawn."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=salt.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def _file(path: Path) -> File:
    try:
        return File(str(path), path.stat().st_size, "")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _bytes_of(raw: Any) -> int:
    """About how large a row is."""
    if isinstance(raw, dict):
        return sum(map(_bytes_of, raw.values()))
    if isinstance(raw, list):
        return sum(map(_bytes_of, raw)) + 8
    return len(raw) if isinstance(raw, (str, bytes)) else 8


def _beginning(raw: Any) -> str:
    return repr(raw[:40].decode("utf-8", "backslashreplace")) if isinstance(raw, bytes) else repr(raw)[:40]


# ------------------------------------------------------------------------------------------- JSON lines, parquet, lines


def _lines_or_parquet(file: File) -> Iterator[readers.Raw]:
    named: dict[str, list[str]] | None = None
    for number, row, reason, raw in readers.rows(file, None, LONGEST):
        if named is None:  # only after a row: by then the file is known to be whole
            named = _named_classes(file) if kind_of(file.name) == ".parquet" else {}
        if row is not None and named:
            row = {column: _name(named[column], value) if column in named else value for column, value in row.items()}
        yield number, row, f"{reason}, {_A_ROW}" if reason else "", raw


def _plain_lines(file: File) -> Iterator[readers.Raw]:
    """{"text": a line} of each line that is not blank."""
    with _text(file) as text:
        for number, line in enumerate(_bounded(file, text), 1):
            if line.strip():
                yield number, {"text": line.strip("\r\n")}, "", line


def _conll(file: File) -> Iterator[readers.Raw]:
    """{"words", "tags"} of each sentence: a line for each word, its tag last, between tabs or spaces; CoNLL-U by UPOS.

    Sentences are parted by blank lines. Comments of CoNLL-U and -DOCSTART- are passed over, and so are its lines of
    words that are written together, as 3-4.
    """
    universal, first = kind_of(file.name) == ".conllu", 0
    words: list[str] = []
    tags: list[str] = []
    with _text(file) as text:
        for number, line in enumerate(itertools.chain(_bounded(file, text), [""]), 1):
            cells = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
            if not line.strip() or cells[0] == "-DOCSTART-":
                if words:
                    yield first, {"words": words, "tags": tags}, "", [words, tags]
                words, tags = [], []
            elif universal and (line.startswith("#") or not cells[0].isdecimal()):
                continue
            elif len(cells) < (4 if universal else 2):
                raise DataError(f"{file}:{number}: {shown(line.strip())}; a word and its tag are needed on each line")
            else:
                first = first if words else number
                words.append(cells[1 if universal else 0])
                tags.append(cells[3 if universal else -1].strip())


def _json_lines(file: File) -> Iterator[readers.Raw]:
    with _text(file) as text:
        for number, line in enumerate(_bounded(file, text), 1):
            if line.strip():
                row, reason = _object(line)
                yield number, row, reason, line


def _object(line: str) -> tuple[Row | None, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None, f"not JSON, {_A_ROW}"
    return (row, "") if isinstance(row, dict) else (None, f"not a JSON object, {_A_ROW}")


def _named_classes(file: File) -> dict[str, list[str]]:
    """{column: names} of the class labels that `datasets` writes into parquet as numbers, their names beside them."""
    if file.local is None:
        return {}
    try:
        about = pyarrow.parquet.read_schema(file.local).metadata or {}
        features = json.loads(about.get(b"huggingface", b"{}"))["info"]["features"]
        inner = {column: feature.get("feature", feature) for column, feature in features.items()}
        return {column: f["names"] for column, f in inner.items() if f.get("_type") == "ClassLabel" and f.get("names")}
    except readers.BROKEN as error:
        raise DataError(f"{file}: cannot be read: {str(error).strip()}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # not written by `datasets`


def _name(names: list[str], value: Any) -> Any:
    """The name of a class; a number that is none, as -1 of hidden labels, stays."""
    if isinstance(value, list):
        return [_name(names, item) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


# ---------------------------------------------------------------------------------------------------- CSV, TSV and JSON


@contextlib.contextmanager
def _text(file: File) -> Iterator[io.TextIOWrapper]:
    """The text of a file, its line ends as they are. Raises DataError where it is not UTF-8."""
    if file.compression and file.size == 0:
        raise DataError(f"{file}: cannot be read: 0 bytes are no {file.compression} file")
    with contextlib.ExitStack() as stack:
        packed = stack.enter_context(file.open())
        if file.compression == "xz":  # which Arrow does not know
            plain: Any = stack.enter_context(lzma.open(packed))
        else:
            plain = stack.enter_context(pa.input_stream(packed, compression=file.compression))
        text = stack.enter_context(io.TextIOWrapper(plain, encoding="utf-8-sig", newline=""))
        try:
            yield text
        except UnicodeDecodeError:
            raise DataError(f"{file}: not UTF-8; save it as UTF-8 (a table program calls that an encoding)") from None


def _bounded(file: File, text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise DataError(f"{file}:{number}: longer than {LONGEST} characters")
        yield line


def _csv(file: File) -> Iterator[readers.Raw]:
    """Cells between commas, or semicolons or tabs where the first line has no comma; quotes as RFC 4180 has them."""
    csv.field_size_limit(LONGEST)
    with _text(file) as text:
        lines = _bounded(file, text)
        first = next(lines, "")
        separator = next((sign for sign in _SEPARATORS if sign in first), ",")
        table = csv.reader(_after(first, lines), delimiter=separator, strict=True)
        before = 0
        try:
            columns = _columns(file, next(table, []))
            for cells in table:
                number, before = before + 1, table.line_num
                if cells:
                    yield _cells(max(2, number), columns, cells)
        except csv.Error as error:
            raise DataError(f"{file}:{table.line_num}: no CSV: {error}") from None


def _tsv(file: File) -> Iterator[readers.Raw]:
    """Cells between tabs, a row on a line; a cell that is quoted whole, as table programs write it, is unquoted."""
    with _text(file) as text:
        lines = _bounded(file, text)
        columns = _columns(file, _tabbed(next(lines, "")))
        for number, line in enumerate(lines, 2):
            if line.strip("\r\n"):
                yield _cells(number, columns, _tabbed(line))


def _tabbed(line: str) -> list[str]:
    return [_unquoted(cell) for cell in line.rstrip("\r\n").split("\t")] if line.strip("\r\n") else []


def _unquoted(cell: str) -> str:
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")
    return cell[1:-1].replace('""', '"') if whole else cell


def _after(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _columns(file: File, names: list[str]) -> list[str]:
    """The names in the first line. Raises DataError where they cannot be names of columns."""
    names = [name.strip() for name in names]
    if not names:
        raise DataError(f"{file}: is empty; the first line names the columns")
    if "" in names or len(set(names)) < len(names):
        raise DataError(f"{file}:1: the first line names the columns, each once; it has {shown(names)}")
    return names


def _cells(number: int, columns: list[str], cells: list[str]) -> readers.Raw:
    if len(cells) != len(columns):
        reason = f"{len(cells)} cells where the first line names {len(columns)} columns"
        return number, None, reason, "\t".join(cells)
    return number, dict(zip(columns, cells, strict=True)), "", cells


def _json(file: File) -> Iterator[readers.Raw]:
    """A list of objects, perhaps the only list of an object around it; or JSON lines, whatever the ending says."""
    with _text(file) as text:
        begin = text.read(LONGEST)
        if begin.lstrip()[:1] == "[" or _is_one(begin):
            whole = begin + text.read(_WHOLE_FILE - len(begin))
            if text.read(1):
                raise DataError(f"{file}: longer than {_WHOLE_FILE} characters; write it as JSON lines (.jsonl)")
            yield from _objects(file, whole)
            return
    yield from _json_lines(file)


def _is_one(begin: str) -> bool:
    """Whether an object goes on after its first line, or is all there is."""
    first, _, rest = begin.strip().partition("\n")
    try:
        return not rest.strip() and isinstance(json.loads(first), dict) and _inside(json.loads(first)) is not None
    except (ValueError, RecursionError):
        return bool(rest) or not first


def _inside(given: dict[str, Any]) -> list[Any] | None:
    lists = [v for v in given.values() if isinstance(v, list) and v and all(isinstance(one, dict) for one in v)]
    return lists[0] if len(lists) == 1 else None


def _objects(file: File, whole: str) -> Iterator[readers.Raw]:
    try:
        given = json.loads(whole)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON: {error}") from None
    given = _inside(given) if isinstance(given, dict) else given
    if not isinstance(given, list):
        raise DataError(f"{file}: rows are a list of objects, or one object on each line; this is neither")
    for number, row in enumerate(given, 1):
        yield number, row if isinstance(row, dict) else None, "" if isinstance(row, dict) else "not a JSON object", row
