"""Sliding-window attention with rotary positions as Triton kernels for GPUs: packed documents, forward and backward.

Queries, keys and values are read as the product leaves them and turned where they are loaded; the gradient is that of
the product's output, turned back: nothing is left for elementwise kernels. Programs go over tokens, not documents, so
documents of any length cost the same. In bfloat16 a token moves 4 (H + K) D bytes forward and 12 (H + K) D backward;
neighbouring keys and the tables of angles come from the caches. No atomics: answers recur bit for bit. What is no
number (NaN, infinity) may spread to documents beside its own: a tile multiplies it by weights of zero.

Triton is imported with this file, so only window_attention.py imports it, where there is a GPU. Sources: windows
Longformer (arXiv:2004.05150); running sums, and scores computed anew on the way back, FlashAttention-2
(arXiv:2307.08691).
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Shapes: T tokens of N documents end to end, H query heads, K key/value heads, D head width.


MARGIN = 256  # numbers before those of the first token and behind those of the last: what a tile reads unasked


class Tiles(NamedTuple):
    """How a kernel is cut and started."""

    block: int  # tokens of a program
    tile: int  # tokens on the other side that it looks at at once
    warps: int
    stages: int  # tiles under way from memory; 1: one after the other
    registers: int | None = None  # of a thread at most, so that more programs run at a time


class Kernels(NamedTuple):
    """All three of them: answers, gradients of queries, gradients of keys and values."""

    forward: Tiles
    queries: Tiles
    keys: Tiles


# By the width of a head: with a window of 64 none spills on an H100. benchmarks/window_kernel.py tries others.
TILES = {
    32: Kernels(Tiles(64, 64, 4, 1), Tiles(64, 64, 4, 1), Tiles(64, 32, 4, 2)),
    64: Kernels(Tiles(64, 64, 4, 1), Tiles(64, 32, 4, 2, 128), Tiles(64, 32, 4, 2, 168)),
    128: Kernels(Tiles(64, 32, 8, 1), Tiles(64, 32, 8, 1), Tiles(64, 32, 8, 1)),
}


class Shape(NamedTuple):
    """What a layer fixes."""

    heads: int
    key_value_heads: int
    window: int  # tokens visible on either side


def answers_of(
    qkv: Tensor, bounds: Tensor, whole: Tensor, rest: Tensor, shape: Shape, tiles: Kernels | None = None
) -> tuple[Tensor, Tensor]:
    """Answers [T, H * D] and, for the way back, logarithms to base 2 of the sums of their weights.

    qkv          [T, (H + 2 K) * D], queries, keys and values before rotation, in float16 or bfloat16
    bounds       [T, 2] int32, the first and the last token of the document of each token
    sums         [H, T + 2 * MARGIN] float32, those of tokens behind a margin
    whole, rest  [T/S + 1, D] and [S, D] float32, cosines and sines side by side: a token turns by the sum of two angles
    """
    width = _width(qkv, shape)
    answers = qkv.new_empty(len(qkv), shape.heads * width)
    sums = qkv.new_empty(shape.heads, len(qkv) + 2 * MARGIN, dtype=torch.float32)
    given = [x.contiguous() for x in (qkv, bounds, whole, rest)]
    start(forward_kernel, shape.heads, [*given, answers, sums], shape, (tiles or TILES[width]).forward)
    return answers, sums


def gradient_of(
    gradient: Tensor, qkv: Tensor, bounds: Tensor, whole: Tensor, rest: Tensor, answers: Tensor, sums: Tensor,
    shape: Shape, tiles: Kernels | None = None,
) -> Tensor:  # fmt: skip
    """The gradient of qkv [T, (H + 2 K) * D], given that of the answers [T, H * D] and what `answers_of` returned."""
    tiles = tiles or TILES[_width(qkv, shape)]
    into = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    deltas = torch.zeros_like(sums)  # products of answers and their gradients
    given = [x.contiguous() for x in (qkv, bounds, whole, rest, gradient)]
    tensors = [*given, answers, sums, deltas, into]
    start(query_kernel, shape.heads, tensors, shape, tiles.queries)  # leaves the deltas
    start(key_kernel, shape.key_value_heads, tensors, shape, tiles.keys)
    return into


def start(kernel: Any, heads: int, tensors: list[Tensor], shape: Shape, tiles: Tiles) -> None:
    """Starts one of the kernels below over so many heads; qkv is the first of its tensors, `rest` the fourth."""
    qkv, rest = tensors[0], tensors[3]
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    if tiles.registers is not None:  # what only Triton for CUDA knows
        options["maxnreg"] = tiles.registers
    if len(qkv):
        with torch.cuda.device_of(qkv):  # Triton starts kernels on the current device
            grid = (heads, triton.cdiv(len(qkv), tiles.block))
            fixed = constants(shape, _width(qkv, shape), len(rest), tiles)
            kernel[grid](*tensors, len(qkv), len(qkv) + 2 * MARGIN, **fixed, **options)


def constants(shape: Shape, width: int, step: int, tiles: Tiles) -> dict[str, Any]:
    """What the compiler of a kernel knows."""
    reach = -(-shape.window // 16) * 16  # sixteen tokens are the least that a product takes
    count = triton.cdiv(tiles.block + 2 * reach, tiles.tile)
    assert max(reach, count * tiles.tile - reach) <= MARGIN, (shape, tiles)
    return {
        "STEP": step, "SCALE": width**-0.5, "HEADS": shape.heads, "PAIRS": shape.key_value_heads, "HALF": width // 2,
        "WINDOW": shape.window, "REACH": reach, "BLOCK": tiles.block, "TILE": tiles.tile, "TILES": count,
    }  # fmt: skip


def _width(qkv: Tensor, shape: Shape) -> int:
    """Of a head."""
    return qkv.shape[1] // (shape.heads + 2 * shape.key_value_heads)


# --------------------------------------------------------------------------------------------------- parts of kernels

# Rows are counted from `first`, which may lie before the first token. Two halves of a vector are two tensors: a
# rotation mixes them, and a product of vectors is the sum of the products of the halves.

LOG2_E = tl.constexpr(1.4426950408889634)
_MARGIN = tl.constexpr(MARGIN)


@triton.jit
def _at(first, tokens, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """[ROWS] tokens from `first` on. Outside of the pack it is the next one inside, which nothing sees from there:
    loads without a mask need no zeros in their registers first."""
    return tl.minimum(tl.maximum(first + tl.arange(0, ROWS), 0), tokens - 1)


@triton.jit
def _rows(base, first, tokens, STRIDE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """[ROWS, WIDTH] of a matrix whose rows are STRIDE long."""
    at, column = _at(first, tokens, ROWS).to(tl.int64), tl.arange(0, WIDTH)
    return tl.load(base + (at[:, None] * STRIDE + column[None, :]))


@triton.jit
def _store(base, x, first, tokens, STRIDE: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Writes [ROWS, WIDTH] into such a matrix, rounded to its dtype."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    place = base + first.to(tl.int64) * STRIDE + (row * STRIDE + column)
    tl.store(place, x.to(base.dtype.element_ty), mask=first + row < tokens)


@triton.jit
def _angles(  # type: ignore[no-untyped-def]
    whole, rest, first, tokens, STEP: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr
):  # fmt: skip
    """Cosines and sines [ROWS, HALF] float32 of the sum of both angles of a token."""
    at, column = _at(first, tokens, ROWS)[:, None], tl.arange(0, HALF)[None, :]
    far, near = whole + (at // STEP * (2 * HALF) + column), rest + (at % STEP * (2 * HALF) + column)
    c, s, more_c, more_s = tl.load(far), tl.load(far + HALF), tl.load(near), tl.load(near + HALF)
    return c * more_c - s * more_s, s * more_c + c * more_s


@triton.jit
def _turned(  # type: ignore[no-untyped-def]
    base, whole, rest, first, tokens, STRIDE: tl.constexpr, STEP: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr
):  # fmt: skip
    """Both halves of vectors, [ROWS, HALF], turned by their positions and rounded, as `attention.rotate` does it."""
    one = _rows(base, first, tokens, STRIDE, ROWS, HALF)
    other = _rows(base + HALF, first, tokens, STRIDE, ROWS, HALF)
    c, s = _angles(whole, rest, first, tokens, STEP, ROWS, HALF)
    x, y = one.to(tl.float32), other.to(tl.float32)
    return (x * c - y * s).to(one.dtype), (y * c + x * s).to(one.dtype)


@triton.jit
def _store_turned_back(  # type: ignore[no-untyped-def]
    base, x, y, whole, rest, first, tokens, STRIDE: tl.constexpr, STEP: tl.constexpr, ROWS: tl.constexpr,
    HALF: tl.constexpr
):  # fmt: skip
    """Writes the gradients of both halves before rotation, given those after it, [ROWS, HALF] float32."""
    c, s = _angles(whole, rest, first, tokens, STEP, ROWS, HALF)
    _store(base, x * c + y * s, first, tokens, STRIDE, ROWS, HALF)
    _store(base + HALF, y * c - x * s, first, tokens, STRIDE, ROWS, HALF)


@triton.jit
def _numbers(base, head, first, stride, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where one number a token lies, [ROWS], in vectors of each head with margins."""
    return base + (head.to(tl.int64) * stride + first + _MARGIN) + tl.arange(0, ROWS)


