"""LoRA: low-rank adaptation of the matrices of an encoder; the head is trained whole, all else stays as it is.

    summary, adapter = train_lora(learner, examples, protocol, rate=2e-4, seed=0)
    saved.save(learner, ...)                        # merged, an ordinary folder
    adapter_folder.save(learner, adapter, ...)      # what peft loads on the base model

A matrix W becomes W + alpha / rank * B A while it is trained, and that sum when training has ended. The sum is formed
anew at each step, which costs rank times the matrix and leaves the rest of the house as it is: our own encoders with
their stacked matrices and those of transformers train, validate and predict as ever.
Source: Hu et al. 2021, arXiv:2106.09685.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tessera.finetune import loop
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.learner import Learner, embedding, set_embedding
from tessera.finetune.loop import TrainingSummary
from tessera.model.encoder import Encoder
from tessera.plan.task import Protocol
from tessera.prediction.features import Example
from tessera.progress import Progress

RANK, ALPHA = 8, 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What training has added to the matrices of an encoder."""

    rank: int
    alpha: float
    parts: dict[str, tuple[Tensor, Tensor]]  # name of a matrix in the encoder -> A [rank, in], B [out, rank]


class LowRank(nn.Module):
    """W [out, in] -> W + alpha / rank * B A; A is drawn, B is 0 at first."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        out, width = weight.shape
        drawn = torch.empty(rank, width).uniform_(-1.0, 1.0, generator=generator) / math.sqrt(width)
        self.a = nn.Parameter(drawn.to(weight.device))
        self.b = nn.Parameter(torch.zeros(out, rank, device=weight.device))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.b @ self.a)


def train_lora(
    learner: Learner,
    examples: Sequence[Example],
    protocol: Protocol,
    *,
    rate: float,
    seed: int,
    validate: Callable[[], float] | None = None,
    on_progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    rank: int = RANK,
    alpha: float = ALPHA,
) -> tuple[TrainingSummary, Adapter]:
    """Trains a head and what is added to the encoder, in place; afterwards that is part of its matrices.

    rate   a higher one than of a whole model: 2e-4 rather than 2e-5
    rank   of what is added to a matrix
    alpha  what is added is multiplied by alpha / rank

    The rest is as of loop.train. Raises ValueError for a rank that is no rank, else as loop.train.
    """
    if rank < 1 or not alpha > 0:
        raise ValueError(f"rank is {rank}, alpha {alpha}; give a rank from 1 up and a positive alpha")
    adapt(learner, rank, alpha, seed)
    try:
        summary = loop.train(
            learner, examples, protocol, rate=rate, seed=seed, validate=validate, on_progress=on_progress,
            checkpoint=checkpoint,
        )  # fmt: skip
    finally:
        adapter = merge(learner, rank, alpha)
    return summary, adapter


def adapt(learner: Learner, rank: int, alpha: float, seed: int) -> None:
    """Gives each matrix of the encoder something to learn, and freezes the rest of it."""
    encoder, generator = learner.encoder, torch.Generator().manual_seed(seed)
    table = embedding(encoder).get_parameter("weight")  # shared with other learners: it must not be frozen itself
    set_embedding(encoder, nn.Embedding.from_pretrained(table.detach(), freeze=True))
    for name, weight in encoder.named_parameters():
        weight.requires_grad_("pooler" in name)  # which is a part of what classes of transformers do after it
    for _, linear in matrices(learner):
        parametrize.register_parametrization(linear, "weight", LowRank(linear.weight, rank, alpha, generator))


def matrices(learner: Learner) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of the encoder by name, its pooler aside."""
    inside = learner.encoder if isinstance(learner.encoder, Encoder) else learner.encoder.model
    for name, part in inside.named_modules():
        if isinstance(part, nn.Linear) and "pooler" not in name:
            yield name, part


@torch.no_grad()
def merge(learner: Learner, rank: int, alpha: float) -> Adapter:
    """Makes what was learned a part of the matrices; the learner is an ordinary one again."""
    parts = {}
    for name, linear in list(matrices(learner)):
        (low,) = linear.parametrizations["weight"]  # type: ignore[index]
        assert isinstance(low, LowRank)
        parts[name] = (low.a.detach().clone(), low.b.detach().clone())
        parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
    for weight in learner.encoder.parameters():
        weight.requires_grad_(True)
    return Adapter(rank=rank, alpha=alpha, parts=parts)
