"""Where the rows of a task lie, and the rows: below a folder, in a copy of a Hub repository there, or on the Hub.

<folder>/<path of the task>                             where the task says a path
<folder>/<task>/<language>/<split>.jsonl.zst            else; also .jsonl.gz, .jsonl, .parquet, and without language
<folder>/<owner>/<name>                                 a copy of the Hub's repository, as `hf download` makes it
"""

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tessera.data import readers
from tessera.data.storage import File, files
from tessera.plan.corpus import Source
from tessera.plan.shipped import pip_line
from tessera.plan.task import LANGUAGE, SPLIT, TASK, Data

_LONGEST = 2**28  # bytes of a row
ENDINGS = (".jsonl.zst", ".jsonl.gz", ".jsonl", ".parquet")
RawRow = dict[str, Any]
Placed = tuple[str, RawRow]  # where it stands, and what


class DataError(ValueError):
    """Rows that cannot be used, in words for the person who has to mend them."""


class MissingData(DataError):
    """A set that is not there, with what to download and where to put it."""


def read(
    data: Data, task: str, split: str, language: str | None, folder: Path | None, what: str = "",
    skipped: list[str] | None = None,
) -> Iterator[Placed]:  # fmt: skip
    """The rows of a split, by the name that the data gives it, with where each stands; those that `where` asks for.

    One after the other: memory is for one row, or for one batch of parquet.

    what     of a task it is: `corpus` or `relevant`; empty for its examples
    skipped  takes what is wrong with lines that are no rows; None: that is an error
    Raises MissingData where there are none, DataError where they cannot be read or `where` lets none through.
    """
    name = data.codes.get(language, language) if language is not None else None
    if folder is None:
        rows = _hub(data, task, data.hub, split, name, None)
    else:
        paths = _files(data, task, split, language, folder, what)
        copy = folder / data.hub if data.hub else None
        if paths:
            rows = (row for path in paths for row in file_rows(path, skipped))
        elif copy is not None and copy.is_dir():
            rows = _hub(data, task, str(copy), split, name, folder)
        else:
            raise missing(data, task, split, folder, language, what)
    wanted = {column: pattern.replace(LANGUAGE, name or "*") for column, pattern in data.where.items()}
    kept = seen = 0
    for place, row in rows:
        seen += 1
        if all(fnmatchcase(str(row.get(column)), pattern) for column, pattern in wanted.items()):
            kept += 1
            yield place, row
    if not kept:
        of = f" of language {language!r}" if language is not None and data.by_language else ""
        why = f"; none of its {seen} rows has " + ", ".join(f"{c} {p!r}" for c, p in wanted.items()) if seen else ""
        raise DataError(f"task {task}: split {split!r} holds no rows{of}{why}")


def languages(data: Data, task: str, split: str, folder: Path) -> list[str]:
    """What {language} may stand for, given the files that are there; sorted."""
    found = set()
    for pattern in _patterns(data, task, split, ""):
        if LANGUAGE not in pattern:
            continue
        whole = str(folder / pattern)  # a pattern may be a whole path
        before, *after = (re.escape(part) for part in whole.split(LANGUAGE))
        fits = re.compile(before + "(?P<language>[^/]+?)" + "(?P=language)".join(after))
        for path in glob.glob(glob.escape(whole).replace(LANGUAGE, "*")):
            if match := fits.fullmatch(path):
                found.add(match["language"])
    return sorted(found)


def there(data: Data, task: str, split: str, folder: Path, language: str | None = None) -> bool:
    """Whether rows lie in the folder, of a language or of any, or a copy of the Hub's repository does."""
    patterns = (
        p.replace(LANGUAGE, glob.escape(language) if language else "*") for p in _patterns(data, task, split, "")
    )
    copy = data.hub is not None and (folder / data.hub).is_dir()
    return copy or any(_found(folder, pattern, task) for pattern in patterns)


