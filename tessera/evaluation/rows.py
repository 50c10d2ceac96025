"""Where the rows of a task lie, and the rows: below a folder, in a copy of a Hub repository there, or on the Hub.

<folder>/<path of the task>                             where the task says a path
<folder>/<task>/<language>/<split>.jsonl.zst            else; also .jsonl.gz, .jsonl, .parquet, and without language
<folder>/<owner>/<name>                                 a copy of the Hub's repository, as `hf download` makes it
"""

import contextlib
import fnmatch
import glob
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tessera.labelled import tables
from tessera.labelled.labels import spelled
from tessera.labelled.tables import DataError as DataError
from tessera.labelled.tables import Placed
from tessera.labelled.tables import place_of as place_of
from tessera.plan.errors import did_you_mean
from tessera.plan.shipped import pip_line
from tessera.plan.task_data import LANGUAGE, SPLIT, SYNONYMS, TASK, Beside, Column, Data, holds_language
from tessera.sources.storage import File

ENDINGS = (
    *(".jsonl.zst", ".jsonl.gz", ".jsonl", ".parquet"),
    *(kind + packed for kind in (".csv", ".tsv", ".json", ".ndjson", ".txt") for packed in ("", ".zst", ".gz")),
)

_OTHERS = {"index", "split", "group", "language", "source", "domain", "topic", "title"}.union(*SYNONYMS.values())


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
    name = data.code(language) if language is not None else None
    if folder is None:
        rows = _hub(data, task, data.hub, split, name, None)
    else:
        # A folder by languages is called as the task calls them; a path that the task says, as its data does.
        paths = _files(data, task, split, language if data.path is None else name, folder, what)
        copy = folder / data.hub if data.hub else None
        if paths:
            rows = (row for path in paths for row in tables.rows(path, skipped))
            if data.beside is not None:
                rows = _beside(rows, data.beside, task, split, name, folder, skipped)
        elif copy is not None and copy.is_dir():
            rows = _hub(data, task, str(copy), split, name, folder)
        else:
            raise missing(data, task, split, folder, language if data.path is None else name, what)
    code = glob.escape(name) if name is not None else "*"
    wanted = {column: pattern.replace(LANGUAGE, code) for column, pattern in data.where.items()}
    kept = seen = 0
    known = set[str]()
    for place, row in rows:
        seen += 1
        known.update(row if not kept and wanted else ())
        if all(_fits(row.get(column), pattern) for column, pattern in wanted.items()):
            kept += 1
            yield place, row
    if not kept:
        of = f" of language {name!r}" if language is not None and data.by_language else ""
        why = f"; none of its {seen} rows has " + ", ".join(f"{c} {p!r}" for c, p in wanted.items()) if seen else ""
        if lacking := [column for column in wanted if seen and column not in known]:
            why = f"; `where` asks for column {lacking[0]!r}, which no row has; {did_you_mean(lacking[0], known)}"
        raise DataError(f"task {task}: split {split!r} holds no rows{of}{why}")


def _fits(value: Any, pattern: str) -> bool:
    """Whether a cell is what `where` asks for; true, 1 and 1.0 are as labels are: `true`, `1` and `1`."""
    written = {str(value)}
    if isinstance(value, (bool, float)):
        with contextlib.suppress(ValueError):
            written.add(spelled(value))
    return any(fnmatch.fnmatchcase(one, pattern) for one in written)


def languages(
    data: Data, task: str, split: str, folder: Path, columns: Mapping[str, Column] | None = None
) -> list[str]:
    """What the task may call a language, given the files that are there, else their columns or rows; sorted."""
    found: set[str] = set()
    # A file beside itself would be a language that translates itself, as English among the files beside en.txt.
    itself = {Path(str(file)) for file in _files(data, task, split, None, folder, "")} if data.beside else set()
    for pattern in [*_patterns(data, task, split, ""), *([data.beside.path] if data.beside else [])]:
        if LANGUAGE not in pattern or found:
            continue
        whole = str(folder / pattern.replace(TASK, task).replace(SPLIT, split))  # a pattern may be a whole path
        before, *after = (re.escape(part) for part in whole.split(LANGUAGE))
        fits = re.compile(before + "(?P<language>[^/]+?)" + "(?P=language)".join(after))
        for path in glob.glob(glob.escape(whole).replace(LANGUAGE, "*")):
            if (match := fits.fullmatch(path)) and Path(path) not in itself:
                found.add(match["language"])
    if not found and (any(map(holds_language, (columns or {}).values())) or LANGUAGE in "".join(data.where.values())):
        found = _inside(data, task, split, folder, columns or {})
    names = {code: language for language, code in data.codes.items()} if data.path is not None else {}
    return sorted(names.get(code, code) for code in found)


