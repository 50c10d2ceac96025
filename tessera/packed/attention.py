"""Self-attention in inference on CPUs: the tiles of attention_cpu.py, with rotary positions turned inside the tile.

Only differences of positions matter, so all tiles of a stack share one small table of cosines and sines that counts
from the tile's first key. Where keys overlap they are turned again, which costs less than another pass over all tokens.
Heads are split before queries are, because the matrix library lays out the keys of a head anew for each product. There
is no way back here; training has attention_cpu.py. torch's own kernel took 2.3 to 2.8 times as long for every length
from 64 to 8,192 tokens (2026-11-27, AVX512_BF16).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tessera.model.attention_cpu import Stack

# Shapes: T tokens, H query heads, K key/value heads, G = H / K, D head width;
# n tiles in a stack, each with q queries among k keys.

_SCORES = 1 << 20  # of one product, about: they are to stay in the cache

Table = tuple[Tensor, Tensor]
"""Cosines and sines [positions, D]; the sines of the first half are negative."""


@dataclass(frozen=True, slots=True)
class StillTile:
    """A stack of tiles, ready for any layer with the same window and base."""

    shape: tuple[int, int, int]  # n, q, k
    keys: Tensor | slice  # [n * k] rows of the batch; padding reads any row
    asked: Tensor | slice  # [n * q] rows of the answer; padding writes to row T
    bias: Tensor | None  # [n, 1, 1 or q, k], added to scores
    of_queries: Table | None  # divided by the root of D; None: nothing is turned, and queries are divided already
    of_keys: Table | None


def still_tiles(stacks: list[Stack], tokens: int, frequencies: Tensor | None, dtype: torch.dtype) -> list[StillTile]:
    """What the layers of a batch share. tokens: T; frequencies [D/2] of the rotation, None: without positions"""
    return [_still(stack, tokens, frequencies, dtype) for stack in stacks]


def _still(stack: Stack, tokens: int, frequencies: Tensor | None, dtype: torch.dtype) -> StillTile:
    (n, k), q = stack.keys.shape, stack.asked.shape[1]
    padding = stack.keys == tokens
    own = stack.keys.masked_fill(padding, -1).amax(1, keepdim=True)  # so that padding reads its own document's numbers
    return StillTile(
        shape=(n, q, k),
        keys=_rows(torch.where(padding, own, stack.keys)),
        asked=_rows(stack.asked),
        bias=None if stack.bias is None else stack.bias.to(dtype),
        of_queries=None if frequencies is None else _table(frequencies, (k - q) // 2, q, dtype, scaled=True),
        of_keys=None if frequencies is None else _table(frequencies, 0, k, dtype, scaled=False),
    )


def _table(frequencies: Tensor, first: int, count: int, dtype: torch.dtype, *, scaled: bool) -> Table:
    angles = torch.arange(first, first + count)[:, None].float() * frequencies
    cos, sin = torch.cat([angles.cos()] * 2, 1), torch.cat((-angles.sin(), angles.sin()), 1)
    scale = cos.shape[1] ** -0.5 if scaled else 1.0
    return (cos * scale).to(dtype), (sin * scale).to(dtype)


def _rows(places: Tensor) -> Tensor | slice:
    """As a slice where they follow each other: then nothing is gathered."""
    flat = places.flatten()
    first = int(flat[0])
    return slice(first, first + len(flat)) if bool((flat.diff() == 1).all()) else flat


def attend_still(qkv: Tensor, tiles: list[StillTile], heads: int, key_value_heads: int) -> Tensor:
    """Scaled dot-product attention, as model/attention.py: attend says. qkv [T, (H + 2 K) * D] -> [T, H * D]"""
    tokens, width = len(qkv), qkv.shape[1] // (heads + 2 * key_value_heads)
    out = qkv.new_empty(tokens + 1, heads * width)  # the last row takes what padding gives
    for tile in tiles:
        n, queries, _ = tile.shape
        mixed = _mixed(*_read(qkv, tile, heads, key_value_heads), tile).view(n, heads, queries, width)
        if isinstance(tile.asked, slice):
            out[tile.asked].view(n, queries, heads, width).copy_(mixed.transpose(1, 2))
        else:
            out.index_copy_(0, tile.asked, mixed.transpose(1, 2).reshape(-1, heads * width))
    return out[:-1]


def _read(qkv: Tensor, tile: StillTile, heads: int, pairs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Turned q [n * K, G, q, D], turned k and v [n * K, k, D]"""
    n, queries, keys = tile.shape
    reach = (keys - queries) // 2
    taken = qkv[tile.keys] if isinstance(tile.keys, slice) else qkv.index_select(0, tile.keys)
    found = taken.view(n, keys, heads + 2 * pairs, -1).transpose(1, 2)
    q = _turned(found[:, :heads, reach : reach + queries], tile.of_queries)
    k = _turned(found[:, heads : heads + pairs], tile.of_keys)
    v = found[:, heads + pairs :].reshape(n * pairs, keys, -1)
    return q.view(n * pairs, heads // pairs, queries, -1), k.flatten(0, 1), v


def _turned(x: Tensor, table: Table | None) -> Tensor:
    """Rotary position embedding of x [n, heads, positions, D], made contiguous: there tables fit whole rows of it."""
    x = x.contiguous()
    if table is None:
        return x
    return torch.mul(x, table[0]).addcmul_(x.roll(x.shape[-1] // 2, -1), table[1])


def _mixed(q: Tensor, k: Tensor, v: Tensor, tile: StillTile) -> Tensor:
    """q [n * K, G, q, D], k and v [n * K, k, D] -> values weighted by the softmax of the scores, as q"""
    pairs, groups, queries, _ = q.shape
    of_a_query = groups * k.shape[1]
    if tile.shape[0] > 1 or pairs * queries * of_a_query <= _SCORES:
        return torch.bmm(_weights(q, k, tile.bias), v).view(q.shape)
    out, several = torch.empty_like(q), max(1, _SCORES // (queries * of_a_query))
    rows = max(64, _SCORES // of_a_query // 64 * 64)
    for first in range(0, pairs, several):
        some = slice(first, first + several)
        for begin in range(0, queries, rows):
            part = slice(begin, begin + rows)
            bias = tile.bias if tile.bias is None or tile.bias.shape[2] == 1 else tile.bias[:, :, part]
            asked = q[some, :, part]
            out[some, :, part] = torch.bmm(_weights(asked, k[some], bias), v[some]).view(asked.shape)
    return out


def _weights(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """q [N, G, q, D], k [N, k, D], bias [n, 1, 1 or q, k] -> softmax of the scores [N, G * q, k]"""
    scores = torch.bmm(q.flatten(1, 2), k.transpose(1, 2))
    if bias is not None:  # added: torch fills by a mask many times slower
        scores.view(len(bias), -1, q.shape[2], k.shape[1]).add_(bias)
    return torch.softmax(scores, -1)
