"""A head trained on frozen features: the encoder is run once over the examples, and only the head is fine-tuned.

    kept = features(learner, examples)
    for rate in rates:
        learner = start.learner(kind, labels, protocol, seed=0)
        train_frozen(learner, examples, protocol, rate=rate, seed=0, features=kept)

What comes out is the learner with its head trained, as loop.train leaves it, and saved.save writes it as any other. Of
a document the one row is kept that its head looks at: the pooled one, or the first token's; of a tagged sentence those
of the tokens that are asked for. Where a head looks at every token (question answering, EuroBERT's late pooling) all
rows are, so memory is bounded: FEATURE_BYTES.
"""

# Shapes: R rows of features of some items end to end, C hidden size.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from tessera.bulk.nearest import Floats
from tessera.data.packing import by_length
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.learner import Learner
from tessera.finetune.loop import Diverged, Plan, TrainingSummary, accumulated, answered, optimize, prepared
from tessera.huggingface.task_heads import DocumentHead, TransformersHead
from tessera.huggingface.transformers_model import TransformersEncoder
from tessera.model.encoder import pack
from tessera.model.pooling import pool
from tessera.model.precision import autocast
from tessera.packed.encoder import packed
from tessera.plan.task import Protocol
from tessera.prediction.features import Answer, Example, Item
from tessera.progress import Progress, silent