def _inside(data: Data, task: str, split: str, folder: Path, columns: Mapping[str, Column]) -> set[str]:
    """The languages that stand in the rows, by `where`, or among the columns of the first."""
    rows = (row for path in _files(data, task, split, None, folder, "") for _, row in tables.rows(path))
    told = {column: _fitting(fnmatch.translate(p), "(.+)") for column, p in data.where.items() if LANGUAGE in p}
    if told:
        matches = (fits.fullmatch(str(row.get(column))) for row in rows for column, fits in told.items())
        return {match[1] for match in matches if match}
    several = [one for column in columns.values() for one in ((column,) if isinstance(column, str) else column)]
    first = next(rows, {})
    names = {*first, *(f"{key}.{name}" for key, inner in first.items() if isinstance(inner, dict) for name in inner)}
    found: set[str] = set()
    for column in filter(holds_language, several):
        inner = re.findall(r"\{([^{}]*\{language\}[^{}]*)\}", column) or [column]
        fits = _fitting(re.escape(inner[0]), "(.+)")
        found |= {match[1] for name in names - set(several) if (match := fits.fullmatch(name))}
    return {name for name in found if name in data.codes.values() or not _is_other(name, first, found)} or found


def _is_other(name: str, first: tables.Row, beside: set[str]) -> bool:
    """Whether what stands where {language} does is a column of something else, as `label`.

    `id` is a language, Indonesian, where a text stands in it and others have two letters too.
    """
    if name == "id":
        short = any(len(other) == 2 for other in beside - {name})
        return not (short and re.search(r"[^\W\d_]", str(first.get(name))))
    return len(name) > 3 and name.lower() in _OTHERS


def _fitting(pattern: str, language: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(re.escape(LANGUAGE), language, 1))


def _beside(
    rows: Iterator[Placed], beside: Beside, task: str, split: str, code: str | None, folder: Path,
    skipped: list[str] | None,
) -> Iterator[Placed]:  # fmt: skip
    """Each row with the one of the other files that goes with it, under `beside`."""
    pattern = beside.path.replace(TASK, task).replace(SPLIT, split).replace(LANGUAGE, glob.escape(code or ""))
    paths = _found(folder, pattern, task)
    if not paths:
        raise MissingData(f"task {task}: no rows at {folder / pattern}, which `beside` names")
    others = (row for path in paths for row in tables.rows(path, skipped))
    if beside.by is None:
        for (place, row), (there, other) in _one_by_one(rows, others, task):
            if _line(place) != _line(there) and place.rpartition(":")[0].endswith(".txt"):
                raise DataError(f"{place}: stands beside {there}; an empty line has moved them, so fill or drop both")
            yield place, {**row, "beside": other}
        return
    known: dict[str, tables.Row] = {}
    for place, other in others:
        key = str(other.get(beside.by))
        if other.get(beside.by) is None or key in known:
            what = f"{beside.by} is {other[beside.by]!r}" if beside.by in other else f"has no column {beside.by!r}"
            raise DataError(f"{place}: {what}; `beside` needs one that no other row has, and both files call the same")
        known[key] = other
    for place, row in rows:
        if (key := str(row.get(beside.by))) in known:
            yield place, {**row, "beside": known[key]}
        elif skipped is None:
            raise DataError(f"{place}: no row of {folder / pattern} has {beside.by} {key!r}")
        else:
            skipped.append(f"{place}: has no row beside it")


def _one_by_one(rows: Iterator[Placed], others: Iterator[Placed], task: str) -> Iterator[tuple[Placed, Placed]]:
    for number, (one, other) in enumerate(itertools.zip_longest(rows, others)):
        if one is None or other is None:
            (place, _), more = one or other, "first" if other is None else "second"
            raise DataError(
                f"{place}: task {task}: {number} rows stand beside one another, and the {more} files have more; "
                "give the column that joins them (beside: {by: id}), or make them equally long"
            )
        yield one, other


def _line(place: str) -> str:
    return place.rpartition(":")[2]


def there(data: Data, task: str, split: str, folder: Path, language: str | None = None) -> bool:
    """Whether rows lie in the folder, of a language or of any, or a copy of the Hub's repository does."""
    code = data.code(language) if language and data.path is not None else language
    patterns = (p.replace(LANGUAGE, glob.escape(code) if code else "*") for p in _patterns(data, task, split, ""))
    copy = data.hub is not None and (folder / data.hub).is_dir()
    return copy or any(_found(folder, pattern, task) for pattern in patterns)


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
    try:
        return tables.find(where)
    except DataError as error:
        raise DataError(f"task {task}: {error}") from None


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
