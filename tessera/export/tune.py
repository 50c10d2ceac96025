"""Inference tuning (`tessera tune`): every engine that is installed, measured on this machine and on your texts.

For each: throughput of all texts, latency of one at a time, in turns; and quality beside float32, by language, of
vectors (tune_vectors.py) or of a head's answers (tune_head.py). What falls under a bound is never chosen. The fastest
of the others, or one as good as it that needs less, is written into the model's folder, where `Encoder`, `Predictor`,
`embed`, `search`, `predict` and `serve` find it (inference/tuned.py), and into its card.
"""

import random
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tessera import checksums
from tessera.export.candidates import Candidate, Source, candidates, replace_choice, with_threads
from tessera.export.head_scores import FEWEST as FEWEST_ROWS
from tessera.export.head_scores import divided
from tessera.export.heads import asked as heads_asked
from tessera.export.heads import has_head
from tessera.export.real_text import Text
from tessera.export.tune_head import Answerer, Answers, HeadJudge
from tessera.export.tune_vectors import Embedder, Quality, VectorJudge
from tessera.files import atomic_folder, fingerprint, write_json, write_text
from tessera.inference import runtime
from tessera.inference import sentence_folder as folders
from tessera.inference.encoder import Encoder
from tessera.inference.tuned import CHOICE, FOLDER, Choice, processor
from tessera.prediction.predictor import Predictor
from tessera.prediction.requests import request
from tessera.progress import Say, silent

Goal = Literal["throughput", "latency"]

_FEWEST, _CALIBRATED, _MEASURED = 64, 128, 512  # texts
_TIMED, _ALONE = 64, 16  # texts of a pass, texts one at a time
_TURNS, _MOST_TURNS = 3, 12  # passes of each engine, at least and at most
_LONG = 10.0  # seconds after which no more than the least are made
_AHEAD = 1.05  # times the speed below which an engine is not worth the graph, the memory and the library that it needs
_BUDGETS = (4096, 16_384)  # tokens of a batch
_SECTION = re.compile(r"\n*<!-- tessera tune -->.*?<!-- /tessera tune -->\n*", re.DOTALL)


@dataclass(slots=True)
class Tried:
    """An engine, what was measured of it, and why it may not be chosen."""

    name: str
    threads: int
    max_tokens: int
    by_language: Mapping[str, Quality | Answers] = field(default_factory=dict)
    tokens_per_second: float = 0.0
    milliseconds: float = float("inf")  # of one text alone, the median
    why_not: str = ""

    def rank(self, goal: Goal) -> float:
        """The lower the better: a time, of one text or of a token."""
        return self.milliseconds if goal == "latency" else 1 / max(self.tokens_per_second, 1e-9)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What `tune` found; `chosen` of `tried` was written."""

    tried: list[Tried]
    chosen: Tried
    goal: Goal
    kept: str  # by which engines are held against float32: lowest cosine, or agreement

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows."""
        columns = ["engine", "threads", "tokens/s", "ms a text", self.kept, "worst language", "points lost", ""]
        return columns, [self._row(one) for one in self.tried]

    def _row(self, one: Tried) -> list[str]:
        note = "chosen" if one is self.chosen else one.why_not
        if not one.by_language:
            return [one.name, "", "", "", "", "", "", note]
        worst = min(one.by_language, key=lambda language: one.by_language[language].kept)
        lost, kept = max(found.lost for found in one.by_language.values()), one.by_language[worst].kept
        return [
            one.name,
            str(one.threads),
            f"{one.tokens_per_second:,.0f}",
            f"{one.milliseconds:.1f}",
            f"{kept:.5f}" if self.kept == VectorJudge.kept else f"{kept:.2f}",
            worst,
            f"{lost:.2f}",
            note,
        ]


