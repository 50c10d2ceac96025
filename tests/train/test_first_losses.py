"""The first losses of the tiny run, kept in a file: a change that is meant to change nothing changes none of them."""

import json
from pathlib import Path

import torch
from tiny_run import recipe

from tessera.train.distributed import World
from tessera.train.trainer import Text, train

KEPT = Path(__file__).with_name("first_losses.txt")


def test_the_first_losses_are_what_they_were(tmp_path: Path, text: Text):
    plan = recipe()
    world = World(rank=0, size=1, device=torch.device("cpu"))
    train(plan, plan.phase("first"), tmp_path, text, world)
    lines = map(json.loads, (tmp_path / "first" / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    now = "".join(f"{loss:.4f}\n" for loss in losses)
    kept = [float(line) for line in KEPT.read_text(encoding="utf-8").split()]
    # Processors add in different orders, so the last digit may be one off.
    same = len(kept) == len(losses) and all(abs(a - b) < 1.5e-4 for a, b in zip(kept, losses, strict=True))
    assert same, (
        f"the losses were\n{KEPT.read_text(encoding='utf-8')}and are\n{now}"
        "Text, tokenizer, masks, initialization, model, optimizer or schedule compute something else than before. "
        f"If that is meant, write the new losses into tests/train/{KEPT.name} and say in the change why they moved."
    )
