"""mteb's tasks on local data, without the Hub: files that a few lines of YAML describe, or copies of its sets.

    <data>/mteb.yaml                   more descriptions, or other ones (see mteb/mteb.yaml)
    <data>/<owner>/<name>/             a copy of the Hub's data set of that name

What the Hub's set would hold is put together row by row, and the task does the rest itself, as it always does. How
many rows and characters there are is compared with the statistics that come with mteb.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from tessera.evaluation import catalogue
from tessera.evaluation.rows import MissingData, download
from tessera.labelled import tables
from tessera.plan.errors import some
from tessera.plan.fields import Strict

_TEXT = ("text", "sentence1", "sentence2", "sentences")  # columns that mteb's statistics count the characters of
Row = dict[str, Any]


class Table(Strict):
    """Rows of files; the keys are explained in mteb/mteb.yaml."""

    files: str
    columns: dict[str, str]
    where: dict[str, str | int | bool] = Field(default_factory=dict)
    quoted: bool = False
    ending: str = ""


class Queries(Table):
    """Queries of a retrieval task, each with the document it asks for."""

    relevant: str


class Local(Strict):
    """Where one task's data is."""

    rows: Table | None = None
    splits: dict[str, str] = Field(default_factory=dict)
    corpus: Table | None = None
    queries: Queries | None = None
    name: str | None = None
    differs: str | None = None

    @property
    def parts(self) -> list[Table]:
        """All that is read."""
        return [part for part in (self.rows, self.corpus, self.queries) if part is not None]

    @model_validator(mode="after")
    def _is_rows_or_retrieval(self) -> Self:
        if (self.rows is None) == (self.corpus is None) or (self.corpus is None) != (self.queries is None):
            raise ValueError("give `rows`, or for retrieval both `corpus` and `queries`")
        if self.rows is not None and not self.splits:
            raise ValueError("name the splits: {mteb's name: the files' name}")
        if (self.name is None) != (self.differs is None):
            raise ValueError("`name` and `differs` go together: what is not mteb's own set has another name")
        return self


@dataclass(frozen=True, slots=True)
class Absent:
    """A task, or some of its subsets, for which there is no data."""

    task: str
    hub: str
    revision: str
    subsets: tuple[str, ...]  # () = all


def _missing(absent: Sequence[Absent], data: Path, of: int) -> MissingData:
    """Names every task without data, what to download and where to put it."""
    lines = [f"{data}: no data for {len(absent)} of {of} tasks. What would bring it, where the Hub can be reached:"]
    for one in absent:
        subsets = f"  # {len(one.subsets)} subsets: {', '.join(one.subsets[:4])} ..." if one.subsets else ""
        lines.append(f"  {download(one.hub, one.revision, data)}{subsets}")
    lines.append(
        f"Or describe files that you have in {data / 'mteb.yaml'}, as mteb/mteb.yaml does; or leave out what has "
        "no data (--available)."
    )
    return MissingData("\n".join(lines))


def described(data: Path) -> dict[str, Local]:
    """Descriptions that come with tessera, and those of the data folder. Raises TaskError naming file and task."""
    return {
        task: catalogue.checked(Local, fields, f"{path}: {task}")
        for path in (Path(__file__).with_name("mteb.yaml"), data / "mteb.yaml")
        if path.is_file()
        for task, fields in catalogue.read_yaml(path).items()
    }


def localize(tasks: Sequence[Any], data: Path, *, available: bool = False) -> tuple[list[Any], list[Absent]]:
    """Makes mteb tasks read local data only, when they are evaluated; nothing is read yet but for hashes of files.

    available   go on with the tasks and subsets that have data

    Returns the tasks that have data, and what is absent. Raises MissingData naming all that is absent (unless
    `available` and some task has data).
    """
    if not data.is_dir():
        raise ValueError(f"{data}: is no folder; give one that holds the data of the tasks")
    locals_, ready, absent = described(data), [], []
    for task in tasks:
        parts = getattr(task, "tasks", None)  # an aggregate of tasks
        missing = [a for part in parts or [task] if (a := _localize(part, data, locals_)) is not None]
        absent += missing
        if not missing or (parts is None and missing[0].subsets):
            ready.append(task)
    if (absent and not available) or not ready:
        raise _missing(absent, data, len(tasks))
    return ready, absent


