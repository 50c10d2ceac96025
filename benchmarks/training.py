"""Training on CPUs: ours beside transformers' ModernBertForMaskedLM, as people run it.

    python benchmarks/training.py [--threads 2] [--steps 8] [--only "tessera, bfloat16" ...]

The same initial weights, documents, masks, batches and AdamW for all: 64 documents of 16 to 1,024 tokens, 16 a step.
Each contestant runs in a process of its own, so that its peak memory is its own. Tokens are those of the documents;
padding counts for nobody. The limit is the time that the matrix products of such a step need by themselves, in bfloat16
(float32 where the processor has no bfloat16 products), measured here and now. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]

OURS = ("tessera, bfloat16", "tessera, float32")
PEERS = ("transformers, float32", "transformers, bfloat16")
AIMS = {  # of "tessera, bfloat16": (times the speed, share of the peak memory)
    "transformers, float32": (20.0, 0.25),
    "transformers, bfloat16": (5.0, 0.25),
}
AIM_OF_LIMIT = 0.4
DOCUMENTS, BATCH, MASK_RATIO = 64, 16, 0.3
PAD, BOS, EOS, MASK = 0, 1, 2, 3
RATE, WEIGHT_DECAY, BETAS, EPS, CLIP = 1e-3, 0.01, (0.9, 0.98), 1e-6, 1.0
SHAPE = {
    "vocab_size": 32_768,
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "attention_output_dropout": 0.0,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "mask_token_id": MASK,
}


# This process loads no torch: a child's peak memory begins with what its parent holds.
def main(threads: int, steps: int, warmup: int, only: list[str]) -> None:
    """Runs every contestant, prints the tables and the JSON line."""
    print(f"{threads} threads, {warmup} + {steps} steps of {BATCH} documents", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        run = _child(["--measure", "weights"], model, threads, steps, warmup)
        print(f"{DOCUMENTS} documents, {run['tokens']:,} tokens, mean {run['tokens'] / DOCUMENTS:.0f}", flush=True)
        limit = _child(["--measure", "limit"], model, threads, steps, warmup)
        rate = limit["tokens_per_second"]
        print(f"limit of the matrix products in {limit['dtype']}: {rate:,.0f} tokens/s at "
              f"{limit['gflops_per_second']:,.0f} GFLOP/s, {limit['gflops_per_step']:,.0f} GFLOP a step\n")  # fmt: skip
        print(f"{'':<24} {'tokens/s':>9} {'of limit':>9} {'peak memory':>12} {'first loss':>11} {'last loss':>10}")
        found = {}
        for name in only:
            found[name] = row = _child(["--measure", name], model, threads, steps, warmup)
            row["limit_share"] = row["tokens_per_second"] / rate
            speed, losses, memory = row["tokens_per_second"], row["losses"], row["peak_bytes"] / 2**30
            print(f"{name:<24} {speed:>9,.0f} {row['limit_share']:>9.1%} {memory:>8.2f} GiB "
                  f"{losses[0]:>11.4f} {losses[-1]:>10.4f}", flush=True)  # fmt: skip
    ratios = _ratios(found)
    print(json.dumps({
        "benchmark": "training",
        "ours": {name: found[name] for name in OURS if name in found},
        "peers": {name: found[name] for name in PEERS if name in found},
        "ratios": ratios,
        "limit_share": found[OURS[0]]["limit_share"] if OURS[0] in found else None,
        "limit": limit,
        "setting": {"threads": threads, "steps": steps, "warmup": warmup, "tokens": run["tokens"]},
    }))  # fmt: skip


def _ratios(found: dict[str, Numbers]) -> dict[str, Numbers]:
    """Ours in bfloat16 beside each peer, printed with what is to be reached."""
    if OURS[0] not in found:
        return {}
    ours, ratios = found[OURS[0]], {}
    print(
        f"\n{'tessera, bfloat16, beside':<27} {'speed':>7} {'aim':>6} {'memory':>8} {'aim':>6} {'loss differs by':>16}"
    )
    for name in (OURS[1], *PEERS):
        if name not in found:
            continue
        other = found[name]
        speed = ours["tokens_per_second"] / other["tokens_per_second"]
        memory = ours["peak_bytes"] / other["peak_bytes"]
        gap = max(abs(a - b) for a, b in zip(ours["losses"], other["losses"], strict=True))
        ratios[name] = {"speed": speed, "memory": memory, "largest_loss_difference": gap}
        aims = [f"{aim:g}" for aim in AIMS[name]] if name in AIMS else ["", ""]
        print(f"{name:<27} {speed:>6.2f}x {aims[0]:>6} {memory:>8.2f} {aims[1]:>6} {gap:>11.4f}")
    print(f"{'the limit':<27} {ours['limit_share']:>6.2f}x {AIM_OF_LIMIT:>6g}\n")
    return ratios


def _child(arguments: list[str], model: Path, threads: int, steps: int, warmup: int) -> Numbers:
    """What a process of its own printed last."""
    plain = ["--model", model, "--threads", threads, "--steps", steps, "--warmup", warmup]
    command = [sys.executable, __file__, *arguments, *map(str, plain)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
    )
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------- what the children do


def measure(what: str, model: Path, threads: int, steps: int, warmup: int) -> Numbers:
    """One measurement, in this process."""
    import torch

    torch.set_num_threads(threads)
    match what:
        case "weights":
            return _write_weights(model)
        case "limit":
            return _limit()
    batches = list(_batches())
    step, optimizer, parameters = (_tessera if what in OURS else _transformers)(what, model)
    losses, spent, tokens = [], 0.0, 0
    for number in range(warmup + steps):
        batch = batches[number % len(batches)]
        began = time.perf_counter()
        loss = step(batch)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number >= warmup:
            spent += time.perf_counter() - began
            tokens += len(batch.tokens)
        losses.append(loss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "tokens_per_second": tokens / spent,
        "seconds_per_step": spent / steps,
        "peak_bytes": peak,
        "losses": losses,
    }


def _batches() -> Iterator[Any]:
    """The documents in batches of 16, masked once and for all; token ids as rare as words are (Zipf)."""
    import numpy as np

    from tessera.data.hashing import keys
    from tessera.data.masking import mask
    from tessera.data.packing import Batch

    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(5.0, 0.9, DOCUMENTS), 16, 1024).astype(np.int64)
    frequencies = 1 / np.arange(1, SHAPE["vocab_size"] - 3)
    words = random.choice(len(frequencies), lengths.sum(), p=frequencies / frequencies.sum()).astype(np.int32) + 4
    edges = np.concatenate(([0], lengths.cumsum()))
    words[edges[:-1]], words[edges[1:] - 1] = BOS, EOS
    for first in range(0, DOCUMENTS, BATCH):
        numbers = np.arange(first, min(first + BATCH, DOCUMENTS))
        tokens = words[edges[first] : edges[numbers[-1] + 1]]
        starts = edges[first : numbers[-1] + 2] - edges[first]
        special = (PAD, BOS, EOS, MASK)
        inputs, positions, targets = mask(
            tokens, keys(0, numbers), starts, MASK_RATIO, "mask", MASK, special, SHAPE["vocab_size"]
        )
        sources = np.zeros(len(numbers), np.int32)
        yield Batch(tokens=inputs, starts=starts, positions=positions, targets=targets, sources=sources)


def _write_weights(folder: Path) -> Numbers:
    import torch

    from tessera.huggingface import hub
    from tessera.model.mlm import MaskedLM, initialize

    model = MaskedLM(_config())
    initialize(model, torch.Generator().manual_seed(0))
    hub.save(model, folder)
    return {"tokens": sum(len(batch.tokens) for batch in _batches())}


def _config() -> Any:
    from tessera.plan.architecture import PRESETS, EncoderConfig

    return EncoderConfig.model_validate({**PRESETS["mmbert-small"].model_dump(), **SHAPE})


def _tessera(what: str, folder: Path) -> tuple[Callable[[Any], float], Any, Any]:
    """The trainer's own step, without its log and its clock."""
    import numpy as np
    import torch

    from tessera.data.packing import micro_batches
    from tessera.huggingface import hub
    from tessera.model.precision import autocast, keep_memory
    from tessera.plan.phase import Optimizer
    from tessera.plan.recipe import Machine
    from tessera.train.optimizer import build

    keep_memory()
    model = hub.load(folder).train()
    settings = Optimizer(name="adamw", betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY)
    device, dtype = torch.device("cpu"), torch.bfloat16 if "bfloat16" in what else torch.float32

    def step(batch: Any) -> float:
        total = 0.0
        for piece in micro_batches(batch, Machine().tokens_at_once):
            arrays = (piece.tokens, piece.starts, piece.positions, piece.targets)
            with autocast(device, dtype):
                loss = model.loss(*(torch.from_numpy(a.astype(np.int64)) for a in arrays))
            (loss / len(batch.positions)).backward()
            total += float(loss.detach())
        return total / len(batch.positions)

    return step, build(model, settings, RATE), list(model.parameters())


