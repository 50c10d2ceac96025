"""Learning-rate sweep of a retriever or a student: each rate is trained, the best with more seeds; the best is kept.

<folder>/5e-05.json          how the training of a rate went, whole or not there: a killed sweep goes on
<folder>/5e-05.seed-1.json   the same of another seed than the first
<folder>/5e-05.safetensors   its checkpoint, as long as it is on its way (finetune/checkpoint.py)
<folder>/best.safetensors    the weights of the best so far
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tessera.checksums import sealed_json
from tessera.files import digest, fingerprint, keep_damaged, read_json, write_json
from tessera.finetune import checkpoint
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.loop import Diverged, TrainingSummary
from tessera.inference import sentence_folder as folders
from tessera.plan.task import Protocol
from tessera.progress import Say, silent
from tessera.retrieval.pairs import Judged, Sentence
from tessera.retrieval.retriever import Retriever
from tessera.statistics import interval

_NOT_OF_A_TRAINING = {"name", "learning_rates", "sweep", "seeds", "select", "cite", "notes", "from_task"}
Json = dict[str, Any]


def trials_of(out: Path) -> Path:
    """The folder where trainings lie whose best one becomes `out`."""
    return out.with_name(f"{out.name}.trials")


def settings_of(protocol: Protocol) -> Json:
    """What a single training of a protocol depends on, besides rate and seed."""
    return protocol.model_dump(mode="json", exclude=_NOT_OF_A_TRAINING)


def model_fingerprint(folder: str | Path) -> list[str]:
    """Of the model of a folder, and of how the folder makes vectors of what it says."""
    pipeline, inside = folders.read(folders.local(folder))
    return [fingerprint(inside), pipeline.fingerprint()]


def rows_fingerprint(*several: Iterable[Judged | Sentence]) -> str:
    """What changes when any row does; places of rows aside."""
    found = hashlib.sha256()
    for rows in several:
        for one in rows:
            said = (one.query, one.grades) if isinstance(one, Judged) else (one.text, one.translation, one.language)
            found.update(repr(said).encode("utf-8", "surrogatepass") + b"\0")
        found.update(b"\1")
    return found.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The model that scored best on validation, and how it came about.

    rate      chosen with the first seed
    measures  of the model of that rate and each seed; empty where there is one seed
    """

    model: Retriever
    summary: TrainingSummary
    rate: float
    measures: list[dict[str, float]]

    def over_seeds(self) -> dict[str, tuple[float, float]]:
        """Of each measure the mean over seeds and half its 95% interval; nothing of one seed."""
        return {name: interval([found[name] for found in self.measures]) for name in (self.measures or [{}])[0]}

    def row(self, what: str = "") -> dict[str, dict[str, float]]:
        """The means over seeds, as a row of a table; none of one seed."""
        means = {name: mean for name, (mean, _) in self.over_seeds().items()}
        return {f"{what}mean of {len(self.measures)} seeds": means} if means else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Trainings that differ in rate and seed alone."""

    folder: Path
    identity: str  # a digest of what all depend on
    blank: Callable[[], Retriever]  # what each begins with
    train: Callable[[Retriever, float, int, Checkpoint], TrainingSummary]  # in place, (rate, seed). Raises Diverged
    score: Callable[[Retriever], float]  # on validation, the higher the better
    measure: Callable[[Retriever], dict[str, float]]  # what is said over seeds: of test, or validation
    seeds: tuple[int, ...]
    say: Say = silent

    def best_of(self, rates: Sequence[float]) -> Best:
        """The best of all rates with the first seed, then of the best rate with all seeds; the first of equals.

        Raises Diverged where no rate comes to an end.
        """
        failed, kept = "there is no learning rate to try", dict[tuple[float, int], Retriever]()
        done: dict[tuple[float, int], Json] = {}

        def tried(rate: float, seed: int) -> None:
            nonlocal failed
            highest = max((found["score"] for found in done.values()), default=-math.inf)
            what = f"learning rate {rate:g}" + (f", seed {seed}" if seed != self.seeds[0] else "")
            found, model = self._recorded(rate, seed), None
            before = found is not None
            if found is None:
                found, model = self._trained(rate, seed, highest)
            if found["failed"] is not None:
                failed = found["failed"]
                self.say(f"{what}: {failed}")
                return
            after = ", done before" if before else f" after {found['summary']['steps']} steps"
            self.say(f"{what}: {found['score']:.4f} on validation{after}")
            done[rate, seed] = found
            if found["score"] > highest:
                kept.clear()
                if model is not None:
                    kept[rate, seed] = model

        for rate in rates:
            tried(rate, self.seeds[0])
        if not done:
            raise Diverged(failed)
        rate, _ = max(done, key=lambda place: done[place]["score"])
        for seed in self.seeds[1:]:
            tried(rate, seed)
        best = max(done, key=lambda place: done[place]["score"])
        return Best(
            model=kept.get(best) or self._again(*best),
            summary=_summary(done[best]["summary"]),
            rate=rate,
            measures=[done[rate, seed]["measures"] for seed in self.seeds if (rate, seed) in done]
            if len(self.seeds) > 1
            else [],
        )

    def finished(self) -> None:
        """For whoever has kept the best model: its weights are not needed here any more."""
        self._weights().remove()

    def _place(self, rate: float, seed: int) -> Checkpoint:
        name = f"{rate:g}" if seed == self.seeds[0] else f"{rate:g}.seed-{seed}"
        return Checkpoint(place=self.folder / name, identity=self._of(rate, seed), say=self.say)

    def _weights(self) -> Checkpoint:
        return Checkpoint(place=self.folder / "best", identity=self.identity)

    def _of(self, rate: float, seed: int) -> str:
        return digest([self.identity, rate, *([seed] if seed != self.seeds[0] else ())])

    def _record(self, rate: float, seed: int) -> Path:
        place = self._place(rate, seed).place
        return place.with_name(f"{place.name}.json")

    def _recorded(self, rate: float, seed: int) -> Json | None:
        path = self._record(rate, seed)
        if (aside := keep_damaged(path)) is not None:
            self.say(f"{path.name} was damaged, is kept as {aside.name} and run again")
        found = read_json(path) if path.is_file() else None
        if not isinstance(found, dict) or found.get("identity") != self._of(rate, seed):
            return None
        lacks = len(self.seeds) > 1 and found["failed"] is None and "measures" not in found  # made for one seed
        return None if lacks else found

    def _trained(self, rate: float, seed: int, highest: float) -> tuple[Json, Retriever]:
        """What came of a rate and seed, written down; weights that are better than all before are kept first."""
        model, place = self.blank(), self._place(rate, seed)
        said: Json = {"identity": self._of(rate, seed), "failed": None}
        try:
            summary = self.train(model, rate, seed, place)
        except Diverged as error:
            said |= {"failed": str(error)}
        else:
            score = self.score(model)
            said |= {"score": score, "summary": dataclasses.asdict(summary)}
            if len(self.seeds) > 1:
                said["measures"] = self.measure(model)
            if score > highest:
                weights = dict(_network(model).state_dict())
                checkpoint.save(self._weights().path, weights, self._of(rate, seed), None)
        write_json(self._record(rate, seed), sealed_json(said))
        place.remove()
        return read_json(self._record(rate, seed)), model  # as whoever goes on finds it

    def _again(self, rate: float, seed: int) -> Retriever:
        """The model of a rate and seed that another process has trained: its weights, or the same training again."""
        model = self.blank()
        if (found := checkpoint.load(self._weights().path, self._of(rate, seed))) is not None:
            _network(model).load_state_dict(found[1])
            model.encoder.eval()
            return model
        self.train(model, rate, seed, self._place(rate, seed))
        return model


def _network(model: Retriever) -> nn.ModuleDict:
    return nn.ModuleDict({"encoder": model.encoder, "steps": model.steps})


def _summary(said: Json) -> TrainingSummary:
    validation = tuple((int(steps), float(score)) for steps, score in said["validation"])
    return TrainingSummary(**{**said, "losses": tuple(said["losses"]), "validation": validation})
