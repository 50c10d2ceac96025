"""Fused softmax cross-entropy as one Triton kernel for GPUs: logits in, losses out, logits turned into their gradient.

It reads a score twice and writes it once, 6 bytes in bfloat16 where PyTorch's operations move about 40. Triton is
imported with this file, so only model/cross_entropy.py imports it, where there is a GPU. The idea of overwriting the
logits: Liger (arXiv:2410.10989, section 3.2); running sums: Milakov and Gimelshein 2018, arXiv:1805.02867.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Shapes: m rows of scores, V vocabulary.

# Scores of a row at once: two loads of 16 bytes of each thread in bfloat16. The fastest of what an H200 tried at
# 256,000 scores (docs/results/gpu.md); several rows for one reading of the bias, or fewer programs than rows, were not.
BLOCK, WARPS = 2048, 4


def losses_of(
    scores: Tensor, bias: Tensor | None, targets: Tensor, *, gradient: bool, block: int = BLOCK, warps: int = WARPS
) -> Tensor:
    """Cross-entropies [m] float32 of scores [m, V] + bias [V]. With `gradient`, scores become softmax - one-hot.

    scores   rows without gaps between their columns
    targets  [m] int64; one that is no token of the vocabulary gives a loss that is not a number
    block    scores of a row at once, a power of two, by so many warps
    """
    assert scores.stride(1) == 1
    assert bias is None or bias.is_contiguous()
    rows, width = scores.shape
    losses = torch.empty(rows, dtype=torch.float32, device=scores.device)
    if rows:
        with torch.cuda.device_of(scores):  # Triton starts kernels on the current device
            rows_to_losses[(rows,)](
                scores, scores if bias is None else bias, targets, losses, scores.stride(0), width,
                HAS_BIAS=bias is not None, GRADIENT=gradient, BLOCK=block_of(width, block), num_warps=warps,
            )  # fmt: skip
    return losses


def block_of(width: int, longest: int = BLOCK) -> int:
    """How many scores of a row are worked on at once: a power of two."""
    return min(longest, 1 << (width - 1).bit_length())


# The width is a constant: only then does the compiler see that a block ends where a load of 16 bytes does.
@triton.jit
def rows_to_losses(  # type: ignore[no-untyped-def]
    scores, bias, targets, losses, stride, width: tl.constexpr, HAS_BIAS: tl.constexpr, GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr
):  # fmt: skip
    """One program for each row of scores [m, width]; losses [m]; stride is that of the rows."""
    row = tl.program_id(0).to(tl.int64)
    base = scores + row * stride
    at = tl.arange(0, BLOCK)

    # Before the sums, whose barriers keep any warp from overwriting it while another has not read it yet.
    target = tl.load(targets + row)
    known = (target >= 0) & (target < width)
    of_target = tl.load(base + target, mask=known, other=float("nan")).to(tl.float32)
    if HAS_BIAS:
        of_target += tl.load(bias + target, mask=known, other=0.0).to(tl.float32)

    highest = tl.full((), -3.0e38, tl.float32)  # finite, so that a block of nothing but -inf adds nothing
    total = tl.full((), 0.0, tl.float32)  # of exp(score - highest)
    for first in range(0, width, BLOCK):
        here = first + at < width
        score = tl.load(base + first + at, mask=here, other=float("-inf")).to(tl.float32)
        if HAS_BIAS:
            score += tl.load(bias + first + at, mask=here, other=0.0).to(tl.float32)
        higher = tl.maximum(highest, tl.max(score, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(score - higher), 0)
        highest = higher
    normaliser = highest + tl.log(total)
    tl.store(losses + row, normaliser - of_target)

    if GRADIENT:
        for first in range(0, width, BLOCK):
            here = first + at < width
            score = tl.load(base + first + at, mask=here, other=float("-inf")).to(tl.float32)
            if HAS_BIAS:
                score += tl.load(bias + first + at, mask=here, other=0.0).to(tl.float32)
            share = tl.exp(score - normaliser) - tl.where(first + at == target, 1.0, 0.0)
            tl.store(base + first + at, share.to(scores.dtype.element_ty), mask=here)
