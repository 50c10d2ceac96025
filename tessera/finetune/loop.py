"""Fine-tuning on packed documents: training on examples of any kind, and what the model then says of others.

    start = pretrained(folder, machine)
    learner = start.learner(task kind, labels, seed=0, max_length=256)
    train(learner, examples, protocol, rate=2e-5, seed=0)
    predict(learner, other_examples)

A batch is so many examples whatever their length; it is cut into micro-batches by tokens and weighed as a whole, so the
cut changes speed and the last digits only. On a CPU the same seed gives the same bytes.
"""

# Shapes: R rows of scores, C hidden size.

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from tessera.finetune.features import Answer, Example, Floats, Item, Kind
from tessera.finetune.learner import Learner, embedding, set_embedding
from tessera.model.encoder import Encoder
from tessera.model.packed import packed
from tessera.model.sparse_embedding import PartialEmbedding
from tessera.plan.task import Protocol
from tessera.progress import Progress, silent
from tessera.train.optimizer import clip_gradients, set_learning_rate

CLIP = 1.0  # norm of the gradient


class Diverged(ValueError):
    """The loss is no number any more; another learning rate may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a training went."""

    steps: int
    tokens: int  # read, special ones included
    losses: tuple[float, ...]  # of each step
    validation: tuple[tuple[int, float], ...] = ()  # (steps done, score)
    best: int | None = None  # the steps after which the weights were taken; None: all


def train(
    learner: Learner,
    examples: Sequence[Example],
    protocol: Protocol,
    *,
    rate: float,
    seed: int,
    validate: Callable[[], float] | None = None,
    on_progress: Progress | None = None,
) -> Course:
    """Trains encoder and head, in place.

    rate      the highest learning rate
    seed      of the order of the examples, and of dropout where an encoder has some
    validate  a score, the higher the better. Where the protocol has patience it is asked after each epoch, the weights
              that scored best are taken, and training ends after so many epochs without a better one

    Raises Diverged where the loss is no finite number, ValueError for examples without targets.
    """
    items = learner.reader.items(examples)
    missing = next((item.example for item in items if not len(item.targets)), None)
    if missing is not None or not items:
        raise ValueError("there is nothing to train on" if missing is None else f"example {missing} has no target")
    _look_at(learner, items)
    table = _only_seen(learner, items)
    optimizer = _optimizer(learner, protocol, rate)
    steps, epoch = _steps(len(items), protocol)
    losses: list[float] = []
    scored: list[tuple[int, float]] = []
    kept: dict[str, dict[str, Tensor]] = {}
    tokens = 0
    report = on_progress or silent
    early = protocol.patience is not None and validate is not None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step, chosen in zip(range(steps), _batches(len(items), protocol.batch_size, seed), strict=False):
            batch = [items[i] for i in chosen]
            now = learning_rate(step, steps, rate, protocol)
            set_learning_rate(optimizer, now)
            losses.append(_step(learner, batch, optimizer))
            table.decay(1 - now * protocol.weight_decay)
            tokens += sum(item.tokens for item in batch)
            if not math.isfinite(losses[-1]):
                raise Diverged(f"the loss is {losses[-1]} after {step + 1} steps at a learning rate of {rate:g}")
            report(step + 1, steps, "fine-tuning")
            if early and ((step + 1) % epoch == 0 or step + 1 == steps):
                assert validate is not None
                scored.append((step + 1, validate()))
                best = max(scored, key=lambda s: s[1])
                if best is scored[-1]:
                    kept = _weights(learner)
                elif len(scored) - 1 - scored.index(best) >= (protocol.patience or 0):
                    break
    if kept:
        learner.encoder.load_state_dict(kept["encoder"])
        learner.head.load_state_dict(kept["head"])
    set_embedding(learner.encoder, nn.Embedding.from_pretrained(table.embedding()))
    learner.encoder.eval()
    return Course(
        steps=len(losses),
        tokens=tokens,
        losses=tuple(losses),
        validation=tuple(scored),
        best=max(scored, key=lambda s: s[1])[0] if scored else None,
    )


