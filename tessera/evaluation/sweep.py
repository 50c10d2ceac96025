"""Hyperparameter sweep of a task under a protocol: all settings, the best chosen on validation, only then the test set.

    <out>/<model>.<task>.<protocol>.json           the result; with .oracle before .json where test was chosen on
    <out>/trials/<model>.<task>/<languages>/*.json one file for each trial, whole or not there

A trial whose file was made from the same weights, rows and settings is finished and is not run again: a sweep that is
killed goes on where it stood, and one with more rates or seeds runs those alone. All that is trained goes this way,
retrieval too; a retrieval task with `train: none` is searched with the model as it is.
"""

import copy
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tessera.data.examples import Search
from tessera.evaluation import about, catalogue, kept, trial
from tessera.evaluation.groups import FOLD, fingerprint_of_rows, read_groups, read_labels
from tessera.evaluation.retrieve import RETRIEVAL
from tessera.evaluation.trial import HEADS, Group, Json, Kind, Rows, Scores, Start, Trial
from tessera.files import digest, fingerprint, model_name
from tessera.finetune.learner import Pretrained, pretrained
from tessera.huggingface import hub
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol, Task
from tessera.prediction import features
from tessera.progress import Progress, silent
from tessera.results.result import Result, write
from tessera.statistics import interval

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a sweep runs, and where its files lie."""

    folder: Path  # of the model
    model: str  # its name
    machine: Machine
    data: Path | None
    out: Path
    report: Progress

    def trials(self, group: Group) -> Path:
        return self.out / "trials" / f"{self.model}.{group.task.name}" / group.name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    """A trial that is finished."""

    group: Group
    trial: Trial
    outcome: Json  # what its file says
    scores: Scores = field(default_factory=dict)  # of the test set, once labels may be seen; none where it failed


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
    keep: bool = False,
) -> Path:
    """Runs what is not finished and returns the file of the result.

    model_folder  a Hugging Face folder with its tokenizer, of any family
    data_folder   local data; None: the Hub
    keep          the chosen setting is trained once more, its model written to `kept.place` of what is returned

    The rest is as of evaluate.evaluate.
    Raises DataError for rows that cannot be used, ValueError where nothing is trained, where there is a choice but no
    validation set, or where no training of any rate went well.
    """
    began, folder = time.perf_counter(), Path(model_folder)
    place = _Place(
        folder=folder, model=name or model_name(folder), machine=machine or Machine(), out=Path(out),
        data=None if data_folder is None else Path(data_folder), report=on_progress or silent,
    )  # fmt: skip
    kind, tried = _kind(task), trial.all_trials(task, protocol)
    left_out: list[str] = []
    groups = read(task, protocol, place.data, left_out)
    oracle = protocol.select == "oracle" and task.trained
    start = _start(task, protocol, place)
    done = [one for group in groups for one in _run_all(group, tried, start, place)]
    chosen = {} if oracle else _choose(done, lambda one: float(one.outcome["validation"]))
    labelled = read_labels(groups, protocol, place.data)  # from here on, labels of the test set are known
    rows = _merged([*(group.test for group in groups), labelled])
    done = [replace(one, scores=kind.measure(one.group, one.outcome, rows)) for one in done]
    if oracle:
        chosen = _choose(done, lambda one: statistics.fmean(row[task.metric] for row in one.scores.values()))
    models = [one for one in done if one.trial.choice == chosen[one.group.name]]
    best, rows = _folded(kind, models, rows)
    lost = about.out_of_reach(place.folder, [one.outcome for one in done], rows)
    named = {"model": place.model, "task": task.name, "kind": task.kind, "metric": task.metric}
    result = Result(
        **named,
        protocol=_protocol_of(task, protocol, kind),
        fingerprint=fingerprint(place.folder),
        data=_of_data(groups, labelled),
        **about.of_task(task, place.data, groups[0].labels, left_out, lost),
        seeds=protocol.seeds if task.trained else (),
        oracle=oracle,
        chosen=chosen,
        **_summary(kind, best, rows),
        **_trials(done),
        seconds_now=round(time.perf_counter() - began, 2),
    )
    path = write(place.out / f"{place.model}.{task.name}.{protocol.name}{'.oracle' if oracle else ''}.json", result)
    if keep:
        _keep_models(kind, groups, models, start, place, kept.place(path))
    return path


def _protocol_of(task: Task, protocol: Protocol, kind: Kind) -> Json:
    """How a result was measured."""
    folds = {"folds": task.folds} if task.folds else {}
    return {**protocol.model_dump(mode="json", by_alias=True), **kind.protocol, **folds}


def _keep_models(
    kind: Kind, groups: Sequence[Group], chosen: Sequence[_Finished], start: Start, place: _Place, folder: Path
) -> None:
    """Of each group the model of the seed that did best on validation, the first of equals."""
    for group in groups:
        mine = [one for one in chosen if one.group.name == group.name]
        one = max(mine, key=lambda one: one.outcome["validation"] or 0.0)
        target = folder if len(groups) == 1 else folder / group.name
        kept.keep(kind, group, one.trial, start, target, place.folder, one.outcome, one.scores, place.report)


def read(task: Task, protocol: Protocol, folder: Path | None, left_out: list[str] | None = None) -> list[Group]:
    """The data of a task, and whether it can be run with it: raises what `run` would before anything is trained."""
    if (before := _before(task, protocol)) is not None:
        read_groups(*before, folder, test=False)
    groups = read_groups(task, protocol, folder, left_out=left_out)
    _refuse_choice_without_validation(protocol, trial.all_trials(task, protocol), groups)
    return groups


def _before(task: Task, protocol: Protocol) -> tuple[Task, Protocol] | None:
    """The task whose model another begins with, and how it is trained; None: it begins with the model as it is."""
    if protocol.from_task in (None, task.name):
        return None
    other = catalogue.find(str(protocol.from_task))
    if protocol.name in catalogue.protocols():
        return other, catalogue.protocol(protocol.name, other)
    return other, protocol.model_copy(update={"from_task": None})


def _kind(task: Task) -> Kind:
    """How the task is trained. Raises ValueError for a task that is not."""
    if task.kind == "retrieve":
        return RETRIEVAL
    if task.kind not in features.KINDS or not task.trained:
        raise ValueError(f"task {task.name}: kind {task.kind} with train: {task.train} is not fine-tuned")
    return HEADS


# -------------------------------------------------------------------------------------------------------------- trials


def _run_all(group: Group, tried: Sequence[Trial], start: Start, place: _Place) -> list[_Finished]:
    """All trials of a group; what is not finished is run."""
    done = []
    for number, one in enumerate(tried, 1):
        what = f"{group.task.name} {group.name}: trial {number} of {len(tried)}"
        what += "" if one.rate is None else f", rate {one.rate:g}, seed {one.seed}"
        path, report = place.trials(group) / f"{one.name}.json", _telling(place.report, what)
        outcome = trial.run_trial(_kind(group.task), group, one, start, path, report)
        done.append(_Finished(group=group, trial=one, outcome=outcome))
    return done


def _telling(report: Progress, what: str) -> Progress:
    return lambda done, total, doing: report(done, total, f"{what}: {doing}")


def _start(task: Task, protocol: Protocol, place: _Place) -> Start:
    """What the trials of a task begin with: the model of a folder, or what another task has made of it."""
    if (of_before := _before(task, protocol)) is None:
        weights_of = functools.cache(lambda: pretrained(place.folder, place.machine))
        # A new head of another family is drawn as transformers has it, which earlier versions did not.
        head = "" if hub.is_ours(place.folder) else ", with the head of its family"
        return Start(fingerprint=fingerprint(place.folder) + head, weights=weights_of)
    other, protocol = of_before
    before = _start(other, protocol, place)
    kind, groups = _kind(other), read_groups(other, protocol, place.data, test=False)
    if not other.trained:
        raise ValueError(f"task {task.name} begins with a model trained on {other.name}, which trains none")
    if len(groups) != 1:
        raise ValueError(
            f"task {task.name} begins with a model trained on {other.name}, which trains {len(groups)} models, one for "
            "each language; say `train: all` there, or one language"
        )
    (group,) = groups
    tried = trial.all_trials(other, protocol)
    best = tried[0]
    if len(tried) > 1:
        done = _run_all(group, tried, before, place)
        if not (judged := [one for one in done if one.outcome["validation"] is not None]):
            raise ValueError(_nothing_to_choose(done))
        best = max(judged, key=lambda one: one.outcome["validation"]).trial
    of = trial.trial_identity(kind, group, best, before)
    path = place.trials(group) / "best.safetensors"

    @functools.cache
    def weights() -> Pretrained:
        if (state := kept.weights_of(path, of)) is None:
            state = kept.keep_weights(path, of, kind.fit(group, best, before.weights(), place.report)[0])
        encoder = copy.deepcopy(before.weights().encoder)
        known = encoder.state_dict()  # a pooler that came with the other head is not in it
        encoder.load_state_dict({k: v for k, v in kept.below(state, "encoder.").items() if k in known})
        head = kept.below(state, "head.")
        learned: Json = {"head": head, "head_kind": group.task.kind} if head else {}
        return replace(before.weights(), encoder=encoder, **learned)

    return Start(fingerprint=digest(of), weights=weights)


# -------------------------------------------------------------------------------------------------------------- choice


def _refuse_choice_without_validation(protocol: Protocol, tried: Sequence[Trial], groups: Sequence[Group]) -> None:
    """Raises ValueError where there is a choice and nothing to choose on; asked before anything is trained."""
    settings = {json.dumps(one.choice) for one in tried}
    if protocol.select == "validation" and len(settings) > 1 and not all(group.validation for group in groups):
        raise ValueError(
            f"task {groups[0].task.name}: {len(settings)} settings are tried, but there is no validation set to choose "
            "on; give the task one (splits: {validation: {from: train, share: 0.1}}), or try a single rate"
        )


def _choose(done: Sequence[_Finished], value: Callable[[_Finished], float]) -> dict[str, Json]:
    """Of each group the settings whose mean value over seeds is best; the first of equally good ones.

    Raises ValueError where no settings went well with all seeds.
    """
    chosen = {}
    for group in dict.fromkeys(one.group.name for one in done):
        of_group = [one for one in done if one.group.name == group]
        choices: dict[str, list[_Finished]] = {}  # trials that differ in the seed alone
        for one in of_group:
            choices.setdefault(json.dumps(one.trial.choice), []).append(one)
        whole = [several for several in choices.values() if not any(one.outcome["failed"] for one in several)]
        if not whole:
            raise ValueError(_nothing_to_choose(of_group))
        best = whole[0] if len(choices) == 1 else max(whole, key=lambda several: statistics.fmean(map(value, several)))
        chosen[group] = best[0].trial.choice
    return chosen


def _nothing_to_choose(done: Sequence[_Finished]) -> str:
    group = done[0].group
    failed = next((one.outcome["failed"] for one in done if one.outcome["failed"]), "none was scored on validation")
    return f"task {group.task.name}, {group.name}: of no settings did all seeds go well ({failed}); try lower rates"


# -------------------------------------------------------------------------------------------------------------- result


def _of_data(groups: Sequence[Group], labelled: Mapping[str, Rows]) -> str:
    prints = [group.fingerprint for group in groups]
    return fingerprint_of_rows([prints, labelled] if labelled else prints)


def _folded(
    kind: Kind, chosen: Sequence[_Finished], rows: Mapping[str, Rows]
) -> tuple[list[_Finished], dict[str, Rows]]:
    """The folds of cross-validation as one: what their models said of their own rows, one fold after the other."""
    if not any(FOLD in key for key in rows):
        return list(chosen), dict(rows)
    whole: dict[str, list[Any]] = {}
    for key, some in rows.items():
        whole.setdefault(key.partition(FOLD)[0], []).extend(some)  # type: ignore[arg-type]  # no searches have folds
    together: dict[tuple[str, int], list[_Finished]] = {}
    for one in chosen:
        together.setdefault((one.group.name.partition(FOLD)[0], one.trial.seed), []).append(one)
    found = []
    for (name, _), folds in together.items():
        said: dict[str, list[Any]] = {}
        by_key = _merged(one.outcome["predictions"] for one in folds)
        for key in (key for key in rows if key in by_key):
            said.setdefault(key.partition(FOLD)[0], []).extend(by_key[key])
        outcome = {**folds[0].outcome, "predictions": said}
        scores = kind.measure(folds[0].group, outcome, whole)
        found.append(replace(folds[0], group=replace(folds[0].group, name=name), outcome=outcome, scores=scores))
    return found, dict(whole)


def _summary(kind: Kind, chosen: Sequence[_Finished], rows: Mapping[str, Rows]) -> Json:
    """What the chosen settings gave, all groups together: means over seeds, half the 95% interval of the averages."""
    seeds = [[one for one in chosen if one.trial.seed == seed] for seed in dict.fromkeys(o.trial.seed for o in chosen)]
    scores = [_merged(one.scores for one in seed) for seed in seeds]
    each = [_merged(kind.outcomes(one.group, one.outcome, rows) for one in seed) for seed in seeds]
    names, means = list(next(iter(scores[0].values()))), list(next(iter(each[0].values())))
    averages = {m: [statistics.fmean(row[m] for row in seed.values()) for seed in scores] for m in names}
    return {
        "examples": {x: len(one.queries if isinstance(one, Search) else one) for x, one in rows.items()},
        "results": {x: {m: statistics.fmean(seed[x][m] for seed in scores) for m in names} for x in scores[0]},
        "interval": {m: interval(v)[1] if len(v) > 1 else None for m, v in averages.items()},
        "outcomes": {m: {x: mean_outcomes([seed[x][m] for seed in each]) for x in each[0]} for m in means},
        **kind.more([one.outcome for one in seeds[0]]),
    }


def mean_outcomes(seeds: Sequence[Sequence[float]]) -> list[float]:
    """Of each example the mean over seeds, to 6 digits."""
    return [round(statistics.fmean(values), 6) for values in zip(*seeds, strict=True)]


def _merged(several: Iterable[Mapping[str, Found]]) -> dict[str, Found]:
    return {language: found for one in several for language, found in one.items()}


def _trials(done: Sequence[_Finished]) -> Json:
    dtype = "+".join(sorted({one.outcome["dtype"] for one in done if "dtype" in one.outcome}))
    seconds = round(sum(one.outcome["seconds"] for one in done), 2)
    return {"trials": [_trial(one) for one in done], "dtype": dtype, "seconds": seconds}


def _trial(one: _Finished) -> Json:
    """What the result says of a trial."""
    keys = ("validation", "validation_by_language", "failed", "steps", "tokens", "loss", "best", "seconds")
    kept = {key: one.outcome[key] for key in keys if key in one.outcome}
    return {"trained_on": one.group.name, **one.trial.settings, **kept, "test": one.scores}
