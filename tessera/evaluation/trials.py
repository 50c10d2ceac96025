"""One trial of a sweep: a model trained at one rate with one seed, scored on validation, asked about the test set.

A trial is a file. It holds what the model says of the test set, not whether that is right: the labels of the test set
are taken off as soon as they are read, and nobody asks for them before a rate is chosen.
"""

import copy
import dataclasses
import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tessera.evaluation import load, metrics
from tessera.files import atomic_file
from tessera.finetune.examples import Choices, Labelled, Question, Tagged
from tessera.finetune.features import KINDS, Answer, Example, Kind
from tessera.finetune.learner import Learner, Pretrained
from tessera.finetune.loop import Course, Diverged, predict, train
from tessera.plan.task import Protocol, SplitName, Task
from tessera.progress import Progress

Json = dict[str, Any]
# What says how a protocol is called, what it tries and how it chooses: nothing that a single trial depends on.
_NOT_OF_A_TRIAL = {"name", "learning_rates", "sweep", "seeds", "select", "from_task", "cite", "notes"} | {
    *("temperature", "negatives")  # of retrieval
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Languages that one model is trained on, and those it is tested on; the test set without its labels."""

    task: Task
    name: str  # of the languages trained on
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    validation: Mapping[str, Sequence[Example]]  # empty where the task has none
    test: Mapping[str, Sequence[Example]]
    fingerprint: str

    @property
    def kind(self) -> Kind:
        return self.task.kind  # type: ignore[return-value]  # `groups` sees to it


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is tried: a protocol without choices, a rate and a seed."""

    protocol: Protocol
    rate: float
    seed: int

    @property
    def choice(self) -> Json:
        """What may be chosen by validation; trials that differ in the seed alone share it."""
        return {"rate": self.rate, "weight_decay": self.protocol.weight_decay, "epochs": self.protocol.epochs}

    @property
    def how(self) -> Json:
        """The choice, and the seed."""
        return {**self.choice, "seed": self.seed}

    @property
    def name(self) -> str:
        parts = [f"{key}-{value:g}" for key, value in self.choice.items() if value is not None]
        return ".".join((*parts, f"seed-{self.seed}"))


def trials(protocol: Protocol) -> list[Trial]:
    """All that a protocol tries."""
    return [
        Trial(protocol=variant, rate=rate, seed=seed)
        for variant in protocol.variants()
        for rate in protocol.rates()
        for seed in protocol.seeds
    ]


def groups(task: Task, protocol: Protocol, folder: Path | None, *, test: bool = True) -> list[Group]:
    """The data of a task, by what is trained together.

    test  False: nothing is tested, as when another task is only to begin with what is learned here

    Raises DataError as data.load does, ValueError for a kind that is not fine-tuned.
    """
    if task.kind not in KINDS or not task.trained:
        raise ValueError(f"task {task.name}: kind {task.kind} with train: {task.train} is not fine-tuned")
    found = []
    for name, sources, languages in together(task, folder):
        names = _labels(task, sources[0], folder)
        read = sources if task.source("train").by_language else sources[0]
        seen = _load(task, "train", read, folder, names, protocol.train_examples)
        held: dict[str, list[Example]] = {}
        if (source := task.source("validation")).splits.validation is not None:
            judged = sources if source.by_language else sources[:1]
            held = {x: _load(task, "validation", x, folder, names, protocol.test_examples) for x in judged}
        asked = {
            x: [without_answer(e) for e in _load(task, "test", x, folder, names, protocol.test_examples)]
            for x in (languages if test else [])
        }
        found.append(
            Group(
                task=task,
                name=name,
                labels=names,
                train=tuple(seen),
                validation=held,
                test=asked,
                fingerprint=fingerprint([seen, held, asked]),
            )
        )
    return found


def together(task: Task, folder: Path | None) -> list[tuple[str, tuple[str, ...], list[str]]]:
    """Of each model that a task trains: its name, the languages it is trained on, those it is tested on.

    What trains nothing is one model, which all languages are tested on.
    """
    tested = load.languages(task, folder)
    found: dict[tuple[str, ...], list[str]] = {}
    for language in tested:
        found.setdefault(task.trained_on(language), []).append(language)
    return [(_name(task, trained, tested), trained or tested, languages) for trained, languages in found.items()]


def _name(task: Task, trained: Sequence[str], tested: Sequence[str]) -> str:
    if not task.trained:
        return "untrained"
    return "+".join(trained) if 0 < len(trained) < 4 else f"{len(trained or tested)}-languages"


def truth(group: Group, protocol: Protocol, folder: Path | None) -> dict[str, list[Example]]:
    """The test set of each language with its labels."""
    limit = protocol.test_examples
    return {x: _load(group.task, "test", x, folder, group.labels, limit) for x in group.test}


def _labels(task: Task, language: str, folder: Path | None) -> tuple[str, ...]:
    """Names of what is told apart."""
    match task.kind:
        case "regress" | "choose" | "span":
            return ()
        case "reward":
            return ("wrong", "right")
        case _:
            return load.labels(task, folder, language)


def _load(
    task: Task,
    split: SplitName,
    language: str | Sequence[str],
    folder: Path | None,
    names: tuple[str, ...],
    limit: int | None,
) -> list[Example]:
    found = load.load(task, split, language, folder, names=names or None, limit=limit)
    return cast(list[Example], found)  # of these kinds there are no triples


def without_answer(example: Example) -> Example:
    """The same question with nothing that says what is right."""
    match example:
        case Labelled() | Choices():
            return dataclasses.replace(example, label=None)
        case Tagged():
            return dataclasses.replace(example, tags=())
        case Question():
            return dataclasses.replace(example, answers=())


def fingerprint(what: Any) -> str:
    """A hash of examples: of what they say, not of where they stand."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in ("row", "id")}
            return [type(value).__name__, fields]
        raise TypeError(f"{type(value)} has no place in a fingerprint")

    digest = hashlib.sha256()
    for piece in json.JSONEncoder(default=plain, ensure_ascii=False).iterencode(what):
        digest.update(piece.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def digest(what: Any) -> str:
    """A hash of settings."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def identity(group: Group, trial: Trial, start: str) -> Json:
    """All that the outcome of a trial depends on. start: fingerprint of what it begins with."""
    settings = trial.protocol.model_dump(mode="json", exclude=_NOT_OF_A_TRIAL)
    science = {"kind": group.kind, "labels": group.labels, "metric": group.task.metric}
    whole = {**settings, **science, "no_answer": group.task.no_answer}
    return {"start": start, "data": group.fingerprint, "settings": digest(whole), **trial.how}


def perform(group: Group, trial: Trial, start: Pretrained, report: Progress) -> Json:
    """Trains and asks; a training that diverges is written down as such."""
    try:
        learner, course = fit(group, trial, start, report)
    except Diverged as error:
        return {"failed": str(error), "validation": None, "validation_by_language": {}, "predictions": {}}
    scores = validate(learner, group)
    return {
        "failed": None,
        "validation": statistics.fmean(scores.values()) if scores else None,
        "validation_by_language": scores,
        "predictions": {language: predict(learner, rows, report) for language, rows in group.test.items()},
        **told(course),
        "best": course.best,
        "validation_course": course.validation,
    }


def told(course: Course) -> Json:
    """How a training went, as files say it."""
    last = course.losses[-max(1, len(course.losses) // 10) :]
    return {"steps": course.steps, "tokens": course.tokens, "loss": statistics.fmean(last)}  # of the last tenth


def fit(group: Group, trial: Trial, start: Pretrained, report: Progress) -> tuple[Learner, Course]:
    """A trained model and how the training went. Raises Diverged."""
    learner = start.learner(
        group.kind, len(group.labels), trial.protocol, seed=trial.seed, no_answer=group.task.no_answer
    )

    def judge() -> float:
        return statistics.fmean(validate(learner, group).values())

    course = train(
        learner,
        group.train,
        trial.protocol,
        rate=trial.rate,
        seed=trial.seed,
        validate=judge if group.validation else None,
        on_progress=report,
    )
    return learner, course


def validate(learner: Learner, group: Group) -> dict[str, float]:
    """The task's metric on the validation set of each language."""
    return {
        language: measure(group.task, group.labels, language, predict(learner, rows), rows)[group.task.metric]
        for language, rows in group.validation.items()
    }


def measure(
    task: Task, labels: Sequence[str], language: str, said: Sequence[Answer], rows: Sequence[Example]
) -> dict[str, float]:
    """All metrics of a task, of what was said of each example of a language."""
    right = [_right(example) for example in rows]
    return {
        metric: metrics.score(metric, said, right, names=labels, language=language)
        for metric in (task.metric, *task.also)
    }


def outcomes(task: Task, language: str, said: Sequence[Answer], rows: Sequence[Example]) -> dict[str, list[float]]:
    """Of the metrics of a task that are means over examples, what each example adds."""
    right = [_right(example) for example in rows]
    found = {m: metrics.outcomes(m, said, right, language=language) for m in (task.metric, *task.also)}
    return {metric: each for metric, each in found.items() if each is not None}


def _right(example: Example) -> int | float | tuple[int, ...] | list[str] | None:
    match example:
        case Tagged():
            return example.tags
        case Question():
            return [text for text, _ in example.answers]
        case _:
            return example.label


def keep(path: Path, learner: Learner, of: Json) -> None:
    """Writes the encoder and head of a trained model, for another task to begin with. of: identity of the trial."""
    parts = {"encoder": learner.encoder, "head": learner.head}
    state = {f"{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as draft:
        tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}
        save_file(tensors, draft, metadata={"identity": json.dumps(of)})


def kept(path: Path, of: Json, start: Pretrained, kind: Kind) -> Pretrained | None:
    """What `keep` wrote, as something to begin with, if it is of this trial."""
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        if json.loads(file.metadata()["identity"]) != of:
            return None
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    encoder = copy.deepcopy(start.encoder)
    encoder.load_state_dict(_below(state, "encoder."))
    return dataclasses.replace(start, encoder=encoder, head=_below(state, "head."), head_kind=kind)


def _below(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
