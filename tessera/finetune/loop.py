"""The training loop of fine-tuning: a plan of batches, a learning-rate schedule, clipped gradients, early stopping.

    start = pretrained(folder, machine)
    learner = start.learner(task kind, labels, seed=0, max_length=256)
    train(learner, examples, protocol, rate=2e-5, seed=0)
    predict(learner, other_examples)

A batch is so many examples whatever their length; it is cut into micro-batches by tokens and weighed as a whole
(gradient accumulation), so the cut changes speed and the last digits only. On a CPU the same seed gives the same bytes.
Contrastive training (contrastive.py) is the same loop over other steps: `optimize`.
"""

# Shapes: R rows of scores, C hidden size.

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tessera import signals
from tessera.bulk.nearest import Floats
from tessera.data.packing import by_length
from tessera.finetune.checkpoint import Checkpoint, Course, EarlyStopping
from tessera.finetune.learner import Learner, embedding, set_embedding
from tessera.huggingface.hub import AnyEncoder
from tessera.model.encoder import PartialEmbedding
from tessera.packed.encoder import packed
from tessera.plan.phase import Optimizer
from tessera.plan.task import Protocol
from tessera.prediction.features import Answer, Example, Item
from tessera.prediction.item_scores import predicted
from tessera.progress import Progress, silent
from tessera.train.optimizer import build, clip_gradients, set_learning_rate

CLIP = 1.0  # norm of the gradient


class Diverged(ValueError):
    """The loss, or what the model says, is no number any more; another learning rate may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """Losses and validation scores of a training that has ended."""

    steps: int
    tokens: int  # read, special ones included
    losses: tuple[float, ...]  # of each step
    validation: tuple[tuple[int, float], ...] = ()  # (steps done, score)
    best: int | None = None  # the steps after which the weights were taken; None: all


def accumulated(
    learner: Learner, batch: Sequence[Item], sizes: Sequence[int], loss_of: Callable[[Sequence[int]], Tensor]
) -> tuple[float, int]:
    """The mean loss of what is asked in a batch, its gradient by micro-batches (gradient accumulation), and its tokens.

    sizes    of the items, what micro-batches are measured by
    loss_of  the summed loss of some of them, by their places in the batch
    """
    asked = sum(len(item.targets) if learner.reader.kind == "tag" else 1 for item in batch)
    summed = 0.0
    for numbers in by_length(sizes, learner.micro_batch_tokens):
        loss = loss_of(numbers) / asked
        loss.backward()
        summed += float(loss.detach())
    return summed, sum(item.tokens for item in batch)


def train(
    learner: Learner,
    examples: Sequence[Example],
    protocol: Protocol,
    *,
    rate: float,
    seed: int,
    validate: Callable[[], float] | None = None,
    on_progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingSummary:
    """Fine-tunes encoder and head, in place.

    rate      the highest learning rate
    seed      of the order of the examples, and of dropout where an encoder has some
    validate  a score, the higher the better. Where the protocol has patience it is asked after each epoch, the weights
              that scored best are taken, and training ends after so many epochs without a better one (early stopping)
    checkpoint  where it goes on if it was stopped

    Raises Diverged where the loss is no finite number, ValueError for examples without targets.
    """
    items = prepared(learner, examples)

    def accumulate(step: int, chosen: Sequence[int]) -> tuple[float, int]:
        batch = [items[i] for i in chosen]
        sizes = [item.tokens for item in batch]
        return accumulated(learner, batch, sizes, lambda numbers: learner.loss([batch[n] for n in numbers]))

    documents = [document for item in items for document in item.documents]
    padding = learner.encoder.config.pad_token_id
    table = embedding(learner.encoder).get_parameter("weight")
    return optimize(
        learner.encoder,
        learner.head,
        Plan.of(len(items), protocol, seed),
        accumulate,
        protocol,
        rate=rate,
        seed=seed,
        seen=np.unique(np.concatenate([*documents, [] if padding is None else [padding]]))
        if table.requires_grad
        else None,
        validate=validate,
        on_progress=on_progress,
        what="fine-tuning",
        checkpoint=checkpoint,
    )


def prepared(learner: Learner, examples: Sequence[Example]) -> list[Item]:
    """What is trained on; tells the learner of a regression where its numbers lie.

    Raises ValueError for examples without targets.
    """
    items = learner.reader.items(examples)
    missing = next((item.example for item in items if not len(item.targets)), None)
    if missing is not None or not items:
        raise ValueError("there is nothing to train on" if missing is None else f"example {missing} has no target")
    if learner.reader.kind == "regress":  # a scale of 0 to 100 would take thousands of steps for the bias alone
        targets = np.array([item.targets[0] for item in items])
        learner.centre, learner.scale = float(targets.mean()), float(targets.std()) or 1.0
    return items


def predict(learner: Learner, examples: Sequence[Example], on_progress: Progress | None = None) -> list[Answer]:
    """What the model says of each example: see Reader.answers. Targets are not looked at.

    Raises Diverged where it says what is no finite number: the greatest of these would be some class, as ever.
    """
    items, found = scores(learner, examples, on_progress)
    return learner.reader.answers(examples, items, found)


def scores(
    learner: Learner, examples: Sequence[Example], on_progress: Progress | None = None
) -> tuple[list[Item], list[Floats]]:
    """The logits of each example's items, and these; of a regression the numbers themselves. Raises as `predict`."""
    items = learner.reader.items(examples)
    learner.encoder.eval()
    learner.head.eval()
    found = predicted(
        packed(learner.encoder, learner.dtype),
        learner.head,
        items,
        learner.reader,
        learner.device,
        learner.dtype,
        max_tokens=learner.micro_batch_tokens,
        on_progress=on_progress,
    )
    wrong = next((item for item, rows in zip(items, found, strict=True) if not np.isfinite(rows).all()), None)
    if wrong is not None:
        row = examples[wrong.example].row
        raise Diverged(f"{row}: the model's scores there are not finite numbers; its weights, or products, overflow")
    return items, _numbers(learner, found)


