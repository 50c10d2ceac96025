"""mteb's own tasks and protocol on a model folder, read by our encoder; on local data too.

    from tessera.evaluation.mteb import Model
    mteb.evaluate(Model("runs/demo/merge/final"), mteb.get_tasks(["STSBenchmark"]))

`run` does that for tasks or a whole benchmark and writes, for each task,

    <out>/mteb/results/<model>/<fingerprint>/<task>.json   mteb's own result file
    <out>/<model>.<task>.json                              ours, which `tessera compare` reads

Whatever is measured is computed by mteb; nothing here knows how a task is scored.
"""

import contextlib
import hashlib
import io
import json
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tessera import __version__
from tessera.evaluation.mteb_data import Absent, compare_counts, localize
from tessera.evaluation.mteb_model import Model, library
from tessera.evaluation.mteb_results import by_language, catch_predictions, half_widths, outcomes
from tessera.files import model_name, write_json
from tessera.inference.sentence_folder import fingerprint
from tessera.plan.errors import did_you_mean
from tessera.progress import Progress

_WRITE = "mteb"  # folder of mteb's own files


def run(
    model_folder: str | Path,
    out: str | Path,
    *,
    tasks: Sequence[str] = (),
    benchmark: str | None = None,
    languages: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    data: str | Path | None = None,
    available: bool = False,
    name: str | None = None,
    on_progress: Progress | None = None,
    **how: Any,
) -> list[Path]:
    """Runs what is not finished of mteb's tasks; returns our result files in the order of the tasks.

    tasks, benchmark   names as mteb knows them; tasks of both are run
    languages          codes as deu, deu-Latn or deu_Latn; None: all of each task
    splits             of each task; None: those that mteb evaluates it on
    data               a folder with the data (see mteb_data.py): nothing is asked of the Hub. None: the Hub
    available          run what has data; what has none is named in the results
    name               of the model in the names of the files; default: that of its folder
    how                pooling, max_length, dtype, device: as for Model

    For a whole benchmark a last file holds its averages. Raises ValueError for names that mteb does not know,
    MissingData where data lacks some.
    """
    with _quiet():
        mteb, out, folder = library(), Path(out), Path(model_folder)
        chosen = choose(tasks, benchmark, languages, splits)
        ready, absent = localize(chosen, Path(data), available=available) if data is not None else (chosen, [])
        name = name or model_name(folder)
        model: Model | None = None
        files = []
        for number, task in enumerate(ready):
            if on_progress is not None:
                on_progress(number, len(ready), task.metadata.name)
            lacking = [a for a in absent if a.task == task.metadata.name]
            identity = {"protocol": _protocol(task, lacking, how), "fingerprint": fingerprint(folder)}
            path = out / f"{name}.{task.metadata.name}.json"
            files.append(path)
            if not _finished(path, identity):
                model = model or Model(folder, name=name, on_progress=on_progress, **how)
                _run_one(mteb, task, model, path, {"model": name, **_head(task), **identity})
        if benchmark is not None and not (absent or languages or splits or tasks):
            files.append(_whole_benchmark(benchmark, name, files))
        return files


def choose(
    tasks: Sequence[str], benchmark: str | None, languages: Sequence[str] | None, splits: Sequence[str] | None
) -> list[Any]:
    """mteb's task objects. Raises ValueError with a hint for names it does not know."""
    mteb = library()
    wanted: list[str] = []
    found: list[Any] = []
    if benchmark is not None:
        try:
            found = list(mteb.get_benchmark(benchmark).tasks)
        except KeyError:
            known = [b.name for b in mteb.get_benchmarks()]
            raise ValueError(f"mteb knows no benchmark {benchmark!r}; {did_you_mean(benchmark, known)}") from None
    for one in tasks:
        try:
            found.append(mteb.get_task(one))
        except KeyError:
            known = [t.metadata.name for t in mteb.get_tasks(exclude_superseded=False)]
            raise ValueError(f"mteb knows no task {one!r}; {did_you_mean(one, known)}") from None
    if not found:
        raise ValueError("no task: name a benchmark, or tasks")
    codes = [code.replace("_", "-") for code in languages or ()]
    kept = []
    for task in dict.fromkeys(found):
        if codes:
            try:
                task = task.filter_languages(codes)
            except ValueError:
                wanted.append(task.metadata.name)
                continue
        for split in splits or ():
            if split not in task.metadata.eval_splits:
                allowed = ", ".join(task.metadata.eval_splits)
                raise ValueError(f"{task.metadata.name} has no split {split!r}; it has {allowed}")
        kept.append(task.filter_eval_splits(list(splits)) if splits else task)
    if not kept:
        raise ValueError(f"none of {', '.join(wanted)} has a language of {', '.join(languages or ())}")
    return kept


