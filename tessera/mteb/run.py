"""mteb's own tasks and protocol on a model folder, read by our encoder; on local data too.

    from tessera.mteb.run import Model
    mteb.evaluate(Model("runs/demo/merged/final"), mteb.get_tasks(["STSBenchmark"]))

`run` does that for tasks or a whole benchmark and writes, for each task,

    <out>/mteb/results/<model>/<fingerprint>/<task>.json   mteb's own result file
    <out>/<model>.<task>.json                              ours, which `tessera compare` reads

Whatever is measured is computed by mteb; nothing here knows how a task is scored.
"""

import contextlib
import io
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tessera import lock
from tessera.evaluation.about import dtype_of
from tessera.evaluation.rows import download
from tessera.files import LOCK, digest, fingerprint, model_name
from tessera.huggingface.hf_files import find_model
from tessera.inference import sentence_folder
from tessera.mteb.data import Absent, check_splits, compare_counts, localize
from tessera.mteb.model import Model, library
from tessera.mteb.results import by_language, catch_predictions, half_widths, outcomes
from tessera.plan.errors import did_you_mean
from tessera.plan.languages import resolve
from tessera.progress import Progress
from tessera.results.result import MTEB, Result, finished, hash_of, read, write


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
    languages          codes as de, deu, deu-Latn or deu_Latn; None: all of each task
    splits             of each task; None: those that mteb evaluates it on
    data               a folder with the data (see mteb_data.py): nothing is asked of the Hub. None: the Hub
    available          run what has data; what has none is named in the results
    name               of the model in the names of the files; default: that of its folder
    how                pooling, max_length, dtype, device: as for Model; a task that was finished in float32 stays so
                       where no dtype is asked for

    For a whole benchmark a last file holds its averages. Raises ValueError for names that mteb does not know,
    MissingData where data lacks some, lock.AtWork where another process measures this model on this task.
    """
    with _quiet():
        mteb, out, folder = library(), Path(out), find_model(model_folder)
        chosen = choose(tasks, benchmark, languages, splits)
        ready, absent = localize(chosen, Path(data), available=available) if data is not None else (chosen, [])
        name = name or model_name(folder)
        pipeline, inside = sentence_folder.read(folder)
        weights = fingerprint(inside)
        dtypes = _dtypes(inside, how.get("dtype"), how.get("device"))
        model: Model | None = None
        files = []
        for number, task in enumerate(ready):
            if on_progress is not None:
                on_progress(number, len(ready), task.metadata.name)
            lacking = [a for a in absent if a.task == task.metadata.name]
            ways = [_protocol(task, lacking, {**how, "dtype": one}, pipeline.fingerprint()) for one in dtypes]
            path = out / f"{name}.{task.metadata.name}.json"
            files.append(path)
            said = f"{name} on {task.metadata.name} in {out}"
            with lock.hold(out / f".{name}.{task.metadata.name}{LOCK}", said):
                if not any(finished(path, {"fingerprint": weights, "protocol_hash": hash_of(way)}) for way in ways):
                    model = model or Model(folder, name=name, on_progress=on_progress, **{**how, "dtype": dtypes[0]})
                    head = {"model": name, "protocol": ways[0], "fingerprint": weights, "dtype": dtypes[0]}
                    _run_one(mteb, task, model, path, head)
        if benchmark is not None and not (absent or languages or splits or tasks):
            files.append(_whole_benchmark(benchmark, name, files))
        return files


def choose(
    tasks: Sequence[str], benchmark: str | None, languages: Sequence[str] | None, splits: Sequence[str] | None
) -> list[Any]:
    """mteb's task objects. Raises ValueError with a hint for names it does not know."""
    mteb = library()
    wanted: list[str] = []
    try:
        found = list(mteb.get_benchmark(benchmark).tasks) if benchmark is not None else []
    except KeyError:
        known = [b.name for b in mteb.get_benchmarks()]
        raise ValueError(f"mteb knows no benchmark {benchmark!r}; {did_you_mean(str(benchmark), known)}") from None
    for one in tasks:
        try:
            found.append(mteb.get_task(one))
        except KeyError:
            known = [t.metadata.name for t in mteb.get_tasks(exclude_superseded=False)]
            raise ValueError(f"mteb knows no task {one!r}; {did_you_mean(one, known)}") from None
    if not found:
        raise ValueError("no task: name a benchmark, or tasks")
    kept, known_languages = [], set[str]()
    for task in dict.fromkeys(found):
        if languages:
            there = sorted({code for codes in task.metadata.hf_subsets_to_langscripts.values() for code in codes})
            known_languages |= {language for language in languages if resolve(language, there)}
            codes = [code for language in languages for code in resolve(language, there)]
            if not codes:
                wanted.append(task.metadata.name)
                continue
            task = task.filter_languages(codes)
        for split in splits or ():
            if split not in task.metadata.eval_splits:
                allowed = ", ".join(task.metadata.eval_splits)
                raise ValueError(f"{task.metadata.name} has no split {split!r}; it has {allowed}")
        kept.append(task.filter_eval_splits(list(splits)) if splits else task)
    if not kept:
        raise ValueError(f"none of {', '.join(wanted)} has a language of {', '.join(languages or ())}")
    for language in languages or ():
        if language not in known_languages:
            names = ", ".join(task.metadata.name for task in dict.fromkeys(found))
            raise ValueError(f"{names}: no language {language!r}; write it as ron, ron_Latn or ro")
    return kept


