"""Chunked cross-entropy loss over a large vocabulary, with its gradient: logits are never held whole.

A score matrix of 10,000 positions and 256,000 tokens is five gigabytes. Here a block of it is made, turned into its own
gradient in place, multiplied back into the gradients of the hidden states and of the weight, and forgotten; nothing is
computed twice. On a GPU one Triton kernel (kernels/loss_kernel.py) turns scores into their gradient, where Triton is
installed and works; elsewhere PyTorch's operations do. Source of the idea: Liger (arXiv:2410.10989, section 3.2) and
cut cross-entropy (arXiv:2411.09009).
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tessera.kernels.trial import failure

# Shapes: M positions, C hidden size, V vocabulary.

_HELD = {"cpu": 1 << 27, "mps": 1 << 27, "cuda": 1 << 30}  # scores of a block
# Scores in float32: what fits a core's cache, or a modest part of a GPU.
_WORKED_ON = {"cpu": 1 << 18, "mps": 1 << 26, "cuda": 1 << 26}


def cross_entropies(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Cross-entropy of each row without a gradient: -log softmax(hidden weight^T + bias)[target].

    hidden [M, C], weight [V, C], bias [V] or None, targets [M] int64 -> [M] float32
    """
    with torch.no_grad():
        hidden, weight = _one_dtype(hidden, weight)
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _blocks(len(hidden), len(weight), _HELD[hidden.device.type]):
                losses[rows] = _losses(hidden[rows] @ weight.T, bias, targets[rows], gradient=False)
    return losses


def summed_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """The sum of `cross_entropies` (float32), with its gradient for hidden, weight and bias.

    The gradients are computed with the loss, so it costs three products however large M is, and no more memory than
    one block of scores and the gradients themselves.
    """
    return _SummedCrossEntropy.apply(hidden, weight, bias, targets)


@lru_cache
def without_kernel(device: torch.device) -> str | None:
    """Why the loss does not run as one Triton kernel on this device, or None where it does; on a GPU tried once.

    A GPU without it is told to the log: its losses are the same, the passes over the scores take several times as long.
    """
    if device.type != "cuda":
        return f"there is none for {device.type}"
    return failure(lambda: _try(device), "loss: in PyTorch's operations, not in one kernel")


def _try(device: torch.device) -> None:
    from tessera.kernels.loss_kernel import losses_of

    scores, targets = torch.eye(2, 16, device=device), torch.tensor([0, 3], device=device)
    wanted = _losses_in_pytorch(scores.clone(), None, targets, gradient=False)
    torch.testing.assert_close(losses_of(scores, None, targets, gradient=True), wanted)


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad
        h, w = _one_dtype(hidden, weight)
        total = h.new_zeros((), dtype=torch.float32)
        d_hidden = torch.empty_like(h) if wanted[0] else None
        d_weight = torch.zeros_like(weight) if wanted[1] and not len(h) else None
        d_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        with torch.autocast(h.device.type, enabled=False):
            for rows in _blocks(len(h), len(w), _HELD[h.device.type]):
                scores = h[rows] @ w.T
                total += _losses(scores, bias, targets[rows], gradient=True).sum()
                if d_hidden is not None:
                    torch.mm(scores, w, out=d_hidden[rows])
                if wanted[1]:
                    d_weight = _with_product(d_weight, scores.T, h[rows], weight.dtype)
                if d_bias is not None:
                    d_bias += (scores.new_ones(1, len(scores)) @ scores)[0]  # a product: torch sums columns slowly
        ctx.gradients = (d_hidden, d_weight, d_bias)
        ctx.dtypes = (hidden.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (d_hidden, d_weight, d_bias), (of_hidden, of_bias) = ctx.gradients, ctx.dtypes
        ctx.gradients = None  # scaled in place: they serve once
        if d_hidden is not None:
            d_hidden = d_hidden.to(of_hidden) * gradient
        if d_weight is not None:
            d_weight.mul_(gradient)
        if d_bias is not None:
            d_bias = (d_bias * gradient).to(of_bias)
        return d_hidden, d_weight, d_bias, None


def _with_product(total: Tensor | None, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """total + left right, into `total` where there is one. A GPU adds in float32 what it multiplies in bfloat16."""
    if dtype is torch.float32 and left.dtype is torch.bfloat16 and adds_in_float32(left.device):
        if total is None:
            return torch.mm(left, right, out_dtype=torch.float32)
        return _with_product_in_float32(total, left, right)
    part = left @ right
    return part.to(dtype) if total is None else total.add_(part)


@lru_cache
def adds_in_float32(device: torch.device) -> bool:
    """Whether a product of bfloat16 can be added to float32 as it is made; on a GPU tried once.

    Elsewhere the product of a block of scores is written as bfloat16, read again and added: half as much again as it
    takes to make it.
    """
    if device.type != "cuda":
        return False

    def trial() -> None:
        total, part = torch.ones(16, 16, device=device), torch.eye(16, device=device, dtype=torch.bfloat16)
        torch.testing.assert_close(_with_product_in_float32(total, part, part), 1 + part.float())

    return failure(trial, "loss: the table's gradient is added up in a pass of its own, not by the product") is None


def _with_product_in_float32(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.addmm(total, left, right, out_dtype=torch.float32, out=total)


def _losses(scores: Tensor, bias: Tensor | None, targets: Tensor, *, gradient: bool) -> Tensor:
    """Cross-entropies [m] float32 of scores [m, V] + bias. With `gradient`, scores become softmax - one-hot."""
    if without_kernel(scores.device) is not None:
        return _losses_in_pytorch(scores, bias, targets, gradient=gradient)
    from tessera.kernels.loss_kernel import losses_of

    return losses_of(scores, bias, targets, gradient=gradient)


def _losses_in_pytorch(scores: Tensor, bias: Tensor | None, targets: Tensor, *, gradient: bool) -> Tensor:
    losses = scores.new_empty(len(scores), dtype=torch.float32)
    for rows in _blocks(len(scores), scores.shape[1], _WORKED_ON[scores.device.type]):
        exact, target = scores[rows].float(), targets[rows, None]
        if bias is not None:  # where the block lies in the cache: a product that adds it copies it to all rows first
            exact += bias
        highest, of_target = exact.amax(1), exact.gather(1, target)[:, 0]
        shares = torch.softmax(exact, 1)
        # The largest share is at least 1/V, so its logarithm is exact where that of the target's share may be -inf.
        losses[rows] = highest - shares.amax(1).log() - of_target
        if gradient:
            shares.scatter_add_(1, target, shares.new_full((len(shares), 1), -1.0))
            scores[rows] = shares
    return losses


def _one_dtype(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both in autocast's precision, or in that of the hidden states."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    return hidden.to(dtype), weight.to(dtype)


def _blocks(rows: int, width: int, numbers: int) -> list[slice]:
    """Slices of so many rows that they hold about so many numbers."""
    step = max(1, numbers // width)
    return [slice(i, i + step) for i in range(0, rows, step)]
