"""One trial of a sweep: a model trained with one setting and one seed, scored on validation, asked about the test set.

A trial is a file that is never written twice. It holds what the model says of the test set, not whether that is right:
groups.py takes the labels of the test set off, and nobody asks for them before a setting is chosen. Only a trial of
retrieval holds measures instead, for whole rankings would fill disks; nothing is chosen by them.
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tessera import __version__
from tessera.checksums import sealed_json
from tessera.data.examples import Example, Question, Search, Tagged
from tessera.files import digest, keep_damaged, read_json, write_json
from tessera.finetune import loop
from tessera.finetune.learner import Learner, Pretrained
from tessera.model.precision import compute_dtype
from tessera.plan.task import Protocol, Task
from tessera.prediction import features, metrics, windows
from tessera.progress import Progress

Json = dict[str, Any]
Rows = Sequence[Example] | Search
Scores = Mapping[str, Mapping[str, float]]  # language -> metric -> value
Outcomes = Mapping[str, Mapping[str, Sequence[float]]]  # language -> metric -> one number for each test example
# What says how a protocol is called, what it tries and how it chooses: nothing that a single trial depends on.
NOT_OF_A_TRIAL = {"name", "learning_rates", "sweep", "seeds", "select", "cite", "notes"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is tried: a protocol without choices, a rate and a seed; without a rate nothing is trained."""

    protocol: Protocol
    rate: float | None
    seed: int

    @property
    def choice(self) -> Json:
        """What may be chosen by validation; trials that differ in the seed alone share it."""
        if self.rate is None:
            return {}
        return {"rate": self.rate, "weight_decay": self.protocol.weight_decay, "epochs": self.protocol.epochs}

    @property
    def settings(self) -> Json:
        """The choice, and the seed."""
        return {**self.choice, "seed": self.seed} if self.choice else {}

    @property
    def name(self) -> str:
        """Of its file."""
        chosen = [f"{key}-{value:g}" for key, value in self.choice.items() if value is not None]
        return ".".join((*chosen, f"seed-{self.seed}")) if chosen else "untrained"


def all_trials(task: Task, protocol: Protocol) -> list[Trial]:
    """All that a protocol tries on a task."""
    if not task.trained:
        return [Trial(protocol=protocol, rate=None, seed=protocol.seeds[0])]
    return [
        Trial(protocol=variant, rate=rate, seed=seed)
        for variant in protocol.variants()
        for rate in protocol.rates()
        for seed in protocol.seeds
    ]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Languages that one model is trained on, and those it is tested on; the test set without its labels."""

    task: Task
    name: str  # of the languages trained on
    labels: tuple[str, ...]  # names of what is told apart
    train: Sequence[Any]  # examples; none where nothing is trained
    validation: Mapping[str, Rows]  # empty where the task has none
    test: Mapping[str, Rows]
    fingerprint: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Weights that trials begin with, read when the first one asks for them."""

    fingerprint: str
    weights: Callable[[], Pretrained]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is particular to kinds of tasks that are trained alike. A model is what `fit` returns.

    settings  (group, trial) -> all that a trial depends on besides its start, its data and Trial.settings
    fit       (group, trial, start, report) -> the trained model, and how the training went. Raises Diverged
    predict   (model, rows by language, report) -> what the file of a trial says of them
    measure   (group, predictions, rows by language) -> the metrics of each language; none where there are none
    outcomes  (group, predictions, rows by language) -> of metrics that are means over examples, what each example adds
    more      (what the files of the chosen trials of the first seed say) -> what only results of this kind say
    protocol  what a result says of how it was measured, besides the protocol
    """

    settings: Callable[[Group, Trial], Any]
    fit: Callable[[Group, Trial, Pretrained, Progress], tuple[Any, Json]]
    predict: Callable[[Any, Mapping[str, Any], Progress | None], Json]
    measure: Callable[[Group, Json, Mapping[str, Any]], Scores]
    outcomes: Callable[[Group, Json, Mapping[str, Any]], Outcomes]
    more: Callable[[Sequence[Json]], Json] = lambda _: {}
    protocol: Json = dataclasses.field(default_factory=dict)


def trial_identity(kind: Kind, group: Group, trial: Trial, start: Start) -> Json:
    """All that the outcome of a trial depends on."""
    settings = digest(kind.settings(group, trial))
    return {"start": start.fingerprint, "data": group.fingerprint, "settings": settings, **trial.settings}


def run_trial(kind: Kind, group: Group, trial: Trial, start: Start, path: Path, report: Progress) -> Json:
    """What the file of a trial says; where it is not there, or is of another trial, the trial is run and written."""
    expected = trial_identity(kind, group, trial, start)
    if (aside := keep_damaged(path)) is not None:
        report(0, 1, f"{path.name} was damaged, is kept as {aside.name} and run again")
    found = read_json(path) if path.is_file() else None
    if isinstance(found, dict) and found.get("identity") == expected:
        return cast(Json, found)
    weights, began = start.weights(), time.perf_counter()
    ran = _perform(kind, group, trial, weights, report)
    device = next(weights.encoder.parameters()).device
    passing = {
        "seconds": round(time.perf_counter() - began, 2),
        "device": str(device),
        "dtype": str(compute_dtype(weights.machine.dtype, device)).removeprefix("torch."),
    }
    whole = {"identity": expected, **ran, **passing, "tessera": __version__}
    write_json(path, sealed_json(whole))
    return cast(Json, json.loads(json.dumps(whole)))  # as whoever reads the file finds it


def _perform(kind: Kind, group: Group, trial: Trial, start: Pretrained, report: Progress) -> Json:
    """Trains, validates and asks; a training that diverges is written down as such."""
    try:
        model, summary = kind.fit(group, trial, start, report)
        scores = validate(kind, group, model)
        said = kind.predict(model, group.test, report)
    except loop.Diverged as error:
        return {"failed": str(error), "validation": None, "validation_by_language": {}}
    return {
        "failed": None,
        "validation": statistics.fmean(scores.values()) if scores else None,
        "validation_by_language": scores,
        **said,
        **summary,
    }


def validate(kind: Kind, group: Group, model: Any) -> dict[str, float]:
    """The task's metric on the validation set of each language."""
    scores = kind.measure(group, kind.predict(model, group.validation, None), group.validation)
    return {language: row[group.task.metric] for language, row in scores.items()}