def _run_one(mteb: Any, task: Any, model: Model, path: Path, head: dict[str, Any]) -> None:
    """Loads the data, evaluates, writes both files."""
    began = time.perf_counter()
    cache = mteb.ResultCache(path.parent / "mteb")
    try:
        task.load_data()
    except OSError as error:  # what the datasets library raises where neither cache nor Hub has the set
        command = download(task.metadata.dataset["path"], task.metadata.dataset.get("revision"), Path("DATA"))
        raise ValueError(
            f"{task.metadata.name}: its data cannot be loaded ({error}). Download it where the Hub can be reached: "
            f"{command}, and give --data DATA"
        ) from error
    check_splits(task)
    counts = compare_counts(task)
    caught = catch_predictions(task)
    with tempfile.TemporaryDirectory() as predictions:  # mteb predicts nothing without a place for it
        encode_kwargs = {"batch_size": 1024, "show_progress_bar": False}
        found = mteb.evaluate(model, task, cache=cache, encode_kwargs=encode_kwargs, prediction_folder=predictions,
                              show_progress_bar=False, co2_tracker=False)  # fmt: skip
    result = found.task_results[0]
    results, examples = by_language(task, result.scores)
    revision, differs = task.metadata.dataset.get("revision"), getattr(task, "differs", None)
    about = {"revision": revision, "counts": counts, "differs": differs}
    ours = Result(
        **head,
        task=task.metadata.name,
        kind=f"mteb {task.metadata.type}",
        defined=MTEB,
        metric=task.metadata.main_score,
        seeds=(task.seed,),
        data=digest(about),
        about_data=about,
        results=results,
        interval=half_widths(result.scores),
        examples=examples,
        outcomes=outcomes(task, caught),
        seconds=round(time.perf_counter() - began, 2),
    )
    task.unload_data()
    write(path, ours)


def _whole_benchmark(benchmark: str, name: str, files: Sequence[Path]) -> Path:
    """The averages of a benchmark as its leaderboard has them: of tasks by type, of types, and of all tasks."""
    results = [read(path) for path in files]
    by_type: dict[str, list[float]] = {}
    for one in results:
        by_type.setdefault(one.kind.removeprefix("mteb "), []).append(one.average[one.metric])
    means = {kind: statistics.fmean(values) for kind, values in by_type.items()}
    whole = Result(
        model=name,
        task=benchmark,
        kind="mteb benchmark",
        defined=MTEB,
        dtype="+".join(sorted({one.dtype for one in results if one.dtype})),
        metric="average",
        protocol={"by": results[0].protocol["by"], "tasks": {one.task: one.protocol_hash for one in results}},
        fingerprint=results[0].fingerprint,
        data=digest([one.data for one in results]),
        results={kind: {"average": mean} for kind, mean in means.items()},
        average={
            "average": statistics.fmean(means.values()),
            "mean_of_tasks": statistics.fmean(value for values in by_type.values() for value in values),
        },
        examples={kind: len(values) for kind, values in by_type.items()},
        seconds=round(sum(one.seconds for one in results), 2),
    )
    return write(files[0].with_name(f"{name}.{re.sub(r'[^A-Za-z0-9.]+', '-', benchmark).strip('-')}.json"), whole)


def _dtypes(folder: Path, asked: str | None, device: str | None) -> list[str]:
    """The number format to measure in, as `evaluate --task` takes it, then those in which a task may be finished too.

    Earlier versions took float32 where nothing was asked for, and wrote `auto` where that was.
    """
    taken = dtype_of(folder, asked or "auto", device or "auto")
    return list(dict.fromkeys([taken, *({None: ["float32", "auto"], "auto": ["auto"]}.get(asked, []))]))


def _protocol(task: Any, absent: Iterable[Absent], how: dict[str, Any], pipeline: str) -> dict[str, Any]:
    """Everything that the scores depend on beside the weights, as far as this task has it; float32 is not said."""
    mteb, meta = library(), task.metadata
    settings = ("samples_per_label", "n_experiments", "train_split", "n_clusters", "max_document_to_embed", "seed")
    return {
        "by": f"mteb {mteb.__version__}",
        "hub": meta.dataset["path"],
        "revision": meta.dataset.get("revision"),
        "splits": list(task.eval_splits),
        "subsets": digest(list(task.hf_subsets)),
        "number_of_subsets": len(task.hf_subsets),
        "without_data": sorted({subset for one in absent for subset in one.subsets}),
        "classifier": _classifier(task),
        **{name: getattr(task, name) for name in settings if hasattr(task, name)},
        **{key: value for key, value in sorted(how.items()) if key in ("pooling", "max_length")},
        **({"dtype": how["dtype"]} if how["dtype"] != "float32" else {}),
        "pipeline": pipeline,
    }


def _classifier(task: Any) -> str | None:
    """As mteb will run it, which seeds the one object that all tasks share: as it stands it may be of another task."""
    from sklearn.base import clone

    given = getattr(task, "evaluator_model", None)
    if given is None:
        return None
    own = clone(given)
    return str(own.set_params(random_state=task.seed) if "random_state" in own.get_params() else own)


@contextlib.contextmanager
def _quiet() -> Any:
    """mteb draws a bar for each side of each language pair and warns of what its own lists ask for."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
