"""Knowledge distillation of a pruned encoder by the whole model, on passages of plain text: what comes out is a folder.

The folder that comes out is the whole model's own, files, prompts and head alike, but for layers and their values. It
has its name once sentence-transformers gives the vectors that were learnt, or transformers the logits.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tessera.files import atomic_folder, digest, remove_folder
from tessera.finetune import saved
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.loop import TrainingSummary
from tessera.plan.task import Protocol
from tessera.progress import Watcher
from tessera.retrieval.pairs import Sentence
from tessera.retrieval.retriever import Retriever
from tessera.retrieval.sweep import Sweep, model_fingerprint, rows_fingerprint, settings_of
from tessera.shrink import layers
from tessera.shrink.gives import Gives
from tessera.shrink.layers import Kept, Stack
from tessera.shrink.student import Teacher, learn

RATES = (3e-4,)
"""Tried where no others are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """How a student is taught: the protocol, and what it reads."""

    protocol: Protocol | None  # None: it is not taught
    learn: list[Sentence]
    held: list[Sentence]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What teaching did: how near the student is to the whole model on held-out passages, and what it took."""

    before: float
    after: float
    rate: float | None  # None: nothing was taught
    steps: int
    tokens: int  # read
    difference: float = 0.0  # of what other libraries give, at most


def protocol(rates: Sequence[float], epochs: float, batch: int) -> Protocol:
    """Of teaching."""
    return Protocol(
        name="shrink", epochs=epochs, batch_size=batch, learning_rates=tuple(rates), warmup_ratio=0.05,
        weight_decay=0.01, betas=(0.9, 0.98), eps=1e-6,
    )  # fmt: skip


def taught(
    gives: Gives, stack: Stack, kept: Kept, lesson: Lesson, out: Path, finish: Callable[[Path, Learnt], None],
    watcher: Watcher,
) -> Learnt:  # fmt: skip
    """Writes the model with these layers, taught by the whole one, to `out`: whole or not at all.

    finish  writes the card into the folder

    Raises ValueError where other libraries give something else; nothing is written then.
    """
    trials, cut = (out.with_name(f".{out.name}.{what}") for what in ("trials", "cut.writing"))
    remove_folder(cut)  # of a killed process
    cut.mkdir(parents=True)
    try:
        stack.write(kept, cut)
        model, found = _learnt(gives, stack, cut, lesson, trials, watcher)
        with atomic_folder(out, sealed=True) as draft:
            layers.renew(cut, model.encoder, list(model.steps), draft)
            worst = gives.compare(model, draft, [one.text for one in lesson.held[: saved.COMPARED]])
            finish(draft, dataclasses.replace(found, difference=worst))
    finally:
        remove_folder(cut)
    remove_folder(trials)
    return found


def _learnt(
    gives: Gives, stack: Stack, cut: Path, lesson: Lesson, trials: Path, watcher: Watcher
) -> tuple[Retriever, Learnt]:
    """The student that is nearest on held-out texts; killed or stopped, the same call goes on in `trials`."""
    protocol = lesson.protocol
    first = gives.student(cut)
    before = gives.near(first)
    if protocol is None:
        return first, Learnt(before=before, after=before, rate=None, steps=0, tokens=0)
    whole, texts = Teacher.of(gives.student(stack.whole)), [one.text for one in lesson.learn]

    def train(model: Retriever, rate: float, seed: int, checkpoint: Checkpoint) -> TrainingSummary:
        report = watcher.progress(f"distillation at {rate:g}")
        return learn(
            model, whole, texts, protocol, read=gives.read, pooled=gives.pooled, rate=rate, seed=seed,
            on_progress=report, checkpoint=checkpoint,
        )  # fmt: skip

    identity = [model_fingerprint(stack.whole), model_fingerprint(cut), settings_of(protocol),
                rows_fingerprint(lesson.learn, lesson.held)]  # fmt: skip
    sweep = Sweep(
        folder=trials, identity=digest(identity), blank=lambda: gives.student(cut), train=train, score=gives.near,
        say=watcher.say, measure=lambda model: {}, seeds=(0,),
    )  # fmt: skip
    best = sweep.best_of(protocol.rates())
    after, summary = gives.near(best.model), best.summary
    return best.model, Learnt(before=before, after=after, rate=best.rate, steps=summary.steps, tokens=summary.tokens)
