"""Size, speed and scores of a model and of smaller ones of it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tessera.evaluation import evaluate
from tessera.inference.encoder import Encoder
from tessera.plan.evaluation import Evaluation
from tessera.plan.recipe import Machine
from tessera.progress import Watcher, silent
from tessera.results.result import read

_ROUNDS = 5
_TIMED = 64  # texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """What models are scored on, as of `tessera evaluate`."""

    tasks: tuple[str, ...] = ()
    mteb: tuple[str, ...] = ()  # by mteb's own protocol
    languages: tuple[str, ...] = ()
    data: Path | None = None  # None: the Hub


def check(tasks: Tasks) -> None:
    """Raises what would be raised when a model is scored: names that nobody knows, data that is not there."""
    if tasks.tasks:
        asked = {"tasks": tasks.tasks, "data": None if tasks.data is None else str(tasks.data)}
        evaluate.check(Evaluation.model_validate(asked), rows=True)
    if tasks.mteb:
        from tessera.mteb import data as mteb_data
        from tessera.mteb import run as mteb

        chosen = mteb.choose(tasks.mteb, None, tasks.languages or None, None)
        if tasks.data is not None:
            mteb_data.localize(chosen, tasks.data, available=False)


def scores(folder: Path, name: str, tasks: Tasks, out: Path, machine: Machine, watcher: Watcher) -> dict[str, float]:
    """Task -> its main metric in hundredths, the mean over languages; results lie in `out`, and are not made twice."""
    found = {}
    for path in _results(folder, name, tasks, out, machine, watcher):
        result = read(path)
        values = [row[result.metric] for row in result.results.values() if result.metric in row]
        if values:
            found[f"{result.task} ({result.metric})"] = 100 * sum(values) / len(values)
    return found


def _results(folder: Path, name: str, tasks: Tasks, out: Path, machine: Machine, watcher: Watcher) -> Iterator[Path]:
    report = watcher.progress(f"evaluate {name}")
    if tasks.tasks:
        yield from evaluate.evaluate(
            folder, tasks.tasks, out, data=tasks.data, languages=tasks.languages, machine=machine, name=name,
            on_progress=report,
        )  # fmt: skip
    if tasks.mteb:
        from tessera.mteb.run import run

        yield from run(
            folder, out, tasks=tasks.mteb, languages=tasks.languages or None, data=tasks.data, name=name,
            dtype=machine.dtype, on_progress=report,
        )  # fmt: skip


def speeds(folders: Mapping[str, Path], texts: Sequence[str], machine: Machine) -> dict[str, float]:
    """How many times as fast as the first each makes vectors of texts: processor seconds, medians of turns."""
    models = {
        name: Encoder.from_pretrained(folder, device=machine.device, dtype=machine.dtype)
        for name, folder in folders.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(_ROUNDS + 1):
        for name, model in models.items():
            began = time.process_time()
            model.encode(list(texts[:_TIMED]), on_truncated=silent)
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - began)
    first = median(next(iter(seconds.values())))
    return {name: first / median(several) for name, several in seconds.items()}
