"""What a phase costs: FLOPs, memory of one GPU, hours; from a recipe and a machine, by arithmetic."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tessera.plan.architecture import EncoderConfig, flops_per_token, head_flops, parameters
from tessera.plan.errors import did_you_mean
from tessera.plan.fields import at
from tessera.plan.phase import Phase

LOGITS_AT_ONCE = 4096  # scored positions whose logits are held together; model/mlm.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator, as its vendor's data sheet has it: dense bfloat16 with float32 sums, without sparsity."""

    flops: float  # each second
    memory: float  # bytes


GPUS = {
    "a10": Gpu(flops=125e12, memory=24e9),
    "a100": Gpu(flops=312e12, memory=80e9),
    "a100-40gb": Gpu(flops=312e12, memory=40e9),
    "b200": Gpu(flops=2250e12, memory=180e9),
    "h100": Gpu(flops=989e12, memory=80e9),
    "h200": Gpu(flops=989e12, memory=141e9),
    "l4": Gpu(flops=121e12, memory=24e9),
    "l40s": Gpu(flops=362e12, memory=48e9),
    "mi250x": Gpu(flops=383e12, memory=128e9),
    "mi300a": Gpu(flops=981e12, memory=128e9),
    "mi300x": Gpu(flops=1307e12, memory=192e9),
    "rtx4090": Gpu(flops=165e12, memory=24e9),
}
"""Source: the data sheets of NVIDIA (A10, A100, H100 SXM, H200, L4, L40S, HGX B200; for the RTX 4090 the white paper of
its architecture, Ada) and AMD (MI250X, both dies; MI300A, MI300X). Where a sheet states the figure with sparsity, half
of it stands here."""

HOPPER = ("h100", "h200")
"""Compute capability 9.0: kernels of windows are made for these."""


def gpu(name: str) -> Gpu:
    """The GPU of that name. Raises ValueError for one that is not in the table."""
    if name not in GPUS:
        raise ValueError(f"--gpu: {name!r} is not in the table; {did_you_mean(name, GPUS)}")
    return GPUS[name]


def _words(name: str) -> set[str]:
    return set(re.findall(r"\w+", name.lower().replace("rtx4090", "rtx 4090")))


_DEVICES = {"mi250x": 2}  # that torch sees of one card
_KIN = ({"mig"}, {"nvl"}, {"laptop"}, {"h100", "pcie"}, {"4090", "d"}, {"mi250"})
"""Words in names of kin with other figures: a part of a card, a cooler one. `MI250X / MI250` may be either."""


def data_sheet(device: str) -> tuple[str, float] | None:
    """The row of the table and the FLOP/s of one device, by the name its driver gives it; None where it has no row.

    `NVIDIA A100-SXM4-40GB` is a100-40gb; of an MI250X torch sees each die by itself.
    """
    words = _words(device)
    rows = [name for name in GPUS if _words(name) <= words]
    if not rows or any(kin <= words for kin in _KIN):
        return None
    row = max(rows, key=lambda name: len(_words(name)))
    return row, GPUS[row].flops / _DEVICES.get(row, 1)


def step_flops(config: EncoderConfig, lengths: Mapping[int, int], masked: int) -> float:
    """FLOPs of the matrix products of a step: forward of all documents, the head where something is masked, times 3.

    lengths   how many documents have each length; pairs of tokens are counted as the windows let them see each other
    masked    scored positions
    """
    forward = sum(times * length * flops_per_token(config, length) for length, times in lengths.items())
    return 3 * (forward + masked * head_flops(config))


def phase_flops(config: EncoderConfig, phase: Phase, length: float) -> float:
    """FLOPs of the matrix products of a phase whose documents have `length` tokens in the mean.

    Forward of every token and of the head at every masked position, times 3: the way back costs twice the way there.
    A contrast goes forward once more, for all vectors of the batch before the gradient of any (train/embedding.py).
    Attention is counted for documents of just this length; where lengths vary it is somewhat more.
    """
    ends = at(phase.predicted, 0.0), at(phase.predicted, 1.0)
    masked = sum(ends) / 2  # the mean of either curve
    forward = flops_per_token(config, max(1, round(length))) + masked * head_flops(config)
    return (4 if phase.contrast is not None else 3) * forward * phase.tokens


def mining_flops(config: EncoderConfig, phase: Phase, length: float) -> tuple[float, float]:
    """FLOPs of mining a phase's hard negatives: at most so many to read its pairs, and those of comparing each pair.

    Each pair is read once, and only forward; its first side is held against the second sides of `among` pairs.
    """
    assert phase.contrast is not None
    pairs = phase.tokens * 2 / (2 + phase.contrast.negatives)
    return pairs * flops_per_token(config, max(1, round(length))), 2.0 * phase.contrast.among * config.hidden_size