def answered(
    learner: Learner, examples: Sequence[Example], items: Sequence[Item], scores: Sequence[Floats]
) -> list[Answer]:
    """What logits of items say of each example."""
    return learner.reader.answers(examples, items, _numbers(learner, scores))


def _numbers(learner: Learner, scores: Sequence[Floats]) -> list[Floats]:
    """Logits; of a regression the numbers that they stand for."""
    if learner.reader.kind != "regress":
        return list(scores)
    return [rows * learner.scale + learner.centre for rows in scores]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which examples each step learns from, by their numbers."""

    batches: tuple[NDArray[np.int64], ...]
    epoch: int  # steps

    @classmethod
    def of(cls, items: int, protocol: Protocol, seed: int, *, drop_last: bool = False) -> "Plan":
        """Every item once an epoch, in an order of its own.

        drop_last  an epoch leaves out what does not fill a batch; else its last batch is smaller
        """
        size = min(protocol.batch_size, items)
        epoch = items // size if drop_last else math.ceil(items / size)
        steps = protocol.steps if protocol.steps is not None else math.ceil(epoch * (protocol.epochs or 1))

        def batches() -> Iterator[NDArray[np.int64]]:
            for number in itertools.count():
                order = np.random.default_rng([seed, number]).permutation(items)
                yield from (order[first : first + size] for first in range(0, epoch * size, size))

        return cls(tuple(itertools.islice(batches(), steps)), epoch)


def optimize(
    encoder: AnyEncoder,
    head: nn.Module | None,
    plan: Plan,
    accumulate: Callable[[int, Sequence[int]], tuple[float, int]],
    protocol: Protocol,
    *,
    rate: float,
    seed: int,
    seen: NDArray[np.integer] | None,
    alone: bool = False,
    validate: Callable[[], float] | None = None,
    on_progress: Progress | None = None,
    what: str,
    checkpoint: Checkpoint | None = None,
) -> TrainingSummary:
    """The loop: AdamW over encoder and head, in place; norms and biases are not decayed.

    accumulate  (number of the step, its batch) -> (loss, tokens read); adds the gradient to that of the weights
    seen        distinct tokens of the training data: the embedding is trained in these only; None: whole
    alone       nothing but the embedding of `seen` is trained; all else stays as it is, bit for bit
    what        one word for what is done, for `on_progress`
    checkpoint  where it goes on if it was stopped; a first Ctrl-C then ends it (Stopped) after the step

    For the rest see `train`.
    """
    table = None if seen is None else _train_in_part(encoder, seen, alone)
    course = _course(encoder, head, protocol, rate, validate, table if alone else None)
    network, optimizer, stopping = course.network, course.optimizer, course.stopping
    weights, steps = _clipped(course, head), len(plan.batches)
    with torch.random.fork_rng(), signals.deferred() if checkpoint else contextlib.nullcontext():
        torch.manual_seed(seed)
        if checkpoint:
            checkpoint.resume(course, steps)
        for step in range(len(course.losses), steps):
            if stopping is not None and stopping.over:
                break
            network.train()
            loss, read = accumulate(step, plan.batches[step].tolist())
            course.losses.append(loss)
            course.tokens += read
            if not math.isfinite(loss):
                raise Diverged(f"the loss is {loss} after {step + 1} steps at a learning rate of {rate:g}")
            now = learning_rate(step, steps, rate, protocol)
            set_learning_rate(optimizer, now)
            clip_gradients(weights, CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if table is not None and not alone:
                table.decay(1 - now * protocol.weight_decay)
            (on_progress or silent)(step + 1, steps, what)
            if stopping is not None and ((step + 1) % plan.epoch == 0 or step + 1 == steps):
                stopping.score(step + 1)
            if checkpoint is not None:
                checkpoint.after_step(course, steps)
    return _ended(course, encoder, table)


def _ended(course: Course, encoder: AnyEncoder, table: PartialEmbedding | None) -> TrainingSummary:
    """What a training comes to; the encoder is left whole, with the best weights."""
    stopping = course.stopping
    if stopping is not None:
        course.network.load_state_dict(stopping.weights)
    if table is not None:
        set_embedding(encoder, nn.Embedding.from_pretrained(table.embedding(), freeze=False))
    if table is not None and not table.all_seen:
        course.network.requires_grad_()
    encoder.eval()
    summary = TrainingSummary(steps=len(course.losses), tokens=course.tokens, losses=tuple(course.losses))
    return summary if stopping is None else replace(summary, validation=tuple(stopping.scores), best=stopping.best[0])


def _clipped(course: Course, head: nn.Module | None) -> list[nn.Parameter]:
    """The weights, in the order in which norms are summed: it sets the last digit, so both stay as they always were."""
    groups = (p for group in course.optimizer.param_groups for p in group["params"])
    return list(course.network.parameters() if head is None else groups)


def _course(
    encoder: AnyEncoder,
    head: nn.Module | None,
    protocol: Protocol,
    rate: float,
    validate: Callable[[], float] | None,
    alone: PartialEmbedding | None,
) -> Course:
    """A training that is about to begin; alone: of these rows and nothing else."""
    network = nn.ModuleDict({"encoder": encoder} if head is None else {"encoder": encoder, "head": head})
    settings = Optimizer(betas=protocol.betas, eps=protocol.eps, weight_decay=protocol.weight_decay)
    patience = protocol.patience
    stopping = None if validate is None or patience is None else EarlyStopping(network, validate, patience)
    if alone is not None:
        network.requires_grad_(False)
        alone.requires_grad_()
    return Course(network, build(network, settings, rate, None if alone is None else alone.parameters()), stopping)


def learning_rate(step: int, steps: int, peak: float, protocol: Protocol) -> float:
    """Learning-rate schedule: up in a line over the first `warmup_ratio` of the steps, then as the protocol says.

    The curve at the middle of the step, so that neither the first nor the last is spent at a rate of 0.
    """
    at, warmup = step + 0.5, protocol.warmup_ratio * steps
    if at < warmup:
        return peak * at / warmup
    left = (steps - at) / (steps - warmup)
    match protocol.schedule:
        case "linear":
            return peak * left
        case "cosine":
            return peak * (1 - math.cos(math.pi * left)) / 2
        case _:
            return peak


def _train_in_part(encoder: AnyEncoder, seen: NDArray[np.integer], alone: bool) -> PartialEmbedding:
    """Gives the encoder an embedding of which only the seen tokens are weights, the others as they are."""
    whole = embedding(encoder).get_parameter("weight")
    table = PartialEmbedding(whole, torch.from_numpy(seen.astype(np.int64)).to(whole.device))
    table.all_seen = not alone
    set_embedding(encoder, table)
    return table
