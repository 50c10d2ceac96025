"""Blockwise self-attention for CPUs: documents cut into tiles that plain matrix products work through.

A tile is a stretch of one document: a few queries and all the keys that they may see. Tiles of similar size are
stacked, so that a thousand short documents are a few batched products. Without a window a document is one tile; with a
window a long document is a row of tiles that overlap by the window, so cost is linear in its length. The softmax of the
scores is kept for the way back where it takes little memory, and computed again, a bounded number at a time, elsewhere.

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

    keys: Tensor  # [n, k], place of each key
    asked: Tensor  # [n, q], place of each query
    bias: Tensor | None  # [n, 1, 1 or q, k] float32, added to scores: 0, or very little where nothing may be seen
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
    # Finite, because a padded query may see nothing at all and nobody reads its answer.
    least = torch.finfo(torch.float32).min / 4
    bias = None if hidden is None else torch.zeros(hidden.shape).masked_fill_(hidden, least)[:, None]
    asked = query.masked_fill(query >= last, total)
    return Stack(keys=key.masked_fill(padding, total), asked=asked, bias=bias, overlaps=reach > 0)


@dataclass(frozen=True, slots=True)
class Tile:
    """A stack in terms of the buffers below: row numbers instead of places, scores' bias in their own precision."""

    stack: Stack
    q: Tensor  # [n * H * q] rows of the buffer [(T + 1) * (H + 2 K), D], as all but the next
    out: Tensor  # [n * H * q] rows of the answer [(T + 1) * H, D]
    k: Tensor  # [n * K * k]
    v: Tensor  # [n * K * k]
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the layers of one batch share: tiles, and cosines and sines [T, 1, D/2] for queries and for keys.

    Those for queries also divide by the root of D.
    """

    heads: tuple[int, int]  # H, K
    tiles: list[Tile]
    of_queries: tuple[Tensor, Tensor]
    of_keys: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls, stacks: list[Stack], heads: tuple[int, int], rotary: tuple[Tensor, Tensor], dtype: torch.dtype
    ) -> "Plan":
        """rotary  cosines and sines [T, 1, D/2] float32"""
        (h, kv), (cos, sin) = heads, rotary
        every, scale = h + 2 * kv, (2 * cos.shape[2]) ** -0.5
        tiles = []
        for stack in stacks:
            asked, keys = stack.asked[:, None, :], stack.keys[:, None, :]
            head, of_keys = torch.arange(h)[:, None], torch.arange(kv)[:, None]
            rows = (asked * every + head, asked * h + head, keys * every + h + of_keys, keys * every + h + kv + of_keys)
            bias = None if stack.bias is None else stack.bias.to(dtype)
            q, out, k, v = (r.flatten() for r in rows)
            tiles.append(Tile(stack, q, out, k, v, bias))
        pair = ((cos * scale).to(dtype), (sin * scale).to(dtype))
        return cls(heads=heads, tiles=tiles, of_queries=pair, of_keys=(cos.to(dtype), sin.to(dtype)))


def attend_in_tiles(qkv: Tensor, plan: Plan) -> Tensor:
    """Scaled dot-product attention, as model/attention.py: attend says. qkv [T, (H + 2 K) * D]"""
    with torch.autocast("cpu", enabled=False):
        return _Tiled.apply(qkv, plan)


class _Tiled(torch.autograd.Function):
    """Keeps its input turned, and the softmax of the scores where that is no more than twice as much."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, plan: Plan) -> Tensor:
        h, total = plan.heads[0], len(qkv)
        rows = _turned(qkv, plan)
        width = rows.shape[1]
        out = qkv.new_empty((total + 1) * h, width)  # the last token takes what padding gives
        wanted = sum(tile.stack.keys.shape[1] * len(tile.q) for tile in plan.tiles)
        keeps = ctx.needs_input_grad[0] and wanted <= 2 * qkv.numel()
        kept: list[Tensor] = []
        for tile in plan.tiles:
            q, k, v = _gather(rows, tile, plan.heads)
            parts = _parts(tile.stack, h)
            for part in parts:
                weights = _weights(q[..., part, :], k, tile, part)
                mixed = torch.bmm(weights, v)
                if keeps:
                    kept.append(weights)
                if len(parts) > 1:
                    q[..., part, :] = mixed.view_as(q[..., part, :])  # these queries have been asked
            answer = mixed if len(parts) == 1 else q
            out.index_copy_(0, tile.out, answer.view(len(tile.out), width))
        ctx.save_for_backward(rows, *kept)
        ctx.plan = plan
        return out.view(total + 1, h * width)[:-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (rows, *kept), plan = ctx.saved_tensors, ctx.plan
        (h, kv), total, width = plan.heads, len(gradient), rows.shape[1]
        given = torch.cat((gradient, gradient.new_zeros(1, gradient.shape[1]))).view(-1, width)  # padding gives none
        d_rows = torch.empty_like(rows)
        # Where tiles overlap a key has several gradients, which are added up exactly.
        sums = rows.new_zeros(rows.shape, dtype=torch.float32) if any(t.stack.overlaps for t in plan.tiles) else None
        for tile in plan.tiles:
            q, k, v = _gather(rows, tile, plan.heads)
            weights = [kept.pop(0) for _ in _parts(tile.stack, h)] if kept else None
            d_q, d_k, d_v = _backward(q, k, v, given.index_select(0, tile.out).view_as(q), tile, weights, h)
            d_rows.index_copy_(0, tile.q, d_q.view(-1, width))
            for places, part in ((tile.k, d_k), (tile.v, d_v)):
                if sums is None:
                    d_rows.index_copy_(0, places, part.to(rows.dtype).view(-1, width))
                else:
                    sums.index_add_(0, places, part.float().view(-1, width))
        if sums is not None:
            d_rows.view(total + 1, -1, width)[:, h:].copy_(sums.view(total + 1, -1, width)[:, h:])
        d_rows = d_rows.view(total + 1, -1, width)[:-1]
        out = d_rows.new_empty(d_rows.shape)
        _turn(d_rows[:, :h], plan.of_queries, out[:, :h], back=True)
        _turn(d_rows[:, h : h + kv], plan.of_keys, out[:, h : h + kv], back=True)
        out[:, h + kv :] = d_rows[:, h + kv :]
        return out.flatten(1), None


def _turned(qkv: Tensor, plan: Plan) -> Tensor:
    """[(T + 1) * (H + 2 K), D]: queries turned and divided by the root of D, keys turned, values; zeros for padding."""
    h, kv = plan.heads
    given = qkv.view(len(qkv), h + 2 * kv, qkv.shape[1] // (h + 2 * kv))
    rows = qkv.new_empty(len(qkv) + 1, *given.shape[1:])
    _turn(given[:, :h], plan.of_queries, rows[:-1, :h])
    _turn(given[:, h : h + kv], plan.of_keys, rows[:-1, h : h + kv])
    rows[:-1, h + kv :] = given[:, h + kv :]
    rows[-1] = 0
    return rows.flatten(0, 1)


def _gather(rows: Tensor, tile: Tile, heads: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """q [n * K, G, q, D], k and v [n * K, k, D]"""
    (n, keys), (h, kv) = tile.stack.keys.shape, heads
    q, k, v = (rows.index_select(0, places) for places in (tile.q, tile.k, tile.v))
    return q.view(n * kv, h // kv, tile.stack.asked.shape[1], -1), k.view(n * kv, keys, -1), v.view(n * kv, keys, -1)


def _turn(x: Tensor, table: tuple[Tensor, Tensor], out: Tensor, *, back: bool = False) -> None:
    """Rotate the pairs (i, i + D/2) of x [T, heads, D] into `out` by the angles of the table."""
    (cos, sin), sign, half = table, -1 if back else 1, x.shape[-1] // 2
    (a, b), (left, right) = (x[..., :half], x[..., half:]), (out[..., :half], out[..., half:])
    torch.mul(a, cos, out=left).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=right).addcmul_(a, sin, value=sign)


def _parts(stack: Stack, heads: int) -> list[slice]:
    """The queries of a stack in slices whose scores fit the budget."""
    step, queries = max(64, _STACK_SCORES // (heads * stack.keys.numel())), stack.asked.shape[1]
    return [slice(i, min(i + step, queries)) for i in range(0, queries, step)]


def _weights(q: Tensor, k: Tensor, tile: Tile, part: slice) -> Tensor:
    """q [n * K, G, q, D], k [n * K, k, D] -> softmax of the scores [n * K, G * q, k]."""
    scores = torch.bmm(q.flatten(1, 2), k.transpose(1, 2))
    if tile.bias is not None:  # added: torch fills by a mask many times slower
        bias = tile.bias if tile.bias.shape[2] == 1 else tile.bias[:, :, part]
        scores.view(len(tile.stack.keys), -1, q.shape[2], k.shape[1]).add_(bias)
    return torch.softmax(scores, -1)


def _backward(
    q: Tensor, k: Tensor, v: Tensor, asked: Tensor, tile: Tile, kept: list[Tensor] | None, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the turned q, k and of v, given that of the answer, `asked` [n * K, G, q, D]."""
    parts = _parts(tile.stack, heads)
    d_q, d_k, d_v = torch.empty_like(q), None, None
    for number, part in enumerate(parts):
        some, wanted = q[..., part, :].flatten(1, 2), asked[..., part, :].flatten(1, 2)
        weights = _weights(q[..., part, :], k, tile, part) if kept is None else kept[number]
        to_v = torch.bmm(weights.transpose(1, 2), wanted)
        d_scores = torch.bmm(wanted, v.transpose(1, 2))
        d_scores = torch._softmax_backward_data(d_scores, weights, -1, weights.dtype)
        d_q[..., part, :] = torch.bmm(d_scores, k).view_as(d_q[..., part, :])
        to_k = torch.bmm(d_scores.transpose(1, 2), some)
        if len(parts) > 1:  # where many terms are added up
            to_k, to_v = to_k.float(), to_v.float()
        d_k, d_v = (to_k, to_v) if d_k is None or d_v is None else (d_k.add_(to_k), d_v.add_(to_v))
    assert d_k is not None
    assert d_v is not None
    return d_q, d_k, d_v
