"""Tables of rows, one dict a row: JSON lines, JSON, CSV, TSV, parquet, plain lines and CoNLL, each also compressed.

    for place, row in rows(Path("train.csv")): ...      "train.csv:2", {"text": "gott", "label": "good"}

They are read as a corpus is (`tessera.sources.readers`): one row after the other, memory bounded, bombs refused. Added
is what only labelled rows have: sentences with tags, a JSON object around the rows, errors for the person who labels.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tessera.json_files import shown
from tessera.plan.errors import some
from tessera.sources import decompress, readers, storage
from tessera.sources.storage import COMPRESSIONS, File

Row = dict[str, Any]
Placed = tuple[str, Row]  # "file:line", and what stands there

_SENTENCES = (".conll", ".conllu", ".bio", ".iob")
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", *_SENTENCES)
_WHAT_TO_DO = decompress.AS_UTF8 | dict.fromkeys(
    ("not JSON", "not a JSON object"), ", where a row is a JSON object on a line"
)
LONGEST = 2**25  # bytes of a row
_ASIDE = ("", ".json", ".txt")  # in a folder more often settings and notes than rows
_WHOLE_FILE = 2**28  # bytes of a .json file that is one object, which is read as one
_UNPACKED, _TIMES = 2**28, 1_000  # a file may unpack into so many bytes, or so many times its size: rows are kept
_UNKNOWN = 2**30  # one whose size no server says into so many


class DataError(ValueError):
    """Rows that cannot be used, in words for the person who has to mend them."""


def find(where: str, said: list[str] | None = None) -> list[File]:
    """The files that a path, a folder, a glob or a URL names, in their order; none where there are none.

    said  takes which files of a folder are passed over

    Raises DataError for a file of another kind that is named or found by a glob; in a folder those are passed over.
    """
    try:
        found = storage.entries(where, "data")
    except ValueError as error:
        raise DataError(str(error).removeprefix("source 'data': ")) from None
    inside = [entry.file for entry in found if entry.role == "inside"]
    kept = {file for file in inside if _kind(file) not in _ASIDE} or set(filter(_kind, inside))
    if said is not None and (others := [file.name for file in inside if file not in kept]):
        said.append(f"not read, as they are no tables of rows: {some(others, 5)}")
    asked = [entry.file for entry in found if entry.role == "asked for"]
    if unknown := [file for file in asked if not _kind(file)]:
        allowed = f"{', '.join(KINDS)}, each but .parquet also with {', '.join(COMPRESSIONS)}"
        raise DataError(f"{unknown[0]}: unknown kind of file; rows are read from {allowed}")
    kept.update(asked)
    return [entry.file for entry in found if entry.file in kept]


def rows(file: File | Path, skipped: list[str] | None = None) -> Iterator[Placed]:
    """The rows of a file, and where each stands.

    skipped  takes what is wrong with lines that are no rows; None: that is an error

    Raises DataError for what is no row, for a file that cannot be read, and for one that unpacks beyond all measure,
    ConnectionError where its place cannot be reached.
    """
    size = 0
    try:
        file = _file(file) if isinstance(file, Path) else file
        for number, row, reason, raw in _read(file):
            size += _bytes_of(raw if row is None else row)
            if size > (max(_UNPACKED, _TIMES * file.size) if file.size else _UNKNOWN):
                what = f"{file.size:,} bytes unpack" if file.size else "it unpacks"
                raise DataError(f"{file}: {what} into more than {size:,}; unpack it yourself if that is meant")
            place = f"{file}:{number}"
            if row is not None:
                row.pop("", None)  # the index that pandas writes, or behind the last comma: no role can name it
                yield place, row
            elif skipped is None:
                raise DataError(f"{place}: {reason}{_WHAT_TO_DO.get(reason, '')}: {_beginning(raw)}")
            else:
                skipped.append(f"{place}: {reason}")
    except (ConnectionError, DataError):
        raise
    except readers.BROKEN as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None
        raise DataError(f"{file}: broken: {str(error).strip()}; copy or download it again") from None
    except ValueError as error:  # it names the file
        raise DataError(str(error)) from None


def place_of(key: str, salt: str = "split") -> float:
    """A number in [0, 1) that depends on the key alone: where its row falls when rows are split or drawn."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=salt.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def _kind(file: File) -> str:
    """What a file holds by its name, one of KINDS; "" where it is none of them."""
    return storage.kind_of(file.name, KINDS)


