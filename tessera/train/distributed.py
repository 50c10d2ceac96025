"""Distributed training: the processes that `torchrun` started, joined to one world; DDP, or FSDP2 (sharded weights)."""

import contextlib
import functools
import gc
import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tessera.model.encoder import Block
from tessera.model.precision import find_device, keep_memory
from tessera.plan.recipe import Machine
from tessera.signals import Stopped

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

Parallel = Literal["ddp", "fsdp2"]

_PATIENCE = timedelta(days=24)  # with a leader that prepares text or evaluates; in milliseconds just under 2 ** 31


class LostProcess(ValueError):
    """Another process of the run has ended, so this one cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The processes that train one model together."""

    rank: int
    size: int
    device: torch.device
    # A group of all that waits for the leader; none in a world of one, and none after `leave`.
    waiting: list[dist.ProcessGroup] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.device.type == "cuda" and self.device.index is None:  # `cuda` is another GPU in another thread
            object.__setattr__(self, "device", torch.device("cuda", torch.cuda.current_device()))

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def leads() -> bool:
    """Whether this process is the one of its world that prints; asked before `join` and after `leave`."""
    return os.environ.get("RANK", "0") == "0"


def join(machine: Machine) -> World:
    """Joins the processes that `torchrun` started; a process started alone is a world of one.

    Raises ValueError where the device asked for is not there.
    """
    size, rank, local = (int(os.environ.get(key, default)) for key, default in
                         (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0")))  # fmt: skip
    there = torch.cuda.is_available()
    if machine.device == "cuda" and not there:
        raise ValueError("machine.device is cuda, but PyTorch sees no GPU; set machine.device=cpu or auto")
    if machine.device == "mps" and size > 1:
        raise ValueError("machine.device is mps, which is one GPU for one process; start without torchrun")
    on_gpu = there and machine.device not in ("cpu", "mps")
    device = torch.device("cuda", local) if on_gpu else find_device("mps" if machine.device == "mps" else "cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    else:
        keep_memory()
        if machine.threads is not None:
            torch.set_num_threads(machine.threads)
    waiting = []
    if size > 1 and not dist.is_initialized():
        # Functions in these have the group of all processes as a default argument, as it is when they are imported. DDP
        # imports the second at its first use, which is too late: the group with its threads would live into the exit of
        # the process, and now and then end it with SIGABRT.
        for name in ("torch.distributed.fsdp", "torch.distributed.nn.functional"):
            importlib.import_module(name)
        kind, own = ("nccl", device) if on_gpu else ("gloo", None)  # its own GPU: NCCL never asks another's
        dist.init_process_group(kind, store=_meeting_place(), rank=rank, world_size=size, device_id=own)
    if size > 1:  # over gloo, whose connections break at once when a process dies, however long it may take
        waiting.append(dist.new_group(backend="gloo", timeout=_PATIENCE))
    return World(rank=rank, size=size, device=device, waiting=waiting)


def use_device(world: World) -> None:
    """Has the thread that calls this work with the GPU of its process: a new thread begins with the first GPU, and
    would take some hundred megabytes of it."""
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)


def _meeting_place() -> dist.Store:
    """Where processes leave their addresses, with a room of its own for each attempt of torchrun --max-restarts.

    The store outlives the processes, and without rooms a new one may read the address of a dead one (pytorch/pytorch
    issue 135712). On several nodes the count of restarts is not the same everywhere; there torchrun must be started
    with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
    """
    store, _, _ = next(dist.rendezvous("env://"))
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if alone else "0"
    return dist.PrefixStore(f"attempt-{attempt}", store)


def leave(world: World) -> None:
    """Ends what `join` began: all together, or at once where this process leaves because of an error."""
    if world.size == 1 or not dist.is_initialized():
        return
    error = sys.exception()
    if error is None or (isinstance(error, Stopped) and error.together):
        dist.barrier()  # nobody closes a connection that another still waits on
    world.waiting.clear()
    _forget_layouts()
    gc.collect()  # a replicated module in a cycle of references would keep the group and its threads
    dist.destroy_process_group()


def _forget_layouts() -> None:
    """Empties PyTorch's caches of how tensors were spread, which would keep the group and its threads into the exit."""
    for thing in gc.get_objects():
        if type(thing) is functools._lru_cache_wrapper and str(thing.__module__).startswith("torch.distributed."):
            thing.cache_clear()
        # PyTorch 2.11 never lets go of a mesh, and there it holds its group; isinstance would fail on dead proxies
        elif issubclass(type(thing), DeviceMesh):
            vars(thing).get("_pg_registry", {}).clear()
    from torch.distributed.tensor import _redistribute as planner
    from torch.distributed.tensor import debug as propagation

    for module, name in ((planner, "clear_redistribute_planner_cache"), (propagation, "_clear_sharding_prop_cache")):
        getattr(module, name, lambda: None)()  # one more that a later PyTorch no longer has is no reason to fail


@contextlib.contextmanager
def watched(world: World) -> Iterator[None]:
    """Turns the error of a collective whose partner is gone into a LostProcess that says so."""
    try:
        yield
    except RuntimeError as error:
        first = str(error).splitlines()[0] if str(error) else ""
        lost = isinstance(error, dist.DistError) or "gloo" in first or "monitoredBarrier" in first
        if world.size == 1 or not lost:
            raise
        raise LostProcess(
            f"process {world.rank} of {world.size}: another process has ended or does not answer ({first}). What it "
            "died of stands in its own output. The last checkpoint is whole: start the same command again, or let "
            "torchrun do it with --max-restarts"
        ) from error


def spread(module: nn.Module, world: World, parallel: Parallel) -> nn.Module:
    """The module with its gradients averaged over all processes; itself where there is one.

    ddp     every process has all weights
    fsdp2   every process has a part of each weight, gathered for one layer at a time while that is computed
    """
    if world.size == 1:
        return module
    if parallel == "ddp":
        return DistributedDataParallel(module, gradient_as_bucket_view=True)  # else every gradient is held twice
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for part in list(module.modules()):
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def rounds(own: int, module: nn.Module, world: World) -> int:
    """How many forward passes each process makes for a batch of which it has `own` pieces.

    At least one, or its gradients would be missed; where weights are gathered in each pass, as many as the others.
    """
    if world.size == 1 or not _gathers(module):
        return max(1, own)
    most = torch.tensor([own], device=world.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return max(1, int(most))


def averaging(module: nn.Module, now: bool) -> contextlib.AbstractContextManager[None]:
    """Whether the way back inside averages the gradients over the processes, or only adds them up here."""
    if _gathers(module):
        module.set_requires_gradient_sync(now)
    return module.no_sync() if isinstance(module, DistributedDataParallel) and not now else contextlib.nullcontext()


def _gathers(module: nn.Module) -> TypeGuard["FSDPModule"]:
    """Whether the weights of a module are in parts that each pass gathers."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # a second to import, for a class that one process never makes
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts; every process calls this for a tensor that is spread. Others are returned as is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor, the same in every process, spread as `model` is."""
    if not isinstance(model, DTensor):
        return tensor
    return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements, src_data_rank=None)


def total(values: list[float], world: World) -> list[float]:
    """Sums each value over all processes: the same numbers in each of them."""
    if world.size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=world.device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def summed(tensor: Tensor, world: World) -> Tensor:
    """The sum of a tensor over all processes, the same in each of them; without a gradient."""
    if world.size > 1:
        dist.all_reduce(tensor)
    return tensor


def gathered(values: list[float], world: World) -> list[list[float]]:
    """The values of every process, by rank: the same table in each of them."""
    if world.size == 1:
        return [values]
    table = torch.zeros(world.size, len(values), dtype=torch.float64, device=world.device)
    table[world.rank] = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(table)
    return table.tolist()


def from_lead(value: Any, world: World) -> Any:
    """What the leading process has, in every process; they `wait` for it."""
    if world.size == 1:
        return value
    wait(world)
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def wait(world: World) -> None:
    """Returns when every process has come here.

    The others wait for the leader as long as it lives, the leader for the others as long as gloo waits by itself.
    """
    if world.size > 1:
        dist.monitored_barrier(world.waiting[0])