@torch.inference_mode()
def predict(learner: Learner, examples: Sequence[Example], on_progress: Progress | None = None) -> list[Answer]:
    """What the model says of each example: see Reader.answers. Targets are not looked at."""
    items = learner.reader.items(examples)
    learner.encoder.eval()
    learner.head.eval()
    still = replace(learner, encoder=cast(Encoder, packed(learner.encoder, learner.dtype)))
    found: list[Floats] = [np.zeros((0, 0), np.float32)] * len(items)
    done = 0
    for numbers in _by_tokens(items, learner.micro_batch_tokens):
        batch = [items[i] for i in numbers]
        scores = still.scores(batch).float().cpu().numpy()
        ends = np.cumsum([_rows(learner.reader.kind, item) for item in batch])
        for number, rows in zip(numbers, np.split(scores, ends[:-1]), strict=True):
            found[number] = rows if learner.reader.kind in ("tag", "span") else rows.reshape(-1)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(items), "predicting")
    if learner.reader.kind == "regress":
        found = [rows * learner.scale + learner.centre for rows in found]
    return learner.reader.answers(examples, items, found)


def learning_rate(step: int, steps: int, peak: float, protocol: Protocol) -> float:
    """Of one step: up in a line over the first `warmup_ratio` of the steps, then as the schedule says.

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


def _step(learner: Learner, batch: Sequence[Item], optimizer: torch.optim.Optimizer) -> float:
    """One update; returns the mean loss of what was asked."""
    learner.encoder.train()
    learner.head.train()
    asked = sum(len(i.targets) if learner.reader.kind == "tag" else 1 for i in batch)
    summed = 0.0
    for numbers in _by_tokens(batch, learner.micro_batch_tokens):
        loss = learner.loss([batch[i] for i in numbers]) / asked
        loss.backward()
        summed += float(loss.detach())
    clip_gradients([p for group in optimizer.param_groups for p in group["params"]], CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return summed


def _look_at(learner: Learner, items: Sequence[Item]) -> None:
    """What a learner has to know of its training data before it starts."""
    if learner.reader.kind == "regress":  # a scale of 0 to 100 would take thousands of steps for the bias alone
        targets = np.array([item.targets[0] for item in items])
        learner.centre, learner.scale = float(targets.mean()), float(targets.std()) or 1.0


def _only_seen(learner: Learner, items: Sequence[Item]) -> PartialEmbedding:
    """Gives the encoder an embedding of which the tokens of the training data are weights, the others as they are."""
    documents = [document for item in items for document in item.documents]
    padding = learner.encoder.config.pad_token_id
    seen = np.unique(np.concatenate([*documents, [] if padding is None else [padding]]))
    whole = embedding(learner.encoder).get_parameter("weight")
    rows = PartialEmbedding(whole, torch.from_numpy(seen.astype(np.int64)).to(learner.device))
    set_embedding(learner.encoder, rows)
    return rows


def _optimizer(learner: Learner, protocol: Protocol, rate: float) -> torch.optim.Optimizer:
    """AdamW; norms and biases are not decayed."""
    parameters = [*learner.encoder.parameters(), *learner.head.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": protocol.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=protocol.betas, eps=protocol.eps, fused=True)


def _steps(items: int, protocol: Protocol) -> tuple[int, int]:
    """(steps in all, steps of an epoch); the last batch of an epoch may be smaller."""
    epoch = math.ceil(items / protocol.batch_size)
    if protocol.steps is not None:
        return protocol.steps, epoch
    assert protocol.epochs is not None
    return math.ceil(epoch * protocol.epochs), epoch


def _batches(items: int, size: int, seed: int) -> Iterator[list[int]]:
    """Every item once an epoch, in an order of its own; without end."""
    epoch = 0
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(items).tolist()
        yield from (order[first : first + size] for first in range(0, items, size))
        epoch += 1


def _by_tokens(items: Sequence[Item], max_tokens: int) -> Iterator[list[int]]:
    """Numbers of the items in micro-batches of at most max_tokens unless alone; those of similar length together."""
    batch: list[int] = []
    size = 0
    for number in sorted(range(len(items)), key=lambda i: -items[i].tokens):
        if batch and size + items[number].tokens > max_tokens:
            yield batch
            batch, size = [], 0
        batch.append(number)
        size += items[number].tokens
    if batch:
        yield batch


def _rows(kind: Kind, item: Item) -> int:
    """How many rows of scores an item has."""
    match kind:
        case "tag":
            return len(item.places)
        case "span":
            return item.tokens
        case _:
            return len(item.documents)


def _weights(learner: Learner) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, nn.Module] = {"encoder": learner.encoder, "head": learner.head}
    return {name: {k: v.detach().clone() for k, v in part.state_dict().items()} for name, part in parts.items()}
