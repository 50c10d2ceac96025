"""Knowledge distillation of sentence embeddings: a student learns the vectors of a teacher, also for translations.

    found = run(student, teacher, sentences(rows), out, protocol=protocol)

The student's vector of a sentence, and that of its translation, are drawn to the teacher's vector of the sentence: what
the teacher says in its languages, the student says in all. Plain sentences teach the first half alone.
Source: Reimers and Gurevych 2020, arXiv:2004.09813, section 3.
"""

# Shapes: N texts of a batch, n pairs, C width of a vector.

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tessera.data.packing import by_length
from tessera.files import digest, model_name, refuse_taken, remove_folder
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.loop import TrainingSummary, optimize
from tessera.inference.encoder import Encoder as Embedder
from tessera.model.encoder import Attention
from tessera.model.pooling import Dense
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol
from tessera.progress import Progress, Silent, Watcher
from tessera.retrieval import pairs as read
from tessera.retrieval import schedule
from tessera.retrieval.agreement import agreement, nearness
from tessera.retrieval.cards import model_card
from tessera.retrieval.pairs import Sentence
from tessera.retrieval.retriever import Contrast, Retriever, save_vectors
from tessera.retrieval.sweep import Sweep, model_fingerprint, rows_fingerprint, settings_of, trials_of
from tessera.retrieval.teacher import Lesson, lesson, opened
from tessera.retrieval.token_states import TokenTeacher
from tessera.train.embedding import Anchors, Loss, distance

LOSSES: tuple[Loss, ...] = ("mse", "cosine")
HELD_OUT = 0.02  # share of the sentences


@dataclass(frozen=True, slots=True)
class Distilled:
    """What has come of it."""

    summary: TrainingSummary
    before: dict[str, dict[str, float]]  # by language and "all": as `agreement`
    after: dict[str, dict[str, float]]
    rate: float  # the learning rate that was best on held-out sentences
    difference: float  # of sentence-transformers' vectors, at most
    tokens_per_second: float  # of training; 0 where all was done before
    seeds: dict[str, tuple[float, float]] = field(default_factory=dict)  # see Best.over_seeds


def student(
    folder: str | Path,
    teacher: Embedder,
    machine: Machine | None = None,
    *,
    contrast: Contrast | None = None,
    max_length: int | None = None,
    seed: int = 0,
) -> tuple[Retriever, Path]:
    """A copy of the model of a folder that gives vectors of the teacher's width, and where its own model lies.

    A dense layer is added where its width is another, drawn by `seed`; its vectors are of length 1 where the teacher's
    are. Its similarity is the cosine.
    """
    found, inside = Retriever.from_pretrained(folder, machine, contrast=contrast, max_length=max_length)
    if found.width != teacher.dimensions:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            dense = Dense(found.width, teacher.dimensions, activation="Identity")
        found.steps.append(dense.to(found.device))
    found.normalize = teacher.pipeline.normalize
    return found, inside


