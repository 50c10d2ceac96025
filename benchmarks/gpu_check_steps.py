"""Parts of gpu_check.py: whole training steps of mmBERT-base as `tessera train` makes them, one change at a time."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
import training_gpu_parts as training
from gpu_check_bench import PRESET, Bench, emptied
from optimi import StableAdamW
from training_gpu_heads import wait

from tessera.data.packing import Batch
from tessera.kernels import window_attention
from tessera.model import cross_entropy, glu
from tessera.model.mlm import MaskedLM
from tessera.plan import cost
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.phase import Optimizer, Phase
from tessera.train.distributed import World
from tessera.train.gradient import Cut, Objective, backward, prepare
from tessera.train.optimizer import build, clip_gradients, in_triton

STEP = 131_072  # tokens
SETTINGS = Optimizer(name="stableadamw", betas=(0.9, 0.95), eps=1e-8, weight_decay=8e-5, fully_decoupled=True)
RATE = 1e-4
ALIKE = 1e-2  # first losses of the ways, in parts: weights and batch are the same, dropout is not
AIMS = {"H100": {1024: 0.40, 8192: 0.33}, "H200": {1024: 0.45, 8192: 0.33}}  # MFU


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a step is made; each of WAYS changes one thing of the one before."""

    name: str
    tokens: int = 65_536  # of a pass
    kernel: bool = True  # the loss in one kernel
    triton: bool = True  # the optimizer in Triton
    compiled: bool = True  # layers
    at_once: bool = True  # the optimizer's tensors
    gates: bool = True  # gated units in kernels of their own
    sums: bool = True  # the table's gradient added up by the product
    stream: torch.dtype | None = None  # of the residual stream
    windows: bool = True  # in kernels of their own


_WITHOUT = {"at_once": False, "gates": False, "sums": False, "windows": False}
WAYS = (
    Way(name="nothing of it: passes of 16k", tokens=16_384, kernel=False, triton=False, compiled=False, **_WITHOUT),
    Way(name="+ passes of 64k", kernel=False, triton=False, compiled=False, **_WITHOUT),
    Way(name="+ the loss in one kernel", triton=False, compiled=False, **_WITHOUT),
    Way(name="+ StableAdamW in Triton", compiled=False, **_WITHOUT),
    Way(name="+ layers compiled", **_WITHOUT),
    Way(name="+ residual stream in bfloat16", stream=torch.bfloat16, **_WITHOUT),
    Way(name="+ windows in their own kernels", stream=torch.bfloat16, **{**_WITHOUT, "windows": True}),
    Way(name="+ gated units in kernels", stream=torch.bfloat16, at_once=False, sums=False),
    Way(name="+ the table's gradient added in float32", stream=torch.bfloat16, at_once=False),
    Way(name="+ StableAdamW of all tensors at once", stream=torch.bfloat16),
)


CASES = ((1024, "mixed", len(WAYS)), (8192, "mixed", 2), (8192, "full", 2))  # context, lengths, the last so many ways

_TRACED: list[tuple[bool, bool]] = []  # what the graphs were made for


