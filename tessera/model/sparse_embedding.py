"""An embedding whose gradient and optimizer state cover only the tokens of the training data; the result is the same.

A multilingual vocabulary of 256,000 tokens is most of a small model, and a data set holds a few thousand of them. The
other rows get no gradient, so AdamW changes them by weight decay alone, the same factor for all: here that is one
number, and optimizer, gradient and memory are those of the rows in use.
"""

# Shapes: V vocabulary, R rows in use, C hidden size.

import torch
from torch import Tensor, nn
from torch.nn import functional


class PartialEmbedding(nn.Module):
    """Stands where an nn.Embedding stood.

    whole  [V, C], as it was; shared, never changed
    seen   [R] distinct tokens
    """

    whole: Tensor
    place: Tensor
    shrunk: Tensor

    def __init__(self, whole: Tensor, seen: Tensor) -> None:
        super().__init__()
        place = torch.full((len(whole),), -1, device=whole.device)
        place[seen] = torch.arange(len(seen), device=whole.device)
        self.register_buffer("whole", whole.detach(), persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("shrunk", torch.ones((), device=whole.device))  # what decay has left of the other rows
        self.weight = nn.Parameter(whole.detach()[seen].clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """[...] -> [..., C]"""
        places = self.place[tokens]
        found = functional.embedding(places.clamp(min=0), self.weight)
        if self.training:  # all of them are seen
            return found
        others = functional.embedding(tokens, self.whole) * self.shrunk
        return torch.where(places[..., None] < 0, others, found)

    def decay(self, factor: float) -> None:
        """What one step of the optimizer does to the rows that it does not hold."""
        self.shrunk *= factor

    @torch.no_grad()
    def embedding(self) -> Tensor:
        """The whole table as it is now, [V, C]."""
        table = self.whole * self.shrunk
        table[self.place >= 0] = self.weight[self.place[self.place >= 0]]
        return table
