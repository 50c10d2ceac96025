"""Heads over shared hidden states: vectors, token embeddings, logits of tasks, tokens for masks.

Each takes the hidden states of the documents that are its own, of one forward pass or a part of it, and gives one
result for each that was asked for.
"""

# Shapes: T tokens of D documents end to end, C hidden size, h width of a vector, V vocabulary.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.inference.engine import EncodeOptions, Engine
from tessera.inference.fill_mask import Guess, MaskFiller
from tessera.model.pooling import pool
from tessera.prediction.features import Item
from tessera.prediction.item_scores import head_scores, of_items
from tessera.prediction.predictor import Predictor

Floats = NDArray[np.float32]


class Head(Protocol):
    """What is made of hidden states."""

    def finish(self, hidden: Tensor, starts: Tensor, asked: Sequence[Any]) -> Sequence[Any]:
        """hidden [T, C], starts [D+1], and what is asked of each piece -> a result of each piece."""


@dataclass(frozen=True, slots=True, eq=False)
class VectorHead:
    """Sentence embeddings [h]: pooled, normalized, as each was asked for."""

    engine: Engine

    def finish(self, hidden: Tensor, starts: Tensor, asked: Sequence[EncodeOptions]) -> list[Floats]:
        """A vector of each document; documents asked for in other ways are pooled apart."""
        found: list[Floats] = [np.empty(0, np.float32)] * len(asked)
        ways: dict[tuple[Any, ...], list[int]] = {}
        for number, how in enumerate(asked):
            ways.setdefault((how.pooling, how.skip, how.dimensions, how.cut_last, how.normalize), []).append(number)
        for numbers in ways.values():
            how = asked[numbers[0]]
            mine, begins = (hidden, starts) if len(ways) == 1 else part(hidden, starts, numbers)
            rows = self.engine.finished(pool(mine, begins, how.pooling, how.skip), how)
            for number, row in zip(numbers, rows, strict=True):
                found[number] = row
        return found


@dataclass(frozen=True, slots=True, eq=False)
class StatesHead:
    """Token embeddings [t, C]: the hidden states themselves."""

    def finish(self, hidden: Tensor, starts: Tensor, asked: Sequence[None]) -> list[Floats]:
        """Those of each document."""
        edges = starts.cpu().numpy()[1:-1]
        return [rows.copy() for rows in np.split(hidden.float().cpu().numpy(), edges)]


@dataclass(frozen=True, slots=True, eq=False)
class TaskHead:
    """Logits of the head of a task, of each item as `item_scores.predicted` gives them."""

    predictor: Predictor

    def finish(self, hidden: Tensor, starts: Tensor, asked: Sequence[Item]) -> list[Floats]:
        """Those of each item."""
        scores = head_scores(self.predictor.model.head, asked, self.predictor.reader, hidden, starts)
        return of_items(scores, asked, self.predictor.reader)


@dataclass(frozen=True, slots=True, eq=False)
class MaskHead:
    """Fill-mask: the most probable tokens of each mask."""

    filler: MaskFiller

    def finish(self, hidden: Tensor, starts: Tensor, asked: Sequence[tuple[Tensor, int]]) -> list[list[list[Guess]]]:
        """asked: of each document the places of its masks, and how many guesses are wanted of each."""
        found = []
        for (masks, top_k), start in zip(asked, starts[:-1].tolist(), strict=True):
            logits = self.filler.of_states(hidden, masks.to(hidden.device) + start)
            found.append(self.filler.best(logits, top_k))
        return found


def part(hidden: Tensor, starts: Tensor, documents: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The hidden states of some documents, end to end, and where each begins."""
    lengths = starts.diff()[list(documents)]
    places = torch.cat([torch.arange(int(starts[n]), int(starts[n + 1]), device=hidden.device) for n in documents])
    begins = torch.cat((starts.new_zeros(1), lengths.cumsum(0)))
    return hidden.index_select(0, places), begins