def steps(bench: Bench) -> None:
    """MFU of every way on documents of at most 1,024 tokens, of the last two ways on 8,192."""
    for context, lengths, last in CASES:
        first = None
        for way in WAYS[-last:]:
            row: dict[str, Any] = {"row": f"{PRESET}, {context:,} {lengths}: {way.name}"}
            try:
                found = measured(bench, way, context, lengths)
            except RuntimeError as error:  # memory that is full is one
                bench.say({**row, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"})
                continue
            first = first or found["first_loss"]
            bench.say({**row, **found, "right": abs(found["first_loss"] / first - 1) < ALIKE})
            aim = next((aims.get(context) for name, aims in AIMS.items() if name in device_name(bench)), None)
            if way is WAYS[-1] and aim is not None:
                bench.say({"row": f"MFU at {context:,} tokens, {lengths}", "found": found["MFU"], "aim": aim})


def device_name(bench: Bench) -> str:
    return torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else ""


def measured(bench: Bench, way: Way, context: int, lengths: str) -> dict[str, Any]:
    """Seconds of a step, what share of the peak they are, and memory beside what `tessera plan` says."""
    context, tokens = bench.shorter(context, context // 16), bench.shorter(STEP, 512)
    passes = bench.shorter(way.tokens, way.tokens // 256)
    config = shape(bench)
    batch = next(training.passes(config, tokens, context, lengths, 1))
    cuda = bench.device.type == "cuda"
    with running(bench, way, config, batch, passes, context) as step:
        began = time.perf_counter()
        loss, *_ = step()
        cold = time.perf_counter() - began
        for _ in range(bench.shorter(2, 0)):
            step()
        if cuda:
            torch.cuda.reset_peak_memory_stats(bench.device)
        seconds = []
        for _ in range(bench.shorter(5, 1)):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
        used = torch.cuda.max_memory_allocated(bench.device) if cuda else 0
    took = statistics.median(seconds)
    flops = cost.step_flops(config, Counter(np.diff(batch.starts).tolist()), len(batch.positions))
    planned = sum(cost.memory(config, phase(context, tokens), passes, 1, own_windows=way.windows).values())
    return {
        "MFU": flops / took / bench.peak_flops, "tokens_s": len(batch.tokens) / took, "ms": took * 1e3,
        "TFLOP": flops / 1e12, "GiB": used / 2**30, "of_plan": used / planned, "first_s": cold, "first_loss": loss,
    }  # fmt: skip


def shape(bench: Bench) -> EncoderConfig:
    """The preset with its dropout."""
    share = PRESETS[PRESET].attention_output_dropout
    return training.shape(PRESET, bench.rehearse).model_copy(update={"attention_output_dropout": share})


def phase(context: int, tokens: int) -> Phase:
    return Phase.model_validate({
        "name": "check", "from": "scratch", "tokens": 100 * tokens, "context": context, "batch_tokens": tokens,
        "mask_ratio": training.MASK_RATIO, "learning_rate": {"peak": RATE}, "mixture": {"temperature": 1.0},
    })  # fmt: skip


Step = Callable[[], tuple[float, float]]  # one update; the mean loss before it, and the norm of the gradient


@contextmanager
def running(bench: Bench, way: Way, config: EncoderConfig, batch: Batch, passes: int, context: int) -> Iterator[Step]:
    """A step of a model that is trained that way; a thread prepares the next batch meanwhile, as in training."""
    device, world = bench.device, World(rank=0, size=1, device=bench.device)
    emptied(bench)  # of the model of the way before
    model = drawn(config, device)
    if way.stream is not None:
        model.encoder.residual = way.stream
    if way.compiled:
        backend = "aot_eager" if bench.rehearse else "inductor"
        if [(way.gates, way.windows)] != _TRACED:
            torch._dynamo.reset()  # graphs are of another way
            _TRACED[:] = [(way.gates, way.windows)]
        with torch.autocast(device.type, torch.bfloat16), only(way):
            model.encoder.compile_layers(passes, context, backend=backend)
    objective, cut = Objective(model), Cut.of(model, world, torch.bfloat16, passes, context)
    optimizer = optimizer_of(model, way)
    with ThreadPoolExecutor(1) as reader, only(way):
        ready = [reader.submit(prepare, batch, cut)]

        def step() -> tuple[float, float]:
            now = ready.pop().result()
            ready.append(reader.submit(prepare, batch, cut))
            sums = backward(objective, now, torch.bfloat16, noise=None, seed=0)
            norm = clip_gradients(model.parameters(), SETTINGS.clip_norm)
            *losses, length = torch.cat((sums, norm.reshape(1))).tolist()  # the one wait
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            wait(device)
            return sum(losses) / len(batch.positions), length

        yield step


@contextmanager
def only(way: Way) -> Iterator[None]:
    """What the way has not is switched off meanwhile."""
    with ExitStack() as without:
        if not way.kernel:
            without.enter_context(mock.patch.object(cross_entropy, "without_kernel", return_value="switched off"))
        if not way.gates:
            without.enter_context(mock.patch.object(glu, "without_kernel", return_value="switched off"))
        if not way.windows:
            without.enter_context(mock.patch.object(window_attention, "without_kernel", return_value="switched off"))
        if not way.sums:
            without.enter_context(mock.patch.object(cross_entropy, "adds_in_float32", return_value=False))
        yield


def drawn(config: EncoderConfig, device: torch.device) -> MaskedLM:
    """A model with weights of a usual size, drawn on the device: there it takes no time."""
    torch.manual_seed(0)
    with device:
        model = MaskedLM(config)
        for weight in model.parameters():
            weight.data.normal_(0.0, config.initializer_range) if weight.ndim > 1 else weight.data.fill_(1.0)
        if model.decoder_bias is not None:
            model.decoder_bias.data.zero_()
    return model.train()


def optimizer_of(model: MaskedLM, way: Way) -> torch.optim.Optimizer:
    """As training builds it, or in torch-optimi's Triton form, or in the form that it has on CPUs."""
    made = build(model, SETTINGS, RATE)
    if way.at_once:
        return made
    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in made.param_groups]
    triton = way.triton and in_triton(model)
    return StableAdamW(groups, lr=RATE, betas=SETTINGS.betas, eps=SETTINGS.eps, decouple_lr=True, max_lr=RATE,
                       foreach=not triton, triton=triton)  # fmt: skip


def profile(bench: Bench) -> None:
    """The 25 kernels that a step spends most in: with nothing of it, and with all."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    cuda = bench.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    spent = "self_device_time_total" if cuda else "self_cpu_time_total"
    context, config = bench.shorter(1024, 64), shape(bench)
    batch = next(training.passes(config, bench.shorter(STEP, 512), context, "mixed", 1))
    for way in (WAYS[-1], WAYS[0]):
        passes = bench.shorter(way.tokens, way.tokens // 256)
        with running(bench, way, config, batch, passes, context) as step:
            for _ in range(bench.shorter(3, 1)):
                step()
            with record(activities=kinds) as seen:
                step()
        kernels = [event for event in seen.key_averages() if not cuda or event.device_type.name == "CUDA"]
        largest = sorted(kernels, key=lambda event: -getattr(event, spent))[:25]
        bench.say({
            "row": f"kernels of a step: {way.name}", "ms": sum(getattr(event, spent) for event in kernels) / 1e3,
            "table": [[event.key[:90], event.count, getattr(event, spent) / 1e3] for event in largest],
        })  # fmt: skip
