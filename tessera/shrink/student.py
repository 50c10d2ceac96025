"""Training of a pruned encoder by the whole one: it learns the hidden state of every token, and the vector of the text.

Both models have one vocabulary and one width, so that a text teaches as many targets as it has tokens, and not its
vector alone. What is minimised is the squared distance in parts of the squared length of the target, the mean over
tokens, and the same of vectors. Source: hidden states as targets, Jiao et al. 2020 (TinyBERT), arXiv:1909.10351,
section 3.1; of the last layer alone, since others have no counterpart. There is no dropout: the targets are known.
"""

# Shapes: T tokens of N texts end to end, C hidden size, h width of a vector.

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tessera.data.packing import by_length
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.loop import Plan, TrainingSummary, optimize
from tessera.inference.tokenize import Ids
from tessera.model.encoder import pack
from tessera.model.pooling import pool
from tessera.model.precision import autocast, compute_dtype
from tessera.packed.encoder import packed
from tessera.plan.task import Protocol
from tessera.progress import Progress
from tessera.retrieval.distil import without_dropout
from tessera.retrieval.retriever import Retriever

_TEXTS = 8_192  # read at once, where only their distinct tokens are kept


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """The whole model, ready to be read off."""

    whole: Retriever
    encoder: nn.Module  # its fastest form

    @classmethod
    def of(cls, whole: Retriever) -> "Teacher":
        """Of a model that is not trained any more."""
        whole.encoder.eval()
        return cls(whole, packed(whole.encoder, compute_dtype(whole.machine.dtype, whole.device)))

    @torch.no_grad()
    def says(self, tokens: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [T, C] and vectors [N, h], float32."""
        with autocast(self.whole.device, compute_dtype(self.whole.machine.dtype, self.whole.device)):
            hidden = self.encoder(tokens, starts).float()
        return hidden, vectors(self.whole, hidden, starts)


def vectors(model: Retriever, hidden: Tensor, starts: Tensor) -> Tensor:
    """[N, h] of hidden states [T, C], as the folder of a model pools them; of length 1 where it says so."""
    made = pool(hidden, starts, model.contrast.pooling)
    for step in model.steps:
        made = step(made)
    return functional.normalize(made, dim=-1) if model.normalize else made


def apart(found: Tensor, due: Tensor) -> Tensor:
    """Of each row the squared distance, in parts of the squared length of what is due: [n, C] twice -> [n]."""
    return (found - due).square().sum(-1) / due.square().sum(-1).clamp(min=1e-12)


def learn(
    student: Retriever,
    teacher: Teacher,
    texts: Sequence[str],
    protocol: Protocol,
    *,
    read: Callable[[Sequence[str]], list[Ids]],
    pooled: bool,
    rate: float,
    seed: int,
    on_progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingSummary:
    """Trains the student, in place; on a CPU the same seed gives the same bytes.

    read        the documents of texts
    pooled      whether the vector of each document is learnt too
    rate        the highest learning rate
    checkpoint  where it goes on if it was stopped

    Raises Diverged where the loss is no finite number.
    """
    steps = Plan.of(len(texts), protocol, seed)
    without_dropout(student.encoder)
    dtype = compute_dtype(student.machine.dtype, student.device)

    def accumulate(step: int, chosen: Sequence[int]) -> tuple[float, int]:
        """The loss of a batch, its gradient by micro-batches of so many tokens."""
        batch = read([texts[number] for number in chosen])
        summed, count = 0.0, sum(map(len, batch))
        for part in by_length([len(ids) for ids in batch], student.machine.tokens_at_once):
            tokens, starts = pack([batch[n] for n in part], student.device)
            states, due = teacher.says(tokens, starts)
            with autocast(student.device, dtype):
                hidden = student.encoder(tokens, starts)
            hidden = hidden.float()
            value = apart(hidden, states).sum() / count
            if pooled:
                value = value + apart(vectors(student, hidden, starts), due).sum() / len(batch)
            value.backward()
            summed += float(value.detach())
        return summed, count

    met = [texts[number] for number in np.unique(np.concatenate(steps.batches)).tolist()]
    return optimize(
        student.encoder,
        student.steps if len(student.steps) else None,
        steps,
        accumulate,
        protocol,
        rate=rate,
        seed=seed,
        seen=_seen(student, read, met),
        on_progress=on_progress,
        what="distillation",
        checkpoint=checkpoint,
    )


def _seen(student: Retriever, read: Callable[[Sequence[str]], list[Ids]], texts: Sequence[str]) -> NDArray[np.int64]:
    """The distinct tokens of what is read of texts, with that of padding."""
    config = student.encoder.config
    there = np.zeros(config.vocab_size, np.bool_)
    if config.pad_token_id is not None:
        there[config.pad_token_id] = True
    for first in range(0, len(texts), _TEXTS):
        there[np.concatenate(read(texts[first : first + _TEXTS]))] = True
    return np.flatnonzero(there)
