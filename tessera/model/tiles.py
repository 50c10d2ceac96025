"""Attention on CPUs: documents cut into tiles that plain matrix products work through.

A tile is a stretch of one document: a few queries and all the keys that they may see. Tiles of similar size are
stacked, so that a thousand short documents are a few batched products. Without a window a document is one tile; with a
window a long document is a row of tiles that overlap by the window, so cost is linear in its length. Scores are never
kept: the backward pass computes them again, a bounded number at a time.

Within a tile positions count from its first key, because rotary attention depends on differences only.

torch's own kernel (scaled_dot_product_attention) needs two to four times as long for documents of 20 to 500 tokens,
forward and backward together.
"""

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Shapes: T tokens, H query heads, K key/value heads, G = H / K, D head width;
# n tiles in a stack, each with q queries among k keys.

_BLOCK = 128  # queries in a tile of a document that is cut
_STACK_TOKENS = 2048  # keys in a stack, about
_STACK_SCORES = 1 << 20  # scores in flight, of all heads


@dataclass(frozen=True, slots=True)
class Stack:
    """n tiles of one size. Places are rows of the packed batch; T stands for none (padding)."""

    shape: tuple[int, int]  # n, k
    first: int  # the queries are keys first .. first + queries - 1 of each tile
    queries: int
    keys: Tensor  # [n * k], place of each key
    read: Tensor  # [n * k], the same, where padding reads any token
    asked: Tensor  # [n * q], place of each query
    hidden: Tensor | None  # [n, 1, 1 or q, k], bool: keys that must not be seen; None where all may be
    overlaps: bool  # whether keys are also in other tiles


