"""Hyperparameter sweep of a task under a protocol: all settings, the best chosen on validation, only then the test set.

    <out>/<model>.<task>.<protocol>.json           the result; with .oracle before .json where test was chosen on
    <out>/trials/<model>.<task>/<languages>/*.json one file for each trial, whole or not there

A trial whose file was made from the same weights, rows and settings is finished and is not run again: a sweep that is
killed goes on where it stood, and one with more rates or seeds runs those alone. All that is trained goes this way,
retrieval too; a retrieval task with `train: none` is searched with the model as it is.
"""

import copy
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tessera import __version__
from tessera.evaluation import catalogue, metrics, suite
from tessera.evaluation.retrieve import RETRIEVAL
from tessera.evaluation.trial import (
    HEADS,
    Group,
    Json,
    Kind,
    Outcomes,
    Progress,
    Rows,
    Scores,
    Start,
    Trial,
    all_trials,
    digest,
    fingerprint,
    read_groups,
    read_labels,
    run_trial,
    trial_identity,
)
from tessera.files import atomic_file, write_json
from tessera.finetune import features
from tessera.finetune.examples import Search
from tessera.finetune.learner import Learner, Pretrained, pretrained
from tessera.finetune.retriever import Retriever
from tessera.plan.recipe import Machine
from tessera.plan.strict import name_of
from tessera.plan.task import Protocol, Task

Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """What all trials of a sweep share, whatever they are trained on."""

    folder: Path  # of the model
    machine: Machine
    data: Path | None
    out: Path  # of the trials; of a task: <out>.<task>
    report: Progress

    def place(self, group: Group) -> Path:
        return self.out.with_name(f"{self.out.name}.{group.task.name}") / group.name


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
    model = name or name_of(Path(model_folder))
    setting = _Setting(
        folder=Path(model_folder),
        machine=machine or Machine(),
        data=None if data_folder is None else Path(data_folder),
        out=Path(out) / "trials" / model,
        report=on_progress or (lambda done, total, what: None),
    )
    kind, tried = _kind(task), all_trials(task, protocol)
    groups = read_groups(task, protocol, setting.data)
    oracle = protocol.select == "oracle" and task.trained
    if not oracle and not all(group.validation for group in groups):
        _refuse_choice(task, tried)
    start = _start(task, protocol, setting)
    found = {group.name: _outcomes(group, tried, start, setting) for group in groups}
    chosen = {} if oracle else _choose(task, tried, found)
    labelled = read_labels(groups, protocol, setting.data)  # from here on, labels of the test set are known
    rows = {**{x: asked for group in groups for x, asked in group.test.items()}, **labelled}
    scores = {
        group.name: [{} if one["failed"] else kind.measure(group, one, rows) for one in found[group.name]]
        for group in groups
    }
    if oracle:
        chosen = _choose(task, tried, found, scores)
    prints = [group.fingerprint for group in groups]
    parts = {
        "fingerprint": suite.fingerprint(setting.folder),
        "data": fingerprint([prints, labelled] if labelled else prints),
        "examples": {
            x: len(several.queries if isinstance(several, Search) else several) for x, several in rows.items()
        },
        "chosen": chosen,
        "trials": [
            trial_summary(group.name, trial, one, row)
            for group in groups
            for trial, one, row in zip(tried, found[group.name], scores[group.name], strict=True)
        ],
        **_result(kind, groups, tried, chosen, found, scores, rows),
    }
    return _write(Path(out), model, task, protocol, began, parts)


def _kind(task: Task) -> Kind:
    """How the task is trained. Raises ValueError for a task that is not."""
    if task.kind == "retrieve":
        return RETRIEVAL
    if task.kind not in features.KINDS or not task.trained:
        raise ValueError(f"task {task.name}: kind {task.kind} with train: {task.train} is not fine-tuned")
    return HEADS


# -------------------------------------------------------------------------------------------------------------- trials


def _outcomes(group: Group, tried: Sequence[Trial], start: Start, setting: _Setting) -> list[Json]:
    """The outcome of each trial; what is not finished is run."""
    found = []
    for number, trial in enumerate(tried):
        doing = f"{group.task.name} {group.name}: trial {number + 1} of {len(tried)}"
        doing += "".join(f", {key} {trial.settings[key]:g}" for key in ("rate", "seed") if key in trial.settings)
        path = setting.place(group) / f"{trial.name}.json"
        report = _telling(setting.report, doing)
        found.append(run_trial(_kind(group.task), group, trial, start, path, report))
    return found