def tune(
    folder: str | Path,
    texts: Sequence[Text] = (),
    *,
    rows: Sequence[Mapping[str, Any]] = (),
    goal: Goal = "throughput",
    min_cosine: float = 0.999,
    min_agreement: float = 98.0,
    max_drop: float = 0.5,
    max_length: int = 512,
    seed: int = 0,
    say: Say = silent,
) -> Tuning:
    """Measures every engine, and writes the fastest that holds the bounds into `folder`/tuned.

    texts          real ones with their languages, of the kind that will be encoded or asked about; 64 or more. Where
                   there are rows they may be missing: then a part of the rows calibrates
    rows           of a model with the head of a task: rows that say what is right, as `judged.rows`, and may say
                   their language as `lang`; the score on them is the bound then, and not agreement
    goal           throughput: many texts at once. latency: one at a time
    min_cosine     of every text with its vector in float32
    min_agreement  of a head: of a hundred answers those that must stay what they are in float32, in every language
    max_drop       points of retrieval, or of the score on `rows`, out of a hundred, that any language may lose

    Raises ValueError for too few texts, an exported graph, and rows where there is no head.
    """
    inside = _checked(folder, min_cosine, min_agreement, max_drop, rows)
    calibrating: Sequence[tuple[Any, str]]
    if texts or not rows:
        calibrating, measuring = _halved(texts, seed)
    else:
        some, rows = divided(rows, seed)
        calibrating, measuring = [(row, "und") for row in some], []
    threads = torch.get_num_threads()
    source, judge, timed = _sides(
        inside, calibrating, measuring, rows, goal, max_length, min_cosine, min_agreement, max_drop
    )
    with tempfile.TemporaryDirectory() as work:
        tried, engines = [], {}
        for one in candidates(source, Path(work), lambda model: judge.judged(model)[1], say):
            if isinstance(one, tuple):
                tried.append(Tried(one[0], 0, 0, why_not=one[1]))
                continue
            say(f"{one.name}: comparing with float32")
            by_language, why_not = judge.judged(one.model)
            tried.append(Tried(one.name, one.choice.threads, one.choice.max_tokens, by_language, why_not=why_not))
            engines[one.name] = one
        tokens = _tokens(source.plain, timed)
        say(f"measuring {len(engines)} engines in turns: {len(timed)} texts of {tokens:,} tokens")
        _time([(found, engines[found.name]) for found in tried if found.name in engines], timed, tokens)
        best = _worth_most([one for one in tried if one.name in engines and not one.why_not], goal)
        others = _settings(source, engines[best.name], best, threads)
        _time(others, timed, tokens)
        torch.set_num_threads(threads)
        chosen, engine = min(others, key=lambda pair: pair[0].rank(goal))
        tuning = Tuning([chosen if one is best else one for one in tried], chosen, goal, judge.kept)
        _write(inside, tuning, engine, judge)
    return tuning


def _checked(
    folder: str | Path, min_cosine: float, min_agreement: float, max_drop: float, rows: Sequence[Mapping[str, Any]]
) -> Path:
    """The folder of the model itself."""
    if not 0.0 <= min_cosine <= 1.0 or max_drop < 0:
        raise ValueError(f"min_cosine is {min_cosine}, max_drop {max_drop}; give a cosine up to 1 and points from 0 up")
    if not 0.0 <= min_agreement <= 100.0:
        raise ValueError(f"min_agreement is {min_agreement}; it is of a hundred answers, so give 0 to 100")
    whole = folders.local(folder)
    inside = whole if has_head(whole) else folders.read(whole)[1]
    if runtime.kind(inside) is not None:
        raise ValueError(f"{inside}: is an exported graph; tune the folder that it was exported from")
    if rows and not has_head(inside):
        raise ValueError(f"{inside}: rows are for the head of a task, and there is none")
    if rows and len(rows) < FEWEST_ROWS:
        raise ValueError(f"{len(rows)} rows; give {FEWEST_ROWS} or more to measure on")
    return inside


def _sides(
    inside: Path, calibrating: Sequence[tuple[Any, str]], measuring: list[Text], rows: Sequence[Mapping[str, Any]],
    goal: Goal, longest: int, min_cosine: float, min_agreement: float, max_drop: float,
) -> tuple[Source, VectorJudge | HeadJudge, list[Any]]:  # fmt: skip
    """What is tuned, what judges it, and what it is timed on."""
    some, about = [text for text, _ in calibrating], [text for text, _ in measuring]
    if not has_head(inside):
        plain = Encoder.from_pretrained(inside, device="cpu", dtype="float32")
        plain.max_seq_length = min(plain.max_seq_length, longest)
        name = "packed weights, float32" if plain.engine.packed else "float32"
        embedder = Embedder(inside, plain, plain.how().reading.ids(some), _float32(inside, name, goal))
        return embedder, VectorJudge(plain, measuring, min_cosine, max_drop), about[:_TIMED]
    predictor = Predictor.from_pretrained(inside, device="cpu", dtype="float32")
    most = min(longest, predictor.reader.max_length)
    predictor = replace(predictor, reader=replace(predictor.reader, max_length=most))
    task = predictor.model.task
    name = "float32" if predictor.encoder is predictor.model.encoder else "packed weights, float32"
    first = _float32(inside, name, goal, head=task.kind)
    answerer = Answerer(inside, predictor, heads_asked(task, some), first)
    asked: list[tuple[Any, str]] = [(row, str(row.get("lang") or "und")) for row in rows]
    asked = asked or list(zip(heads_asked(task, about), (language for _, language in measuring), strict=True))
    judge = HeadJudge(predictor, asked, min_agreement, max_drop, labelled=bool(rows))
    return answerer, judge, [row for row, _ in asked[:_TIMED]]


def _float32(inside: Path, name: str, goal: Goal, head: str = "") -> Choice:
    """What others are compared with."""
    return Choice(
        engine="packed", name=name, dtype="float32", threads=torch.get_num_threads(), max_tokens=_BUDGETS[0],
        goal=goal, model=fingerprint(inside), processor=processor(), head=head,
    )  # fmt: skip