def train(
    student: Retriever, lesson: Lesson, protocol: Protocol, *, rate: float, seed: int,
    loss: Loss = "mse", temperature: float = 1.0, source_share: float = 1.0, rows: Sequence[int] = (), anchors: int = 0,
    states: TokenTeacher | None = None,
    validate: Callable[[], float] | None = None,
    on_progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingSummary:  # fmt: skip
    """Trains the student, in place and without dropout: what it is to say is known. On a CPU the same seed gives the
    same bytes.

    rate         the highest learning rate
    temperature  of the mixture of languages, as in schedule.plan
    source_share share of the pairs whose sentence the student reads too, drawn at each step; of the others it reads
                 the translation alone. Sentences that stand beside many translations cost half of the tokens at 1
    rows         of the vocabulary, which learn alone: all other weights stay as they are; none: all weights learn
    anchors      vectors of the teacher, drawn by the seed, whose similarities to each text are learnt as well: see
                 `embedding.divergence`; 0: the distance alone
    states       the teacher's hidden states are learnt as well, see token_states.py; None: they are not
    validate     a score, the higher the better, for early stopping as in loop.train
    checkpoint   where it goes on if it was stopped

    Texts are tokenized batch by batch, so memory does not grow with them.
    Raises Diverged where the loss is no finite number, ValueError for a teacher of another width.
    """
    _check(student, lesson, loss, source_share, anchors)
    without_dropout(student.encoder)
    around = Anchors.of(torch.from_numpy(lesson.some(anchors, seed)).to(student.device))
    steps = schedule.plan(lesson.pairs, protocol, seed, temperature)
    prompt = student.contrast.document_prompt

    def accumulate(step: int, chosen: Sequence[int]) -> tuple[float, int]:
        """The mean distance of all texts of a batch, its gradient by micro-batches of so many tokens."""
        both = np.random.default_rng([seed, step, 2]).random(len(chosen)) < source_share
        read = [(text, n) for n, b in zip(chosen, both, strict=True) for text in _sides(lesson.pairs[n], b)]
        texts = [text for text, _ in read]
        by_token = states.lesson(student, texts) if states else None
        batch = by_token.ids if by_token else student.read([prompt + text for text in texts])
        due = torch.from_numpy(lesson.vectors.rows(lesson.places[[n for _, n in read]])).to(student.device)
        summed, size = 0.0, float(due.square().sum(-1).mean())
        for part in by_length(list(map(len, batch)), student.machine.tokens_at_once):
            hidden, found = student.states_and_pooled([batch[i] for i in part])
            value = distance(found, due[part], loss, normalize=student.normalize, size=size) / len(batch)
            if anchors:
                value = value + around.loss(found, due[part]) / len(batch)
            if by_token:
                value = value + by_token.loss(hidden, part)
            value.backward()
            summed += float(value.detach())
        return summed, sum(map(len, batch))

    met = np.unique(np.concatenate(steps.batches))
    seen = np.array(rows) if len(rows) else student.seen(prompt + text for text in _each_once(lesson, met))
    return optimize(
        student.encoder, student.steps if len(student.steps) else None, steps, accumulate, protocol, rate=rate,
        seed=seed, seen=seen, alone=len(rows) > 0, validate=validate, on_progress=on_progress, what="distillation",
        checkpoint=checkpoint,
    )  # fmt: skip


def _check(student: Retriever, lesson: Lesson, loss: Loss, source_share: float, anchors: int) -> None:
    """Raises ValueError for arguments of `train` that are none."""
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; give {' or '.join(LOSSES)}")
    if not 0 <= source_share <= 1:
        raise ValueError(f"source_share is {source_share}; it is a share of the pairs, from 0 to 1")
    if anchors < 0:
        raise ValueError(f"anchors is {anchors}; it is a number of the teacher's vectors, 0 or more")
    if student.width != lesson.vectors.width:
        raise ValueError(f"the student's vectors have {student.width} dimensions, the teacher's {lesson.vectors.width}")


def without_dropout(encoder: nn.Module) -> None:
    """Ours and transformers'; the configuration keeps what it says."""
    for part in encoder.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, Attention):
            part.dropout = 0.0


def _each_once(lesson: Lesson, met: NDArray[np.int64]) -> Iterator[str]:
    """The texts of some pairs; a sentence of many translations comes but once."""
    _, first = np.unique(lesson.places[met], return_index=True)
    for number in met[first].tolist():
        yield lesson.pairs[number].text
    for number in met.tolist():
        if (other := lesson.pairs[number].translation) is not None:
            yield other


def _sides(pair: Sentence, both: bool = True) -> list[str]:
    """What the student reads of a pair; of a plain sentence always that."""
    if pair.translation is None:
        return [pair.text]
    return [pair.text, pair.translation] if both else [pair.translation]


def run(
    folder: str | Path,
    teacher: str | Path,
    pairs: Sequence[Sentence],
    out: Path,
    *,
    protocol: Protocol,
    held_out: float | Sequence[Sentence] = HELD_OUT,
    loss: Loss = "mse",
    temperature: float = 1.0,
    source_share: float = 1.0,
    rows: Sequence[int] = (),
    anchors: int = 0,
    states: bool = False,
    teacher_prompt: str = "",
    contrast: Contrast | None = None,
    cache: Path | None = None,
    machine: Machine | None = None,
    watcher: Watcher | None = None,
) -> Distilled:
    """Distils a teacher into a copy of the model of a folder, and writes it to `out` for sentence-transformers.

    folder          the student to be: any model; teacher: any sentence-transformers folder, or a bare model
    held_out        sentences to compare on, or the share of them that is, by a hash of the sentence
    contrast        pooling and prompts of the student; None: as its folder says
    rows, anchors   as in `train`; states: whether the teacher's hidden states are learnt as well
    teacher_prompt  stands before what the teacher reads
    cache           a folder for the teacher's vectors, so that another run need not compute them; None: they lie in
                    <out>.trials until the student is written

    Each rate of the protocol is tried with its first seed, the best with all; the nearest to the teacher on held-out
    sentences is kept; killed or stopped, the same call goes on in <out>.trials. Raises ValueError and FileExistsError.
    """
    watcher, machine, out = watcher or Silent(), machine or Machine(), Path(out)
    refuse_taken(out)
    learn, held = _divided(pairs, held_out)
    guide = opened(teacher, device=machine.device, dtype=machine.dtype)
    first, inside = student(folder, guide, machine, contrast=contrast, max_length=protocol.max_length)
    how: dict[str, Any] = {"loss": loss, "temperature": temperature, "source_share": source_share, "rows": rows}
    how |= {"anchors": anchors, "states": TokenTeacher.of(guide, teacher_prompt, first, pairs) if states else None}
    watcher.say(f"{len(learn):,} to learn from, {len(held):,} held out; {guide.dimensions} dimensions of the teacher")
    trials, kept = trials_of(out), cache or trials_of(out) / "teacher"
    taught, asked = _lessons(guide, learn, held, protocol, temperature, kept, teacher_prompt, watcher)
    before, speeds, score = agreement(first, asked), list[float](), functools.partial(nearness, asked)
    once = functools.partial(_once, taught, score, speeds, watcher, protocol, how)
    of = [model_fingerprint(folder), model_fingerprint(teacher), teacher_prompt, *_science(first, protocol, how),
          rows_fingerprint(learn, held)]  # fmt: skip
    blank = functools.partial(student, folder, guide, machine, contrast=contrast, max_length=protocol.max_length)
    sweep = Sweep(
        folder=trials, identity=digest(of), train=once, score=score, say=watcher.say, blank=lambda: blank()[0],
        measure=lambda model: agreement(model, asked)["all"], seeds=protocol.seeds,
    )  # fmt: skip
    best = sweep.best_of(protocol.rates())
    after = agreement(best.model, asked) | best.row()
    card = _card(folder, guide, loss, teacher_prompt, len(learn), before, after)
    difference = save_vectors(best.model, inside, out, [text for pair in held[:16] for text in _sides(pair)], card)
    sweep.finished()
    if cache is None:
        remove_folder(kept)
    return Distilled(best.summary, before, after, best.rate, difference, max(speeds, default=0.0), best.over_seeds())