FEATURE_BYTES = 4 * 2**30  # most that features may take, float32
Rows = Literal["pooled", "first", "asked", "every"]


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What a head looks at of some items."""

    items: Sequence[Item]
    values: tuple[Tensor, ...]  # of each item [R, C] float32, on the CPU
    lengths: tuple[tuple[int, ...], ...]  # of each item, rows of each of its documents


def features(
    learner: Learner, examples: Sequence[Example], *, most: int = FEATURE_BYTES, on_progress: Progress | None = None
) -> Features:
    """The encoder run once over examples; good for every learner of the same encoder, kind and length.

    most  bytes that they may take
    Raises ValueError before anything is computed where they would take more.
    """
    items = learner.reader.items(examples)
    which, width = _rows(learner), learner.encoder.config.hidden_size
    lengths = [_lengths(item, which) for item in items]
    size = 4 * width * sum(map(sum, lengths))
    if size > most:
        raise ValueError(
            f"features of {len(items)} items take {size / 2**30:.2f} GiB, more than {most / 2**30:.2f} (a {which} row "
            "of each token or document is kept); give fewer examples or a smaller max_length, or train the whole model"
        )
    still = packed(learner.encoder.eval(), learner.dtype)
    found: list[Tensor] = [torch.empty(0)] * len(items)
    done = 0
    for numbers in by_length([item.tokens for item in items], learner.micro_batch_tokens):
        batch = [items[n] for n in numbers]
        rows = _computed(learner, still, batch, which).float().cpu()
        for number, part in zip(numbers, rows.split([sum(lengths[n]) for n in numbers]), strict=True):
            found[number] = part.clone()
        done += len(batch)
        (on_progress or silent)(done, len(items), "computing features")
    return Features(items, tuple(found), tuple(lengths))


def train_frozen(
    learner: Learner,
    examples: Sequence[Example],
    protocol: Protocol,
    *,
    rate: float,
    seed: int,
    validate: Callable[[], float] | None = None,
    on_progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    features: Features | None = None,
) -> TrainingSummary:
    """Trains the head in place; the encoder stays as it is. Arguments and errors as of loop.train.

    rate      a head alone takes a higher one than a whole model: 1e-3 rather than 5e-5
    features  of these examples, where they are computed already; `predict_frozen` is good for `validate`
    """
    prepared(learner, examples)
    kept = features or _features(learner, examples, on_progress=on_progress)
    head = learner.head

    def accumulate(step: int, chosen: Sequence[int]) -> tuple[float, int]:
        def loss_of(numbers: Sequence[int]) -> Tensor:
            some = [chosen[n] for n in numbers]
            return learner.loss_of(_scores(learner, kept, some), [kept.items[i] for i in some])

        sizes = [len(kept.values[i]) for i in chosen]
        return accumulated(learner, [kept.items[i] for i in chosen], sizes, loss_of)

    # BERT's pooler stands in its encoder, but is a part of what its classes do after it, and drawn anew with the head.
    beside = cast(Any, learner.encoder.model).pooler if _has_pooler(learner) else nn.Identity()
    learner.encoder.eval()
    return optimize(
        cast(Any, beside),
        head,
        Plan.of(len(kept.items), protocol, seed),
        accumulate,
        protocol,
        rate=rate,
        seed=seed,
        seen=None,
        validate=validate,
        on_progress=on_progress,
        what="training the head",
        checkpoint=checkpoint,
    )


_features = features  # within `train_frozen` the name is taken


@torch.inference_mode()
def predict_frozen(learner: Learner, examples: Sequence[Example], features: Features) -> list[Answer]:
    """As loop.predict, out of features of these examples. Raises Diverged likewise."""
    learner.encoder.eval()
    learner.head.eval()
    by_token = learner.reader.kind in ("tag", "span")
    found: list[Floats] = [np.zeros((0, 0), np.float32)] * len(features.items)
    for numbers in by_length([len(rows) for rows in features.values], learner.micro_batch_tokens):
        scores = _scores(learner, features, numbers).float().cpu().numpy()
        ends = np.cumsum([sum(features.lengths[n]) if by_token else len(features.lengths[n]) for n in numbers])
        for number, rows in zip(numbers, np.split(scores, ends[:-1]), strict=True):
            if not np.isfinite(rows).all():
                row = examples[features.items[number].example].row
                raise Diverged(f"{row}: the model's scores there are not finite numbers")
            found[number] = rows if by_token else rows.reshape(-1)
    return answered(learner, examples, features.items, found)


# ---------------------------------------------------------------------------------------------------------------- rows


def _has_pooler(learner: Learner) -> bool:
    return (
        isinstance(learner.encoder, TransformersEncoder) and getattr(learner.encoder.model, "pooler", None) is not None
    )


def _rows(learner: Learner) -> Rows:
    """Which rows of hidden states the head looks at."""
    head, kind = learner.head, learner.reader.kind
    if kind == "tag":
        return "asked"
    if kind == "span":
        return "every"
    if isinstance(head, DocumentHead):
        return "every" if head.pooling == "late" else "pooled"
    return "first" if isinstance(head, TransformersHead) and _reads_first(learner, head) else "every"


@torch.no_grad()
def _reads_first(learner: Learner, head: TransformersHead) -> bool:
    """Whether a head of transformers looks at the first token alone: tried out, not known by its name."""
    head.eval()
    learner.encoder.eval()
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, learner.encoder.config.hidden_size, generator=generator).to(learner.device)
    starts = torch.tensor([0, 3, 7], device=learner.device)
    alone = head(hidden[starts[:-1]], torch.arange(3, device=learner.device))
    return bool(torch.allclose(head(hidden, starts), alone, atol=1e-6))


def _lengths(item: Item, which: Rows) -> tuple[int, ...]:
    """Rows of each document of an item."""
    if which == "asked":
        return (len(item.places),)
    return tuple(len(ids) if which == "every" else 1 for ids in item.documents)


@torch.inference_mode()
def _computed(learner: Learner, encoder: nn.Module, batch: Sequence[Item], which: Rows) -> Tensor:
    """[R, C] of a batch."""
    tokens, starts = pack([document for item in batch for document in item.documents], learner.device)
    segments: tuple[Tensor, ...] = ()
    if learner.reader.segments:
        rows = [row for item in batch for row in item.segments or map(np.zeros_like, item.documents)]
        segments = (torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(learner.device),)
    with autocast(learner.device, learner.dtype):
        hidden = encoder(tokens, starts, *segments)
    match which:
        case "asked":
            places = np.concatenate([item.places + at for item, at in zip(batch, starts.tolist(), strict=False)])
            return hidden.index_select(0, torch.from_numpy(places).to(learner.device))
        case "first":
            return hidden[starts[:-1]]
        case "pooled":
            assert isinstance(learner.head, DocumentHead)
            assert learner.head.pooling != "late"
            return pool(hidden, starts, learner.head.pooling)
    return hidden


def _scores(learner: Learner, kept: Features, chosen: Sequence[int]) -> Tensor:
    """As Learner.scores of these items, by their numbers; pooling one row gives that row."""
    rows = torch.cat([kept.values[n] for n in chosen]).to(learner.device)
    with autocast(learner.device, learner.dtype):
        if learner.reader.kind in ("tag", "span"):
            return learner.head(rows)
        lengths = [length for n in chosen for length in kept.lengths[n]]
        return learner.head(rows, torch.tensor([0, *lengths], device=learner.device).cumsum(0))