def _run_one(mteb: Any, task: Any, model: Model, path: Path, head: dict[str, Any]) -> None:
    """Loads the data, evaluates, writes both files."""
    began = time.perf_counter()
    cache = mteb.ResultCache(path.parent / _WRITE)
    try:
        task.load_data()
    except OSError as error:  # what the datasets library raises where neither cache nor Hub has the set
        place = task.metadata.dataset
        raise ValueError(
            f"{task.metadata.name}: its data cannot be loaded ({error}). Download it where the Hub can be reached: hf "
            f"download {place['path']} --repo-type dataset --revision {place.get('revision')} --local-dir "
            f"DATA/{place['path']}, and give --data DATA"
        ) from error
    counts = compare_counts(task)
    caught = catch_predictions(task)
    with tempfile.TemporaryDirectory() as predictions:  # mteb predicts nothing without a place for it
        encode_kwargs = {"batch_size": 1024, "show_progress_bar": False}
        found = mteb.evaluate(
            model,
            task,
            cache=cache,
            encode_kwargs=encode_kwargs,
            prediction_folder=predictions,
            show_progress_bar=False,
            co2_tracker=False,
        )
    result = found.task_results[0]
    results, examples = by_language(task, result.scores)
    metrics = {metric for row in results.values() for metric in row}
    columns = {metric: [row[metric] for row in results.values() if metric in row] for metric in sorted(metrics)}
    whole = {
        **head,
        "seeds": [task.seed],
        "data": {
            "revision": task.metadata.dataset.get("revision"),
            "counts": counts,
            "differs": getattr(task, "differs", None),
        },
        "results": results,
        "average": {metric: statistics.fmean(values) for metric, values in columns.items()},
        "spread": {metric: statistics.pstdev(values) for metric, values in columns.items()},
        "interval": half_widths(result.scores),
        "examples": examples,
        "outcomes": outcomes(task, caught),
        "trials": [],
        "oracle": False,
        "seconds": round(time.perf_counter() - began, 2),
        "tessera": __version__,
    }
    task.unload_data()
    write_json(path, whole)


def _whole_benchmark(benchmark: str, name: str, files: Sequence[Path]) -> Path:
    """The averages of a benchmark as its leaderboard has them: of tasks by type, of types, and of all tasks."""
    by_type: dict[str, list[float]] = {}
    for path in files:
        found = json.loads(path.read_text(encoding="utf-8"))
        by_type.setdefault(found["kind"].removeprefix("mteb "), []).append(found["average"][found["metric"]])
    means = {kind: statistics.fmean(values) for kind, values in by_type.items()}
    whole = {
        "model": name,
        "task": benchmark,
        "kind": "mteb benchmark",
        "metric": "average",
        "results": {kind: {"average": mean} for kind, mean in means.items()},
        "average": {
            "average": statistics.fmean(means.values()),
            "mean_of_tasks": statistics.fmean(value for values in by_type.values() for value in values),
        },
        "examples": {kind: len(values) for kind, values in by_type.items()},
        "tessera": __version__,
    }
    path = files[0].with_name(f"{name}.{re.sub(r'[^A-Za-z0-9.]+', '-', benchmark).strip('-')}.json")
    write_json(path, whole)
    return path


def _head(task: Any) -> dict[str, Any]:
    meta = task.metadata
    return {"task": meta.name, "kind": f"mteb {meta.type}", "metric": meta.main_score}


def _protocol(task: Any, absent: Iterable[Absent], how: dict[str, Any]) -> dict[str, Any]:
    """Everything that the scores depend on beside the weights, as far as this task has it."""
    mteb, meta = library(), task.metadata
    settings = ("samples_per_label", "n_experiments", "train_split", "n_clusters", "max_document_to_embed", "seed")
    return {
        "by": f"mteb {mteb.__version__}",
        "hub": meta.dataset["path"],
        "revision": meta.dataset.get("revision"),
        "splits": list(task.eval_splits),
        "subsets": hashlib.sha256(json.dumps(list(task.hf_subsets)).encode()).hexdigest()[:16],
        "number_of_subsets": len(task.hf_subsets),
        "without_data": sorted({subset for one in absent for subset in one.subsets}),
        "classifier": _classifier(task),
        **{name: getattr(task, name) for name in settings if hasattr(task, name)},
        **{key: value for key, value in sorted(how.items()) if key in ("pooling", "max_length", "dtype")},
    }


def _classifier(task: Any) -> str | None:
    """As mteb will run it, which seeds the one object that all tasks share: as it stands it may be of another task."""
    from sklearn.base import clone

    given = getattr(task, "evaluator_model", None)
    if given is None:
        return None
    own = clone(given)
    return str(own.set_params(random_state=task.seed) if "random_state" in own.get_params() else own)


def _finished(path: Path, identity: dict[str, Any]) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return all(found[key] == value for key, value in identity.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def _quiet() -> Any:
    """mteb draws a bar for each side of each language pair and warns of what its own lists ask for."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
