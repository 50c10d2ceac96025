"""Dropout that is a function of (seed, step, layer, document, position, channel), not of how a batch is cut.

PyTorch draws from one stream for whatever tensor comes along, so other micro-batches or processes would be other noise.
Here each element has a hash of its own; on a CPU that costs less than PyTorch's draw. On a GPU a hash of every element
would cost more than it is worth, and PyTorch's own dropout stays: there the noise depends on the cut.
"""

# Shapes: T tokens of N documents end to end, C hidden size.

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tessera.data.masking import keys, mix
from tessera.data.packing import Batch
from tessera.model.encoder import Attention
from tessera.model.mlm import MaskedLM

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LEVELS = 1 << 16  # a probability is so many parts; four elements share one 64-bit hash
_ROWS = 1 << 10  # tokens hashed at a time, so that the passes over them stay in the processor's cache


class SeededDropout:
    """Takes the place of the dropout of a model on a CPU; `set` says which noise the next forward pass gets."""

    def __init__(self, model: MaskedLM) -> None:
        self._rows: NDArray[np.uint64] = np.empty(0, np.uint64)
        attentions = [part for part in model.modules() if isinstance(part, Attention)]
        for layer, attention in enumerate(attentions):
            share = round(attention.dropout * _LEVELS)
            if share:
                attention.dropout = 0.0
                attention.register_forward_hook(functools.partial(self._drop, layer, share))

    def set(self, seed: int, batch: Batch) -> None:
        """seed: of the step. `batch.sources` must number the documents through the whole batch of the step."""
        lengths = np.diff(batch.starts)
        place = np.arange(len(batch.tokens)) - np.repeat(batch.starts[:-1], lengths)
        documents = np.repeat(keys(seed, batch.sources.astype(np.int64)), lengths)
        self._rows = mix(documents + place.astype(np.uint64) * _GOLDEN)

    def _drop(self, layer: int, share: int, module: nn.Module, _: Any, output: Tensor) -> Tensor | None:
        if not module.training:
            return None
        assert len(self._rows) == len(output), "noise was set for another batch"
        keep = torch.from_numpy(kept(self._rows, layer, output.shape[1], share))
        return output * keep * (_LEVELS / (_LEVELS - share))


def kept(rows: NDArray[np.uint64], layer: int, width: int, share: int) -> NDArray[np.bool_]:
    """[T, width]: which elements stay. rows [T] keys; `share` of 65,536 are dropped."""
    own = mix(rows + np.uint64(layer + 1))
    words = -(-width // 4)
    steps = np.arange(1, words + 1, dtype=np.uint64) * _GOLDEN
    result = np.empty((len(rows), width), np.bool_)
    for begin in range(0, len(rows), _ROWS):
        end = min(begin + _ROWS, len(rows))
        drawn = mix(own[begin:end, None] + steps).astype("<u8", copy=False).view("<u2")
        np.greater_equal(drawn[:, :width], share, out=result[begin:end])
    return result
