"""Pooling: hidden states to sentence embeddings, in every way that sentence-transformers knows, and what may follow."""

# Shapes: T tokens of N texts end to end, C hidden size, P width after pooling.

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# In the order in which sentence-transformers joins them where several are asked for.
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

_ACTIVATIONS = {kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)}


def pool(hidden: Tensor, starts: Tensor, how: str | Sequence[str], skip: int = 0) -> Tensor:
    """Pools hidden states: one vector a text, or several side by side, in float32.

    hidden   [T, C]
    starts   [N+1], where each text starts, and T
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
    lengths = starts.diff()
    if len(lengths) and not bool((lengths > 0).all()):
        raise ValueError(f"document {int((lengths < 1).nonzero()[0])} is empty; there is nothing to pool")
    first = lengths.sub(1).clamp(max=skip)  # of each text, what is left out
    if skip:
        place = torch.arange(len(hidden), device=hidden.device) - torch.repeat_interleave(starts[:-1], lengths)
        hidden = hidden[place >= torch.repeat_interleave(first, lengths)]
        lengths = lengths - first
        starts = torch.cat((starts[:1], lengths.cumsum(0)))
    found = [_pool(hidden, starts, lengths, name, first) for name in names]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _pool(hidden: Tensor, starts: Tensor, lengths: Tensor, how: str, skipped: Tensor) -> Tensor:
    if how in ("cls", "lasttoken"):
        return hidden.index_select(0, starts[:-1] if how == "cls" else starts[1:] - 1).float()
    document = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
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
    begin = torch.tensor(first, device=pooled.device)
    owner = torch.repeat_interleave(torch.arange(len(begin) - 1, device=pooled.device), begin.diff())
    weight = torch.tensor(tokens, dtype=torch.float32, device=pooled.device)[:, None]
    sums = pooled.new_zeros(len(begin) - 1, pooled.shape[1]).index_add(0, owner, pooled * weight)
    return sums / weight.new_zeros(len(begin) - 1, 1).index_add(0, owner, weight)
