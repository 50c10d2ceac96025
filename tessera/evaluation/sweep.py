"""A task under a protocol: every rate with every seed, the best chosen on validation, and only then the test set.

    <out>/<model>.<task>.<protocol>.json           the result; with .oracle before .json where test was chosen on
    <out>/trials/<model>.<task>/<languages>/*.json one file for each trial, whole or not there

A trial whose file was made from the same weights, rows and settings is finished and is not run again: a sweep that is
killed goes on where it stood, and one with more rates or seeds runs those alone.
"""

import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera import __version__
from tessera.evaluation import catalogue, metrics, suite, trials
from tessera.evaluation.features import Example
from tessera.evaluation.learner import Pretrained, pretrained
from tessera.evaluation.trials import Group, Json, Trial
from tessera.plan.recipe import Machine
from tessera.plan.strict import name_of
from tessera.plan.task import Protocol, Task
from tessera.plan.whole import write_json

Progress = Callable[[int, int, str], None]
Scores = dict[str, dict[str, float]]  # language -> metric -> value


@dataclasses.dataclass(slots=True, kw_only=True)
class _Start:
    """Weights that trials begin with, read when the first one does."""

    fingerprint: str
    load: Callable[[], Pretrained]
    loaded: Pretrained | None = None

    def weights(self) -> Pretrained:
        self.loaded = self.loaded or self.load()
        return self.loaded


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the files of a model lie."""

    out: Path
    model: str
    data: Path | None

    def trial(self, group: Group, trial: Trial) -> Path:
        return self.out / "trials" / f"{self.model}.{group.task.name}" / group.name / f"{trial.name}.json"

    def weights(self, group: Group) -> Path:
        return self.out / "trials" / f"{self.model}.{group.task.name}" / group.name / "best.safetensors"


def run(
    model_folder: str | Path,
    task: Task,
    protocol: Protocol,
    data_folder: str | Path | None,
    out: str | Path,
    machine: Machine | None = None,
    on_progress: Progress | None = None,
    *,
    name: str | None = None,
) -> Path:
    """Runs what is not finished and returns the file of the result.

    model_folder  a Hugging Face folder with its tokenizer, of any family
    data_folder   local data; None: the Hub
    machine       where it runs; changes speed, not results (bfloat16 moves the last digits)
    name          of the model in the result; None: that of its folder

    Raises DataError for rows that cannot be used, ValueError where there is a choice but no validation set,
    or where no training of any rate went well.
    """
    began = time.perf_counter()
    model_folder = Path(model_folder)
    model = name or name_of(model_folder)
    place = _Place(out=Path(out), model=model, data=None if data_folder is None else Path(data_folder))
    report = on_progress or (lambda done, total, what: None)
    start = _start(model_folder, task, protocol, place, machine or Machine(), report)
    groups = trials.groups(task, protocol, place.data)
    tried = trials.trials(protocol)
    found = {group.name: _all_trials(group, tried, start, place, report) for group in groups}
    chosen: dict[str, Json] = {}
    if protocol.select == "validation":
        chosen = {group.name: _choose(group, tried, found[group.name]) for group in groups}
    rows = {x: found for group in groups for x, found in trials.truth(group, protocol, place.data).items()}
    scores = {
        group.name: [_on_test(group, outcome, rows) for outcome in found[group.name]] for group in groups
    }  # from here on, labels of the test set are known
    if protocol.select == "oracle":
        chosen = {g.name: _choose_on_test(g, tried, found[g.name], scores[g.name]) for g in groups}
    whole = {
        "model": model,
        "task": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "protocol": protocol.model_dump(mode="json", by_alias=True),
        "protocol_hash": _hash(protocol.model_dump(mode="json", exclude={"name", "cite", "notes"})),
        "oracle": protocol.select == "oracle",
        "seeds": list(protocol.seeds),
        "fingerprint": suite.fingerprint(model_folder),
        "data": trials.fingerprint([[group.fingerprint for group in groups], rows]),
        **_result(groups, tried, chosen, scores, rows),
        "chosen": chosen,
        "trials": [
            _trial(group, trial, outcome, result)
            for group in groups
            for trial, outcome, result in zip(tried, found[group.name], scores[group.name], strict=True)
        ],
        "seconds": round(sum(outcome["seconds"] for outcomes in found.values() for outcome in outcomes), 2),
        "seconds_now": round(time.perf_counter() - began, 2),
        "tessera": __version__,
    }
    mark = ".oracle" if protocol.select == "oracle" else ""
    path = place.out / f"{model}.{task.name}.{protocol.name}{mark}.json"
    write_json(path, whole)
    return path


def _start(
    model_folder: Path, task: Task, protocol: Protocol, place: _Place, machine: Machine, report: Progress
) -> _Start:
    """What the trials of a task begin with: the model of a folder, or what another task has made of it."""
    if protocol.from_task in (None, task.name):
        return _Start(fingerprint=suite.fingerprint(model_folder), load=lambda: pretrained(model_folder, machine))
    other = catalogue.find(str(protocol.from_task))
    if protocol.name in catalogue.protocols():
        protocol = catalogue.protocol(protocol.name, other)
    else:
        protocol = protocol.model_copy(update={"from_task": None})
    before = _start(model_folder, other, protocol, place, machine, report)
    groups = trials.groups(other, protocol, place.data, test=False)
    if len(groups) != 1:
        raise ValueError(
            f"task {task.name} begins with a model trained on {other.name}, which trains {len(groups)} models, one for "
            "each language; say `train: all` there, or one language"
        )
    (group,) = groups
    tried = trials.trials(protocol)
    best = tried[0]
    if len(tried) > 1:
        outcomes = _all_trials(group, tried, before, place, report)
        judged = [(o["validation"], t) for t, o in zip(tried, outcomes, strict=True) if o["validation"] is not None]
        if not judged:
            raise ValueError(_nothing_to_choose(group, outcomes))
        best = max(judged, key=lambda pair: pair[0])[1]
    of = trials.identity(group, best, before.fingerprint)
    path = place.weights(group)

    def load() -> Pretrained:
        ready = trials.kept(path, of, before.weights(), group.kind)
        if ready is None:
            learner, _ = trials.fit(group, best, before.weights(), report)
            trials.keep(path, learner, of)
            ready = trials.kept(path, of, before.weights(), group.kind)
        assert ready is not None
        return ready

    return _Start(fingerprint=_hash(of), load=load)


def _all_trials(group: Group, tried: Sequence[Trial], start: _Start, place: _Place, report: Progress) -> list[Json]:
    """The outcome of each trial; what is not finished is run."""
    outcomes = []
    for number, trial in enumerate(tried):
        path = place.trial(group, trial)
        expected = trials.identity(group, trial, start.fingerprint)
        expected = json.loads(json.dumps(expected))
        outcome = trials.finished(path, expected)
        if outcome is None:
            what = f"trial {number + 1} of {len(tried)}, rate {trial.rate:g}, seed {trial.seed}"
            said = _telling(report, f"{group.task.name} {group.name}: {what}")
            outcome = trials.perform(group, trial, start.weights(), path, expected, said)
        outcomes.append(outcome)
    return outcomes


def _telling(report: Progress, what: str) -> Progress:
    return lambda done, total, doing: report(done, total, f"{what}: {doing}")


def _choose(group: Group, tried: Sequence[Trial], outcomes: Sequence[Json]) -> Json:
    """The settings whose mean over seeds is best on validation; the first of equally good ones."""
    choices = _by_choice(tried)
    if len(choices) == 1 and not any(outcome["failed"] for outcome in outcomes):
        return tried[0].choice  # nothing to choose
    if not group.validation:
        raise ValueError(
            f"task {group.task.name}: {len(choices)} settings are tried, but there is no validation set to choose on; "
            "give the task one (splits: {validation: {from: train, share: 0.1}}), or try a single rate"
        )
    means = {
        key: statistics.fmean(outcomes[n]["validation"] for n in numbers)
        for key, numbers in choices.items()
        if all(outcomes[n]["validation"] is not None for n in numbers)
    }
    if not means:
        raise ValueError(_nothing_to_choose(group, outcomes))
    return tried[choices[max(means, key=lambda key: means[key])][0]].choice


def _choose_on_test(
    group: Group,
    tried: Sequence[Trial],
    outcomes: Sequence[Json],
    scores: Sequence[Scores],
) -> Json:
    """The settings whose mean over seeds is best on the test set itself."""
    metric = group.task.metric
    means = {
        key: statistics.fmean(statistics.fmean(row[metric] for row in scores[n].values()) for n in numbers)
        for key, numbers in _by_choice(tried).items()
        if all(scores[n] for n in numbers)
    }
    if not means:
        raise ValueError(_nothing_to_choose(group, outcomes))
    return tried[_by_choice(tried)[max(means, key=lambda key: means[key])][0]].choice


def _by_choice(tried: Sequence[Trial]) -> dict[str, list[int]]:
    """Numbers of the trials that differ in the seed alone."""
    found: dict[str, list[int]] = {}
    for number, trial in enumerate(tried):
        found.setdefault(json.dumps(trial.choice), []).append(number)
    return found


def _nothing_to_choose(group: Group, outcomes: Sequence[Json]) -> str:
    failed = next((outcome["failed"] for outcome in outcomes if outcome["failed"]), "none was scored on validation")
    return f"task {group.task.name}, {group.name}: of no settings did all seeds go well ({failed}); try lower rates"


def _on_test(group: Group, outcome: Json, rows: Mapping[str, Sequence[Example]]) -> Scores:
    """The metrics of each language; nothing where the training failed."""
    return {
        language: trials.measure(group.task, group.labels, language, said, rows[language])
        for language, said in outcome["predictions"].items()
    }


def _result(
    groups: Sequence[Group],
    tried: Sequence[Trial],
    chosen: Mapping[str, Json],
    scores: Mapping[str, Sequence[Scores]],
    rows: Mapping[str, Sequence[Example]],
) -> Json:
    """Means over seeds of what was chosen, by language and on average, and half the 95% interval of the averages."""
    by_seed: dict[int, Scores] = {}
    for group in groups:
        for trial, found in zip(tried, scores[group.name], strict=True):
            if trial.choice == chosen[group.name]:
                by_seed.setdefault(trial.seed, {}).update(found)
    languages = [language for group in groups for language in group.test]
    names = list(next(iter(by_seed.values()))[languages[0]])
    averages = {
        metric: [statistics.fmean(s[one][metric] for one in languages) for s in by_seed.values()] for metric in names
    }
    return {
        "results": {
            one: {metric: statistics.fmean(s[one][metric] for s in by_seed.values()) for metric in names}
            for one in languages
        },
        "average": {metric: statistics.fmean(values) for metric, values in averages.items()},
        "interval": {
            metric: metrics.interval(values)[1] if len(values) > 1 else None for metric, values in averages.items()
        },
        "examples": {one: len(rows[one]) for one in languages},
    }


def _trial(group: Group, trial: Trial, outcome: Json, scores: Scores) -> Json:
    """What the result says of a trial."""
    said = ("validation", "validation_by_language", "failed", "steps", "tokens", "loss", "best", "seconds")
    kept = {key: outcome[key] for key in said if key in outcome}
    return {"trained_on": group.name, **trial.choice, "seed": trial.seed, **kept, "test": scores}


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