def _telling(report: Progress, what: str) -> Progress:
    return lambda done, total, doing: report(done, total, f"{what}: {doing}")


def _start(task: Task, protocol: Protocol, setting: _Setting) -> Start:
    """What the trials of a task begin with: the model of a folder, or what another task has made of it."""
    if protocol.from_task in (None, task.name):
        read = functools.cache(lambda: pretrained(setting.folder, setting.machine))
        return Start(fingerprint=suite.fingerprint(setting.folder), weights=read)
    other = catalogue.find(str(protocol.from_task))
    if protocol.name in catalogue.protocols():
        protocol = catalogue.protocol(protocol.name, other)
    else:
        protocol = protocol.model_copy(update={"from_task": None})
    before = _start(other, protocol, setting)
    kind, groups = _kind(other), read_groups(other, protocol, setting.data, test=False)
    if not other.trained:
        raise ValueError(f"task {task.name} begins with a model trained on {other.name}, which trains none")
    if len(groups) != 1:
        raise ValueError(
            f"task {task.name} begins with a model trained on {other.name}, which trains {len(groups)} models, one for "
            "each language; say `train: all` there, or one language"
        )
    (group,) = groups
    tried = all_trials(other, protocol)
    best = tried[0]
    if len(tried) > 1:
        outcomes = _outcomes(group, tried, before, setting)
        judged = [(o["validation"], t) for t, o in zip(tried, outcomes, strict=True) if o["validation"] is not None]
        if not judged:
            raise ValueError(_nothing_to_choose(other, group.name, outcomes))
        best = max(judged, key=lambda pair: pair[0])[1]
    of = trial_identity(kind, group, best, before)
    path = setting.place(group) / "best.safetensors"

    @functools.cache
    def weights() -> Pretrained:
        if (ready := _kept(path, of, group, before)) is None:
            _keep(path, of, kind.fit(group, best, before.weights(), setting.report)[0])
            ready = _kept(path, of, group, before)
        assert ready is not None
        return ready

    return Start(fingerprint=digest(of), weights=weights)


def _keep(path: Path, of: Json, model: Learner | Retriever) -> None:
    """Writes encoder and head of a trained model, for another task to begin with. of: identity of the trial."""
    parts = {"encoder": model.encoder, **({"head": model.head} if isinstance(model, Learner) else {})}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as draft:
        tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
        save_file(tensors, draft, metadata={"identity": json.dumps(of)})


def _kept(path: Path, of: Json, group: Group, before: Start) -> Pretrained | None:
    """What `_keep` wrote, as something to begin with, if it is of this trial."""
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        if json.loads(file.metadata()["identity"]) != of:
            return None
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    start = before.weights()
    encoder = copy.deepcopy(start.encoder)
    encoder.load_state_dict(_below(state, "encoder."))
    if group.task.kind == "retrieve":  # it has no head of its own
        return dataclasses.replace(start, encoder=encoder)
    head_kind = cast(features.Kind, group.task.kind)
    return dataclasses.replace(start, encoder=encoder, head=_below(state, "head."), head_kind=head_kind)


