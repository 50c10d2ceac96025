"""A task under a protocol: every rate with every seed, the best chosen on validation, and only then the test set.

    <out>/<model>.<task>.<protocol>.json           the result; with .oracle before .json where test was chosen on
    <out>/trials/<model>.<task>/<languages>/*.json one file for each trial, whole or not there

A trial whose file was made from the same weights, rows and settings is finished and is not run again: a sweep that is
killed goes on where it stood, and one with more rates or seeds runs those alone.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tessera.evaluation import catalogue, selection, suite, trials
from tessera.evaluation.selection import Scores, Start
from tessera.evaluation.trials import Group, Json, Trial
from tessera.files import model_name
from tessera.finetune.features import Answer, Example
from tessera.finetune.learner import Pretrained
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol, Task
from tessera.progress import Progress, silent


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
    model = name or model_name(model_folder)
    place = _Place(out=Path(out), model=model, data=None if data_folder is None else Path(data_folder))
    report = on_progress or silent
    start = _start(model_folder, task, protocol, place, machine or Machine(), report)
    groups = trials.groups(task, protocol, place.data)
    tried = trials.trials(protocol)
    found = {group.name: _all_trials(group, tried, start, place, report) for group in groups}
    chosen = _choose(groups, tried, found) if protocol.select == "validation" else {}
    rows = {x: found for group in groups for x, found in trials.truth(group, protocol, place.data).items()}
    scores = {
        group.name: [_on_test(group, outcome, rows) for outcome in found[group.name]] for group in groups
    }  # from here on, labels of the test set are known
    if protocol.select == "oracle":
        chosen = _choose(groups, tried, found, scores)
    predictions = {name: [outcome["predictions"] for outcome in outcomes] for name, outcomes in found.items()}
    parts = {
        "protocol_hash": trials.digest(protocol.model_dump(mode="json", exclude={"name", "cite", "notes"})),
        "fingerprint": suite.fingerprint(model_folder),
        "data": trials.fingerprint([[group.fingerprint for group in groups], rows]),
        **selection.summary(selection.by_seed(tried, chosen, scores)),
        "examples": {one: len(several) for one, several in rows.items()},
        "chosen": chosen,
        "trials": [
            selection.told(name, trial.how, outcome, result)
            for name, outcomes in found.items()
            for trial, outcome, result in zip(tried, outcomes, scores[name], strict=True)
        ],
        "outcomes": _outcomes(task, selection.by_seed(tried, chosen, predictions), rows),
    }
    return selection.write(place.out, model, task, protocol, began, parts)


def _start(
    model_folder: Path, task: Task, protocol: Protocol, place: _Place, machine: Machine, report: Progress
) -> Start:
    """What the trials of a task begin with: the model of a folder, or what another task has made of it."""
    if protocol.from_task in (None, task.name):
        return Start.of(model_folder, machine)
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
            raise ValueError(selection.nothing_to_choose(other, group.name, outcomes))
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

    return Start(fingerprint=trials.digest(of), load=load)


def _all_trials(group: Group, tried: Sequence[Trial], start: Start, place: _Place, report: Progress) -> list[Json]:
    """The outcome of each trial; what is not finished is run."""

    def file(trial: Trial) -> tuple[Path, Json]:
        return place.trial(group, trial), trials.identity(group, trial, start.fingerprint)

    def perform(trial: Trial, weights: Pretrained, said: Progress) -> Json:
        return trials.perform(group, trial, weights, said)

    return selection.perform(f"{group.task.name} {group.name}", tried, start, file, perform, report)


def _choose(
    groups: Sequence[Group],
    tried: Sequence[Trial],
    found: Mapping[str, Sequence[Json]],
    scores: Mapping[str, Sequence[Scores]] | None = None,
) -> dict[str, Json]:
    """The settings of each group, by validation; with scores of the test set by those."""
    chosen = {}
    for group in groups:
        values = [outcome["validation"] for outcome in found[group.name]] if group.validation else None
        if scores is not None:
            values = selection.on_test(group.task, scores[group.name])
        chosen[group.name] = selection.choose(group.task, group.name, tried, found[group.name], values)
    return chosen


def _on_test(group: Group, outcome: Json, rows: Mapping[str, Sequence[Example]]) -> Scores:
    """The metrics of each language; nothing where the training failed."""
    return {
        language: trials.measure(group.task, group.labels, language, said, rows[language])
        for language, said in outcome["predictions"].items()
    }


def _outcomes(
    task: Task, seeds: Sequence[Mapping[str, Sequence[Answer]]], rows: Mapping[str, Sequence[Example]]
) -> dict[str, dict[str, list[float]]]:
    """By metric and language, what each example adds; seeds: what was said of them in each language."""
    each = [{x: trials.outcomes(task, x, said, rows[x]) for x, said in seed.items()} for seed in seeds]
    return selection.outcomes(each, list(rows))