def training_summary(course: loop.TrainingSummary) -> Json:
    """How a training went, as files say it."""
    last = course.losses[-max(1, len(course.losses) // 10) :]
    return {"steps": course.steps, "tokens": course.tokens, "loss": statistics.fmean(last)}  # of the last tenth


# ---------------------------------------------------------------------------------------------------- kinds with a head


def _settings(group: Group, trial: Trial) -> Json:
    other = {"from_task", "temperature", "negatives"}  # the start says the first; the others are of retrieval
    settings = trial.protocol.model_dump(mode="json", exclude=NOT_OF_A_TRIAL | other)
    science = {"kind": group.task.kind, "labels": group.labels, "metric": group.task.metric}
    longest = {"longest_answer": [windows.LONGEST_ANSWER, windows.LONGEST_IN_CHARACTERS]}  # 30 tokens alone before
    return {**settings, **science, "no_answer": group.task.no_answer, **(longest if group.task.kind == "span" else {})}


def _fit(group: Group, trial: Trial, start: Pretrained, report: Progress) -> tuple[Learner, Json]:
    kind, labels = cast(features.Kind, group.task.kind), len(group.labels)
    learner = start.learner(kind, labels, trial.protocol, seed=trial.seed, no_answer=group.task.no_answer)
    judge = (lambda: statistics.fmean(validate(HEADS, group, learner).values())) if group.validation else None
    assert trial.rate is not None
    course = loop.train(
        learner, group.train, trial.protocol, rate=trial.rate, seed=trial.seed, validate=judge, on_progress=report
    )
    reader = {"max_length": learner.reader.max_length, "stride": learner.reader.stride} if kind == "span" else None
    summary = {"best": course.best, "validation_course": course.validation, **({"reader": reader} if reader else {})}
    return learner, {**training_summary(course), **summary}


def _predict(learner: Learner, rows: Mapping[str, Sequence[features.Example]], report: Progress | None) -> Json:
    return {"predictions": {language: loop.predict(learner, several, report) for language, several in rows.items()}}


def _by_metric(
    group: Group, found: Json, rows: Mapping[str, Sequence[features.Example]], of: Callable[..., Any]
) -> Any:
    """Language -> metric -> `of` the predictions and of what is right, where that is anything."""
    whole: dict[str, dict[str, Any]] = {}
    for language, predictions in found.get("predictions", {}).items():
        right = list(map(_right, rows[language]))
        for metric in (group.task.metric, *group.task.also):
            value = of(metric, predictions, right, names=group.labels, language=language)
            whole.setdefault(language, {}).update({} if value is None else {metric: value})
    return whole


def _right(example: features.Example) -> Any:
    match example:
        case Tagged():
            return example.tags
        case Question():
            return [text for text, _ in example.answers]
        case _:
            return example.label


HEADS = Kind(
    settings=_settings,
    fit=_fit,
    predict=_predict,
    measure=functools.partial(_by_metric, of=metrics.score),
    outcomes=functools.partial(_by_metric, of=metrics.outcomes),
)
"""classify, pair, reward, regress, choose, tag, span: an encoder with a head, trained on examples."""
