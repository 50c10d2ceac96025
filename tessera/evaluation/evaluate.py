"""Evaluation of one model on tasks: the only entrance, whoever asks and whatever the kind of a task needs.

    evaluate(folder, ["tatoeba", "xnli"], out, data=Path("data"))     by name, as `tessera evaluate --task`
    evaluate_recipe(folder, recipe.evaluation, out, ...)              as `tessera run`, `--recipe` and `tessera ablate`

Of each task one Result is written (results/result.py); what is finished is not run again.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from tessera import lock
from tessera.data.shard_writer import INDEX
from tessera.data.shards import Shards, verify
from tessera.evaluation import catalogue, frozen, load, sweep
from tessera.files import LOCK, digest, fingerprint, model_name, remove_leftovers
from tessera.huggingface import hub
from tessera.huggingface.hf_files import find_model
from tessera.json_files import read_json
from tessera.model.precision import compute_dtype, find_device
from tessera.plan.evaluation import Evaluation
from tessera.plan.languages import spelled
from tessera.plan.recipe import Machine
from tessera.plan.task import Data, Protocol, Task
from tessera.prediction import metrics
from tessera.progress import Progress, silent
from tessera.results.result import HELD_OUT, TESSERA, Result, finished, identity_of, write
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.train.held_out import CONTEXT, bits_per_byte

_MMBERT_VOCABULARY = 200_000  # tokens, at least: its model_type is ModernBERT's


def evaluate(
    model_folder: str | Path,
    tasks: Iterable[str | Task],
    out: str | Path,
    *,
    protocol: str = "quick",
    data: str | Path | None = None,
    languages: Sequence[str] = (),
    oracle: bool = False,
    pooling: Literal["mean", "cls"] | None = None,
    machine: Machine | None = None,
    name: str | None = None,
    keep: bool = False,
    on_progress: Progress | None = None,
) -> Iterator[Path]:
    """The file of each task's result, as soon as it is there; finished trials and results are not made again.

    tasks      names, groups of tasks, files of your own (see catalogue.choose), and tasks written out
    protocol   of tasks that train the encoder, by name, or of a file; see catalogue.protocol
    data       folder of local data; None: the Hub, of tasks written out their paths as they stand
    languages  only these of each task, as its data calls them or as results do, to test on and where it trains on all
               to train on; their results lie in a folder of `out` that is called after them
    oracle     choose the rate on the test set: results are marked, and are no results
    pooling    of tasks that train no encoder; None: as the model's folder says
    machine    where it runs; changes speed, not results (bfloat16 moves the last digits)
    name       of the model in the results; None: that of its folder
    keep       the chosen model of each task is written as a folder too, where kept.place says; it is trained once more

    Raises, before anything is run: TaskError for names that nobody knows, DataError for languages that a task does not
    have and for rows of any of the tasks that cannot be used, ImportError where a metric's library is missing,
    ValueError where there is a choice but nothing to choose by, or nothing is trained to keep. Raises lock.AtWork
    where another process measures this model on a task.
    """
    folder, machine = find_model(model_folder), machine or Machine()
    report, model = on_progress or silent, name or model_name(folder)
    chosen = [
        (_only(task, languages, place := _place(task, data)), how, place)
        for task, how in _with_protocols(tasks, protocol, family_of(folder))
    ]
    for task, *_ in chosen:
        _check(task, keep)
    for number, one in enumerate(chosen[1:], 1):  # those of the first are read before it is trained anyway
        report(number, len(chosen), f"looks through the rows of {one[0].name}")
        _read_all(*one)
    embedder: frozen.Embedder | None = None
    for number, (task, how, place) in enumerate(chosen):
        report(number, len(chosen), f"reads {task.name}")
        here = Path(out, *_folder(task.languages if languages and task.languages else languages))
        mine = f".{model}.{task.name}"
        with lock.hold(here / f"{mine}{LOCK}", f"{model} on {task.name} in {here}"):
            remove_leftovers(here, mine)
            if task.kind == HELD_OUT:
                written = _held_out(folder, task, here, model, machine, report)
            elif task.kind in frozen.KINDS:
                embedder = embedder or frozen.Embedder.of(folder, machine, report, pooling)
                written = frozen.run(task, place, here, model, embedder)
            else:
                how = how.model_copy(update={"select": "oracle"}) if oracle else how
                written = sweep.run(folder, task, how, place, here, machine, on_progress, name=model, keep=keep)
        yield written


def _check(task: Task, keep: bool) -> None:
    """Raises ValueError for a metric that its labels or libraries do not allow, and where nothing is there to keep."""
    for metric in (task.metric, *task.also):
        metrics.check(metric, task.labels or ())
    if keep and not (task.trained and task.kind not in (HELD_OUT, *frozen.KINDS)):
        raise ValueError(f"task {task.name} (kind {task.kind}) trains no model, so there is none to keep")


def evaluate_recipe(
    model_folder: str | Path,
    evaluation: Evaluation,
    out: str | Path,
    *,
    name: str | None = None,
    held_out: str | Path | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    machine: Machine | None = None,
    on_progress: Progress | None = None,
) -> Iterator[Path]:
    """The files of the results of a recipe's evaluation, held-out text first.

    held_out    token store; None: held-out text is not measured
    max_tokens  of held-out text for each language; None: all
    seed        of the hidden tokens

    The rest is as of `evaluate`.
    """
    tasks: list[str | Task] = list(evaluation.tasks)
    if held_out is not None:
        tasks.insert(0, held_out_task(held_out, evaluation.mask_ratio, max_tokens, seed))
    return evaluate(
        model_folder, tasks, out, protocol=evaluation.protocol, data=evaluation.data, pooling=evaluation.pooling,
        machine=machine, name=name, on_progress=on_progress,
    )  # fmt: skip


def check(evaluation: Evaluation, *, rows: bool = False) -> None:
    """Raises TaskError for tasks or a protocol that nobody knows, ImportError where the library of a metric is missing.

    rows  also DataError for what cannot be read: all rows of tasks that train no encoder; of the others on this machine
          that there are files, and some examples of one language
    """
    for task, _ in _with_protocols(evaluation.tasks, evaluation.protocol, None):
        metrics.check(task.metric)
        place = _place(task, evaluation.data)
        if rows and task.kind in frozen.KINDS:
            frozen.read(task, place)
        elif rows and place is not None and task.kind not in ("retrieve", HELD_OUT):
            first = next(iter(load.languages(task, place)), None)
            load.load(task, "test", first if task.data.by_language else None, place, limit=1)


def held_out_task(shards: str | Path, mask_ratio: float = 0.15, max_tokens: int | None = None, seed: int = 0) -> Task:
    """Held-out text as a task: bits per byte of hidden tokens."""
    return Task(name=HELD_OUT, kind=HELD_OUT, data=Data(path=str(shards)), metric="bits_per_byte", also=("loss",),
                train="none", mask_ratio=mask_ratio, max_tokens=max_tokens, seed=seed)  # fmt: skip


def family_of(folder: Path) -> str | None:
    """What protocols call the family of a model folder: its model_type, or mmbert."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    return "mmbert" if kind == "modernbert" and config.get("vocab_size", 0) >= _MMBERT_VOCABULARY else kind