def _localize(task: Any, data: Path, described_: dict[str, Local]) -> Absent | None:
    """Sets up one task; what it lacks, if anything."""
    meta = task.metadata
    hub, revision = str(meta.dataset["path"]), str(meta.dataset.get("revision") or "")
    copy = data / hub
    if copy.is_dir() and any(copy.iterdir()):
        task.metadata = meta.model_copy(update={"dataset": {**meta.dataset, "path": str(copy)}})
        return None
    local, wanted = described_.get(meta.name), list(task.hf_subsets)
    have = [x for x in wanted if local is not None and all(path.is_file() for path in _files(task, local, data, x))]
    if local is None or not have:
        return Absent(meta.name, hub, revision, ())
    task.hf_subsets = have
    _attach(task, local, data)
    lacking = tuple(subset for subset in wanted if subset not in have)
    return Absent(meta.name, hub, revision, lacking) if lacking else None


def _files(task: Any, local: Local, data: Path, subset: str) -> list[Path]:
    """What is read for one subset."""
    splits = local.splits.values() or task.eval_splits
    return list(dict.fromkeys(_path(part, data, subset, split) for part in local.parts for split in splits))


def _path(part: Table, data: Path, subset: str, split: str) -> Path:
    return data / part.files.replace("{subset}", subset).replace("{split}", split)


def _attach(task: Any, local: Local, data: Path) -> None:
    """The task reads these files when mteb asks it to load its data; its results say which files they were."""
    digest = hashlib.sha256()
    for subset in task.hf_subsets:
        for path in _files(task, local, data, subset):
            digest.update(path.read_bytes())
    dataset = {**task.metadata.dataset, "revision": f"local-{digest.hexdigest()[:16]}"}
    update = {"dataset": dataset} | ({"name": local.name} if local.name else {})
    task.metadata = task.metadata.model_copy(update=update)

    def load_data(**_: Any) -> None:
        if not task.data_loaded:
            (_fill_retrieval if local.rows is None else _fill_rows)(task, local, data)
            task.data_loaded = True

    task.load_data = load_data
    task.differs = local.differs


def _fill_rows(task: Any, local: Local, data: Path) -> None:
    from datasets import Dataset, DatasetDict

    assert local.rows is not None
    sets = {subset: DatasetDict() for subset in task.hf_subsets}
    for subset, splits in sets.items():
        for split, theirs in local.splits.items():
            path = _path(local.rows, data, subset, theirs)
            splits[split] = Dataset.from_list(list(_select(path, local.rows)))
            if not len(splits[split]):
                raise ValueError(f"{path}: has no rows")
    if getattr(task, "parallel_subsets", False):
        task.dataset = _side_by_side(sets)
    else:
        task.dataset = sets if task.metadata.is_multilingual else sets["default"]
    task.dataset_transform()


def _side_by_side(sets: dict[str, Any]) -> Any:
    """Pairs of languages as one set with a column a language, as mteb has those whose sentences are all parallel."""
    from datasets import Dataset, DatasetDict

    columns: dict[str, dict[str, list[str]]] = {}
    for subset, splits in sets.items():
        for split, rows in splits.items():
            for language, name in zip(subset.split("-"), ("sentence1", "sentence2"), strict=True):
                texts = list(rows[name])
                if columns.setdefault(split, {}).setdefault(language, texts) != texts:
                    raise ValueError(f"{subset}, {split}: other sentences of {language} than in the pairs before")
    for split, by_language in columns.items():
        if len({len(texts) for texts in by_language.values()}) > 1:
            several = ", ".join(f"{language} has {len(texts)}" for language, texts in by_language.items())
            raise ValueError(f"split {split!r}: {several} sentences; all languages of this task translate one set")
    return DatasetDict({split: Dataset.from_dict(by_language) for split, by_language in columns.items()})


def _fill_retrieval(task: Any, local: Local, data: Path) -> None:
    from datasets import Dataset

    assert local.corpus is not None
    assert local.queries is not None
    columns = {**local.queries.columns, "relevant": local.queries.relevant}
    wanted = local.queries.model_copy(update={"columns": columns})
    task.dataset = {subset: {} for subset in task.hf_subsets}
    for subset, splits in task.dataset.items():
        for split in task.eval_splits:
            corpus, twins = _unique(_select(_path(local.corpus, data, subset, split), local.corpus))
            place = _path(wanted, data, subset, split)
            queries, _ = _unique(_select(place, wanted))
            relevant = {}
            for row in queries:
                document = str(row.pop("relevant"))
                if document not in twins:
                    raise ValueError(f"{place}: query {row['id']!r} asks for document {document!r}, which is not there")
                relevant[row["id"]] = {twins[document]: 1}
            splits[split] = {
                "corpus": Dataset.from_list(corpus),
                "queries": Dataset.from_list(queries),
                "relevant_docs": relevant,
                "top_ranked": None,
            }
    task.dataset_transform()


