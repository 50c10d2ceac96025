"""Training the tiny run in this process, with or without an accident."""

import json
from pathlib import Path

import torch
from tiny_run import recipe

from tessera.data.packing import Batch
from tessera.huggingface.hub import AnyMaskedLM
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe
from tessera.progress import Silent
from tessera.train.distributed import World
from tessera.train.gradient import Cut, Objective, SeededDropout, backward, prepare
from tessera.train.trainer import Text, train


class Hears(Silent):
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(f"warning: {text}")


ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def gradient_of(
    model: AnyMaskedLM, batch: Batch, tokens: int, noise: SeededDropout | None, world: World = ALONE
) -> float:
    """Adds the gradient of the batch in passes of so many tokens; returns this process's part of the loss."""
    passes = prepare(batch, Cut(world=world, micro_batch_tokens=tokens))
    sums = backward(Objective(model), passes, torch.float32, noise=noise, seed=1)
    return sum(sums.tolist()) / len(batch.positions)


def go(
    folder: Path,
    text: Text,
    stop: int | None = None,
    phases: tuple[str, ...] = ("first",),
    plan: Recipe | None = None,
    **machine: object,
) -> list[str]:
    """Trains the named phases; with `stop`, dies at the progress call of that number. Returns what was said."""
    watcher = Hears()
    plan = plan or recipe(**machine)
    made = 0

    def watch(done: int, total: int, what: str) -> None:
        nonlocal made
        made += 1
        if made == stop:
            raise KeyboardInterrupt

    for name in phases:
        train(plan, plan.phase(name), folder, text, ALONE, watch, watcher)
    return watcher.said


def changed(**phase: object) -> Recipe:
    """The tiny recipe with other values in its first phase."""
    data = recipe().model_dump(mode="json", by_alias=True)
    data["phases"][0] |= phase
    return Recipe.model_validate(data)


def first(plan: Recipe) -> Phase:
    return plan.phases[0]


def weights(folder: Path, phase: str = "first") -> bytes:
    return (folder / phase / "final" / "model.safetensors").read_bytes()


def lines(folder: Path, kind: str = "step", phase: str = "first") -> list[dict[str, float]]:
    read = [json.loads(line) for line in (folder / phase / "metrics.jsonl").read_text().splitlines()]
    return [line for line in read if line["kind"] == kind]
