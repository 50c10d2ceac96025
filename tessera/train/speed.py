"""Micro-batch size, compiled layers and the residual stream: what `machine` says of speed, settled for one phase.

torch.compile makes one function of a whole layer, around the varlen kernel of CUDA: what lies between the matrix
products, RoPE among it, runs in a few kernels in place of some ninety, and is most of the time of a step without it.
"""

import time

import torch

from tessera.huggingface.hub import AnyMaskedLM
from tessera.model.mlm import MaskedLM
from tessera.model.precision import autocast, without_compiler
from tessera.plan.cost import fitting_tokens
from tessera.plan.fields import AUTO, show_tokens
from tessera.plan.phase import Phase
from tessera.plan.recipe import Machine
from tessera.progress import Watcher
from tessera.train.distributed import World
from tessera.train.gradient import Cut
from tessera.train.optimizer import in_triton


def tokens_at_once(model: AnyMaskedLM, phase: Phase, machine: Machine, world: World) -> int:
    """Tokens of a pass, by `machine.micro_batch_tokens`: for a model of ours `auto` is what a GPU's memory holds."""
    if machine.micro_batch_tokens != AUTO or world.device.type != "cuda" or not isinstance(model, MaskedLM):
        return machine.tokens_at_once
    has = torch.cuda.get_device_properties(world.device).total_memory
    return fitting_tokens(model.config, phase, has, world.size)


def speed_up(
    model: AnyMaskedLM, phase: Phase, machine: Machine, cut: Cut, dtype: torch.dtype, watcher: Watcher
) -> None:
    """Sets the residual stream, compiles the layers, and says what runs on a GPU.

    Raises ValueError for what `machine` asks for and cannot have here, and with machine.compile=on whatever the
    compiler raises.
    """
    device = cut.world.device
    if not isinstance(model, MaskedLM):
        return
    if machine.residual == "bfloat16":
        if dtype is not torch.bfloat16:
            raise ValueError(
                f"{phase.name}: machine.residual is bfloat16, but products are in {str(dtype).removeprefix('torch.')} "
                "here (machine.dtype); set machine.residual: float32"
            )
        model.encoder.residual = torch.bfloat16
    compiled = _compile(model, phase, machine, cut, dtype, watcher)
    if device.type == "cuda":
        update = ", StableAdamW in Triton" if phase.optimizer.name == "stableadamw" and in_triton(model) else ""
        watcher.say(
            f"{phase.name}: layers {compiled}, residual stream in {machine.residual}, at most "
            f"{show_tokens(cut.micro_batch_tokens)} tokens a pass{update}"
        )


def _compile(
    model: MaskedLM, phase: Phase, machine: Machine, cut: Cut, dtype: torch.dtype, watcher: Watcher
) -> str:  # fmt: skip
    """Whether the layers were compiled, in words."""
    why = _without(machine, cut)
    if machine.compile == "on" and why is not None:
        raise ValueError(f"{phase.name}: machine.compile is on, but {why}; set machine.compile: auto or off")
    if machine.compile == "auto" and why is None and machine.parallel == "fsdp2" and cut.world.size > 1:
        why = "with fsdp2 only where machine.compile is on"
    if machine.compile == "off" or why is not None:
        return f"not compiled ({why or 'machine.compile is off'})"
    watcher.say(f"{phase.name}: compiling the layers; the first time that may take minutes")
    began = time.perf_counter()
    try:
        with autocast(cut.world.device, dtype):
            kinds = model.encoder.compile_layers(cut.micro_batch_tokens, phase.context)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the compiler, its own compiler or the driver says
        if machine.compile == "on":
            raise
        first = next(iter(str(error).splitlines()), "")
        watcher.warn(f"{phase.name}: layers could not be compiled and run slower: {type(error).__name__}: {first}")
        return "not compiled"
    return f"compiled (kinds: {kinds}, {time.perf_counter() - began:.0f} s)"


def _without(machine: Machine, cut: Cut) -> str | None:
    """Why layers cannot be compiled here, or None."""
    if not cut.layouts:
        kind = cut.world.device.type
        return "attention does not run as varlen" if kind == "cuda" else f"layers are compiled on CUDA, this is {kind}"
    return without_compiler(cut.world.device)