def _divided(pairs: Sequence[Sentence], held_out: float | Sequence[Sentence]) -> tuple[list[Sentence], list[Sentence]]:
    """(to learn from, held out). Raises ValueError where one of them has none."""
    learn, held = read.split(pairs, held_out) if isinstance(held_out, float) else (list(pairs), list(held_out))
    if not learn or not held:
        raise ValueError(f"{len(learn)} sentences to learn from and {len(held)} held out; both are needed: give more, "
                         "or a greater share (--held-out 0.2)")  # fmt: skip
    return learn, held


def _lessons(
    guide: Embedder, learn: list[Sentence], held: list[Sentence], protocol: Protocol, temperature: float, cache: Path,
    prompt: str, watcher: Watcher,
) -> tuple[Lesson, Lesson]:  # fmt: skip
    """(to learn from, held out); the teacher reads both at once, of the first those alone that are met: where there is
    more text than steps, most of its time would go into vectors that nothing asks for."""
    met = schedule.met(learn, protocol, temperature)
    only = [*range(len(learn), len(learn) + len(held)), *met]  # in this order more steps leave what is cached as it is
    report = watcher.progress("teacher")
    whole = lesson(guide, [*learn, *held], cache, only=only, prompt=prompt, on_progress=report)
    places = np.split(whole.places, [len(learn)])
    taught, asked = (dataclasses.replace(whole, pairs=p, places=q) for p, q in zip((learn, held), places, strict=True))
    return taught, asked


def _once(
    taught: Lesson, score: Callable[[Retriever], float], speeds: list[float], watcher: Watcher, protocol: Protocol,
    how: dict[str, Any], model: Retriever, rate: float, seed: int, checkpoint: Checkpoint,
) -> TrainingSummary:  # fmt: skip
    """Trains a model at a rate, in place; speeds takes the tokens a second."""
    begun = time.monotonic()
    report = watcher.progress(f"distillation at {rate:g}")
    course = train(
        model, taught, protocol, rate=rate, seed=seed, validate=lambda: score(model), on_progress=report,
        checkpoint=checkpoint, **how,
    )  # fmt: skip
    speeds.append(course.tokens / (time.monotonic() - begun))
    return course


def _science(student: Retriever, protocol: Protocol, how: dict[str, Any]) -> list[object]:
    """What training depends on besides weights and sentences. What is not asked for adds nothing, as before it was."""
    asked = [how[name] for name in ("loss", "temperature", "source_share")]
    more = [*([list(how["rows"])] if how["rows"] else []), *([how["anchors"]] if how["anchors"] else [])]
    more += ["states"] if how["states"] else []
    rest = [*more, settings_of(protocol), protocol.seeds[0]]
    return [*asked, dataclasses.asdict(student.contrast), student.max_length, *rest]


def _card(
    folder: str | Path,
    teacher: Embedder,
    loss: Loss,
    prompt: str,
    learned: int,
    before: dict[str, dict[str, float]],
    after: dict[str, dict[str, float]],
) -> str:
    of = model_name(teacher.source) if teacher.source else "a teacher"
    what = (
        f"Sentence embeddings of {teacher.dimensions} dimensions, learned from those of {of} "
        f"({f'its prompt {prompt!r}; ' if prompt else ''}{loss} loss, {learned:,} sentences or pairs). Scores on "
        "held-out sentences: cosine to the teacher, and the share of translations that are found."
    )
    whole = {"all, before": before["all"], "all, after": after["all"]}
    rows = whole | {name: row for name, row in after.items() if name != "all"}
    code = (
        "from sentence_transformers import SentenceTransformer\n"
        'model = SentenceTransformer("<this folder>")\nvectors = model.encode(["one sentence", "another"])'
    )
    return model_card(folder, "distil", what, rows, code)
