"""Files of predictions: JSON lines with all that was said, CSV and parquet in flat columns.

JSON lines hold the id and what `Predictor.predict` gives. Columns of CSV and parquet, after that of the id:

    classify    label, score, windows, truncated, and `score:NAME` of each label
    multilabel  labels, windows, truncated, and `score:NAME` of each label
    regress     score, windows, truncated
    rerank      score, truncated
    choose      choice, scores, truncated
    tag         entities, or tags, or both where words were given
    span        answer, start, end, score, truncated

With only the highest scores asked for, `label_2`, `score_2` and so on stand in place of `score:NAME` (of classify;
multilabel begins at `label_1`). A list is a list in parquet, and JSON in a cell of CSV, whose cells no spreadsheet
takes for formulas.
"""

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet
import zstandard

from tessera.files import csv_cells
from tessera.model.task_config import TaskConfig

Placed = tuple[Any, dict[str, Any]]  # an id, and what was said
Form = Literal[".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".parquet"]
Cell = Callable[[dict[str, Any]], Any]

_FORMS: tuple[Form, ...] = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".parquet")
_GROUP = 4_096  # rows of parquet written together
_PLACED = pa.struct(
    [("label", pa.string()), ("text", pa.string()), ("start", pa.int64()), ("end", pa.int64()), ("score", pa.float64())]
)


def kind_of(out: Path) -> Form:
    """The form that a name asks for. Raises ValueError where it asks for none."""
    for form in _FORMS:
        if out.name.endswith(form):
            return form
    raise ValueError(f"{out}: unknown kind of output; name it {', '.join(_FORMS[:-1])} or {_FORMS[-1]}")


def write(
    path: Path, form: Form, rows: Iterable[Placed], identity: pa.Field, task: TaskConfig, top: int | None = None
) -> None:
    """Writes all rows in their order; the same rows give the same bytes. `identity`: the column of ids."""
    rows = iter(rows)
    if form == ".parquet":
        _parquet(path, rows, identity, task, top)
        return
    if form == ".csv":
        with path.open("w", encoding="utf-8", newline="") as table:
            _csv(table, rows, identity.name, task, top)
        return
    with path.open("wb") as file:
        if form == ".jsonl.gz":
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                _lines(packed, rows, identity.name)
        elif form == ".jsonl.zst":
            with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as packed:
                _lines(packed, rows, identity.name)
        else:
            _lines(file, rows, identity.name)


def _lines(file: Any, rows: Iterator[Placed], identity: str) -> None:
    for key, found in rows:
        file.write(json.dumps({identity: key, **found}, ensure_ascii=False).encode() + b"\n")


def _csv(file: Any, rows: Iterator[Placed], identity: str, task: TaskConfig, top: int | None) -> None:
    first, rows = _peeked(rows)
    columns = _columns(task, first, top)
    table = csv.writer(file, lineterminator="\n")
    table.writerow(csv_cells([identity, *(name for name, _, _ in columns)]))
    for key, found in rows:
        table.writerow(csv_cells([key, *(_cell(value(found)) for _, _, value in columns)]))


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | bool) else value


def _parquet(path: Path, rows: Iterator[Placed], identity: pa.Field, task: TaskConfig, top: int | None) -> None:
    first, rows = _peeked(rows)
    columns = _columns(task, first, top)
    schema = pa.schema([identity, *((name, type_) for name, type_, _ in columns)])
    with pa.parquet.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, _GROUP)):
            cells = [[key for key, _ in some], *([value(found) for _, found in some] for _, _, value in columns)]
            arrays = [pa.array(column, field.type) for column, field in zip(cells, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _peeked(rows: Iterator[Placed]) -> tuple[dict[str, Any], Iterator[Placed]]:
    """What was said of the first row, and all rows."""
    first = next(rows)
    return first[1], chain([first], rows)


def _columns(task: TaskConfig, first: dict[str, Any], top: int | None) -> list[tuple[str, pa.DataType, Cell]]:
    """(name, type, what stands in it) of each column behind the id."""
    number, text, lists = pa.float64(), pa.string(), pa.list_(_PLACED)
    windows: list[tuple[str, pa.DataType, Cell]] = [("windows", pa.int64(), lambda found: found.get("windows", 1))]
    cut: list[tuple[str, pa.DataType, Cell]] = [("truncated", pa.bool_(), lambda found: found.get("truncated", False))]
    match task.kind:
        case "classify":
            head = [("label", text, _get("label")), ("score", number, _get("score"))]
            return [*head, *windows, *cut, *_scores(task, top, 2)]
        case "multilabel":
            return [("labels", pa.list_(text), _get("labels")), *windows, *cut, *_scores(task, top, 1)]
        case "regress":
            return [("score", number, _get("score")), *windows, *cut]
        case "rerank":
            return [("score", number, _get("score")), *cut]
        case "choose":
            return [("choice", pa.int64(), _get("choice")), ("scores", pa.list_(number), _get("scores")), *cut]
        case "tag":
            return [(name, lists, _get(name)) for name in ("entities", "tags") if name in first]
    places = [(name, pa.int64(), _get(name)) for name in ("start", "end")]
    return [("answer", text, _get("answer")), *places, ("score", number, _get("score")), *cut]


def _get(name: str) -> Cell:
    return lambda found: found[name]


def _scores(task: TaskConfig, top: int | None, begin: int) -> list[tuple[str, pa.DataType, Cell]]:
    """The probability of each label, or the highest: from the `begin`-th on."""
    if top is None:
        return [(f"score:{name}", pa.float64(), _score(name)) for name in task.labels]
    found: list[tuple[str, pa.DataType, Cell]] = []
    for place in range(begin, min(top, len(task.labels)) + 1):
        found.append((f"label_{place}", pa.string(), _nth(place - 1, 0)))
        found.append((f"score_{place}", pa.float64(), _nth(place - 1, 1)))
    return found


def _nth(place: int, side: int) -> Cell:
    return lambda found: list(found["scores"].items())[place][side]


def _score(label: str) -> Cell:
    return lambda found: found["scores"][label]