def _file(path: Path) -> File:
    return File(str(path), path.stat().st_size, "")


def _read(file: File) -> Iterator[readers.Raw]:
    if _kind(file) in _SENTENCES:
        return _conll(file)
    if _kind(file) == ".json" and (given := _one_object(file)) is not None:
        return _objects(file, given)
    return readers.rows(file, None, LONGEST)


def _bytes_of(raw: Any) -> int:
    """About how large a row is."""
    if isinstance(raw, dict):
        return sum(map(_bytes_of, raw.values()))
    if isinstance(raw, list):
        return sum(map(_bytes_of, raw)) + 8
    return len(raw) if isinstance(raw, (str, bytes)) else 8


def _beginning(raw: Any) -> str:
    return repr(raw[:40].decode("utf-8", "backslashreplace")) if isinstance(raw, bytes) else repr(raw)[:40]


def _conll(file: File) -> Iterator[readers.Raw]:
    """{"words", "tags"} of each sentence: a line for each word, its tag last, between tabs or spaces; CoNLL-U by UPOS.

    Sentences are parted by blank lines. Comments and -DOCSTART- are passed over, and so are lines of CoNLL-U of words
    that are written together, as 3-4. A comment begins with # where a sentence does, and with other cells than words.
    """
    universal, first, before = _kind(file) == ".conllu", 0, 0
    width = 0 if universal else _width(file)
    words: list[str] = []
    tags: list[str] = []
    for number, line, reason, raw in decompress.lines(file, LONGEST):
        cells = [] if line is None else _cells(line)
        if words and (number > before + 1 or cells[:1] == ["-DOCSTART-"]):
            yield first, {"words": words, "tags": tags}, "", b""
            words, tags = [], []
        comment = line is not None and line.startswith("#") and (universal or (not words and len(cells) != width))
        before = number
        if line is None:
            yield number, None, reason, raw
        elif comment or cells[0] == "-DOCSTART-" or (universal and not cells[0].isdecimal()):
            continue
        elif len(cells) < (4 if universal else 2):
            raise DataError(f"{file}:{number}: {shown(line.strip())}; a word and its tag are needed on each line")
        else:
            first = first if words else number
            words.append(cells[1 if universal else 0])
            tags.append(cells[3 if universal else -1].strip())
    if words:
        yield first, {"words": words, "tags": tags}, "", b""


def _cells(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _width(file: File) -> int:
    """How many cells the first line has that is no comment for certain."""
    lines = (line for _, line, _, _ in decompress.lines(file, LONGEST) if line is not None)
    return next((len(_cells(line)) for line in lines if not line.startswith(("#", "-DOCSTART-"))), 2)


def _one_object(file: File) -> Row | None:
    """The object that is all there is in a .json file; None where it is a list, or lines of rows."""
    with decompress.text(file) as stream:
        if stream.read().lstrip()[:1] != b"{":
            return None
    lines = decompress.lines(file, _WHOLE_FILE)
    _, first, _, _ = next(lines, (0, None, "", b""))
    if first is None:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        given = json.loads(first)
        return given if next(lines, None) is None and len(_lists(given)) == 1 else None
    whole, size = [first], 0
    for number, line, reason, raw in lines:
        size += len(raw)
        if line is None or size > _WHOLE_FILE:
            what = f"{reason}{_WHAT_TO_DO.get(reason, '')}" if line is None else f"longer than {_WHOLE_FILE} bytes"
            raise DataError(f"{file}:{number}: {what}; or write it as JSON lines (.jsonl)")
        whole.append(line)
    try:
        found: Row = json.loads("\n".join(whole))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON: {error}; write an object on each line, or a list of objects") from None
    return found


def _lists(given: Row) -> list[list[Row]]:
    """The lists of objects that stand in an object."""
    return [v for v in given.values() if isinstance(v, list) and v and all(isinstance(one, dict) for one in v)]


def _objects(file: File, given: Row) -> Iterator[readers.Raw]:
    """The rows in the only list of objects that an object holds, as {"version": 1, "data": [...]} does."""
    if len(lists := _lists(given)) != 1:
        raise DataError(f"{file}: rows are a list of objects, or one object on each line; this is neither")
    for number, row in enumerate(lists[0], 1):
        yield number, row, "", row