def place_of(key: str, salt: str = "split") -> float:
    """A number in [0, 1) that depends on the key alone: where its row falls when rows are split or drawn."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=salt.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def _patterns(data: Data, task: str, split: str, what: str) -> list[str]:
    """Paths below the folder where rows may lie, best first; {language} is still in them."""
    if data.path is not None:
        whole = [data.path]
    else:
        last = what or SPLIT
        whole = [f"{TASK}/{LANGUAGE}/{last}", f"{TASK}/{last}"]
    filled = [pattern.replace(TASK, task).replace(SPLIT, split) for pattern in whole]
    found = [p + ending for p in filled for ending in (("",) if p.endswith(ENDINGS) else ENDINGS)]
    folders = [p for p in filled if data.path and not p.endswith(ENDINGS) and LANGUAGE not in p.rpartition("/")[2]]
    return folders + found  # folders, or globs, or files with another ending


def _files(data: Data, task: str, split: str, language: str | None, folder: Path, what: str) -> list[File]:
    """The files to read: those of the first pattern that finds any."""
    for pattern in _patterns(data, task, split, what):
        if LANGUAGE in pattern and language is None:
            continue
        if paths := _found(folder, pattern.replace(LANGUAGE, glob.escape(language or "")), task):
            return paths
    return []


def _found(folder: Path, pattern: str, task: str) -> list[File]:
    """The files below the folder that a pattern finds, in their order: it may be a file, a folder, a glob or a URL."""
    where = pattern if "://" in pattern else os.path.join(glob.escape(str(folder)), pattern)
    if "://" not in where and not os.path.exists(where) and not glob.glob(where, recursive=True):
        return []
    try:
        return files(Source(name=task, path=where))
    except ValueError as error:
        raise DataError(str(error).replace("source", "task", 1)) from None


def missing(
    data: Data, task: str, split: str, folder: Path, language: str | None = None, what: str = ""
) -> MissingData:
    """What to say where rows are not there: what to download, and where to put it."""
    patterns = [p.replace(LANGUAGE, language or LANGUAGE) for p in _patterns(data, task, split, what)]
    lines = [f"task {task}: no rows of split {split!r}" + (f", language {language!r}" if language else "")]
    lines[0] += f" below {folder}"
    if data.hub is not None:
        lines.append(f"to have them: {download(data.hub, data.revision, folder)}")
        lines.append(f"or your own:  put them at {folder / patterns[0]}")
    else:
        lines.append(f"they belong at {folder / patterns[0]}")
    if data.path is None:
        lines[-1] += " (or .jsonl, .jsonl.gz, .parquet), with the columns that the task names"
    return MissingData("\n  ".join(lines))


def download(hub: str, revision: str | None, folder: Path) -> str:
    """The command that brings a set of the Hub below a folder, as `read` finds it there."""
    of = f" --revision {revision}" if revision else ""
    return f"hf download {hub} --repo-type dataset{of} --local-dir {folder / hub}"


def file_rows(file: File | Path, skipped: list[str] | None = None) -> Iterator[Placed]:
    """The rows of a file of JSON lines or parquet, and where each stands. Raises DataError for what is none."""
    file = File(str(file), file.stat().st_size, "") if isinstance(file, Path) else file
    try:
        for number, row, reason, raw in readers.rows(file, None, _LONGEST):
            place = f"{file}:{number}"
            if row is not None:
                yield place, row
            elif skipped is None:
                raise DataError(f"{place}: {reason}, where a row is a JSON object on a line: {_shown(raw)}")
            else:
                skipped.append(f"{place}: {reason}")
    except readers.BROKEN as error:
        raise DataError(f"{file}: cannot be read: {str(error).strip()}") from None


def _shown(raw: Any) -> str:
    return repr(raw[:40].decode("utf-8", "backslashreplace")) if isinstance(raw, bytes) else repr(raw)[:40]


def _hub(
    data: Data, task: str, repository: str | None, split: str, language: str | None, folder: Path | None
) -> Iterator[Placed]:
    """Rows of a Hub repository, or of a copy of one; numbers of named classes become the names."""
    if repository is None:
        raise MissingData(
            f"task {task}: its data is on no hub; give the folder that holds {data.path or task} (--data FOLDER)"
        )
    try:
        import datasets
    except ImportError:
        raise ImportError(f"task {task} reads {repository} with datasets; {pip_line('evaluate')}") from None
    if language is None and LANGUAGE in (data.config or "") + (data.files or ""):
        raise DataError(f"task {task}: {data.hub} has each language by itself; name one")
    config = data.config.replace(LANGUAGE, language or "") if data.config else None
    files = data.files.replace(LANGUAGE, language or "").replace(SPLIT, split) if data.files else None
    try:
        found = datasets.load_dataset(
            repository,
            config,
            data_files={split: files} if files else None,
            split=split,
            revision=data.revision if folder is None else None,
        )
    except Exception as error:  # the Hub, its cache and its formats fail in many ways
        raise MissingData(_unreachable(data, task, split, config, error, folder)) from error
    named = {
        column: feature
        for column, feature in found.features.items()
        if isinstance(feature, datasets.ClassLabel)
        or isinstance(getattr(feature, "feature", None), datasets.ClassLabel)
    }
    head = ", ".join(filter(None, (data.hub, config, split)))
    for number, row in enumerate(found, 1):
        yield f"{head}, row {number}", {**row, **{column: _named(named[column], row[column]) for column in named}}


def _named(feature: Any, value: Any) -> Any:
    """Names of classes for their numbers; a number that is none, as -1 of hidden labels, stays."""
    if isinstance(value, list):
        return [_named(feature.feature, item) for item in value]
    return feature.int2str(value) if isinstance(value, int) and 0 <= value < feature.num_classes else value


def _unreachable(data: Data, task: str, split: str, config: str | None, error: Exception, folder: Path | None) -> str:
    where = f"{data.hub}{f', {config}' if config else ''}, split {split!r}"
    first = str(error).strip().split("\n")[0] or type(error).__name__
    line = f"task {task}: {where} cannot be read: {first}"
    if folder is not None:
        return f"{line}\n  the copy is {folder / str(data.hub)}; remove it and download it again if it is not whole"
    command = download(str(data.hub), data.revision, Path("FOLDER"))
    return f"{line}\n  offline: {command} where there is a network, then --data FOLDER"
