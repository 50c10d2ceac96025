"""Gradient accumulation: the gradient of one batch, whatever the processes and the micro-batches it is cut into.

Dropout, too: PyTorch draws from one stream for whatever tensor comes along, so other micro-batches or processes would
be other noise. Here it is a function of (seed, step, layer, document, position, channel): each element has a hash of
its own, and on a CPU that costs less than PyTorch's draw. On a GPU a hash of every element would cost more than it is
worth, and PyTorch's own dropout stays: there the noise depends on the cut.
"""

# Shapes: T tokens of N documents end to end, C hidden size.

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tessera.data.hashing import GOLDEN, keys, mix
from tessera.data.packing import Batch, even_batches, filled, micro_batches, select, share
from tessera.huggingface.hub import AnyMaskedLM
from tessera.model import attention
from tessera.model.attention import Layout
from tessera.model.encoder import Attention
from tessera.model.mlm import MaskedLM
from tessera.model.precision import autocast, on_device
from tessera.plan.cost import SIZES
from tessera.train import distributed

_LEVELS = 1 << 16  # a probability is so many parts; four elements share one 64-bit hash
_ROWS_OF_A_TILE = 128  # sizes of passes on a GPU are whole tiles of a product
_ROWS = 1 << 10  # tokens hashed at a time, so that the passes over them stay in the processor's cache


class SeededDropout:
    """Takes the place of the dropout of a model on a CPU; `set` says which noise the next forward pass gets."""

    def __init__(self, model: MaskedLM) -> None:
        self._rows: NDArray[np.uint64] = np.empty(0, np.uint64)
        parts = [part for part in model.modules() if isinstance(part, Attention)]
        for layer, part in enumerate(parts):
            share = round(part.dropout * _LEVELS)
            if share:
                part.dropout = 0.0
                part.register_forward_hook(functools.partial(self._drop, layer, share))

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

    def forward(self, tokens: Tensor, starts: Tensor | Layout, positions: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(tokens, starts, positions, targets)  # type: ignore[arg-type]


Inputs = tuple[Tensor, Tensor | Layout, Tensor, Tensor]  # tokens [T], starts, positions [M], targets [M]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How batches become the passes of one process."""

    world: distributed.World
    micro_batch_tokens: int
    longest: int | None = None  # of all documents, for layers that are compiled once
    pad_id: int | None = None  # None: passes are neither evened nor filled up, as on a CPU

    @property
    def layouts(self) -> bool:
        """Whether passes go to the varlen kernel, with what it needs made on the host."""
        return self.pad_id is not None

    @classmethod
    def of(
        cls, model: AnyMaskedLM, world: distributed.World, dtype: torch.dtype, micro_batch_tokens: int, context: int
    ) -> "Cut":
        """For a GPU's kernel even passes, filled up to sizes that recur, with layouts made on the host."""
        if isinstance(model, MaskedLM) and attention.choose(model.encoder.backend, world.device, dtype) == "varlen":
            pad = model.config.pad_token_id or 0
            return cls(world=world, micro_batch_tokens=micro_batch_tokens, longest=context, pad_id=pad)
        return cls(world=world, micro_batch_tokens=micro_batch_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """What one process reads of a batch, micro-batch by micro-batch, on its way to the device."""

    cut: Cut
    masked: int  # positions of the whole batch
    pieces: list[Batch]
    inputs: list[Inputs]
    nothing: Batch | None  # the shortest document with nothing to predict; None where the batch is empty

    @property
    def sizes(self) -> list[int]:
        """Tokens of each pass, fillers among them."""
        return [len(tokens) for tokens, *_ in self.inputs]

    def padded(self, objective: nn.Module) -> tuple[list[Batch], list[Inputs]]:
        """Pieces and inputs of as many passes as every process has to make; what is lacking predicts nothing."""
        assert self.nothing is not None, "an empty batch has no passes"
        lacking = distributed.rounds(len(self.pieces), objective, self.cut.world) - len(self.pieces)
        return self.pieces + [self.nothing] * lacking, self.inputs + [_inputs(self.nothing, self.cut)] * lacking


def prepare(batch: Batch, cut: Cut) -> Passes:
    """The share of this process in micro-batches, its tensors under way to the device. For the thread that reads."""
    batch = replace(batch, sources=np.arange(len(batch.sources), dtype=np.int32))  # the noise goes by these numbers
    own = share(batch, cut.world.rank, cut.world.size)
    split = micro_batches if cut.pad_id is None else even_batches
    pieces = split(own, cut.micro_batch_tokens)
    nothing = None
    if len(batch.sources):
        piece = select(batch, np.array([np.argmin(np.diff(batch.starts))]))
        nothing = replace(piece, positions=piece.positions[:0], targets=piece.targets[:0])
    return Passes(
        cut=cut, masked=len(batch.positions), pieces=pieces, inputs=[_inputs(piece, cut) for piece in pieces],
        nothing=nothing,
    )  # fmt: skip


def backward(
    objective: nn.Module,
    passes: Passes,
    dtype: torch.dtype,
    *,
    noise: SeededDropout | None,
    seed: int,
) -> Tensor:
    """Adds the gradient of the mean loss over the masked positions of the whole batch; returns the summed loss of each
    pass of this process, [P] float32 on the device: nothing is read back here.

    noise   of the dropout; None is PyTorch's own
    seed    of the noise

    Every process knows the whole batch, so the mean needs no communication: the sum of each micro-batch is divided by
    the count of all, and the average over processes is undone.
    """
    world, masked = passes.cut.world, max(1, passes.masked)
    if passes.nothing is None:
        return torch.zeros(0, device=world.device)
    pieces, inputs = passes.padded(objective)
    if noise is None:
        torch.manual_seed(seed + world.rank)
    losses = []
    for number, (piece, given) in enumerate(zip(pieces, inputs, strict=True)):
        with distributed.averaging(objective, number == len(pieces) - 1):
            if noise is not None:
                noise.set(seed, piece)
            with autocast(world.device, dtype):
                loss = objective(*given)
            (loss * (world.size / masked)).backward()
        losses.append(loss.detach())
    return torch.stack(losses)


def _inputs(piece: Batch, cut: Cut) -> Inputs:
    """The arrays of a pass as tensors on the device."""
    device = cut.world.device
    starts: Tensor | Layout
    if cut.pad_id is None:
        starts = on_device(piece.starts.astype(np.int64), device)
    else:
        assert cut.longest is not None
        longest = max(cut.longest, int(np.diff(piece.starts).max()))
        piece = filled(piece, max(_ROWS_OF_A_TILE, cut.micro_batch_tokens // SIZES), longest, cut.pad_id)
        starts = Layout.from_host(piece.starts, len(piece.tokens), device, longest=longest)
    tokens, positions, targets = (
        on_device(array.astype(np.int64), device) for array in (piece.tokens, piece.positions, piece.targets)
    )
    return tokens, starts, positions, targets