def gpu_hours(flops: float, name: str, mfu: float) -> float:
    """Hours on one GPU that runs at the share `mfu` of its peak. Raises ValueError for a share outside (0, 1]."""
    if not 0 < mfu <= 1:
        raise ValueError(f"--mfu: {mfu} is no share of a GPU's peak; give a value above 0 and at most 1, as 0.4")
    return flops / (gpu(name).flops * mfu) / 3600


def this_machine() -> tuple[str, float]:
    """(words, FLOP/s) of the matrix products of this machine, by data sheets: of its GPUs, else of its processor.

    Without torch, so that a plan starts at once; a run measures (train/throughput.py).
    """
    if (tool := shutil.which("nvidia-smi")) is not None:
        asked = [tool, "--query-gpu=name", "--format=csv,noheader"]
        listed = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        names = [line.strip() for line in listed.splitlines() if line.strip()]
        rows = [row for name in names if (row := data_sheet(name)) is not None]
        if rows:
            return f"{len(rows)} x {names[0]}, by its data sheet", sum(flops for _, flops in rows)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    clock = max((float(mhz) * 1e6 for mhz in re.findall(r"cpu MHz\s*:\s*([\d.]+)", about)), default=2.5e9)
    each = next((flops for flag, flops in _A_CYCLE.items() if re.search(rf"\b{flag}\b", about)), 16)
    return f"{cores} cores, by their clock and vector units", cores * clock * each


_A_CYCLE = {"avx512f": 32, "avx2": 32}
"""Float32 operations of a core in a cycle by a flag of the processor: one fused product of 16 numbers, or two of 8."""


MOST_AT_ONCE = 65_536  # tokens of a micro-batch: more of them save next to nothing
_KEPT_FREE = 0.2  # share of a GPU's memory for CUDA itself, workspaces and what lies between arrays


SIZES = 64  # passes on a GPU have one of about so many sizes, and may be one size longer than they are meant to be


def passes_of(tokens: int, at_once: int) -> int:
    """Into how many passes of about equal size a GPU's tokens of a batch are cut."""
    return -(-tokens // (at_once + at_once // SIZES))


def fitting_tokens(config: EncoderConfig, phase: Phase, has: float, gpus: int) -> int:
    """Tokens of a micro-batch for a GPU of so many bytes, in whole thousands (1,024): what `memory` says that it holds.

    At least 1,024: where that is too much, training will say so.
    """
    for tokens in range(MOST_AT_ONCE, 1024, -1024):
        if sum(memory(config, phase, tokens, gpus).values()) <= (1 - _KEPT_FREE) * has:
            return tokens
    return 1024


def memory(
    config: EncoderConfig, phase: Phase, micro_batch_tokens: int, gpus: int, *, own_windows: bool = False
) -> dict[str, float]:
    r"""Bytes of one GPU while it trains, by part, under bfloat16 products and the varlen attention.

        weights       4 P                   float32
        gradients     4 P                   with more than one GPU they are DDP's buckets
        moments       8 P                   both optimizers keep two in float32
        casts         2 M                   bfloat16 copies of the matrices, kept until the way back
        activations   T * (L * (12 C + 6 A + 6 K + 6 I + 4 H [+ C]) + 12 C - W * (2 A + 2 K))
        logits        4 V * min(4096, r T)  of the positions scored at once, and their gradient

    P parameters, M those in matrices, T tokens of a pass, L layers, C hidden size, A and K widths of all query
    and all key heads, I intermediate size, H heads, V vocabulary, r the mask ratio, W the local layers with
    `own_windows`: kernels of windows, on Hopper, which keep nothing after rotation; else 0. In a layer 12 C are the
    float32 inputs and bfloat16 outputs of two norms, 4 A + 6 K queries, keys and values before and after rotation,
    2 A + 4 H the attention's output, 6 I the two gates and their product, C the dropout's mask where there is one. The
    last 12 C are the embedding and the norms around the layers. Counted in tests/plan/test_cost.py against what torch
    saves.
    """
    counts = parameters(config)
    hidden, layers = config.hidden_size, config.num_hidden_layers
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    each = 12 * hidden + 6 * queries + 6 * keys + 6 * config.intermediate_size + 4 * config.num_attention_heads
    if config.attention_output_dropout:
        each += hidden
    local = sum(config.window(layer) is not None for layer in range(layers)) if own_windows else 0
    own = phase.batch_tokens // gpus
    tokens = max(phase.context, -(-own // passes_of(own, micro_batch_tokens)))  # a batch is cut evenly
    matrices = counts["layers"] - 2 * layers * hidden + counts["head"] + config.vocab_size * hidden
    masked = max(at(phase.predicted, 0.0), at(phase.predicted, 1.0)) * tokens
    return {
        "weights": 4.0 * counts["total"],
        "gradients": 4.0 * counts["total"],
        "moments": 8.0 * counts["total"],
        "casts": 2.0 * matrices,
        "activations": tokens * (layers * each + 12.0 * hidden - local * 2 * (queries + keys)),
        "logits": 4.0 * config.vocab_size * min(LOGITS_AT_ONCE, masked),
    }