@triton.jit
def _range(bounds, first, tokens, WINDOW: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """[ROWS, 1]: the first token that each sees, and how many more it sees behind that one."""
    at = _at(first, tokens, ROWS)
    low = tl.maximum(tl.load(bounds + 2 * at), at - WINDOW)
    high = tl.minimum(tl.load(bounds + 2 * at + 1), at + WINDOW)
    return low[:, None], (high - low).to(tl.uint32, bitcast=True)[:, None]


@triton.jit
def _seen(low, more, ahead, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """[ROWS, COLUMNS]: whether tokens of such a range see those from `ahead` on; what lies before it wraps around."""
    column = ahead + tl.arange(0, COLUMNS)
    return (column[None, :] - low).to(tl.uint32, bitcast=True) <= more


# ------------------------------------------------------------------------------------------------------------- kernels

# The number of tokens is no constant; whether 16 divides it is one, so a kernel is compiled twice at most.


@triton.jit(do_not_specialize=["tokens"])
def forward_kernel(  # type: ignore[no-untyped-def]
    qkv, bounds, whole, rest, answers, sums, tokens, stride, STEP: tl.constexpr, SCALE: tl.constexpr,
    HEADS: tl.constexpr, PAIRS: tl.constexpr, HALF: tl.constexpr, WINDOW: tl.constexpr, REACH: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr
):  # fmt: skip
    """One program for BLOCK queries of a head."""
    WIDTH: tl.constexpr = 2 * HALF
    STRIDE: tl.constexpr = (HEADS + 2 * PAIRS) * WIDTH
    head, first = tl.program_id(0), tl.program_id(1) * BLOCK
    pair = head // (HEADS // PAIRS)
    keys, values = qkv + (HEADS + pair) * WIDTH, qkv + (HEADS + PAIRS + pair) * WIDTH
    q1, q2 = _turned(qkv + head * WIDTH, whole, rest, first, tokens, STRIDE, STEP, BLOCK, HALF)
    low, more = _range(bounds, first, tokens, WINDOW, BLOCK)
    highest = tl.full((BLOCK,), -1.0e38, tl.float32)  # finite, so that a tile of which nothing is seen adds nothing
    total = tl.zeros((BLOCK,), tl.float32)
    answer = tl.zeros((BLOCK, WIDTH), tl.float32)
    for number in range(0, TILES):
        ahead = first - REACH + number * TILE
        k1, k2 = _turned(keys, whole, rest, ahead, tokens, STRIDE, STEP, TILE, HALF)
        v = _rows(values, ahead, tokens, STRIDE, TILE, WIDTH)
        seen = _seen(low, more, ahead, TILE)
        scores = tl.where(seen, tl.dot(q2, tl.trans(k2), tl.dot(q1, tl.trans(k1))), float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1) * (SCALE * LOG2_E))
        shares = tl.exp2(scores * (SCALE * LOG2_E) - higher[:, None])
        shrunk = tl.exp2(highest - higher)
        total = total * shrunk + tl.sum(shares, 1)
        answer = tl.dot(shares.to(v.dtype), v, answer * shrunk[:, None])
        highest = higher
    _store(answers + head * WIDTH, answer / total[:, None], first, tokens, HEADS * WIDTH, BLOCK, WIDTH)
    tl.store(_numbers(sums, head, first, stride, BLOCK), highest + tl.log2(total))


@triton.jit(do_not_specialize=["tokens"])
def query_kernel(  # type: ignore[no-untyped-def]
    qkv, bounds, whole, rest, gradient, answers, sums, deltas, into, tokens, stride, STEP: tl.constexpr,
    SCALE: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr, HALF: tl.constexpr, WINDOW: tl.constexpr,
    REACH: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr
):  # fmt: skip
    """One program for the gradients of BLOCK queries of a head; it leaves the deltas for those of the keys."""
    WIDTH: tl.constexpr = 2 * HALF
    STRIDE: tl.constexpr = (HEADS + 2 * PAIRS) * WIDTH
    head, first = tl.program_id(0), tl.program_id(1) * BLOCK
    pair = head // (HEADS // PAIRS)
    keys, values = qkv + (HEADS + pair) * WIDTH, qkv + (HEADS + PAIRS + pair) * WIDTH
    q1, q2 = _turned(qkv + head * WIDTH, whole, rest, first, tokens, STRIDE, STEP, BLOCK, HALF)
    g = _rows(gradient + head * WIDTH, first, tokens, HEADS * WIDTH, BLOCK, WIDTH)
    answer = _rows(answers + head * WIDTH, first, tokens, HEADS * WIDTH, BLOCK, WIDTH)
    delta = tl.sum(g.to(tl.float32) * answer.to(tl.float32), 1)
    tl.store(_numbers(deltas, head, first, stride, BLOCK), delta)
    logarithm = tl.load(_numbers(sums, head, first, stride, BLOCK))
    low, more = _range(bounds, first, tokens, WINDOW, BLOCK)
    d1, d2 = tl.zeros((BLOCK, HALF), tl.float32), tl.zeros((BLOCK, HALF), tl.float32)
    for number in range(0, TILES):
        ahead = first - REACH + number * TILE
        k1, k2 = _turned(keys, whole, rest, ahead, tokens, STRIDE, STEP, TILE, HALF)
        v = _rows(values, ahead, tokens, STRIDE, TILE, WIDTH)
        scores = tl.dot(q2, tl.trans(k2), tl.dot(q1, tl.trans(k1))) * (SCALE * LOG2_E) - logarithm[:, None]
        seen = _seen(low, more, ahead, TILE)
        shares = tl.exp2(tl.where(seen, scores, float("-inf")))
        slope = (shares * (tl.dot(g, tl.trans(v)) - delta[:, None])).to(k1.dtype)
        d1, d2 = tl.dot(slope, k1, d1), tl.dot(slope, k2, d2)
    into += head * WIDTH
    _store_turned_back(into, d1 * SCALE, d2 * SCALE, whole, rest, first, tokens, STRIDE, STEP, BLOCK, HALF)


@triton.jit(do_not_specialize=["tokens"])
def key_kernel(  # type: ignore[no-untyped-def]
    qkv, bounds, whole, rest, gradient, answers, sums, deltas, into, tokens, stride, STEP: tl.constexpr,
    SCALE: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr, HALF: tl.constexpr, WINDOW: tl.constexpr,
    REACH: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr
):  # fmt: skip
    """One program for the gradients of BLOCK keys and values, over the query heads that share them."""
    WIDTH: tl.constexpr = 2 * HALF
    STRIDE: tl.constexpr = (HEADS + 2 * PAIRS) * WIDTH
    GROUP: tl.constexpr = HEADS // PAIRS
    pair, first = tl.program_id(0), tl.program_id(1) * BLOCK
    key, value = (HEADS + pair) * WIDTH, (HEADS + PAIRS + pair) * WIDTH
    k1, k2 = _turned(qkv + key, whole, rest, first, tokens, STRIDE, STEP, BLOCK, HALF)
    v = _rows(qkv + value, first, tokens, STRIDE, BLOCK, WIDTH)
    d1, d2 = tl.zeros((BLOCK, HALF), tl.float32), tl.zeros((BLOCK, HALF), tl.float32)
    into_v = tl.zeros((BLOCK, WIDTH), tl.float32)
    low, more = _range(bounds, first, tokens, WINDOW, BLOCK)
    for number in range(0, GROUP * TILES):
        head, ahead = pair * GROUP + number // TILES, first - REACH + number % TILES * TILE
        q1, q2 = _turned(qkv + head * WIDTH, whole, rest, ahead, tokens, STRIDE, STEP, TILE, HALF)
        g = _rows(gradient + head * WIDTH, ahead, tokens, HEADS * WIDTH, TILE, WIDTH)
        logarithm = tl.load(_numbers(sums, head, ahead, stride, TILE))
        delta = tl.load(_numbers(deltas, head, ahead, stride, TILE))
        scores = tl.dot(k2, tl.trans(q2), tl.dot(k1, tl.trans(q1))) * (SCALE * LOG2_E) - logarithm[None, :]
        seen = _seen(low, more, ahead, TILE)
        shares = tl.exp2(tl.where(seen, scores, float("-inf")))  # [keys, queries]
        into_v = tl.dot(shares.to(g.dtype), g, into_v)
        slope = (shares * (tl.dot(v, tl.trans(g)) - delta[None, :])).to(q1.dtype)
        d1, d2 = tl.dot(slope, q1, d1), tl.dot(slope, q2, d2)
    _store_turned_back(into + key, d1 * SCALE, d2 * SCALE, whole, rest, first, tokens, STRIDE, STEP, BLOCK, HALF)
    _store(into + value, into_v, first, tokens, STRIDE, BLOCK, WIDTH)
