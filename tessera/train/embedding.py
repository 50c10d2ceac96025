"""Objectives of sentence embeddings: distance to a teacher's vectors, and InfoNCE over pairs by cached gradients.

A text's vector is the mean of its hidden states. As in gradient.py the gradient of a step is that of its whole batch,
however it is cut over micro-batches and processes: of a distance it adds up; of InfoNCE, where every pair is held
against every other, all vectors are computed first, then the gradient of the loss at each vector, then every
micro-batch again with its part of that (GradCache: Gao et al. 2021, arXiv:2101.06983).
"""

# Shapes: T tokens of N texts end to end, P pairs, C width of a vector.

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tessera.data.packing import Batch
from tessera.data.pair_stream import text_keys
from tessera.model.attention import Layout
from tessera.model.encoder import Encoder
from tessera.model.pooling import pool
from tessera.model.precision import autocast
from tessera.plan.phase import Contrast, Distil, Phase
from tessera.train import distributed
from tessera.train.gradient import Passes, SeededDropout

Loss = Literal["mse", "cosine"]
SIMILARITY = 3.0  # weight of the similarities to anchors beside the distance: docs/log.md, 2026-11-28, compares


class TeacherVectors(Protocol):
    """What a teacher said of the texts of a phase."""

    @property
    def width(self) -> int: ...

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """[len(numbers), C], in their order."""
        ...