def _unique(rows: Iterator[Row]) -> tuple[list[Row], dict[str, str]]:
    """Rows with stripped texts, the first of each text; and for every id, that of the row that stands for it."""
    first: dict[str, Row] = {}
    twins = {}
    for row in rows:
        row = {**row, "id": str(row["id"]), "text": str(row["text"]).strip()}
        twins[row["id"]] = first.setdefault(row["text"], row)["id"]
    return list(first.values()), twins


def _select(path: Path, part: Table) -> Iterator[Row]:
    """Rows under mteb's names. Raises ValueError naming file and row where a column is missing or empty."""
    for number, (_, row) in enumerate(tables.rows(path), 1):
        if any(row.get(column) != value for column, value in part.where.items()):
            continue
        for ours in part.columns.values():
            if row.get(ours) is None:
                raise ValueError(f"{path}: row {number} has no {ours!r}; it has {', '.join(map(str, row))}")
        yield {name: _as_theirs(row[ours], part) for name, ours in part.columns.items()}


def _as_theirs(value: Any, part: Table) -> Any:
    """A text as mteb's set has it: without the quotes of the table it was copied from, with its ending there."""
    if not isinstance(value, str):
        return value
    if part.quoted and len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1].replace('""', '"')
    return value + part.ending


# ----------------------------------------------------------------------------------------------- is it mteb's own data?


def check_splits(task: Any) -> None:
    """Raises ValueError where the loaded data lacks a split or subset: in a copy of the Hub's repository the names of
    splits are in its README.md, without which `datasets` guesses them from the names of the files."""
    for subset in task.hf_subsets:
        rows = task.dataset.get(subset, task.dataset)
        if lacking := [split for split in task.eval_splits if split not in rows]:
            raise ValueError(
                f"{task.metadata.name}: {task.metadata.dataset['path']} has no split {lacking[0]!r} of {subset}; there "
                f"is {some(list(map(str, rows)))}. Copy the whole repository, with the README.md that names its splits"
            )


def compare_counts(task: Any) -> dict[str, Any] | None:
    """Rows and characters of the loaded data beside the statistics that come with mteb; None where it brings none.

    {"equal": how many subset and split pairs, "of": how many, "differ": {"subset/split": [ours, mteb's]}}, where each
    side is [rows, characters]. Equal counts do not prove equal text; unequal ones prove that it is another.
    """
    published = task.metadata.descriptive_stats
    if not published or task.dataset is None:
        return None
    equal, differ = 0, {}
    for split in task.eval_splits:
        for subset in task.hf_subsets:
            stats = published.get(split)
            if stats is not None and task.metadata.is_multilingual:
                stats = stats.get("hf_subset_descriptive_stats", {}).get(subset)
            if stats is None:
                continue
            characters = (stats.get("text_statistics") or {}).get("total_text_length")
            theirs = [stats["num_samples"], stats.get("number_of_characters") or characters]
            ours = _count(task.dataset, subset, split)
            if ours == theirs:
                equal += 1
            else:
                differ[f"{subset}/{split}"] = [ours, theirs]
    return {"equal": equal, "of": equal + len(differ), "differ": differ} if equal or differ else None


def _count(dataset: Any, subset: str, split: str) -> list[int]:
    found = dataset[subset][split] if subset in dataset else dataset[split]
    pair = subset.split("-")
    if subset not in dataset and len(pair) == 2 and set(pair) <= set(getattr(found, "column_names", ())):
        # a column a language, as of NTREX
        return [len(found), sum(len(text) for name in pair for text in found[name])]
    if isinstance(found, dict) and "sentence1" in found:  # lists, as of BUCC
        return [len(found["sentence1"]), sum(len(text) for name in _TEXT for text in found.get(name, ()))]
    tables = [found["corpus"], found["queries"]] if "corpus" in found else [found]
    texts = [table[name] for table in tables for name in table.column_names if name in _TEXT]
    return [sum(map(len, tables)), sum(len(text) for column in texts for text in column)]
