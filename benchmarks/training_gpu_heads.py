"""Ways from hidden states at the masked positions to the mean loss and back: a part of training_gpu.py."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tessera.model.cross_entropy import summed_cross_entropy
from tessera.model.precision import autocast
from tessera.plan.architecture import EncoderConfig, head_flops
from tessera.train.throughput import used_memory

BOUNDS = (5e-3, 0.06)  # of losses and of gradients, in parts of the right ones: bfloat16 stays below
CHUNK = 4096  # rows of logits at once, for linear_cross_entropy
RIVALS = ("plain logits", "linear_cross_entropy", "liger", "cut-cross-entropy")

# Shapes: M masked positions, C hidden size, V vocabulary.


def head(name: str, config: EncoderConfig, count: int, device: torch.device, peak_flops: float) -> dict[str, Any]:
    """From hidden states at `count` masked positions to the mean loss and back; timed if it is that of float32."""
    random = torch.Generator(device).manual_seed(0)
    states = torch.randn(count, config.hidden_size, device=device, generator=random)
    weight = torch.randn(config.vocab_size, config.hidden_size, device=device, generator=random).mul_(0.05)
    targets = torch.randint(config.vocab_size, (count,), device=device, generator=random)
    mean = _way(name, targets)
    try:
        exact, reference = _once(lambda x, w: _in_parts(x, w, targets), states, weight)
        peak_before = _reset(device)
        found, gradients = _once(mean, states.bfloat16(), weight)
        used = (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else used_memory(device)) - peak_before
        off = [float((a.float() - b).norm() / b.norm()) for a, b in zip(gradients, reference, strict=True)]
        row = {"positions": count, "loss_off": abs(found / exact - 1), "gradient_off": max(off)}
        if row["loss_off"] > BOUNDS[0] or row["gradient_off"] > BOUNDS[1]:
            wrong = f"loss {found:.4f} for {exact:.4f}, gradient off by {max(off):.1e}"
            return {**row, "error": f"WRONG, not timed: {wrong}"}
        times = []
        for _ in range(4):
            wait(device)
            began = time.perf_counter()
            _once(mean, states.bfloat16(), weight)
            wait(device)
            times.append(time.perf_counter() - began)
    except torch.OutOfMemoryError:
        return {"error": "memory is full"}
    flops = 3 * count * head_flops(config.model_copy(update={"mlm_transform": False}))
    return {**row, "seconds": min(times), "of_peak": flops / min(times) / peak_flops,
            "peak_bytes": max(0, used)}  # fmt: skip


def _once(mean: Callable[[Tensor, Tensor], Tensor], states: Tensor, weight: Tensor) -> tuple[float, list[Tensor]]:
    """(loss, gradients of the states and of the weight)"""
    leaves = [states.detach().requires_grad_(), weight.detach().requires_grad_()]
    with autocast(states.device, torch.bfloat16 if states.dtype is torch.bfloat16 else torch.float32):
        loss = mean(*leaves)
    loss.backward()
    return float(loss.detach()), [leaf.grad for leaf in leaves if leaf.grad is not None]


def _in_parts(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The mean loss in float32; logits of few positions at a time."""

    def some(x: Tensor, t: Tensor) -> Tensor:
        return functional.cross_entropy(functional.linear(x, weight), t, reduction="sum")

    rows = zip(states.split(512), targets.split(512), strict=True)
    return torch.stack([checkpoint(some, x, t, use_reentrant=False) for x, t in rows]).sum() / len(targets)


def _way(name: str, targets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """(states [M, C], weight [V, C]) -> mean loss; without the transform before it, which all share."""
    match name:
        case "plain logits":
            return lambda x, w: functional.cross_entropy(functional.linear(x, w).float(), targets)
        case "linear_cross_entropy":
            options = nn.LinearCrossEntropyOptions(batch_chunk_size=CHUNK)  # its own choice is a few rows
            return lambda x, w: functional.linear_cross_entropy(x, w.to(x.dtype), targets, options=options)
        case "liger":
            from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

            liger = LigerFusedLinearCrossEntropyLoss()
            return lambda x, w: liger(w.to(x.dtype), x, targets)
        case "cut-cross-entropy":
            from cut_cross_entropy import linear_cross_entropy

            return lambda x, w: linear_cross_entropy(x, w.to(x.dtype), targets)
    return lambda x, w: summed_cross_entropy(x, w, None, targets) / len(targets)


def _reset(device: torch.device) -> int:
    """Begins a new count of the peak; what is held now."""
    if device.type != "cuda":
        return int(used_memory(device))
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