class Embeddings(nn.Module):
    """A text's vector, as the one forward pass that is spread over processes: float32 [N, C]."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder  # without the head, whose weights get no gradient

    def forward(self, tokens: Tensor, starts: Tensor | Layout) -> Tensor:
        return pool(self.encoder(tokens, starts), starts, "mean").float()


def distance(student: Tensor, teacher: Tensor, how: Loss, *, normalize: bool = True, size: float = 1.0) -> Tensor:
    """The sum over texts of how far the student's vectors are from the teacher's.

    student, teacher   [N, C]
    how                mse: the squared distance, in parts of `size`: the mean squared error but for a factor, so that
                       no width changes it. cosine: 1 - cosine
    normalize          mse: whether the student's vectors are brought to length 1, as they will be
    size               mse: the mean squared length of the teacher's vectors; 1 where they have length 1

    Source: Reimers and Gurevych 2020, arXiv:2004.09813, section 3.
    """
    if how == "cosine":
        return (1 - functional.cosine_similarity(student, teacher, dim=-1)).sum()
    student = functional.normalize(student, dim=-1) if normalize else student
    return (student - teacher).square().sum() / size


def divergence(student: Tensor, teacher: Tensor, anchors: Tensor, temperature: float) -> Tensor:
    """The sum over texts of how far the student's similarities are from the teacher's (similarity distillation).

    student, teacher   [N, C]
    anchors            [A, C], the teacher's vectors of other texts
    temperature        cosines are divided by it

    For each text the softmax over its cosines with the teacher's vector of it and with the anchors: that of the
    teacher's vector, and that of the student's; their Kullback-Leibler divergence. A distance counts all directions
    alike; this counts what puts a text before others.
    Source: Fang et al. 2021 (SEED), arXiv:2101.04731, section 3.2.
    """
    student, teacher, anchors = (functional.normalize(rows.float(), dim=-1) for rows in (student, teacher, anchors))

    def shares(rows: Tensor) -> Tensor:
        own = (rows * teacher).sum(-1, keepdim=True)
        return torch.log_softmax(torch.cat((own, rows @ anchors.T), -1) / temperature, -1)

    return functional.kl_div(shares(student), shares(teacher), reduction="sum", log_target=True)


@dataclass(frozen=True, slots=True, eq=False)
class Anchors:
    """The teacher's vectors of some texts, to which the similarities of all others are learnt."""

    rows: Tensor  # [A, C]
    temperature: float

    @classmethod
    def of(cls, rows: Tensor) -> "Anchors":
        """Their temperature is 0.7 of the standard deviation of the cosines between them.

        Teachers differ in how near to each other they put all texts (multilingual-e5 to 0.79 +- 0.03, MiniLM to 0.13 +-
        0.12), so that no one number does for all; 0.7 is the best of those tried for the former (docs/log.md). Of fewer
        than three anchors nothing is known of how they spread: 1.
        """
        if len(rows) < 3:
            return cls(rows, 1.0)
        unit = functional.normalize(rows.float(), dim=-1)
        cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool, device=unit.device)]
        return cls(rows, max(0.7 * float(cosines.std()), 1e-3))

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The sum over texts, weighed as it stands beside `distance`; [N, C] twice."""
        return SIMILARITY * divergence(student, teacher, self.rows, self.temperature)


@dataclass(frozen=True, slots=True, eq=False)
class Guide:
    """What the teacher of a phase says: of each text, and of some others, with which each is compared."""

    vectors: TeacherVectors
    anchors: Anchors | None

    @classmethod
    def of(cls, vectors: TeacherVectors, texts: int, anchors: int, device: torch.device) -> "Guide":
        """Of so many texts the first `anchors`, whose order is that of their hashes: drawn by chance, once for all."""
        if not anchors:
            return cls(vectors, None)
        return cls(vectors, Anchors.of(torch.from_numpy(vectors.rows(np.arange(min(anchors, texts)))).to(device)))


def info_nce(
    queries: Tensor, documents: Tensor, targets: Tensor, ignored: Tensor, temperature: float, symmetric: bool = False
) -> Tensor:
    """-log of the share that its own document has of each query's similarities, the mean over queries.

    queries      [B, C] of any length
    documents    [D, C]
    targets      [B] int64, the document of each query
    ignored      [B, D] bool, documents that are not held against a query
    temperature  cosines are divided by it
    symmetric    the mean of that and of the same from each query's document to the queries

    Source: van den Oord et al. 2018, arXiv:1807.03748; cosines with in-batch negatives, EuroBERT (arXiv:2503.05500,
    section 3.1).
    """
    logits = functional.normalize(queries, dim=-1) @ functional.normalize(documents, dim=-1).T / temperature
    logits = logits.masked_fill(ignored, -torch.inf)
    forward = functional.cross_entropy(logits, targets)
    if not symmetric:
        return forward
    # Row i: the document of query i among all queries, but for those that it answers as well.
    own = torch.arange(len(targets), device=targets.device)
    shared = (targets[:, None] == targets[None, :]) & (own[:, None] != own[None, :])
    backward = functional.cross_entropy(logits[:, targets].T.masked_fill(shared, -torch.inf), own)
    return (forward + backward) / 2


def backward(
    objective: nn.Module,
    batch: Batch,
    passes: Passes,
    phase: Phase,
    teacher: Guide | None,
    dtype: torch.dtype,
    *,
    noise: SeededDropout | None,
    seed: int,
) -> Tensor:
    """Adds the gradient of the loss over the whole batch; returns what adds up over processes to the loss, [P]."""
    if passes.nothing is None:
        return torch.zeros(0, device=passes.cut.world.device)
    run = _Forward(objective, passes, dtype, noise=noise, seed=seed)
    if phase.contrast is not None:
        return _contrast(run, batch, phase.contrast)
    assert phase.distil is not None, "a phase of sentence embeddings distils or contrasts"
    assert teacher is not None, "a phase that distils has a teacher"
    return _distil(run, batch, phase.distil, teacher)


def _distil(run: "_Forward", batch: Batch, how: Distil, teacher: Guide) -> Tensor:
    """The mean distance over all texts, and what their similarities to the anchors are off by."""
    objective, world, losses = run.objective, run.world, []
    for number, piece in enumerate(run.pieces):
        assert piece.rows is not None, "texts without a teacher's vector"
        due = functional.normalize(torch.from_numpy(teacher.vectors.rows(piece.rows)).to(world.device), dim=-1)
        with distributed.averaging(objective, number == len(run.pieces) - 1):
            found = run.vectors(number)
            loss = distance(found, due, how.loss)
            if teacher.anchors is not None:
                loss = loss + teacher.anchors.loss(found, due)
            loss = loss * (run.counts(number) / len(batch.sources))
            (loss * world.size).backward()
        losses.append(loss.detach())
    return torch.stack(losses)


def _contrast(run: "_Forward", batch: Batch, how: Contrast) -> Tensor:
    """InfoNCE over all pairs."""
    assert batch.rows is not None, "texts without their pairs"
    objective, world = run.objective, run.world
    # vectors of every text of the batch, by all processes: rows 2i and 2i + 1 are the sides of pair i, -1, -2 ...
    # from the end are hard negatives
    sides = int((batch.rows >= 0).sum())
    table = torch.zeros(len(batch.rows), run.width, device=world.device)
    with torch.no_grad():
        for number in range(len(run.pieces)):
            if run.counts(number):
                table[run.rows(number)] = run.vectors(number)
    table = distributed.summed(table, world).requires_grad_()
    # the loss, and its gradient at each vector
    keys = np.empty(len(table), np.uint64)
    keys[batch.rows] = text_keys(batch.tokens, batch.starts)
    pairs = torch.arange(sides // 2, device=world.device)
    documents = torch.cat((table[1:sides:2], table[sides:]))
    ignored = _known(keys[:sides], keys[sides:], world.device)
    loss = info_nce(table[0:sides:2], documents, pairs, ignored, how.temperature, symmetric=True)
    loss.backward()
    assert table.grad is not None
    # every text again, with its part of that gradient; the average over processes is undone
    for number in range(len(run.pieces)):
        with distributed.averaging(objective, number == len(run.pieces) - 1):
            part = table.grad[run.rows(number)] * run.counts(number)
            (run.vectors(number) * part).sum().mul(world.size).backward()
    return loss.detach().reshape(1) / world.size


def _known(sides: NDArray[np.uint64], negatives: NDArray[np.uint64], device: torch.device) -> Tensor:
    """[P, P + M] bool: what is not held against the first side of each pair; sides [2P] and negatives [M] are keys.

    Other pairs with the same first or the same second side. Of negatives those that say what the first side says, and
    what is there already: as another negative or as a second side, where it is known whom it answers.
    """
    first, second = sides[0::2], sides[1::2]
    same = (first[:, None] == first) | (second[:, None] == second)
    np.fill_diagonal(same, False)
    there = np.isin(negatives, second)
    there[np.setdiff1d(np.arange(len(negatives)), np.unique(negatives, return_index=True)[1])] = True
    return torch.from_numpy(np.concatenate((same, there | (first[:, None] == negatives)), axis=1)).to(device)


class _Forward:
    """The forward passes of this process, each as often as it is asked for with the same dropout."""

    def __init__(
        self, objective: nn.Module, passes: Passes, dtype: torch.dtype, *, noise: SeededDropout | None, seed: int
    ) -> None:
        self.objective, self.world = objective, passes.cut.world
        self._dtype, self._noise, self._seed = dtype, noise, seed
        self._own = len(passes.pieces)
        pieces, inputs = passes.padded(objective)
        self.pieces, self._inputs = pieces, inputs

    @property
    def width(self) -> int:
        return next(part for part in self.objective.modules() if isinstance(part, Encoder)).config.hidden_size

    def counts(self, number: int) -> int:
        """Whether a pass counts, 1 or 0: those that only keep step with other processes do not."""
        return int(number < self._own)

    def rows(self, number: int) -> Tensor:
        """[N] int64, the rows of a pass's texts."""
        rows = self.pieces[number].rows
        assert rows is not None, "texts without their pairs"
        return torch.from_numpy(rows).to(self.world.device)

    def vectors(self, number: int) -> Tensor:
        """[N, C] of a pass, without the documents that fill it up on a GPU."""
        piece = self.pieces[number]
        if self._noise is None:
            torch.manual_seed(self._seed + self.world.rank + 7919 * int(piece.sources[0]))
        else:
            self._noise.set(self._seed, piece)
        tokens, starts, *_ = self._inputs[number]
        with autocast(self.world.device, self._dtype):
            found: Tensor = self.objective(tokens, starts)
        return found[: len(piece.sources)]
