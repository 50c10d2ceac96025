"""Batch prediction of files (`tessera predict`): rows to labels, tags, answers or scores, resumed after interruptions.

Rows are read in parts of some thousand, whose predictions are written whole (bulk/parts.py). At the end the parts
are joined, in order, in the form that the name of the output asks for (prediction_files.py).
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from tessera import checksums, lock
from tessera.bulk.parts import PART_ROWS, Parts, Settings, different
from tessera.bulk.text_files import RowReader, text_files
from tessera.files import LOCK, atomic_file, read_json, refuse_unwritable, write_json
from tessera.inference import sentence_folder as folders
from tessera.prediction import answers
from tessera.prediction.prediction_files import Placed, kind_of, write
from tessera.prediction.predictor import Predictor
from tessera.prediction.roles import Roles, columns_of, taking
from tessera.progress import Progress, Say, silent

_PREDICTION = "prediction"  # the column of a part with what is said of each row, as JSON
_ABOUT = ".about.json"
_THRESHOLDS = ("classify", "multilabel", "tag")


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
    refuse_unwritable(out)
    files = text_files(str(source), id=id, verb="predict")
    with lock.hold(out.with_name(f".{out.name}{LOCK}"), str(out)):
        predictor = Predictor.from_pretrained(
            folder, device=device, dtype=dtype, max_length=max_length, threads=threads
        )
        _check(predictor, threshold, top)
        reader = RowReader(files, id, skip_bad, dict)
        if not reader.first:
            raise ValueError(f"{source}: holds no rows")
        columns = columns_of(predictor.kind, predictor.model.task.pair, roles or Roles(), reader.first, str(files[0]))
        reader.take = taking(predictor.kind, columns)
        settings: Settings = {"model": folders.content_hash(folders.local(folder)), "input": [f.stamp for f in files]}
        settings |= {"columns": [f"{role}={column}" for role, column in columns.items()], "id": id}
        settings |= {"skip_bad": skip_bad, "long": long, "threshold": threshold, "top": top, "part_rows": part_rows}
        number = str(predictor.dtype).split(".")[-1] if predictor.tuned is None else predictor.tuned.name
        settings |= {"max_length": predictor.reader.max_length, "compute": number}
        if not _is_finished(out, settings, say):
            say(str(predictor))
            say(f"reads {', '.join(f'{role} from {column!r}' for role, column in columns.items())}")
            _predict(predictor, reader, Parts(out, settings), out, on_progress, say)
        return out


def _predict(predictor: Predictor, reader: RowReader, parts: Parts, out: Path, on_progress: Progress, say: Say) -> None:
    """Computes what is missing and joins it."""
    long, threshold, top = (parts.settings[name] for name in ("long", "threshold", "top"))
    parts.check()
    say(str(reader.look(lambda done: on_progress(0, 0, f"reads {done:,} rows"))))

    def work(ids: list[Any], rows: list[Any], report: Progress) -> pa.Table:
        found = predictor.predict(rows, long=long, on_progress=report)
        said = [json.dumps(answers.narrowed(one, threshold, top), ensure_ascii=False) for one in found]
        return pa.table({reader.id_name: pa.array(ids, reader.found.id_type), _PREDICTION: said})

    begun = time.perf_counter()
    computed = parts.fill(reader, work, on_progress, say, "predicting")
    speed = computed / max(time.perf_counter() - begun, 1e-9)
    _join(parts, out, reader, predictor, say, f" ({speed:,.0f} rows a second)" if computed else "")
    parts.remove()


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


def _join(parts: Parts, out: Path, reader: RowReader, predictor: Predictor, say: Say, speed: str) -> None:
    """One file out of all parts, what was done beside it, and said."""
    counts: Counter[str] = Counter()
    labels: Counter[str] = Counter()

    def rows() -> Iterator[Placed]:
        for table in parts.tables():
            for key, said in zip(table[reader.id_name].to_pylist(), table[_PREDICTION].to_pylist(), strict=True):
                found = json.loads(said)
                counts.update(rows=1, windowed="windows" in found, truncated="truncated" in found)
                labels.update(answers.names(found))
                yield key, found

    with atomic_file(out) as draft:
        identity = pa.field(reader.id_name, reader.found.id_type)
        write(draft, kind_of(out), rows(), identity, predictor.model.task, parts.settings["top"])
        done: dict[str, Any] = {name: counts[name] for name in ("rows", "windowed", "truncated")}
        about = (
            parts.settings | done | {"labels": dict(labels.most_common()), "sha256_of_output": checksums.sha256(draft)}
        )
        write_json(about_of(out), about, sealed=True)  # takes its name first: it says whose the output is
    windowed = f"; {done['windowed']:,} long texts were read in windows" if done["windowed"] else ""
    longest = predictor.reader.max_length
    cut = f"; {done['truncated']:,} lost their end, at {longest} tokens" if done["truncated"] else ""
    say(f"{done['rows']:,} rows{speed}{windowed}{cut}")
    if labels:
        shown = [f"{name} {count:,}" for name, count in labels.most_common(20)]
        say(", ".join(shown) + (f" and {len(labels) - 20} more labels" if len(labels) > 20 else ""))


def about_of(out: Path) -> Path:
    """Where it stands what an output was made of."""
    return out.with_name(out.name + _ABOUT)


def _is_finished(out: Path, settings: Settings, say: Say) -> bool:
    """Raises FileExistsError where `out` is there and is something else."""
    if not out.exists():
        return False
    about = about_of(out)
    before = read_json(about) if about.is_file() else None
    if not isinstance(before, dict) or before.get("sha256_of_output") != checksums.sha256(out):
        raise FileExistsError(f"{out}: there already, and not by this command; remove it, or choose another name")
    if named := different(before, settings):
        raise FileExistsError(f"{out}: there already, with another {named}; remove it, or choose another name")
    say(f"{out}: there already, with these settings")
    return True
