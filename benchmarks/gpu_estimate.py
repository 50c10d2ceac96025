"""Where the time of a training step on one GPU goes, estimated: FLOPs and bytes are counted, rates are assumed.

    python benchmarks/gpu_estimate.py

Every figure is an estimate: none of this has run on a GPU yet. `make gpu-check` measures the rates on one; put them
into RATES, and the table says what is left to be explained.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from tessera.plan.architecture import PRESETS, flops_per_token, head_flops, parameters
from tessera.plan.cost import GPUS, step_flops

TOKENS = 131_072  # of a step
CONFIG = PRESETS["mmbert-base"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a GPU reaches, in FLOP/s and bytes a second."""

    peak: float
    memory: float  # of a copy
    product: float  # matrix products of a layer, a few hundred columns wide
    head: float  # those with the vocabulary
    forward: float  # the attention kernel, FLOPs that it really does
    backward: float


RATES = {
    "H100": Rates(peak=GPUS["h100"].flops, memory=2.9e12, product=580e12, head=640e12, forward=330e12, backward=260e12),
    "H200": Rates(peak=GPUS["h200"].flops, memory=4.3e12, product=580e12, head=640e12, forward=330e12, backward=260e12),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What a way of training reads and writes."""

    passes: int  # of a step
    layer: float  # bytes a token and layer, there and back, besides products and attention
    score: float  # bytes a position and token of the vocabulary
    update: float  # bytes a parameter
    waiting: float  # seconds of a step in which the GPU has nothing to do


# Bytes are counted operation by operation: eager as PyTorch's kernels read and write, compiled as one kernel between
# two products does. The loss in one kernel reads a score twice and writes it once, and two products read it.
WAYS = {
    "eager, 8 passes": Way(passes=8, layer=300e3, score=40, update=112, waiting=8 * 4e-3 + 137 * 25e-6),
    "as built": Way(passes=2, layer=81e3, score=8, update=36, waiting=1e-3),
    "as built, residual: bfloat16": Way(passes=2, layer=55e3, score=8, update=36, waiting=1e-3),
}


def lengths(context: int, full: bool) -> list[int]:
    """Documents of a step: all as long as the context, or of lognormal lengths around a quarter of it."""
    random, found = np.random.default_rng(context), list[int]()
    while (left := TOKENS - sum(found)) > 0:
        drawn = context if full else int(np.clip(random.lognormal(np.log(context / 4), 1), 16, context))
        found.append(min(drawn, left))
    return found


def seconds(documents: list[int], masked: int, way: Way, rates: Rates) -> dict[str, float]:
    """The parts of a step, by what they are spent on."""
    layers, width = CONFIG.num_hidden_layers, CONFIG.num_attention_heads * CONFIG.head_dim
    count, table = parameters(CONFIG)["total"], CONFIG.vocab_size * CONFIG.hidden_size
    attention = sum(4 * width * _pairs(n, CONFIG.window(layer)) for n in documents for layer in range(layers))
    whole = step_flops(CONFIG, Counter(documents), masked)
    counted = 3 * sum(n * (flops_per_token(CONFIG, n) - flops_per_token(CONFIG, 1)) for n in documents)
    head = 3 * masked * head_flops(CONFIG)
    blocks = masked / (2**30 / CONFIG.vocab_size)  # of scores that are held at once, each adds to the table's gradient
    memory = {
        "between": layers * TOKENS * way.layer,
        "scores": masked * CONFIG.vocab_size * way.score,
        "table": way.passes * table * 38 + blocks * table * 12,
        "update": count * (way.update + 12),
    }
    found = {name: size / rates.memory for name, size in memory.items()}
    return {
        "products": (whole - counted - head) / rates.product,
        "attention": attention / rates.forward + 2.5 * attention / rates.backward,
        "head": head / rates.head + found.pop("scores"),
        **found,
        "waiting": way.waiting,
    }


def _pairs(length: int, window: int | None) -> float:
    """Pairs of tokens that the kernel multiplies, in tiles of 128 queries and 64 keys."""
    return 1.05 * length**2 if window is None else length * min(length, 2 * window + 128 + 64)


def main() -> None:
    for context, full, ratio in ((1024, False, 0.3), (1024, False, 0.05), (8192, False, 0.3), (8192, True, 0.3)):
        documents, masked = lengths(context, full), round(ratio * TOKENS)
        flops = step_flops(CONFIG, Counter(documents), masked)
        print(
            f"\nmmbert-base, {context:,} tokens{', full' if full else ''}, mask {ratio:.0%}: {flops / 1e12:.0f} TFLOP"
        )
        for name, way in WAYS.items():
            for gpu, rates in RATES.items():
                parts = seconds(documents, masked, way, rates)
                total = sum(parts.values())
                detail = ", ".join(f"{part} {1e3 * value:.0f}" for part, value in parts.items())
                print(f"  {gpu} {name:29s} {1e3 * total:4.0f} ms  MFU {flops / total / rates.peak:.0%}  ({detail})")


if __name__ == "__main__":
    main()
