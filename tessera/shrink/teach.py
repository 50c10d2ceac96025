"""Knowledge distillation of a pruned encoder by the whole model, on passages of plain text: what comes out is a folder.

The folder that comes out is the whole model's own, files and prompts alike, but for layers and their values. It has its
name once sentence-transformers gives the vectors that were learnt.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera.checksums import seal
from tessera.files import atomic_folder, digest, remove_folder
from tessera.finetune import saved
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.loop import TrainingSummary
from tessera.inference import sentence_folder as folders
from tessera.inference.encoder import Encoder
from tessera.model.transformers_model import quietly
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol
from tessera.progress import Watcher
from tessera.retrieval import teacher
from tessera.retrieval.agreement import nearness
from tessera.retrieval.pairs import Sentence
from tessera.retrieval.retriever import Contrast, Retriever
from tessera.retrieval.sweep import Sweep, model_fingerprint, rows_fingerprint, settings_of
from tessera.shrink import layers
from tessera.shrink.layers import Kept, Stack
from tessera.shrink.student import Teacher, learn

RATES = (2e-4,)
"""Tried where no others are asked for."""

_LONGEST = 512  # tokens of a passage, where a folder says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """How a student is taught: the protocol, and what it reads."""

    protocol: Protocol | None  # None: it is not taught
    learn: list[Sentence]
    held: list[Sentence]
    machine: Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What teaching did. Cosines are the means over held-out passages, of the student's vectors with the teacher's."""

    before: float
    after: float
    rate: float | None  # None: nothing was taught
    steps: int
    tokens: int  # read
    difference: float = 0.0  # of sentence-transformers' vectors, at most


def protocol(rates: Sequence[float], epochs: float, batch: int, longest: int | None) -> Protocol:
    """Of teaching; `longest` tokens of a text, as the folder says."""
    return Protocol(
        name="shrink", epochs=epochs, batch_size=batch, learning_rates=tuple(rates), warmup_ratio=0.05,
        weight_decay=0.01, betas=(0.9, 0.98), eps=1e-6, max_length=longest or _LONGEST,
    )  # fmt: skip


def taught(
    stack: Stack, kept: Kept, lesson: Lesson, out: Path, cache: Path, finish: Callable[[Path, Learnt], None],
    watcher: Watcher,
) -> Learnt:  # fmt: skip
    """Writes the model with these layers, taught by the whole one, to `out`: whole or not at all.

    cache   a folder for the teacher's vectors, which all students share
    finish  writes the card into the folder

    Raises ValueError where sentence-transformers gives other vectors; nothing is written then.
    """
    trials = out.with_name(f".{out.name}.trials")
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        cut = Path(work, "cut")
        stack.write(kept, cut)
        model, found = _learnt(stack, cut, lesson, cache, trials, watcher)
        with atomic_folder(out) as draft:
            layers.renew(cut, model.encoder, list(model.steps), draft)
            worst = compare(model, draft, [one.text for one in lesson.held[: saved.COMPARED]])
            finish(draft, dataclasses.replace(found, difference=worst))
            seal(draft)
    remove_folder(trials)
    return found


def _learnt(
    stack: Stack, cut: Path, lesson: Lesson, cache: Path, trials: Path, watcher: Watcher
) -> tuple[Retriever, Learnt]:
    """The student that is best on held-out passages; killed or stopped, the same call goes on in `trials`."""
    protocol, machine = lesson.protocol, lesson.machine
    pooling = folders.read(stack.whole)[0].pooling
    plain = Contrast(pooling="cls" if pooling == ("cls",) else "mean")  # prompts stand in the passages

    def read(folder: Path) -> Retriever:
        longest = None if protocol is None else protocol.max_length
        return Retriever.from_pretrained(folder, machine, contrast=plain, max_length=longest)[0]

    guide = Encoder.from_pretrained(stack.whole, device=machine.device, dtype=machine.dtype)
    due = teacher.lesson(guide, lesson.held, cache, on_progress=watcher.progress("teacher"))
    del guide
    first = read(cut)
    before = nearness(due, first)
    if protocol is None:
        return first, Learnt(before=before, after=before, rate=None, steps=0, tokens=0)
    whole, texts = Teacher.of(read(stack.whole)), [one.text for one in lesson.learn]

    def train(model: Retriever, rate: float, checkpoint: Checkpoint) -> TrainingSummary:
        report = watcher.progress(f"distillation at {rate:g}")
        return learn(model, whole, texts, protocol, rate=rate, seed=0, on_progress=report, checkpoint=checkpoint)

    identity = [model_fingerprint(stack.whole), model_fingerprint(cut), settings_of(protocol),
                rows_fingerprint(lesson.learn, lesson.held)]  # fmt: skip
    sweep = Sweep(
        folder=trials, identity=digest(identity), blank=lambda: read(cut), train=train,
        score=functools.partial(nearness, due), say=watcher.say,
    )  # fmt: skip
    model, summary, rate = sweep.best_of(protocol.rates())
    after = nearness(due, model)
    return model, Learnt(before=before, after=after, rate=rate, steps=summary.steps, tokens=summary.tokens)


def compare(model: Retriever, folder: Path, texts: Sequence[str]) -> float:
    """By how much the vectors that sentence-transformers and tessera make of a folder differ from a model's, at most.

    In parts of their length where that is more than 1. Raises ValueError where it is more than saved.TOLERANCE.
    """
    saved.need_sentence_transformers()
    exact = dataclasses.replace(model, machine=model.machine.model_copy(update={"dtype": "float32"}))
    due = exact.documents(list(texts))
    mine = Encoder.from_pretrained(folder, device="cpu", dtype="float32")
    with quietly():
        from sentence_transformers import SentenceTransformer

        theirs: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True).float()
        found = theirs.encode(list(texts), prompt="", show_progress_bar=False)
    worst = max(saved.gap(rows, due) for rows in (np.asarray(found), mine.encode(list(texts), prompt="")))
    if not worst <= saved.TOLERANCE:
        raise ValueError(f"nothing was written: sentence-transformers gives other vectors, by up to {worst:.1e}")
    return worst
