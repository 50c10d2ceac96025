"""Pooling: hidden states to sentence embeddings, in every way that sentence-transformers knows, and what may follow."""

# Shapes: T tokens of N texts end to end, C hidden size, P width after pooling.

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tessera.model.attention import Layout
from tessera.model.precision import on_device

# In the order in which sentence-transformers joins them where several are asked for.
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

_ACTIVATIONS = {kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)}


def pool(hidden: Tensor, starts: Tensor | Layout, how: str | Sequence[str], skip: int = 0) -> Tensor:
    """Pools hidden states: one vector a text, or several side by side, in float32.

    hidden   [T, C]
    starts   [N+1], where each text starts, and T; or the layout of the batch: made on the host, nothing is asked of
             the device
    how      of POOLINGS, one or several. mean: of all tokens, special ones included; cls: the first; lasttoken: the
             last, the closing special one included; weightedmean: the n-th token counts n times;
             mean_sqrt_len_tokens: the sum divided by the root of the length
    skip     tokens of each text that are left out of it, as those of a prompt; the last token always stays
    returns  [N, C * number of poolings]

    Raises ValueError for an empty text or an unknown pooling.
    """
    names = (how,) if isinstance(how, str) else tuple(how)
    for name in names:
        if name not in POOLINGS:
            raise ValueError(f"pooling is {name!r}; give {', '.join(POOLINGS)}")
    host = starts.host if isinstance(starts, Layout) else None
    if host is None:
        rest = _rest(hidden, starts.starts if isinstance(starts, Layout) else starts, skip)
    else:
        rest = _rest_by_host(hidden, host, skip)
    found = [_pool(*rest, name) for name in names]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _rest(hidden: Tensor, starts: Tensor, skip: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is left of the hidden states, the starts and lengths in it, and how much of each text was left out."""
    lengths = starts.diff()
    if len(lengths) and not bool((lengths > 0).all()):
        raise ValueError(f"document {int((lengths < 1).nonzero()[0])} is empty; there is nothing to pool")
    first = lengths.sub(1).clamp(max=skip)  # of each text, what is left out
    if skip:
        place = torch.arange(len(hidden), device=hidden.device) - torch.repeat_interleave(starts[:-1], lengths)
        hidden = hidden[place >= torch.repeat_interleave(first, lengths)]
        lengths = lengths - first
        starts = torch.cat((starts[:1], lengths.cumsum(0)))
    return hidden, starts, lengths, first


def _rest_by_host(hidden: Tensor, starts: NDArray[np.int64], skip: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same where starts are known on the host, without waiting for the device."""
    lengths = np.diff(starts)
    if len(lengths) and lengths.min() < 1:
        raise ValueError(f"document {int((lengths < 1).argmax())} is empty; there is nothing to pool")
    first = np.minimum(lengths - 1, skip)
    if skip:
        place = np.arange(len(hidden)) - np.repeat(starts[:-1], lengths)
        kept = np.flatnonzero(place >= np.repeat(first, lengths))
        hidden = hidden.index_select(0, on_device(kept, hidden.device))
        lengths = lengths - first
        starts = np.concatenate((starts[:1], np.cumsum(lengths)))
    return hidden, *(on_device(array, hidden.device) for array in (starts, lengths, first))  # type: ignore[return-value]


def _pool(hidden: Tensor, starts: Tensor, lengths: Tensor, skipped: Tensor, how: str) -> Tensor:
    if how in ("cls", "lasttoken"):
        return hidden.index_select(0, starts[:-1] if how == "cls" else starts[1:] - 1).float()
    numbers = torch.arange(len(lengths), device=hidden.device)
    document = torch.repeat_interleave(numbers, lengths, output_size=len(hidden))
    sums = torch.zeros(len(lengths), hidden.shape[1], device=hidden.device)
    if how == "max":
        lowest = torch.full_like(sums, float("-inf"))
        return lowest.scatter_reduce(0, document[:, None].expand_as(hidden), hidden.float(), "amax")
    if how == "weightedmean":  # tokens that were left out still count as places, as in sentence-transformers
        place = torch.arange(len(hidden), device=hidden.device) - starts[document] + skipped[document] + 1
        weight = place.float()[:, None]
        sums = sums.index_add(0, document, hidden.float() * weight)
        return sums / weight.new_zeros(len(lengths), 1).index_add(0, document, weight)
    mean = sums.index_add(0, document, hidden.float()) / lengths[:, None]
    return mean if how == "mean" else mean * lengths[:, None].sqrt()


class Dense(nn.Module):
    """activation(linear(x)), plus x or its projection: the Dense module of sentence-transformers."""

    def __init__(self, inner: int, outer: int, bias: bool = True, activation: str = "Tanh", residual: bool = False):
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"the activation {activation!r} is not known here; known are {', '.join(_ACTIVATIONS)}")
        self.linear = nn.Linear(inner, outer, bias)
        self.activation = _ACTIVATIONS[activation]()
        self.residual = nn.Linear(inner, outer, bias=False) if residual and inner != outer else None
        self.adds = residual

    def forward(self, x: Tensor) -> Tensor:
        """[N, P] -> [N, outer]"""
        found = self.activation(self.linear(x))
        if not self.adds:
            return found
        return found + (x if self.residual is None else self.residual(x))


class Unit(nn.Module):
    """To length 1."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, P] -> [N, P]"""
        return functional.normalize(x, dim=-1)


def average(pooled: Tensor, tokens: Sequence[int], first: Sequence[int]) -> Tensor:
    """One vector a text out of those of its pieces, each weighing as many tokens as it has.

    pooled  [pieces, P], the pieces of a text in a row
    tokens  of each piece
    first   [N+1], where the pieces of each text begin, and their number
    returns [N, P]
    """
    texts = len(first) - 1
    owner = on_device(np.repeat(np.arange(texts), np.diff(first)), pooled.device)
    weight = on_device(np.asarray(tokens, np.float32), pooled.device)[:, None]
    sums = pooled.new_zeros(texts, pooled.shape[1]).index_add(0, owner, pooled * weight)
    return sums / weight.new_zeros(texts, 1).index_add(0, owner, weight)
