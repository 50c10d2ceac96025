"""Learning-rate sweep of a retriever or a student: each rate is trained, the best kept; a killed sweep goes on.

<folder>/5e-05.json          how the training of a rate went, whole or not there
<folder>/5e-05.safetensors   its checkpoint, as long as it is on its way (finetune/checkpoint.py)
<folder>/best.safetensors    the weights of the best rate so far
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
class Sweep:
    """Trainings that differ in the rate alone."""

    folder: Path
    identity: str  # a digest of what all depend on
    blank: Callable[[], Retriever]  # what each begins with
    train: Callable[[Retriever, float, Checkpoint], TrainingSummary]  # in place. Raises Diverged
    score: Callable[[Retriever], float]  # on validation, the higher the better
    say: Say = silent

    def best_of(self, rates: Sequence[float]) -> tuple[Retriever, TrainingSummary, float]:
        """(model, summary, rate) of the rate whose score is highest, the first of equals.

        Raises Diverged where no rate comes to an end.
        """
        best: tuple[float, TrainingSummary] | None = None
        highest, failed, kept = -math.inf, "there is no learning rate to try", dict[float, Retriever]()
        for rate in rates:
            found = self._recorded(rate)
            before, model = found is not None, None
            if found is None:
                found, model = self._trained(rate, highest)
            if found["failed"] is not None:
                failed = found["failed"]
                self.say(f"learning rate {rate:g}: {failed}")
                continue
            summary, score = _summary(found["summary"]), float(found["score"])
            after = ", done before" if before else f" after {summary.steps} steps"
            self.say(f"learning rate {rate:g}: {score:.4f} on validation{after}")
            if best is None or score > highest:
                best, highest, kept = (rate, summary), score, {rate: model} if model is not None else {}
        if best is None:
            raise Diverged(failed)
        rate, summary = best
        return kept.get(rate) or self._again(rate), summary, rate

    def finished(self) -> None:
        """For whoever has kept the best model: its weights are not needed here any more."""
        self._weights().remove()

    def _place(self, rate: float) -> Checkpoint:
        return Checkpoint(place=self.folder / f"{rate:g}", identity=self._of(rate), say=self.say)

    def _weights(self) -> Checkpoint:
        return Checkpoint(place=self.folder / "best", identity=self.identity)

    def _of(self, rate: float) -> str:
        return digest([self.identity, rate])

    def _record(self, rate: float) -> Path:
        return self.folder / f"{rate:g}.json"

    def _recorded(self, rate: float) -> Json | None:
        path = self._record(rate)
        if (aside := keep_damaged(path)) is not None:
            self.say(f"{path.name} was damaged, is kept as {aside.name} and run again")
        found = read_json(path) if path.is_file() else None
        return found if isinstance(found, dict) and found.get("identity") == self._of(rate) else None

    def _trained(self, rate: float, highest: float) -> tuple[Json, Retriever]:
        """What came of a rate, written down; weights that are better than all before are kept first."""
        model, place = self.blank(), self._place(rate)
        said: Json = {"identity": self._of(rate), "failed": None}
        try:
            summary = self.train(model, rate, place)
        except Diverged as error:
            said |= {"failed": str(error)}
        else:
            score = self.score(model)
            said |= {"score": score, "summary": dataclasses.asdict(summary)}
            if score > highest:
                checkpoint.save(self._weights().path, dict(_network(model).state_dict()), self._of(rate), None)
        write_json(self._record(rate), sealed_json(said))
        place.remove()
        return read_json(self._record(rate)), model  # as whoever goes on finds it

    def _again(self, rate: float) -> Retriever:
        """The model of a rate that another process has trained: its weights, or the same training once more."""
        model = self.blank()
        if (found := checkpoint.load(self._weights().path, self._of(rate))) is not None:
            _network(model).load_state_dict(found[1])
            model.encoder.eval()
            return model
        self.train(model, rate, self._place(rate))
        return model


def _network(model: Retriever) -> nn.ModuleDict:
    return nn.ModuleDict({"encoder": model.encoder, "steps": model.steps})


def _summary(said: Json) -> TrainingSummary:
    validation = tuple((int(steps), float(score)) for steps, score in said["validation"])
    return TrainingSummary(**{**said, "losses": tuple(said["losses"]), "validation": validation})