def _below(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


# -------------------------------------------------------------------------------------------------------------- choice


def _refuse_choice(task: Task, tried: Sequence[Trial]) -> None:
    """Raises ValueError where there is a choice, as nothing is there to choose by."""
    settings = {json.dumps(trial.choice) for trial in tried}
    if len(settings) > 1:
        raise ValueError(
            f"task {task.name}: {len(settings)} settings are tried, but there is no validation set to choose on; "
            "give the task one (splits: {validation: {from: train, share: 0.1}}), or try a single rate"
        )


def _choose(
    task: Task,
    tried: Sequence[Trial],
    found: Mapping[str, Sequence[Json]],
    scores: Mapping[str, Sequence[Scores]] | None = None,
) -> dict[str, Json]:
    """By group the settings whose mean over seeds is best on validation; the first of equally good ones.

    scores  of each trial on the test set; if given, what an oracle chooses by

    Raises ValueError where no settings went well with all seeds.
    """
    chosen = {}
    for group, outcomes in found.items():

        def value(number: int, group: str = group, outcomes: Sequence[Json] = outcomes) -> float:
            if scores is None:
                return float(outcomes[number]["validation"])
            return statistics.fmean(row[task.metric] for row in scores[group][number].values())

        choices: dict[str, list[int]] = {}  # numbers of the trials that differ in the seed alone
        for number, trial in enumerate(tried):
            choices.setdefault(json.dumps(trial.choice), []).append(number)
        whole = [numbers for numbers in choices.values() if not any(outcomes[n]["failed"] for n in numbers)]
        if not whole:
            raise ValueError(_nothing_to_choose(task, group, outcomes))
        best = whole[0] if len(whole) == 1 else max(whole, key=lambda several: statistics.fmean(map(value, several)))
        chosen[group] = tried[best[0]].choice
    return chosen


def _nothing_to_choose(task: Task, group: str, outcomes: Sequence[Json]) -> str:
    failed = next((outcome["failed"] for outcome in outcomes if outcome["failed"]), "none was scored on validation")
    return f"task {task.name}, {group}: of no settings did all seeds go well ({failed}); try lower rates"


# -------------------------------------------------------------------------------------------------------------- result


def _result(
    kind: Kind,
    groups: Sequence[Group],
    tried: Sequence[Trial],
    chosen: Mapping[str, Json],
    found: Mapping[str, Sequence[Json]],
    scores: Mapping[str, Sequence[Scores]],
    rows: Mapping[str, Rows],
) -> Json:
    """What was found with the chosen settings, all groups together."""
    best = [
        [
            (group, n)
            for group in groups
            for n, t in enumerate(tried)
            if (t.seed, t.choice) == (seed, chosen[group.name])
        ]
        for seed in dict.fromkeys(trial.seed for trial in tried)
    ]
    each = [_merged(kind.outcomes(group, found[group.name][n], rows) for group, n in seed) for seed in best]
    return {
        **summary([_merged(scores[group.name][n] for group, n in seed) for seed in best]),
        "outcomes": mean_outcomes(each, list(rows)),
        **kind.more([found[group.name][n] for group, n in best[0]]),
    }


def _merged(several: Iterable[Mapping[str, Found]]) -> dict[str, Found]:
    return {language: found for one in several for language, found in one.items()}


def summary(seeds: Sequence[Scores]) -> Json:
    """Means over seeds, by language and on average, and half the 95% interval of the averages."""
    languages, names = list(seeds[0]), list(next(iter(seeds[0].values())))
    averages = {m: [statistics.fmean(seed[x][m] for x in languages) for seed in seeds] for m in names}
    return {
        "results": {x: {m: statistics.fmean(seed[x][m] for seed in seeds) for m in names} for x in languages},
        "average": {m: statistics.fmean(values) for m, values in averages.items()},
        "interval": {m: metrics.interval(v)[1] if len(v) > 1 else None for m, v in averages.items()},
    }


def mean_outcomes(seeds: Sequence[Outcomes], languages: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """{metric: {language: of each test example the mean over seeds}}, of the metrics that all of them have."""
    every = [seed.get(language, {}) for seed in seeds for language in languages]
    shared = [metric for metric in every[0] if all(metric in row for row in every)]
    return {m: {x: _means([seed[x][m] for seed in seeds]) for x in languages} for m in shared}


def _means(seeds: Sequence[Sequence[float]]) -> list[float]:
    return [round(statistics.fmean(values), 6) for values in zip(*seeds, strict=True)]


def trial_summary(group: str, trial: Trial, outcome: Json, scores: Scores) -> Json:
    """What the result says of a trial."""
    kept = ("validation", "validation_by_language", "failed", "steps", "tokens", "loss", "best", "seconds")
    kept_of = {key: outcome[key] for key in kept if key in outcome}
    return {"trained_on": group, **trial.settings, **kept_of, "test": scores}


def _write(out: Path, model: str, task: Task, protocol: Protocol, began: float, parts: Json) -> Path:
    oracle = protocol.select == "oracle" and task.trained
    whole = {
        "model": model,
        "task": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "protocol": protocol.model_dump(mode="json", by_alias=True),
        "protocol_hash": digest(protocol.model_dump(mode="json", exclude={"name", "cite", "notes"})),
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
