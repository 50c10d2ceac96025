"""Hyperparameter search of a fine-tuning: a training for each rate, the best chosen on validation, then more seeds.

    <folder>/<rate>.seed-<n>.json          one file for each trial, whole or not there: a killed search goes on there
    <folder>/<rate>.seed-<n>.safetensors   the checkpoint of a trial that is on its way (checkpoint.py)

A file holds what the model said of the test set, never whether that is right: nobody looks before a rate is chosen.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from tessera.checksums import sealed_json
from tessera.files import digest, keep_damaged, read_json, write_json
from tessera.finetune import frozen_head, listwise, loop, lora, scores
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.learner import Learner, Pretrained
from tessera.labelled.dataset import Dataset, Part, anywhere
from tessera.plan.task import Protocol
from tessera.prediction.features import Kind
from tessera.progress import Progress, Say, silent

Json = dict[str, Any]
_NOT_OF_A_TRIAL = {"name", "learning_rates", "sweep", "seeds", "select", "cite", "notes", "from_task"}


Method = Literal["full", "frozen", "lora"]
"""What learns: all weights; the head alone; the head and low-rank additions to the encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What all trials have in common."""

    start: Callable[[], Pretrained]  # read when the first trial asks for it
    start_fingerprint: str
    data: Dataset
    protocol: Protocol
    balance: bool
    folder: Path
    method: Method = "full"
    listwise: bool = False  # rerank: each answer among others, see listwise.py
    report: Progress
    say: Say = silent
    kept: list[tuple[float, str, Learner]] = field(default_factory=list)  # the best: its score and file

    def identity(self, data: Dataset, rate: float, seed: int) -> Json:
        """All that a trial depends on."""
        settings = self.protocol.model_dump(mode="json", exclude=_NOT_OF_A_TRIAL)
        unusual = [self.method] * (self.method != "full") + ["listwise"] * self.listwise
        science = digest([settings, data.kind, data.labels, data.no_answer, self.balance, scores.metrics_of(data),
                          *unusual])  # fmt: skip
        return {
            "start": self.start_fingerprint, "data": data.fingerprint, "settings": science, "rate": rate, "seed": seed
        }  # fmt: skip

    def place(self, data: Dataset, rate: float, seed: int) -> Path:
        """Of the files of a trial, without their endings."""
        part = "" if data is self.data else f".of-{len(data.train)}"
        return self.folder / f"{rate:g}.seed-{seed}{part}"

    def checkpoint(self, data: Dataset, rate: float, seed: int) -> Checkpoint:
        """Where the training of a trial goes on."""
        of = digest(self.identity(data, rate, seed))
        return Checkpoint(place=self.place(data, rate, seed), identity=of, say=self.say)


def search(
    one: Search, rates: Sequence[float], seeds: Sequence[int], *, climb: bool = False
) -> tuple[float, dict[float, Json], list[Json]]:
    """(the rate, the trial of each with the first seed, those of the rate with all seeds).

    climb  not all rates are tried; see `climbing`

    Raises ValueError where no training went well.
    """
    count, first = len(rates) + len(seeds) - 1, dict[float, Json]()

    def tried(rate: float) -> float:
        many = f"at most {count}" if climb else f"{count}"
        found = first[rate] = trial(one, one.data, rate, seeds[0], f"trial {len(first) + 1} of {many}, rate {rate:g}")
        return -math.inf if found["failed"] is not None else float(found["validation"])

    if climb:
        climbing(rates, tried)
    else:
        list(map(tried, rates))
    if climb and all(_learned_nothing(one, found) for found in first.values()):
        for rate in (rate for rate in rates if rate not in first):
            tried(rate)
    first = {rate: first[rate] for rate in rates if rate in first}
    whole = {rate: found for rate, found in first.items() if found["failed"] is None}
    if not whole:
        failed = next(iter(first.values()))["failed"]
        raise ValueError(f"no training went well ({failed}); try lower rates (--rates)")
    best = max(whole, key=lambda rate: whole[rate]["validation"])  # the first of equals
    more = [
        trial(
            one,
            one.data,
            best,
            seed,
            f"trial {len(first) + n} of {len(first) + len(seeds) - 1}, rate {best:g}, seed {seed}",
        )
        for n, seed in enumerate(seeds[1:], 1)
    ]
    return best, first, [found for found in (first[best], *more) if found["failed"] is None]


def climbing(rates: Sequence[float], tried: Callable[[float], float]) -> None:
    """A hill climb over rates in order: the two in the middle, then on from the better one for as long as the next is
    better still; both ways where they are equal.

    tried  trains at a rate; its score, the higher the better
    """
    low = (len(rates) - 1) // 2
    high = min(low + 1, len(rates) - 1)
    score = {n: tried(rates[n]) for n in dict.fromkeys((low, high))}
    for at, step, better in ((low, -1, score[low] >= score[high]), (high, 1, score[high] >= score[low])):
        while better and 0 <= at + step < len(rates):
            score[at + step] = tried(rates[at + step])
            better = score[at + step] > score[at]
            at += step


def _learned_nothing(one: Search, found: Json) -> bool:
    """Whether a trial failed, or its model gives all of validation one answer."""
    if found["failed"] is not None:
        return True
    said = found["said_of_validation"]
    return bool(scores.constant(one.data, one.data.validation, said, scores.thresholds_of(one.data, said)))


def trial(one: Search, data: Dataset, rate: float, seed: int, what: str) -> Json:
    """What the file of a trial says; where it is not there, or is of another trial, the trial is run and written."""
    place = one.place(data, rate, seed)
    path = place.with_name(f"{place.name}.json")
    wanted = one.identity(data, rate, seed)
    if (aside := keep_damaged(path)) is not None:
        one.report(0, 1, f"{path.name} was damaged, is kept as {aside.name} and run again")
    found = read_json(path) if path.is_file() else None
    if isinstance(found, dict) and found.get("identity") == wanted:
        one.report(1, 1, f"{what}: done before")
        return found
    began = time.perf_counter()
    learner, course, failed = run(one, data, rate, seed, what)
    said: Json = {"failed": failed, "validation": None}
    if learner is not None and course is not None:
        on_validation = scores.say(learner, data.validation)
        thresholds = scores.thresholds_of(data, on_validation)
        said |= {
            "validation": value(data, on_validation, thresholds),
            "said_of_validation": on_validation,
            "said_of_test": scores.say(learner, data.test),
            "steps": course.steps, "best": course.best, "loss": course.losses[-1],
        }  # fmt: skip
        if data is one.data:
            _keep(one, path.name, said["validation"], learner)
    write_json(path, sealed_json({"identity": wanted, **said, "seconds": round(time.perf_counter() - began, 2)}))
    one.checkpoint(data, rate, seed).remove()
    return dict(read_json(path))  # as whoever goes on finds it


def _keep(one: Search, name: str, score: float, learner: Learner) -> None:
    """Keeps the learner of the best trial of this process, the first of equals: what is written at the end."""
    if not one.kept or score > one.kept[0][0]:
        one.kept[:] = [(score, name, learner)]


def value(data: Dataset, said: scores.Said, thresholds: Sequence[float]) -> float:
    """The score that rates are chosen by."""
    found = scores.measure(data, data.validation, said, thresholds)
    return found[scores.metrics_of(data)[0]]


def run(
    one: Search, data: Dataset, rate: float, seed: int, what: str
) -> tuple[Learner | None, loop.TrainingSummary | None, str | None]:
    """The trained model and how it went; or why it did not."""
    start = one.start()
    kind: Kind = data.kind  # type: ignore[assignment]
    learner = start.learner(kind, len(data.labels), one.protocol, seed=seed, no_answer=data.no_answer)
    if one.balance:
        learner.class_weights = class_weights(data).to(learner.device)

    def judge() -> float:
        said = scores.say(learner, data.validation)
        return value(data, said, scores.thresholds_of(data, said))

    def report(done: int, total: int, doing: str) -> None:
        one.report(done, total, f"{what}: {doing}")

    try:
        course = _train(one)(
            learner, data.train.examples, one.protocol, rate=rate, seed=seed, validate=judge, on_progress=report,
            checkpoint=one.checkpoint(data, rate, seed),
        )  # fmt: skip
    except loop.Diverged as error:
        return None, None, str(error)
    return learner, course, None


def _train(one: Search) -> Callable[..., loop.TrainingSummary]:
    """The training loop of a method."""
    if one.listwise:
        return listwise.train_listwise
    if one.method == "lora":
        return lambda *args, **how: lora.train_lora(*args, **how)[0]
    return frozen_head.train_frozen if one.method == "frozen" else loop.train


def class_weights(data: Dataset) -> torch.Tensor:
    """[K]: classes weigh as if all were equally common, on average 1; multilabel: rows without a label per row with it.

    Raises ValueError for kinds without labels.
    """
    if not data.labels:
        raise ValueError(f"--balance weighs labels, and kind {data.kind} has none")
    counts = torch.zeros(len(data.labels), dtype=torch.float64)
    for one in data.train.examples:
        numbers = one.tags if data.kind == "tag" else one.label if isinstance(one.label, tuple) else (one.label,)
        for number in numbers:
            counts[number] += 1
    counts = counts.clamp(min=1.0)
    if data.kind == "multilabel":
        return ((len(data.train) - counts).clamp(min=1.0) / counts).clamp(max=100.0).float()
    return (counts.sum() / counts / len(counts)).float()


def part_of(data: Dataset, share: float) -> Dataset:
    """With a share of the rows to train on, the first in an order by hash: a larger share holds a smaller one."""
    keyed = [(digest([repr(anywhere(one))]), n) for n, one in enumerate(data.train.examples)]
    kept = sorted(n for _, n in sorted(keyed)[: max(1, round(share * len(keyed)))])
    train = Part([data.train.examples[n] for n in kept], [data.train.languages[n] for n in kept])
    return dataclasses.replace(data, train=train)