def cut(starts: list[int], window: int | None, heads: int) -> list[Stack]:
    """The stacks that cover a batch. window: tokens visible on either side, or None for the whole document."""
    total = starts[-1]
    spans = [(start, end) for start, end in pairwise(starts) if end > start]
    stacks: list[Stack] = []
    blocks: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
    for alike in _alike([span for span in spans if window is None or span[1] - span[0] <= 2 * _BLOCK], heads):
        size = _round_up(max(end - start for start, end in alike))
        stacks.append(_stack([(start, end, start, end) for start, end in alike], size, 0, window, total))
    for start, end in spans:
        if window is not None and end - start > 2 * _BLOCK:
            count = -(-(end - start) // _BLOCK)
            size = _round_up(-(-(end - start) // count))
            blocks[size] += [(start, end, first, min(first + size, end)) for first in range(start, end, size)]
    for size, tiles in blocks.items():
        assert window is not None
        at_once = _fitting(size, size + 2 * window, heads)
        some = (tiles[i : i + at_once] for i in range(0, len(tiles), at_once))
        stacks += [_stack(group, size, window, window, total) for group in some]
    return stacks


def _fitting(queries: int, keys: int, heads: int) -> int:
    """How many tiles of this size make a stack."""
    return max(1, min(_STACK_TOKENS // keys, _STACK_SCORES // (heads * queries * keys)))


def _round_up(length: int) -> int:
    """Few different sizes, because the matrix library prepares each size once."""
    step = 8 if length <= 64 else 16 if length <= 256 else 64
    return -(-length // step) * step


def _alike(spans: list[tuple[int, int]], heads: int) -> list[list[tuple[int, int]]]:
    """Documents in groups that waste little on padding and fit the budgets."""
    groups: list[list[tuple[int, int]]] = []
    room = width = 0
    for start, end in sorted(spans, key=lambda span: span[0] - span[1]):
        length = end - start
        small = bool(groups) and len(groups[-1]) * width < _STACK_TOKENS // 4 and 2 * length > width
        if room < 1 or (width - length > width // 8 + 4 and not small):
            width = _round_up(length)
            room = _fitting(width, width, heads)
            groups.append([])
        groups[-1].append((start, end))
        room -= 1
    return groups


def _stack(tiles: list[tuple[int, int, int, int]], queries: int, reach: int, window: int | None, total: int) -> Stack:
    """Tiles given as (start and end of the document, first query, end of the queries).

    queries  in each tile, with padding
    reach    how far keys go beyond the queries on either side
    total    T
    """
    start, end, first, last = torch.tensor(tiles).unsqueeze(-1).unbind(1)  # [n, 1] each
    key = first - reach + torch.arange(queries + 2 * reach)
    query = first + torch.arange(queries)
    padding = (key < start) | (key >= end)
    hidden = padding[:, None, :] if padding.any() else None
    if window is not None and key.shape[1] > window + 1:
        far = (torch.arange(queries)[:, None] + reach - torch.arange(key.shape[1])).abs() > window
        hidden = far[None] if hidden is None else hidden | far
    return Stack(
        shape=(key.shape[0], key.shape[1]),
        first=reach,
        queries=queries,
        keys=key.masked_fill(padding, total).flatten(),
        read=key.masked_fill(padding, 0).flatten(),
        asked=query.masked_fill(query >= last, total).flatten(),
        hidden=None if hidden is None else hidden[:, None],
        overlaps=reach > 0,
    )


@dataclass(frozen=True, slots=True)
class Turns:
    """Cosines and sines [k, D/2] of the places in a tile; those for queries also divide by the root of D."""

    of_queries: tuple[Tensor, Tensor]
    of_keys: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, frequencies: Tensor, stacks: list[Stack], dtype: torch.dtype) -> "Turns":
        """frequencies [D/2], the angle that each pair of dimensions turns from one place to the next."""
        longest = max((stack.shape[1] for stack in stacks), default=0)
        angles = torch.arange(longest)[:, None] * frequencies
        pair, scale = (angles.cos(), angles.sin()), (2 * len(frequencies)) ** -0.5
        cos, sin = (x.to(dtype) for x in pair)
        return cls(of_queries=((pair[0] * scale).to(dtype), (pair[1] * scale).to(dtype)), of_keys=(cos, sin))


def attend_in_tiles(qkv: Tensor, stacks: list[Stack], heads: tuple[int, int], turns: Turns) -> Tensor:
    """What model/attention.py: attend says, over the stacks of one batch.

    qkv    [T, (H + 2 K) * D]
    heads  H and K
    """
    with torch.autocast("cpu", enabled=False):
        return _Tiled.apply(qkv, stacks, heads, turns)


class _Tiled(torch.autograd.Function):
    """Keeps nothing but its input for the way back."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, stacks: list[Stack], heads: tuple[int, int], turns: Turns) -> Tensor:
        ctx.save_for_backward(qkv)
        ctx.stacks, ctx.heads, ctx.turns = stacks, heads, turns
        width = qkv.shape[1] // (heads[0] + 2 * heads[1])
        out = qkv.new_empty(len(qkv) + 1, heads[0] * width)  # the last row takes what padding gives
        for stack in stacks:
            q, k, v = _queries_keys_values(qkv, stack, heads, turns)
            mixed = torch.empty_like(q)
            for part in _parts(stack, heads[0]):
                weights = _weights(q[..., part, :], k, stack, part)
                mixed[..., part, :] = torch.bmm(weights, v).view_as(q[..., part, :])
            rows = mixed.view(stack.shape[0], heads[0], stack.queries, width).transpose(1, 2)
            out.index_copy_(0, stack.asked, rows.reshape(len(stack.asked), -1))
        return out[:-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (qkv,), stacks, (h, kv), turns = ctx.saved_tensors, ctx.stacks, ctx.heads, ctx.turns
        width = qkv.shape[1] // (h + 2 * kv)
        overlap = any(stack.overlaps for stack in stacks)
        total = qkv.new_zeros if overlap else qkv.new_empty
        out = total((len(qkv) + 1, qkv.shape[1]), dtype=torch.float32 if overlap else qkv.dtype)
        given = torch.cat((gradient, gradient.new_zeros(1, gradient.shape[1])))  # padding gives no gradient
        for stack in stacks:
            n, keys = stack.shape
            q, k, v = _queries_keys_values(qkv, stack, (h, kv), turns)
            asked = given.index_select(0, stack.asked).view(n, stack.queries, h, width)
            asked = asked.transpose(1, 2).contiguous().view_as(q)
            d_q, d_k, d_v = _backward(q, k, v, asked, stack, h)
            rows = out.new_empty(n, keys, h + 2 * kv, width)
            inner = slice(stack.first, stack.first + stack.queries)
            if stack.overlaps:
                rows[:, : stack.first, :h] = 0
                rows[:, inner.stop :, :h] = 0
            d_q = d_q.view(n, h, stack.queries, width)
            _turn(d_q, turns.of_queries, stack.first, rows[:, inner, :h].transpose(1, 2), back=True)
            d_k = d_k.view(n, kv, keys, width)
            _turn(d_k, turns.of_keys, 0, rows[:, :, h : h + kv].transpose(1, 2), back=True)
            rows[:, :, h + kv :] = d_v.view(n, kv, keys, width).transpose(1, 2)
            rows = rows.view(n * keys, -1)
            if overlap:
                out.index_add_(0, stack.keys, rows)
            else:
                out.index_copy_(0, stack.keys, rows)
        return out[:-1].to(qkv.dtype), None, None, None


def _queries_keys_values(
    qkv: Tensor, stack: Stack, heads: tuple[int, int], turns: Turns
) -> tuple[Tensor, Tensor, Tensor]:
    """q [n * K, G, q, D] turned and divided by the root of D; k [n * K, k, D] turned; v [n * K, k, D]."""
    (n, keys), (h, kv) = stack.shape, heads
    rows = qkv.index_select(0, stack.read).view(n, keys, h + 2 * kv, -1)
    width = rows.shape[3]
    inner = slice(stack.first, stack.first + stack.queries)
    q, k = rows.new_empty(n, h, stack.queries, width), rows.new_empty(n, kv, keys, width)
    _turn(rows[:, inner, :h].transpose(1, 2), turns.of_queries, stack.first, q)
    _turn(rows[:, :, h : h + kv].transpose(1, 2), turns.of_keys, 0, k)
    v = rows[:, :, h + kv :].transpose(1, 2).reshape(n * kv, keys, width)
    return q.view(n * kv, h // kv, stack.queries, width), k.view(n * kv, keys, width), v


def _turn(x: Tensor, table: tuple[Tensor, Tensor], first: int, out: Tensor, *, back: bool = False) -> None:
    """Rotate the pairs (i, i + D/2) of x [..., length, D] into `out`, as at places first, first + 1, ... of a tile."""
    cos, sin = (t[first : first + x.shape[-2]] for t in table)
    sign, half = -1 if back else 1, x.shape[-1] // 2
    (a, b), (left, right) = (x[..., :half], x[..., half:]), (out[..., :half], out[..., half:])
    torch.mul(a, cos, out=left).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=right).addcmul_(a, sin, value=sign)


def _parts(stack: Stack, heads: int) -> list[slice]:
    """The queries of a stack in slices whose scores fit the budget."""
    step = max(64, _STACK_SCORES // (heads * stack.shape[0] * stack.shape[1]))
    return [slice(i, min(i + step, stack.queries)) for i in range(0, stack.queries, step)]


def _weights(q: Tensor, k: Tensor, stack: Stack, part: slice) -> Tensor:
    """q [n * K, G, q, D], k [n * K, k, D] -> softmax of the scores [n * K, G * q, k]."""
    scores = torch.bmm(q.flatten(1, 2), k.transpose(1, 2))
    if stack.hidden is not None:
        hidden = stack.hidden if stack.hidden.shape[2] == 1 else stack.hidden[:, :, part]
        # Finite, because a padded query may see nothing at all and nobody reads its answer.
        scores.view(stack.shape[0], -1, q.shape[2], k.shape[1]).masked_fill_(hidden, torch.finfo(q.dtype).min / 2)
    return torch.softmax(scores, -1)


def _backward(
    q: Tensor, k: Tensor, v: Tensor, asked: Tensor, stack: Stack, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the turned q, k and of v, given that of the answer, `asked` [n * K, G, q, D]."""
    parts = _parts(stack, heads)
    d_q, exact = torch.empty_like(q), torch.float32 if len(parts) > 1 else k.dtype  # where many terms are added up
    d_k, d_v = torch.zeros_like(k, dtype=exact), torch.zeros_like(v, dtype=exact)
    for part in parts:
        some, wanted = q[..., part, :], asked[..., part, :].flatten(1, 2)
        weights = _weights(some, k, stack, part)
        d_v += torch.bmm(weights.transpose(1, 2), wanted)
        d_scores = torch.bmm(wanted, v.transpose(1, 2))
        d_scores = torch._softmax_backward_data(d_scores, weights, -1, weights.dtype)
        d_q[..., part, :] = torch.bmm(d_scores, k).view_as(some)
        d_k += torch.bmm(d_scores.transpose(1, 2), some.flatten(1, 2))
    return d_q, d_k.to(k.dtype), d_v.to(v.dtype)
