"""Trials of any kind of task: run or found finished, chosen among, summed up in a result."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tessera import __version__
from tessera.evaluation import suite
from tessera.evaluation.trials import Json, Trial
from tessera.files import write_json
from tessera.finetune.learner import Pretrained, pretrained
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol, Task
from tessera.progress import Progress
from tessera.statistics import interval

Scores = Mapping[str, Mapping[str, float]]  # language -> metric -> value
Outcomes = Mapping[str, Mapping[str, Sequence[float]]]  # language -> metric -> one number for each test example
Found = TypeVar("Found")


@dataclass(slots=True, kw_only=True)
class Start:
    """Weights that trials begin with, read when the first one does."""

    fingerprint: str
    load: Callable[[], Pretrained]
    loaded: Pretrained | None = None

    @classmethod
    def of(cls, folder: Path, machine: Machine) -> "Start":
        return cls(fingerprint=suite.fingerprint(folder), load=lambda: pretrained(folder, machine))

    def weights(self) -> Pretrained:
        self.loaded = self.loaded or self.load()
        return self.loaded


def finished(path: Path, expected: Json) -> Json | None:
    """What a trial has written, if it is this one and whole."""
    try:
        found: Json = json.loads(path.read_text(encoding="utf-8"))
        return found if found["identity"] == expected else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def perform(
    what: str,
    tried: Sequence[Trial],
    start: Start,
    place: Callable[[Trial], tuple[Path, Json]],
    run: Callable[[Trial, Pretrained, Progress], Json],
    report: Progress,
) -> list[Json]:
    """The outcome of each trial; what is not finished is run and written.

    what   task and group, for whoever waits
    place  the file of a trial, and all that its outcome depends on
    run    what comes out of it; a training that diverges comes out as `failed`
    """
    outcomes = []
    for number, trial in enumerate(tried):
        path, expected = place(trial)
        outcome = finished(path, expected)
        if outcome is None:
            weights, began = start.weights(), time.perf_counter()
            doing = f"{what}: trial {number + 1} of {len(tried)}, rate {trial.rate:g}, seed {trial.seed}"
            ran = run(trial, weights, _telling(report, doing))
            seconds = round(time.perf_counter() - began, 2)
            how = {"seconds": seconds, "device": str(next(weights.encoder.parameters()).device)}
            whole = {"identity": expected, **ran, **how, "tessera": __version__}
            write_json(path, whole)
            outcome = json.loads(json.dumps(whole))  # as whoever reads the file finds it
        outcomes.append(outcome)
    return outcomes


def _telling(report: Progress, what: str) -> Progress:
    return lambda done, total, doing: report(done, total, f"{what}: {doing}")


def choose(
    task: Task, group: str, tried: Sequence[Trial], outcomes: Sequence[Json], values: Sequence[float] | None
) -> Json:
    """The settings whose mean over seeds is best; the first of equally good ones.

    values  of each trial, what it is chosen by; None: there is no validation set

    Raises ValueError where no settings went well with all seeds, or where there is a choice and nothing to choose by.
    """
    choices: dict[str, list[int]] = {}  # numbers of the trials that differ in the seed alone
    for number, trial in enumerate(tried):
        choices.setdefault(json.dumps(trial.choice), []).append(number)
    whole = [numbers for numbers in choices.values() if not any(outcomes[n]["failed"] for n in numbers)]
    if not whole:
        raise ValueError(nothing_to_choose(task, group, outcomes))
    if len(choices) == 1:
        return tried[0].choice
    if values is None:
        raise ValueError(
            f"task {task.name}: {len(choices)} settings are tried, but there is no validation set to choose on; "
            "give the task one (splits: {validation: {from: train, share: 0.1}}), or try a single rate"
        )
    best = max(whole, key=lambda numbers: statistics.fmean(values[n] for n in numbers))
    return tried[best[0]].choice


def nothing_to_choose(task: Task, group: str, outcomes: Sequence[Json]) -> str:
    failed = next((outcome["failed"] for outcome in outcomes if outcome["failed"]), "none was scored on validation")
    return f"task {task.name}, {group}: of no settings did all seeds go well ({failed}); try lower rates"


def on_test(task: Task, scores: Sequence[Scores]) -> list[float]:
    """What an oracle chooses each trial by: the metric of the task over languages, 0 where the training failed."""
    return [statistics.fmean([row[task.metric] for row in one.values()] or [0.0]) for one in scores]


def by_seed(
    tried: Sequence[Trial], chosen: Mapping[str, Json], found: Mapping[str, Sequence[Mapping[str, Found]]]
) -> list[dict[str, Found]]:
    """Of each seed what was found with the chosen settings, by language.

    found  group -> of each trial, what was found in the languages of the group
    """
    seeds: dict[int, dict[str, Found]] = {}
    for group, several in found.items():
        for trial, one in zip(tried, several, strict=True):
            if trial.choice == chosen[group]:
                seeds.setdefault(trial.seed, {}).update(one)
    return list(seeds.values())


def summary(seeds: Sequence[Scores]) -> Json:
    """Means over seeds, by language and on average, and half the 95% interval of the averages."""
    languages, names = list(seeds[0]), list(next(iter(seeds[0].values())))
    averages = {m: [statistics.fmean(seed[x][m] for x in languages) for seed in seeds] for m in names}
    return {
        "results": {x: {m: statistics.fmean(seed[x][m] for seed in seeds) for m in names} for x in languages},
        "average": {m: statistics.fmean(values) for m, values in averages.items()},
        "interval": {m: interval(v)[1] if len(v) > 1 else None for m, v in averages.items()},
    }


def outcomes(seeds: Sequence[Outcomes], languages: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """{metric: {language: of each test example the mean over seeds}}, of the metrics that all of them have."""
    rows = [seed.get(language, {}) for seed in seeds for language in languages]
    shared = [metric for metric in rows[0] if all(metric in row for row in rows)]
    return {m: {x: _means([seed[x][m] for seed in seeds]) for x in languages} for m in shared}


def _means(seeds: Sequence[Sequence[float]]) -> list[float]:
    return [round(statistics.fmean(values), 6) for values in zip(*seeds, strict=True)]


def told(group: str, how: Json, outcome: Json, scores: Scores) -> Json:
    """What the result says of a trial."""
    said = ("validation", "validation_by_language", "failed", "steps", "tokens", "loss", "best", "seconds")
    return {"trained_on": group, **how, **{key: outcome[key] for key in said if key in outcome}, "test": scores}


def write(out: Path, model: str, task: Task, protocol: Protocol, began: float, parts: Json) -> Path:
    """The file of a result: what all of them have, and its parts."""
    oracle = protocol.select == "oracle" and task.trained
    whole = {
        "model": model,
        "task": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "protocol": protocol.model_dump(mode="json", by_alias=True),
        "oracle": oracle,
        "seeds": list(protocol.seeds) if task.trained else [],
        **parts,
        "seconds": round(sum(trial["seconds"] for trial in parts["trials"]), 2),
        "seconds_now": round(time.perf_counter() - began, 2),
        "tessera": __version__,
    }
    path = out / f"{model}.{task.name}.{protocol.name}{'.oracle' if oracle else ''}.json"
    write_json(path, whole)
    return path