def _halved(texts: Sequence[Text], seed: int) -> tuple[list[Text], list[Text]]:
    """Texts to calibrate on, and others to measure on."""
    chosen = sorted({text for text in texts if text[0] and not text[0].isspace()})
    if len(chosen) < _FEWEST:
        raise ValueError(f"{len(chosen)} different texts; give {_FEWEST} or more, to calibrate and to measure on")
    random.Random(seed).shuffle(chosen)
    cut = min(_CALIBRATED, len(chosen) // 2)
    return chosen[:cut], chosen[cut : cut + _MEASURED]


# ----------------------------------------------------------------------------------------------------------- measuring


def _worth_most(those: list[Tried], goal: Goal) -> Tried:
    """The first that no other is far ahead of; our own come first, which need no graph. Says why the others are not."""
    least = min(one.rank(goal) for one in those)
    best = next(one for one in those if one.rank(goal) < least * _AHEAD)
    for one in those:
        if one.rank(goal) < best.rank(goal):
            one.why_not = f"{best.rank(goal) / one.rank(goal) - 1:.1%} ahead: too little to change for"
    return best


def _time(engines: Sequence[tuple[Tried, Candidate]], some: list[Any], tokens: int) -> None:
    """Texts, or rows of a task, in turns, the least after one to warm up; fills in what was measured."""
    alone, until = sorted(some, key=lambda one: len(str(one)))[:_ALONE], time.monotonic() + _LONG
    for turn in range(_MOST_TURNS + 1):
        if turn > _TURNS and time.monotonic() > until:
            break
        for found, engine in engines:
            torch.set_num_threads(found.threads)
            seconds = _seconds(engine.model, some, found.max_tokens)
            each = float(np.median([_seconds(engine.model, [one], found.max_tokens) for one in alone]))
            if turn:
                found.tokens_per_second = max(found.tokens_per_second, tokens / seconds)
                found.milliseconds = min(found.milliseconds, 1e3 * each)


def _seconds(model: Encoder | Predictor, some: list[Any], budget: int) -> float:
    began = time.perf_counter()
    if isinstance(model, Predictor):
        model.predict(some, max_tokens=budget)
    else:
        model.encode(some, max_tokens=budget, on_truncated=silent)
    return time.perf_counter() - began


def _tokens(model: Encoder | Predictor, some: list[Any]) -> int:
    """That are read of texts, or of rows of a task."""
    if isinstance(model, Encoder):
        return sum(map(len, model.how().reading.ids(some)))
    asked = [request(row, number, model.kind, model.reader.tokenizer) for number, row in enumerate(some)]
    return sum(item.tokens for item in model.reader.items([one.example for one in asked]))


def _settings(source: Source, engine: Candidate, best: Tried, threads: int) -> list[tuple[Tried, Candidate]]:
    """The best engine with other threads and token budgets; measured anew, so that all were measured at one time."""
    found = []
    for several in sorted({1, max(1, threads // 2), threads}):
        for budget in _BUDGETS:
            other = with_threads(source, engine, several, budget)
            found.append((Tried(best.name, several, budget, best.by_language), other))
    return found


# ------------------------------------------------------------------------------------------------------------- writing


def _write(inside: Path, tuning: Tuning, engine: Candidate, judge: VectorJudge | HeadJudge) -> None:
    """The choice with what it needs, whole or not at all; then the card."""
    chosen = tuning.chosen
    choice = replace_choice(engine.choice, threads=chosen.threads, max_tokens=chosen.max_tokens)
    with atomic_folder(inside / FOLDER, replace=True, sealed=True) as draft:
        if (engine.folder / FOLDER).is_dir():
            shutil.copytree(engine.folder / FOLDER, draft, dirs_exist_ok=True)
        measured = [{**asdict(one), "milliseconds": min(one.milliseconds, 1e9)} for one in tuning.tried]
        write_json(draft / CHOICE, {**choice.model_dump(), **judge.bounds, "measured": measured}, sealed=True)
    card = inside / "README.md"
    before = _SECTION.sub("\n", card.read_text(encoding="utf-8")) if card.is_file() else f"# {inside.name}\n"
    listed = card.is_file() and checksums.check(card)
    write_text(card, f"{before.rstrip()}\n\n{_section(tuning, choice, judge)}\n")
    if listed:  # of a folder all of whose files are named with their checksums
        checksums.seal_again(card)


def _section(tuning: Tuning, choice: Choice, judge: VectorJudge | HeadJudge) -> str:
    columns, rows = tuning.table()
    lines = [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
    return (
        f"<!-- tessera tune -->\n## Fastest engine\n\n{choice.name}, {choice.threads} threads, for {tuning.goal}, of "
        f"those that {judge}; {choice.processor}.\n\n" + "\n".join(lines) + "\n<!-- /tessera tune -->"
    )