# ---------------------------------------------------------------------------------------------------- what is asked for


def _with_protocols(tasks: Iterable[str | Task], protocol: str, family: str | None) -> list[tuple[Task, Protocol]]:
    return [(task, catalogue.protocol(protocol, task, family)) for task in catalogue.choose(tasks)]


def _read_all(task: Task, protocol: Protocol, folder: Path | None) -> None:
    """Raises what would be raised when the task is run, for its rows."""
    if task.kind in frozen.KINDS:
        frozen.read(task, folder)
    elif task.kind != HELD_OUT:
        sweep.read(task, protocol, folder)


def _place(task: Task, data: str | Path | None) -> Path | None:
    """Below what the rows of a task lie; None: on the Hub."""
    if data is not None:
        return Path(data)
    written_out = not task.group  # in a recipe, where paths begin where it is run
    return Path() if written_out and task.data.path is not None else None


def _only(task: Task, languages: Sequence[str], folder: Path | None) -> Task:
    """The task in some of its languages."""
    if not languages or task.kind == HELD_OUT:
        return task
    return task.model_copy(update={"languages": load.meant(task, languages, folder)})


def _folder(languages: Sequence[str]) -> list[str]:
    """Where results of some languages lie, so that they do not take the place of those of all.

    In one spelling and one order: `ro` and `ron_Latn` are one folder, whatever the data calls them.
    """
    some = sorted({spelled(language) for language in languages})
    if len(some) < 4:
        return ["+".join(some)] if some else []
    return [f"{len(some)}-languages-{digest(some)[:6]}"]


# -------------------------------------------------------------------------------------------------------- held-out text


def _held_out(folder: Path, task: Task, out: Path, model: str, machine: Machine, report: Progress) -> Path:
    """Bits per byte, with the same hidden tokens for every model."""
    began = time.perf_counter()
    shards, index = Path(str(task.data.path)), Path(str(task.data.path), INDEX)
    if not index.is_file():
        raise ValueError(f"{shards}: no token store here ({INDEX} is missing); prepare the corpus first")
    how = {"mask_ratio": task.mask_ratio, "replacement": "mask", "context": CONTEXT}
    protocol = {**how, "max_tokens": task.max_tokens, "seed": task.seed}
    data = hashlib.sha256(index.read_bytes()).hexdigest()[:16]
    identity = identity_of(fingerprint(folder), protocol, data)
    path = out / f"{model}.{task.name}.json"
    if finished(path, identity):
        return path
    verify(shards)
    if not Shards.open(shards).documents:
        raise ValueError(f"{shards}: holds no text to measure on; see `corpus.held_out` of the recipe that made it")
    loaded = hub.load_any(folder, attention=machine.attention).to(find_device(machine.device))
    dtype = compute_dtype(machine.dtype, next(loaded.parameters()).device)
    measured = bits_per_byte(
        loaded,
        Shards.open(shards),
        Tokenizer.load(folder),
        mask_ratio=task.mask_ratio,
        max_tokens=task.max_tokens,
        seed=task.seed,
        dtype=dtype,
        batch_tokens=machine.tokens_at_once,
        on_progress=report,
    )
    result = Result(
        model=model,
        task=task.name,
        kind=HELD_OUT,
        defined=TESSERA,
        dtype=str(dtype).removeprefix("torch."),
        metric=task.metric,
        protocol=protocol,
        **identity,
        seeds=(task.seed,),
        results={code: {m: row[m] for m in ("bits_per_byte", "loss")} for code, row in measured.items()},
        examples={code: int(row["tokens"]) for code, row in measured.items()},
        seconds=round(time.perf_counter() - began, 2),
    )
    return write(path, result)
