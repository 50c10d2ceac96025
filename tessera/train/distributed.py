"""One process or many: what `torchrun` started, joined to one world."""

import gc
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tessera.plan.recipe import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes that train one model together."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def join(machine: Machine) -> World:
    """Joins the processes that `torchrun` started; a process started alone is a world of one.

    Raises ValueError where the device asked for is not there.
    """
    size, rank, local = (int(os.environ.get(key, default)) for key, default in
                         (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")))  # fmt: skip
    there = torch.cuda.is_available()
    if machine.device == "cuda" and not there:
        raise ValueError("machine.device is cuda, but PyTorch sees no GPU; set machine.device=cpu or auto")
    on_gpu = there and machine.device != "cpu"
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    elif machine.threads is not None:
        torch.set_num_threads(machine.threads)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return World(rank=rank, size=size, device=device)


def leave(world: World) -> None:
    """Ends what `join` began."""
    if world.size > 1 and dist.is_initialized():
        gc.collect()  # a replicated module that is still held keeps threads of the group alive into the exit: SIGABRT
        dist.destroy_process_group()


def replicate(module: nn.Module, world: World) -> nn.Module:
    """The module with its gradients averaged over all processes; itself where there is one."""
    return DistributedDataParallel(module) if world.size > 1 else module


def total(values: list[float], world: World) -> list[float]:
    """Sums each value over all processes."""
    if world.size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=world.device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def from_lead(value: Any, world: World) -> Any:
    """What the leading process has, in every process."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait(world: World) -> None:
    """Returns when every process has come here."""
    if world.size > 1:
        dist.barrier()
