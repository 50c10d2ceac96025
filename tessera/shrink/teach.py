"""Knowledge distillation of a pruned encoder: it learns the vectors of the whole model, on passages of plain text.

The folder that comes out is the whole model's own, files and prompts alike, but for layers and their values. It has its
name once sentence-transformers gives the vectors that were learnt.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera.checksums import seal
from tessera.files import atomic_folder, remove_folder
from tessera.finetune import saved
from tessera.inference import sentence_folder as folders
from tessera.inference.encoder import Encoder
from tessera.model.transformers_model import quietly
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol
from tessera.progress import Watcher
from tessera.retrieval import distil, teacher
from tessera.retrieval.agreement import agreement
from tessera.retrieval.pairs import Sentence
from tessera.retrieval.retriever import Contrast, Retriever
from tessera.shrink import layers
from tessera.shrink.layers import Kept, Stack

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
    pooling = folders.read(stack.whole)[0].pooling
    plain = Contrast(pooling="cls" if pooling == ("cls",) else "mean")  # prompts stand in the passages
    trials = out.with_name(f".{out.name}.trials")
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        cut = Path(work, "cut")
        stack.write(kept, cut)
        if lesson.protocol is None:
            model, found = _as_it_is(stack, cut, lesson, plain, cache, watcher)
        else:
            done = distil.teach(
                cut, stack.whole, lesson.learn, lesson.held, trials, protocol=lesson.protocol, contrast=plain,
                cache=cache, machine=lesson.machine, watcher=watcher,
            )  # fmt: skip
            model, found = done.model, Learnt(
                before=done.before["all"]["cosine"], after=done.after["all"]["cosine"], rate=done.rate,
                steps=done.summary.steps, tokens=done.summary.tokens,
            )  # fmt: skip
        with atomic_folder(out) as draft:
            layers.renew(cut, model.encoder, list(model.steps), draft)
            worst = compare(model, draft, [one.text for one in lesson.held[: saved.COMPARED]])
            finish(draft, dataclasses.replace(found, difference=worst))
            seal(draft)
    remove_folder(trials)
    return found


def _as_it_is(
    stack: Stack, cut: Path, lesson: Lesson, plain: Contrast, cache: Path, watcher: Watcher
) -> tuple[Retriever, Learnt]:
    """Layers left out and nothing learnt."""
    guide = Encoder.from_pretrained(stack.whole, device=lesson.machine.device, dtype=lesson.machine.dtype)
    model, _ = Retriever.from_pretrained(cut, lesson.machine, contrast=plain)
    due = teacher.lesson(guide, lesson.held, cache, on_progress=watcher.progress("teacher"))
    near = agreement(model, due)["all"]["cosine"]
    return model, Learnt(before=near, after=near, rate=None, steps=0, tokens=0)


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