def _transformers(what: str, folder: Path) -> tuple[Callable[[Any], float], Any, Any]:
    """Documents padded to the longest of their batch, labels where something is hidden, AdamW as torch makes it."""
    import torch
    from transformers import ModernBertForMaskedLM, logging

    logging.disable_progress_bar()
    model = ModernBertForMaskedLM.from_pretrained(folder, dtype=torch.float32).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, eps=EPS)

    def step(batch: Any) -> float:
        lengths = torch.from_numpy(batch.starts).diff()
        real = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        ids = torch.full(real.shape, PAD)
        ids[real] = torch.from_numpy(batch.tokens).long()
        labels, flat = torch.full(real.shape, -100), torch.full((len(batch.tokens),), -100)
        flat[torch.from_numpy(batch.positions)] = torch.from_numpy(batch.targets).long()
        labels[real] = flat
        with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in what):
            loss = model(input_ids=ids, attention_mask=real.long(), labels=labels).loss
        loss.backward()
        return float(loss.detach())

    return step, optimizer, list(model.parameters())


# ------------------------------------------------------------------------------------------------------- the limit


def _limit() -> Numbers:
    """Tokens a second if a step were its matrix products and nothing else.

    The dense products of a mean batch are timed, each in its three kinds (forward, and the two of the way back). Those
    of attention, visible pairs only and nothing computed twice, are counted at the rate of the dense ones.
    """
    import torch

    from tessera.model.precision import compute_dtype
    from tessera.plan.architecture import flops_per_token, head_flops

    config, batches, dtype = _config(), list(_batches()), compute_dtype("auto", torch.device("cpu"))
    tokens = sum(len(batch.tokens) for batch in batches) // len(batches)
    masked = sum(len(batch.positions) for batch in batches) // len(batches)
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    products = [  # rows, in, out, times
        (tokens, hidden, 3 * hidden, layers),
        (tokens, hidden, hidden, layers),
        (tokens, hidden, 2 * inner, layers),
        (tokens, inner, hidden, layers),
        (masked, hidden, hidden, 1),
        (masked, hidden, config.vocab_size, 1),
    ]
    seconds = sum(times * _seconds_of(rows, width, out, dtype) for rows, width, out, times in products)
    dense = sum(6 * rows * width * out * times for rows, width, out, times in products)
    lengths = [int(n) for batch in batches for n in (batch.starts[1:] - batch.starts[:-1])]
    forward = sum(n * flops_per_token(config, n) for n in lengths) / len(batches) + masked * head_flops(config)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "tokens_per_second": tokens / (seconds * 3 * forward / dense),
        "gflops_per_second": dense / seconds / 1e9,
        "gflops_per_step": 3 * forward / 1e9,
    }


def _seconds_of(rows: int, width: int, out: int, dtype: Any) -> float:
    """The least time for x w^T, d w and d^T x."""
    import torch

    x, w, d = (torch.randn(shape).to(dtype) for shape in ((rows, width), (out, width), (rows, out)))
    total = 0.0
    for product in (lambda: x @ w.T, lambda: d @ w, lambda: d.T @ x):
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - began)
        total += best
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help="that are timed; four are one reading of the documents")
    parser.add_argument("--warmup", type=int, default=4, help="steps before; their losses are compared too")
    parser.add_argument("--only", nargs="+", choices=(*OURS, *PEERS), default=[*OURS, *PEERS])
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what a child does
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.model, given.threads, given.steps, given.warmup)))
    else:
        main(given.threads, given.steps, given.warmup, given.only)
