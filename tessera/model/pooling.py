"""From hidden states to one vector a text: every pooling that sentence-transformers knows, and what may follow it."""

# Shapes: T tokens of N texts end to end, C hidden size, P width after pooling.

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera.model import mlm

# In the order in which sentence-transformers joins them where several are asked for.
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

_ACTIVATIONS = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
}


def pool(hidden: Tensor, starts: Tensor, how: Sequence[str], skip: int = 0) -> Tensor:
    """One vector a text, or several side by side, in float32.

    hidden   [T, C]
    starts   [N+1], where each text starts, and T
    how      of POOLINGS. cls: the first token; lasttoken: the last, the closing special one included; weightedmean:
             the n-th token counts n times; mean_sqrt_len_tokens: the sum divided by the root of the length
    skip     tokens of each text that are left out of it, as those of a prompt; the last token always stays
    returns  [N, C * number of poolings]

    Raises ValueError for an empty text or an unknown pooling.
    """
    for name in how:
        if name not in POOLINGS:
            raise ValueError(f"pooling is {name!r}; give {', '.join(POOLINGS)}")
    lengths = starts.diff()
    first = lengths.sub(1).clamp(max=skip)  # of each text, what is left out
    if skip:
        place = torch.arange(len(hidden), device=hidden.device) - torch.repeat_interleave(starts[:-1], lengths)
        hidden = hidden[place >= torch.repeat_interleave(first, lengths)]
        lengths = lengths - first
        starts = torch.cat((starts[:1], lengths.cumsum(0)))
    return torch.cat([_pool(hidden, starts, lengths, name, first) for name in how], dim=1)


def _pool(hidden: Tensor, starts: Tensor, lengths: Tensor, how: str, skipped: Tensor) -> Tensor:
    if how == "cls":
        return mlm.pool(hidden, starts, "cls")
    mean = mlm.pool(hidden, starts, "mean")  # says what is wrong with an empty text
    if how == "mean":
        return mean
    if how == "mean_sqrt_len_tokens":
        return mean * lengths[:, None].sqrt()
    if how == "lasttoken":
        return hidden.index_select(0, starts[1:] - 1).float()
    document = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    if how == "max":
        lowest = torch.full_like(mean, float("-inf"))
        return lowest.scatter_reduce(0, document[:, None].expand_as(hidden), hidden.float(), "amax")
    # Tokens that were left out still count as places, as in sentence-transformers.
    place = torch.arange(len(hidden), device=hidden.device) - starts[document] + skipped[document] + 1
    weight = place.float()[:, None]
    sums = torch.zeros_like(mean).index_add(0, document, hidden.float() * weight)
    return sums / weight.new_zeros(len(lengths), 1).index_add(0, document, weight)


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
