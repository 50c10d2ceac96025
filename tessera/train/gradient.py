"""The gradient of one batch, whatever the processes and the micro-batches it is cut into."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from tessera.data.packing import Batch, micro_batches, select, share
from tessera.model.hub import AnyMaskedLM
from tessera.model.precision import autocast
from tessera.train import distributed
from tessera.train.noise import SeededDropout


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
