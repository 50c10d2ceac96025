"""The engine that `tessera tune` found fastest for a model on this machine: read from its folder, opened, named.

    MODEL/tuned/choice.json         engine, number format, threads, token budget, and what was measured
    MODEL/tuned/steps.safetensors   of int8 (packed/int8.py)
    MODEL/tuned/graph/              of OpenVINO and ONNX Runtime

A choice holds for the weights and the processor it was measured on; on others it is left aside, which the log says.
Whoever asks for a device or a number format gets those. The folder may be removed at any time.
"""

import logging
import platform
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from tessera import checksums
from tessera.files import fingerprint, read_json
from tessera.inference.runtime import Runtime
from tessera.json_files import Strictly
from tessera.model.encoder import Encoder
from tessera.packed.encoder import PackedEncoder
from tessera.packed.int8 import can_int8, int8_layer
from tessera.plan.errors import one_line

FOLDER, CHOICE, STEPS, GRAPH = "tuned", "choice.json", "steps.safetensors", "graph"


class Choice(Strictly):
    """What was chosen."""

    engine: Literal["packed", "int8", "graph"]
    name: str  # as people are told
    dtype: Literal["float32", "bfloat16"]
    threads: int
    max_tokens: int  # of a batch
    goal: str  # throughput or latency
    model: str  # fingerprint of the weights
    processor: str
    head: str = ""  # kind of the head of a task whose answers were held against the bound; "": vectors were

    def __str__(self) -> str:
        return f"tuned for {self.goal}: {self.name}, {self.threads} threads"


@cache
def processor() -> str:
    """Its name, and the instructions that PyTorch uses of it."""
    place = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", place.read_text(encoding="utf-8"), re.M) if place.is_file() else None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    fast = [
        flag for flag, there in (("bfloat16", torch.cpu._is_avx512_bf16_supported()), ("int8", can_int8())) if there
    ]
    return ", ".join([name, torch.backends.cpu.get_cpu_capability(), *fast])


def choice(
    folder: Path, device: str = "auto", dtype: str = "auto", attention: str = "auto", *, head: bool = False
) -> Choice | None:
    """What was chosen for the model in a folder, if it holds here; the log says why it does not.

    head  whether it is the head of a task that is to answer; else vectors are wanted, or hidden states

    None also where a device, a number format or a backend of attention is asked for, and where the other was tuned.

    Raises ValueError naming the file that is damaged.
    """
    place = folder / FOLDER / CHOICE
    free = device in ("auto", "cpu") and dtype == attention == "auto"
    if not free or not place.is_file() or (device == "auto" and torch.cuda.is_available()):
        return None
    try:
        found = TypeAdapter(Choice).validate_python(read_json(place))
    except ValidationError as error:
        raise ValueError(f"{place}: {one_line(error)}; remove {place.parent}, or run tessera tune again") from None
    if bool(found.head) != head:
        return None
    why = ""
    if found.processor != processor():
        why = f"was measured on another processor ({found.processor})"
    elif found.model != fingerprint(folder):
        why = "was measured with other weights"
    if why:
        logging.getLogger("tessera").warning("%s %s and is left aside; run tessera tune again", place, why)
    return None if why else found


Opened = tuple[nn.Module, str, Literal["float32", "bfloat16"], int]


def opened(found: Choice, folder: Path, model: Callable[[], nn.Module], threads: int | None) -> Opened:
    """The model in the engine that was chosen, and the device, number format and threads it is for.

    folder   of the model
    model    gives our encoder; not called for a graph
    threads  that were asked for
    """
    place, several = folder / FOLDER, threads or found.threads
    if found.engine == "graph":  # which computes in its own precision
        return Runtime.open(place / GRAPH, dtype=found.dtype, threads=several), "cpu", "float32", several
    encoder = model()
    if found.engine == "int8" and isinstance(encoder, Encoder):
        encoder = in_int8(encoder, place / STEPS, found.dtype)
    return encoder, "cpu", found.dtype, several


def in_int8(encoder: Encoder, steps: Path, dtype: str) -> PackedEncoder:
    """With the steps of a file. Raises ValueError naming it where they do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    number = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    checksums.check(steps)
    try:
        return PackedEncoder(encoder.eval(), number, int8_layer(load_file(steps)))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{steps}: does not fit the model ({str(error)[:200]}); remove {steps.parent}, or run tessera tune again"
        ) from None
