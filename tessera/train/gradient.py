"""Gradient accumulation: the gradient of one batch, whatever the processes and the micro-batches it is cut into.

Dropout, too: PyTorch draws from one stream for whatever tensor comes along, so other micro-batches or processes would
be other noise. Here it is a function of (seed, step, layer, document, position, channel): each element has a hash of
its own, and on a CPU that costs less than PyTorch's draw. On a GPU a hash of every element would cost more than it is
worth, and PyTorch's own dropout stays: there the noise depends on the cut.
"""

# Shapes: T tokens of N documents end to end, C hidden size.

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tessera.data.hashing import GOLDEN, keys, mix
from tessera.data.packing import Batch, micro_batches, select, share
from tessera.model.encoder import Attention
from tessera.model.hub import AnyMaskedLM
from tessera.model.mlm import MaskedLM
from tessera.model.precision import autocast
from tessera.train import distributed

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
        self._rows = mix(documents + place.astype(np.uint64) * GOLDEN)

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
    steps = np.arange(1, words + 1, dtype=np.uint64) * GOLDEN
    result = np.empty((len(rows), width), np.bool_)
    for begin in range(0, len(rows), _ROWS):
        end = min(begin + _ROWS, len(rows))
        drawn = mix(own[begin:end, None] + steps).astype("<u8", copy=False).view("<u2")
        np.greater_equal(drawn[:, :width], share, out=result[begin:end])
    return result


class Objective(nn.Module):
    """The sum of the losses over masked positions, as the one forward pass that is spread over processes."""

    def __init__(self, model: AnyMaskedLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, starts: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(tokens, starts, positions, targets)


def backward(
    objective: nn.Module,
    batch: Batch,
    micro_batch_tokens: int,
    world: distributed.World,
    dtype: torch.dtype,
    *,
    noise: SeededDropout | None,
    seed: int,
) -> float:
    """Adds the gradient of the mean loss over the masked positions of the whole batch; returns this process's part.

    noise   of the dropout; None is PyTorch's own
    seed    of the noise

    Every process knows the whole batch, so the mean needs no communication: the sum of each micro-batch is divided by
    the count of all, and the average over processes is undone. Added up over the processes, the parts are the loss.
    """
    masked = max(1, len(batch.positions))
    if not len(batch.sources):
        return 0.0
    batch = replace(batch, sources=np.arange(len(batch.sources), dtype=np.int32))  # the noise goes by these numbers
    pieces = micro_batches(share(batch, world.rank, world.size), micro_batch_tokens)
    pieces += [_nothing(batch)] * (distributed.rounds(len(pieces), objective, world) - len(pieces))
    if noise is None:
        torch.manual_seed(seed + world.rank)
    summed = 0.0
    for number, piece in enumerate(pieces):
        with distributed.averaging(objective, number == len(pieces) - 1):
            if noise is not None:
                noise.set(seed, piece)
            with autocast(world.device, dtype):
                loss = objective(*_tensors(piece, world.device))
            (loss * (world.size / masked)).backward()
        summed += float(loss.detach())
    return summed / masked


def _nothing(batch: Batch) -> Batch:
    """The shortest document with nothing to predict: a pass that adds 0 to every gradient."""
    piece = select(batch, np.array([np.argmin(np.diff(batch.starts))]))
    return replace(piece, positions=piece.positions[:0], targets=piece.targets[:0])


def _tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    arrays = (batch.tokens, batch.starts, batch.positions, batch.targets)
    return tuple(torch.from_numpy(a.astype(np.int64)).to(device, non_blocking=True) for a in arrays)  # type: ignore[return-value]
