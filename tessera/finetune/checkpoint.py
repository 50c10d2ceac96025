"""Checkpoints and early stopping of a fine-tuning: a training that was stopped goes on, and ends with the same bytes.

    <place>.safetensors           weights, moments, generators, the best weights so far, and which training they are of
    <place>.safetensors.sha256    its checksum

One file, whole or not there; the next one takes its place. It is written by the clock and where a signal asks to stop,
so where it stands changes how much is done again and nothing else.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tessera import checksums, signals
from tessera.files import atomic_file
from tessera.progress import Say, silent
from tessera.train.optimizer import pack_state, unpack_state

MINUTES = 5.0  # between two checkpoints


@dataclass(slots=True)
class EarlyStopping:
    """Remembers the weights that scored best on validation, the first of equals."""

    network: nn.Module
    validate: Callable[[], float]
    patience: int  # scores in a row without a better one
    scores: list[tuple[int, float]] = field(default_factory=list)  # (steps done, score)
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best(self) -> tuple[int, float]:
        return max(self.scores, key=lambda score: score[1])

    @property
    def over(self) -> bool:
        """Whether patience is at its end."""
        return bool(self.scores) and len(self.scores) - 1 - self.scores.index(self.best) >= self.patience

    def score(self, steps: int) -> None:
        """Scores the network as it is after so many steps."""
        self.scores.append((steps, self.validate()))
        if self.best is self.scores[-1]:
            self.weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}


@dataclass(slots=True, eq=False)
class Course:
    """All of a training that changes from step to step."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    stopping: EarlyStopping | None
    losses: list[float] = field(default_factory=list)  # of each step
    tokens: int = 0  # read


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """Where a training leaves its checkpoint, and how often."""

    place: Path  # the file, without .safetensors
    identity: str  # of the training: a digest of all that it depends on
    minutes: float = MINUTES
    say: Say = silent
    _written: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> Path:
        return self.place.with_name(f"{self.place.name}.safetensors")

    @property
    def beside(self) -> Path:
        """A file for what else a training cannot compute again, such as mined negatives."""
        return self.place.with_name(f"{self.place.name}.negatives.json")

    def resume(self, course: Course, steps: int) -> None:
        """Puts a course where its checkpoint left it; one that is damaged, or of another training, is said and left."""
        if (found := self._read()) is None:
            return
        state, tensors = found
        course.network.load_state_dict(_below(tensors, "network."))
        unpack_state(course.optimizer, _below(tensors, "optimizer."), state["optimizer"])
        torch.set_rng_state(tensors["random.cpu"])
        for number, value in _below(tensors, "random.cuda.").items():
            torch.cuda.set_rng_state(value, int(number))
        course.losses[:], course.tokens = state["losses"], state["tokens"]
        if course.stopping is not None:
            course.stopping.scores[:] = [(int(done), score) for done, score in state["scores"]]
            device = next(course.network.parameters()).device
            course.stopping.weights = {name: value.to(device) for name, value in _below(tensors, "best.").items()}
        self.say(f"goes on after step {len(course.losses):,} of {steps:,}, from {self.path}")

    def after_step(self, course: Course, steps: int) -> None:
        """Writes a checkpoint where one is due. Raises Stopped, with one written, where a signal asked for it."""
        number = signals.asked()
        if not number and time.monotonic() - self._written < 60 * self.minutes:
            return
        self._write(course)
        self._written = time.monotonic()
        if number:
            done = len(course.losses)
            raise signals.Stopped(
                number, f"a checkpoint after step {done:,} of {steps:,} is kept; run the same command again, it goes on"
            )

    def remove(self) -> None:
        """For whoever has kept what came of the training."""
        for path in (self.path, self.path.with_name(self.path.name + checksums.BESIDE), self.beside):
            path.unlink(missing_ok=True)

    def _write(self, course: Course) -> None:
        moments, plain = pack_state(course.optimizer)
        parts: dict[str, dict[str, Tensor]] = {
            "network": course.network.state_dict(),
            "optimizer": moments,
            "random": {"cpu": torch.get_rng_state()},
            "random.cuda": {str(n): state for n, state in enumerate(torch.cuda.get_rng_state_all())},
            "best": course.stopping.weights if course.stopping else {},
        }
        tensors = {f"{part}.{name}": value.detach() for part, some in parts.items() for name, value in some.items()}
        state = {
            "losses": course.losses,
            "tokens": course.tokens,
            "scores": course.stopping.scores if course.stopping else [],
            "optimizer": plain,
        }
        save(self.path, tensors, self.identity, state)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        try:
            return load(self.path, self.identity)
        except checksums.Damaged as error:
            logging.getLogger("tessera").warning("%s; the training begins anew", error)
            return None


def save(path: Path, tensors: dict[str, Tensor], identity: str, state: Any) -> None:
    """Writes tensors and what JSON can hold to one file with its checksum, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    apart = {name: value.to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    with atomic_file(path, sealed=True) as draft:
        save_file(apart, draft, metadata={"identity": identity, "state": json.dumps(state)})


def load(path: Path, identity: str) -> tuple[Any, dict[str, Tensor]] | None:
    """(state, tensors) as `save` wrote them; None where there is no file, or it is of something else.

    Raises Damaged where it is not what was written.
    """
    if not path.is_file():
        return None
    checksums.check(path)
    with safe_open(path, framework="pt") as file:
        said = file.metadata() or {}
        if said.get("identity") != identity:
            return None
        return json.loads(said["state"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
