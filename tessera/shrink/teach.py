"""Knowledge distillation of a pruned encoder by the whole model, on passages of plain text: what comes out is a folder.

The folder that comes out is the whole model's own, files, prompts and head alike, but for layers and their values. It
has its name once sentence-transformers gives the vectors that were learnt, or transformers the logits.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tessera import checksums
from tessera.files import atomic_folder, digest, read_json, remove_folder, write_json
from tessera.finetune import saved
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.loop import TrainingSummary
from tessera.inference.tokenize import Ids
from tessera.plan.task import Protocol
from tessera.progress import Watcher
from tessera.retrieval.pairs import Sentence
from tessera.retrieval.retriever import Retriever
from tessera.retrieval.sweep import Sweep, model_fingerprint, rows_fingerprint, settings_of
from tessera.shrink import layers
from tessera.shrink.gives import Gives
from tessera.shrink.layers import Kept, Stack
from tessera.shrink.reconstruct import reconstruct
from tessera.shrink.student import Teacher, learn

RATES = (3e-4,)
"""Tried where no others are asked for."""


FILE = "shrink.json"
SOLVED_ON = 60_000  # tokens
_AT_ONCE = 256  # passages that are read at once for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """How a student is taught: the protocol, and what it reads."""

    protocol: Protocol | None  # None: it is not taught
    solve: bool = True  # its layers are reconstructed before
    neurons: int | None = None  # of its feed-forward networks; None: all
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
    trials, beside, solved = (out.with_name(f".{out.name}.{what}") for what in ("trials", "cut.writing", "solved"))
    remove_folder(beside)  # of a killed process
    beside.mkdir(parents=True)
    try:
        stack.write(kept, beside)
        if lesson.solve:
            _solve(gives, stack, kept, lesson, beside, solved, watcher)
        cut = solved if lesson.solve else beside
        model, found = _learnt(gives, stack, cut, lesson, trials, watcher)
        with atomic_folder(out, sealed=True) as draft:
            layers.renew(cut, model.encoder, list(model.steps), draft)
            worst = gives.compare(model, draft, [one.text for one in lesson.held[: saved.COMPARED]])
            finish(draft, dataclasses.replace(found, difference=worst))
    finally:
        remove_folder(beside)
    remove_folder(trials)
    remove_folder(solved)
    return found


def _solve(gives: Gives, stack: Stack, kept: Kept, lesson: Lesson, cut: Path, out: Path, watcher: Watcher) -> None:
    """The folder `cut` with layers that are reconstructed, made once: in `out`, until the student has been taught."""
    rows = rows_fingerprint(lesson.learn, [])
    identity = digest([model_fingerprint(stack.whole), kept, lesson.neurons, rows])
    if _is(out, identity):
        return
    remove_folder(out)
    student, texts = gives.student(cut), solved_on(gives, lesson)
    report = watcher.progress("reconstruction")
    whole = gives.student(stack.whole).encoder
    reconstruct(stack, whole, student.encoder, kept, texts, neurons=lesson.neurons, on_progress=report)
    with atomic_folder(out, sealed=True) as draft:
        layers.renew(cut, student.encoder, list(student.steps), draft, lesson.neurons)
        write_json(draft / FILE, {"identity": identity})


def _is(solved: Path, identity: str) -> bool:
    """Whether a folder holds these layers as they were written. One that is damaged is made anew: it is ours alone."""
    if not (solved / FILE).is_file() or checksums.damage(solved) is not None:
        return False
    return bool(read_json(solved / FILE).get("identity") == identity)


def solved_on(gives: Gives, lesson: Lesson) -> list[Ids]:
    """Passages from all over the text, some SOLVED_ON tokens of them."""
    found, tokens = list[Ids](), 0
    order = np.random.default_rng(0).permutation(len(lesson.learn)).tolist()
    for first in range(0, len(order), _AT_ONCE):
        if tokens >= SOLVED_ON:
            break
        found += gives.read([lesson.learn[n].text for n in order[first : first + _AT_ONCE]])
        tokens = sum(map(len, found))
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
    if after < before:  # a good start, and too high a rate
        watcher.say(
            f"taught at {best.rate:g} it is {after:.4f} near the whole model, and untaught {before:.4f}: it stays "
            "untaught; try a lower rate (--rates)"
        )
        return gives.student(cut), Learnt(before=before, after=before, rate=None, steps=0, tokens=0)
    return best.model, Learnt(before=before, after=after, rate=best.rate, steps=summary.steps, tokens=summary.tokens)
