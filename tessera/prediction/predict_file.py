"""Batch prediction of files (`tessera predict`): rows to labels, tags, answers or scores, resumed after interruptions.

Rows are read in parts of some thousand, whose predictions are written whole (inference/parts.py). At the end the parts
are joined, in order, in the form that the name of the output asks for (prediction_files.py).
"""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from tessera import checksums, lock
from tessera.files import LOCK, atomic_file, read_json, write_json
from tessera.inference import sentence_folder as folders
from tessera.inference.parts import PART_ROWS, Parts, Settings, different
from tessera.inference.text_files import RowReader, Take, Values, text_files
from tessera.prediction import answers
from tessera.prediction.prediction_files import kind_of, write
from tessera.prediction.predictor import Predictor
from tessera.prediction.requests import PAIR, SPAN, TEXT, example
from tessera.progress import Progress, Say, silent

_PREDICTION = "prediction"  # the column of a part with what is said of each row, as JSON
_ABOUT = ".about.json"
_THRESHOLDS = ("classify", "multilabel", "tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which columns are read; what is not named is found by the names that such columns usually have."""

    text: str | None = None  # also the query of a reranker
    second: str | None = None  # of a pair; the document of a reranker
    question: str | None = None
    context: str | None = None
    words: str | None = None  # a list, or a text with spaces between words
    options: str | None = None  # a list, or the names of columns with commas between


def predict_file(
    folder: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    roles: Roles | None = None,
    id: str | None = None,
    long: Literal["windows", "truncate"] = "windows",
    threshold: float | None = None,
    top: int | None = None,
    max_length: int | None = None,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    threads: int | None = None,
    skip_bad: bool = False,
    part_rows: int = PART_ROWS,
    on_progress: Progress = silent,
    say: Say = silent,
) -> Path:
    """Writes what the model of `folder` says of each row of `source`, in its order, and returns `out`.

    source     jsonl, json, csv, tsv, txt (also .zst, .gz, .bz2, .xz) or parquet: a file, a folder, a glob, here or at
               a URL; of txt every line is a text
    out        .jsonl (also .zst, .gz), .csv or .parquet; see prediction_files.py. What was done stands beside it, in
               NAME.about.json
    roles      which columns are read
    id         the column that is kept; None: `id` where the first row has it, else the number of the row
    long       as of `Predictor.predict`
    threshold  as of `answers.narrowed`, of classify, multilabel and tag
    top        only the so many highest scores of classify and multilabel
    skip_bad   leaves out rows that are not of the model's kind; else they are an error before anything is computed
    part_rows  rows whose predictions are lost at most when it is interrupted

    Raises ValueError for a bad row, naming file and line; for parts that were begun with other settings;
    FileExistsError where `out` is something else; and lock.AtWork where another process writes it.
    """
    out = Path(out)
    kind_of(out)
    files = text_files(str(source), id=id, verb="predict")
    with lock.hold(out.with_name(f".{out.name}{LOCK}"), str(out)):
        predictor = Predictor.from_pretrained(
            folder, device=device, dtype=dtype, max_length=max_length, threads=threads
        )
        _check(predictor, threshold, top)
        settings: Settings = {"model": folders.content_hash(folders.local(folder)), "input": [f.stamp for f in files]}
        settings |= {"id": id, "skip_bad": skip_bad, "long": long, "threshold": threshold, "top": top}
        settings |= {"max_length": predictor.reader.max_length, "part_rows": part_rows}
        settings["compute"] = str(predictor.dtype).removeprefix("torch.")
        reader = RowReader(files, id, skip_bad, dict)
        columns = _columns(predictor, roles or Roles(), reader.first, files[0])
        reader.take = _taking(predictor.kind, columns)
        settings["columns"] = [f"{role}={column}" for role, column in columns.items()]
        if _is_finished(out, settings, say):
            return out
        parts = Parts(out, settings)
        parts.check()
        say(str(predictor))
        say(f"reads {', '.join(f'{role} from {column!r}' for role, column in columns.items())}")
        say(str(reader.look(lambda done: on_progress(0, 0, f"reads {done:,} rows"))))

        def work(ids: list[Any], rows: list[Any], report: Progress) -> pa.Table:
            found = predictor.predict(rows, long=long, on_progress=report)
            said = [json.dumps(answers.narrowed(one, threshold, top), ensure_ascii=False) for one in found]
            return pa.table({reader.id_name: pa.array(ids, reader.found.id_type), _PREDICTION: said})

        begun = time.perf_counter()
        computed = parts.fill(reader, work, on_progress, say, "predicting")
        speed = computed / max(time.perf_counter() - begun, 1e-9)
        _join(parts, out, reader, predictor, top, say, f" ({speed:,.0f} rows a second)" if computed else "")
        parts.remove()
        return out


def _check(predictor: Predictor, threshold: float | None, top: int | None) -> None:
    """Raises ValueError for what the model has no use for."""
    kind = predictor.kind
    if threshold is not None and (kind not in _THRESHOLDS or not 0 <= threshold <= 1):
        raise ValueError(
            f"threshold is {threshold}; it is a probability, from 0 to 1, of {', '.join(_THRESHOLDS)}; this is {kind}"
        )
    if top is not None and (kind not in ("classify", "multilabel") or top < 1):
        raise ValueError(
            f"top is {top}; it is a number of labels, from 1 on, of classify and multilabel; this is {kind}"
        )


def _join(
    parts: Parts, out: Path, reader: RowReader, predictor: Predictor, top: int | None, say: Say, speed: str
) -> None:
    """One file out of all parts, what was done beside it, and said."""
    counts: Counter[str] = Counter()
    labels: Counter[str] = Counter()

    def rows() -> Any:
        for table in parts.tables():
            for key, said in zip(table[reader.id_name].to_pylist(), table[_PREDICTION].to_pylist(), strict=True):
                found = json.loads(said)
                counts.update(rows=1, windowed="windows" in found, truncated="truncated" in found)
                labels.update(answers.names(found))
                yield key, found

    with atomic_file(out) as draft:
        identity = pa.field(reader.id_name, reader.found.id_type)
        write(draft, kind_of(out), rows(), identity, predictor.model.task, top)
        done = {name: counts[name] for name in ("rows", "windowed", "truncated")}
        about = parts.settings | done | {"labels": dict(labels.most_common()), "sha256_of_output": _hash(draft)}
        write_json(about_of(out), about, sealed=True)  # takes its name first: it says whose the output is
    said = f"{done['rows']:,} rows{speed}"
    said += f"; {done['windowed']:,} long texts were read in windows" if done["windowed"] else ""
    said += (
        f"; {done['truncated']:,} lost their end, at {predictor.reader.max_length} tokens" if done["truncated"] else ""
    )
    say(said)
    if labels:
        shown = [f"{name} {count:,}" for name, count in labels.most_common(20)]
        say(", ".join(shown) + (f" and {len(labels) - 20} more labels" if len(labels) > 20 else ""))


def about_of(out: Path) -> Path:
    """Where it stands what an output was made of."""
    return out.with_name(out.name + _ABOUT)


def _hash(path: Path) -> str:
    return checksums.sha256(path)


def _is_finished(out: Path, settings: Settings, say: Say) -> bool:
    """Raises FileExistsError where `out` is there and is something else."""
    if not out.exists():
        return False
    about = about_of(out)
    before = read_json(about) if about.is_file() else None
    if not isinstance(before, dict) or before.get("sha256_of_output") != _hash(out):
        raise FileExistsError(f"{out}: there already, and not by this command; remove it, or choose another name")
    if named := different(before, settings):
        raise FileExistsError(f"{out}: there already, with another {named}; remove it, or choose another name")
    say(f"{out}: there already, with these settings")
    return True


# ------------------------------------------------------------------------------------------------------------- columns


def _columns(predictor: Predictor, roles: Roles, first: Values, file: Any) -> dict[str, str]:
    """{role: column} of what is read: as asked, else by the usual names, of the first row for all.

    Raises ValueError for a role that the model has no use for, and a column that is not there.
    """
    asked = {role: column for role in Roles.__slots__ if (column := getattr(roles, role)) is not None}
    kind = predictor.kind
    known = _guessed(kind, predictor.model.task.pair, first, asked)
    allowed = {"tag": ("text", "words"), "span": ("question", "context"), "choose": ("text", "options")}
    takes = allowed.get(kind, ("text", "second"))
    if wrong := next((role for role in asked if role not in takes), None):
        raise ValueError(f"--{wrong} is given, but this model is of {kind}, which reads {' and '.join(takes)}")
    columns = {role: column for role in takes if (column := asked.get(role, known.get(role))) is not None}
    needed = takes if kind in ("rerank", "span", "choose") or predictor.model.task.pair else takes[:1]
    there = ", ".join(map(str, first))[:200]
    for role in needed if "words" not in columns else ():
        if role not in columns:
            raise ValueError(f"{file}: {kind} needs {role}; name its column with --{role}. The columns are {there}")
    for role, column in columns.items():
        for name in _option_columns(column, first) if role == "options" else [column]:
            if first and name not in first:
                raise ValueError(f"{file}: has no column {name!r} for --{role}; its columns are {there}")
    return columns


def _guessed(kind: str, pair: bool, first: Values, asked: Mapping[str, str]) -> dict[str, str]:
    """Of the roles that are not asked for, by the names of the columns of the first row."""
    texts: list[dict[str, str]] = [{"text": name} for name in TEXT]
    match kind:
        case "span":
            ways = [dict(zip(("question", "context"), names, strict=True)) for names in SPAN]
        case "tag":
            ways = [] if asked else [{"words": "words"}, {"words": "tokens"}, *texts]
        case "choose":
            ways = [{"text": "text", "options": "options"}, {"text": "question", "options": "choices"}]
        case _:
            pairs = [dict(zip(("text", "second"), names, strict=True)) for names in PAIR]
            needed = pair or kind == "rerank"
            ways = [*pairs, *texts] if needed or "second" in asked or not asked else texts
    return next((way for way in ways if all(column in first for role, column in way.items() if role not in asked)), {})


def _option_columns(column: str, values: Mapping[str, Any]) -> list[str]:
    return [column] if column in values or "," not in column else [name.strip() for name in column.split(",")]


def _taking(kind: str, columns: dict[str, str]) -> Take:
    """Takes what the model reads of a row, checked."""

    def take(values: Values) -> dict[str, Any]:
        missing = [f"{name!r}" for name in columns.values() if name not in values and "," not in name]
        if missing:
            raise ValueError(f"has no column {missing[0]}; its columns are {', '.join(map(str, values))[:200]}")
        row: dict[str, Any] = {}
        for role, column in columns.items():
            if role == "options":
                names = _option_columns(column, values)
                row[role] = _listed(values[column]) if len(names) == 1 else [values.get(name) for name in names]
            else:
                row[role] = _words(values[column]) if role == "words" else values[column]
                if row[role] is None:
                    raise ValueError(f"has nothing in column {column!r}")
        example(_mendless(row), kind)
        return row

    return take


def _listed(value: Any) -> Any:
    """A list out of a cell that holds one as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _words(value: Any) -> Any:
    found = _listed(value)
    return found.split() if isinstance(found, str) else found


def _mendless(value: Any) -> Any:
    """The same for a check that takes no half characters: those are replaced when the row is read."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _mendless(one) for key, one in value.items()}
    return [_mendless(one) for one in value] if isinstance(value, list) else value
