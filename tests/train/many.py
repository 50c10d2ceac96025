"""Worlds of several processes inside a test: forked from one that has imported torch already, so they start at once."""

import functools
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_run import recipe

from tessera.data.shards import Shards
from tessera.plan.recipe import Recipe
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.train.distributed import World, join, leave
from tessera.train.trainer import Text, train

PATIENCE = 200  # seconds
THREADS_LEFT = 9  # exit code


def together(size: int, work: Callable[..., None], *given: Any, timeout: float = 1_800) -> list[int | None]:
    """Calls work(world, *given) in `size` processes; returns their exit codes. `given` must be picklable.

    timeout   seconds that they wait for one another
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tessera.train.trainer", "torch._dynamo", "optimi"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [context.Process(target=_member, args=(rank, size, port, timeout, work, given)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def _member(rank: int, size: int, port: int, timeout: float, work: Callable[..., None], given: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group = functools.partial(dist.init_process_group, timeout=timedelta(seconds=timeout))
    world = join(recipe().machine)
    try:
        work(world, *given)
    finally:
        leave(world)
    if any("gloo" in name for name in threads()):
        sys.exit(THREADS_LEFT)


def threads() -> list[str]:
    """The names of this process's threads, those of the libraries too."""
    tasks = Path("/proc/self/task")
    return [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.is_dir() else []


def opened(folder: Path) -> Text:
    """The text of the fixture, in another process."""
    return Text(
        train=Shards.open(folder / "train"),
        held_out=Shards.open(folder / "held_out"),
        tokenizer=Tokenizer.load(folder / "tokenizer"),
        tokenizer_folder=folder / "tokenizer",
    )


def train_all(world: World, folder: Path, runs: list[tuple[Path, Recipe]]) -> None:
    """Trains the first phase of each run, one after the other, in the same processes."""
    text = opened(folder)
    for out, plan in runs:
        train(plan, plan.phases[0], out, text, world)
