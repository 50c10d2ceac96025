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

# Scores that a program works on at once: two loads of 16 bytes of each thread. Of 20 ways that an H200 tried the
# fastest at 256,000 scores and a bias: 1.94 ms for 4,096 rows, blocks of 8,192 with 16 warps 2.28.
ROWS, BLOCK, WARPS = 1, 2048, 4

PROGRAMS: int | None = None


def losses_of(
    scores: Tensor, bias: Tensor | None, targets: Tensor, *, gradient: bool, programs: int | None = PROGRAMS,
    rows: int = ROWS, block: int = BLOCK, warps: int = WARPS,
) -> Tensor:  # fmt: skip
    """Cross-entropies [m] float32 of scores [m, V] + bias [V]. With `gradient`, scores become softmax - one-hot.

    scores     rows without gaps between their columns
    targets    [m] int64; one that is no token of the vocabulary gives a loss that is not a number
    programs   that take the rows in turn, None: as many as there is work for. With few of them, scores are still in the
               GPU's cache when they are read for the second time
    rows, block, warps   a program works on so many rows at once, for which it reads the bias once; on at most so many
               scores of each, a power of two; with so many warps
    """
    assert scores.stride(1) == 1
    assert bias is None or bias.is_contiguous()
    count, width = scores.shape
    losses = torch.empty(count, dtype=torch.float32, device=scores.device)
    if count:
        needed = triton.cdiv(count, rows)
        with torch.cuda.device_of(scores):  # Triton starts kernels on the current device
            rows_to_losses[(min(needed, programs or needed),)](
                scores, scores if bias is None else bias, targets, losses, count, scores.stride(0), width,
                HAS_BIAS=bias is not None, GRADIENT=gradient, ROWS=rows, BLOCK=block_of(width, block), num_warps=warps,
            )  # fmt: skip
    return losses


def block_of(width: int, longest: int = BLOCK) -> int:
    """How many scores of a row are worked on at once: a power of two."""
    return min(longest, 1 << (width - 1).bit_length())


# The width is a constant: only then does the compiler see that a block ends where a load of 16 bytes does.
@triton.jit(do_not_specialize=["count"])
def rows_to_losses(  # type: ignore[no-untyped-def]
    scores, bias, targets, losses, count, stride, width: tl.constexpr, HAS_BIAS: tl.constexpr, GRADIENT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Programs take the rows of scores [count, width] in turn, some at once; losses [count]; stride is that of rows."""
    first = tl.program_id(0)
    while first * ROWS < count:
        row = first.to(tl.int64) * ROWS + tl.arange(0, ROWS)
        there = row < count
        base = scores + row * stride

        # Before the sums, whose barriers keep any warp from overwriting it while another has not read it yet.
        target = tl.load(targets + row, mask=there, other=-1)
        known = (target >= 0) & (target < width)
        of_target = tl.load(base + target, mask=known, other=float("nan")).to(tl.float32)
        if HAS_BIAS:
            of_target += tl.load(bias + target, mask=known, other=0.0).to(tl.float32)

        normaliser = logarithms_of_sums(base, bias, there, width, HAS_BIAS, ROWS, BLOCK)
        tl.store(losses + row, normaliser - of_target, mask=there)
        if GRADIENT:
            to_gradients(base, bias, there, normaliser, target, width, HAS_BIAS, BLOCK)
        first += tl.num_programs(0)


@triton.jit
def logarithms_of_sums(  # type: ignore[no-untyped-def]
    base, bias, there, width: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The logarithm of the sum of the exponentials of each row, [ROWS]."""
    at = tl.arange(0, BLOCK)
    highest = tl.full((ROWS,), -3.0e38, tl.float32)  # finite, so that a block of nothing but -inf adds nothing
    total = tl.full((ROWS,), 0.0, tl.float32)  # of exp(score - highest)
    for first in range(0, width, BLOCK):
        column = first + at
        here = there[:, None] & (column < width)[None, :]
        score = tl.load(base[:, None] + column[None, :], mask=here, other=float("-inf")).to(tl.float32)
        if HAS_BIAS:  # for all rows, in the layout of the scores: from the cache that is nearest but once
            score += tl.load(tl.broadcast_to(bias + column[None, :], here.shape), mask=here, other=0.0).to(tl.float32)
        higher = tl.maximum(highest, tl.max(score, 1))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(score - higher[:, None]), 1)
        highest = higher
    return highest + tl.log(total)


@triton.jit
def to_gradients(  # type: ignore[no-untyped-def]
    base, bias, there, normaliser, target, width: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Rows become softmax - one-hot, from their ends on: what was read last is the likeliest to be in the cache."""
    at = tl.arange(0, BLOCK)
    last: tl.constexpr = (width - 1) // BLOCK * BLOCK
    for before in range(0, width, BLOCK):
        column = last - before + at
        here = there[:, None] & (column < width)[None, :]
        place = base[:, None] + column[None, :]
        score = tl.load(place, mask=here, other=float("-inf"), eviction_policy="evict_first").to(tl.float32)
        if HAS_BIAS:
            score += tl.load(tl.broadcast_to(bias + column[None, :], here.shape), mask=here, other=0.0).to(tl.float32)
        share = tl.exp(score - normaliser[:, None]) - tl.where(column[None, :] == target[:, None], 1.0, 0.0)
        tl.store(place, share.to(base.dtype.element_ty), mask=here, eviction_policy="evict_first")
