"""Inference tuning (`tessera tune`): every engine that is installed, measured on this machine and on your texts.

For each: throughput of all texts, latency of one at a time, in turns; and quality beside float32, by language: cosines,
and whether the second half of a text is still found by its first. What falls under a bound is never chosen. The fastest
of the others is written into the model's folder, where `Encoder`, `embed` and `search` find it (inference/tuned.py),
and into its card.
"""

import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tessera import checksums
from tessera.corpus import documents
from tessera.export.candidates import Candidate, Source, candidates, replace_choice
from tessera.export.heads import halves, has_head
from tessera.files import atomic_folder, fingerprint, write_json, write_text
from tessera.inference import runtime
from tessera.inference import sentence_folder as folders
from tessera.inference.encoder import Encoder
from tessera.inference.nearest import nearest
from tessera.inference.tuned import CHOICE, FOLDER, Choice, processor
from tessera.plan.corpus import Columns
from tessera.plan.corpus import Source as Files
from tessera.progress import Say, silent

Goal = Literal["throughput", "latency"]
Text = tuple[str, str]
"""A text and its language."""

_FEWEST, _CALIBRATED, _MEASURED, _LOOKED_AT = 64, 128, 512, 50_000  # texts
_TIMED, _ALONE, _TURNS = 64, 16, 3  # texts of a pass, texts one at a time, passes of each engine
_BUDGETS = (4096, 16_384)  # tokens of a batch
_HOW: dict[str, Any] = {"normalize": True, "prompt": "", "on_truncated": silent}  # a text's beginning is enough
_SECTION = re.compile(r"\n*<!-- tessera tune -->.*?<!-- /tessera tune -->\n*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Quality:
    """What an engine's vectors lose beside float32, on the texts of a language."""

    texts: int
    lowest_cosine: float
    median_cosine: float
    before: float  # of a hundred texts, those whose second half is found by the first; in float32
    after: float


@dataclass(slots=True)
class Tried:
    """An engine, what was measured of it, and why it may not be chosen."""

    name: str
    threads: int
    max_tokens: int
    by_language: dict[str, Quality] = field(default_factory=dict)
    tokens_per_second: float = 0.0
    milliseconds: float = float("inf")  # of one text alone, the median
    why_not: str = ""

    def rank(self, goal: Goal) -> float:
        """The lower the better."""
        return self.milliseconds if goal == "latency" else -self.tokens_per_second


@dataclass(frozen=True, slots=True)
class Tuning:
    """What `tune` found; `chosen` of `tried` was written."""

    tried: list[Tried]
    chosen: Tried
    goal: Goal

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows."""
        columns = ["engine", "threads", "tokens/s", "ms a text", "lowest cosine", "worst language", "points lost", ""]
        return columns, [self._row(one) for one in self.tried]

    def _row(self, one: Tried) -> list[str]:
        note = "chosen" if one is self.chosen else one.why_not
        if not one.by_language:
            return [one.name, "", "", "", "", "", "", note]
        worst = min(one.by_language, key=lambda language: one.by_language[language].lowest_cosine)
        lost = max(found.before - found.after for found in one.by_language.values())
        return [
            one.name,
            str(one.threads),
            f"{one.tokens_per_second:,.0f}",
            f"{one.milliseconds:.1f}",
            f"{one.by_language[worst].lowest_cosine:.5f}",
            worst,
            f"{lost:.2f}",
            note,
        ]


def tune(
    folder: str | Path,
    texts: Sequence[Text],
    *,
    goal: Goal = "throughput",
    min_cosine: float = 0.999,
    max_drop: float = 0.5,
    max_length: int = 512,
    seed: int = 0,
    say: Say = silent,
) -> Tuning:
    """Measures every engine, and writes the fastest that holds the bounds into `folder`/tuned.

    texts       real ones with their languages, of the kind that will be encoded; 64 or more
    goal        throughput: many texts at once. latency: one at a time
    min_cosine  of every text with its vector in float32
    max_drop    points of retrieval, out of a hundred, that any language may lose

    Raises ValueError for too few texts, a graph and the head of a task.
    """
    inside = _checked(folder, min_cosine, max_drop)
    calibrating, measuring = _halved(texts, seed)
    threads = torch.get_num_threads()
    source = _source(inside, [text for text, _ in calibrating], goal, min(max_length, _longest(inside)))
    judge = _Judge(source, measuring, min_cosine, max_drop)
    with tempfile.TemporaryDirectory() as work:
        tried, engines = [], {}
        for one in candidates(source, Path(work), judge.lowest, min_cosine, say):
            if isinstance(one, tuple):
                tried.append(Tried(one[0], 0, 0, why_not=one[1]))
                continue
            say(f"{one.name}: comparing {len(measuring)} texts")
            tried.append(judge.tried(one))
            engines[one.name] = one
        timed = [text for text, _ in measuring[:_TIMED]]
        tokens = sum(map(len, source.plain.how().reading.ids(timed)))
        say(f"measuring {len(engines)} engines in turns: {len(timed)} texts of {tokens:,} tokens")
        _time([(found, engines[found.name]) for found in tried if found.name in engines], timed, tokens)
        best = min((one for one in tried if one.name in engines and not one.why_not), key=lambda one: one.rank(goal))
        others = _settings(source, engines[best.name], best, threads)
        _time(others, timed, tokens)
        torch.set_num_threads(threads)
        chosen, engine = min(others, key=lambda pair: pair[0].rank(goal))
        tuning = Tuning([chosen if one is best else one for one in tried], chosen, goal)
        _write(inside, tuning, engine, {"min_cosine": min_cosine, "max_drop": max_drop, "texts": len(measuring)})
    return tuning


def _checked(folder: str | Path, min_cosine: float, max_drop: float) -> Path:
    """The folder of the model itself."""
    if not 0.0 <= min_cosine <= 1.0 or max_drop < 0:
        raise ValueError(f"min_cosine is {min_cosine}, max_drop {max_drop}; give a cosine up to 1 and points from 0 up")
    _, inside = folders.read(folders.local(folder))
    if runtime.kind(inside) is not None:
        raise ValueError(f"{inside}: is an exported graph; tune the folder that it was exported from")
    if has_head(inside):
        raise ValueError(
            f"{inside}: has the head of a task, and tune compares vectors; tessera quantize measures its answers"
        )
    return inside


def _longest(inside: Path) -> int:
    pipeline, _ = folders.read(inside)
    return pipeline.max_length or 1 << 30


def _source(inside: Path, calibrating: list[str], goal: Goal, longest: int) -> Source:
    plain = Encoder.from_pretrained(inside, device="cpu", dtype="float32")
    plain.max_seq_length = min(plain.max_seq_length, longest)
    first = Choice(
        engine="packed",
        name="float32" if plain.attention == "transformers'" else "packed weights, float32",
        dtype="float32",
        threads=torch.get_num_threads(),
        max_tokens=_BUDGETS[0],
        goal=goal,
        model=fingerprint(inside),
        processor=processor(),
    )
    return Source(inside, plain, plain.how().reading.ids(calibrating), first)


def _halved(texts: Sequence[Text], seed: int) -> tuple[list[Text], list[Text]]:
    """Texts to calibrate on, and others to measure on."""
    chosen = sorted({text for text in texts if text[0] and not text[0].isspace()})
    if len(chosen) < _FEWEST:
        raise ValueError(f"{len(chosen)} different texts; give {_FEWEST} or more, to calibrate and to measure on")
    random.Random(seed).shuffle(chosen)
    cut = min(_CALIBRATED, len(chosen) // 2)
    return chosen[:cut], chosen[cut : cut + _MEASURED]


def read_texts(path: str, limit: int = 1000, seed: int = 0, column: str = "text") -> list[Text]:
    """At most `limit` texts with their languages: of the column `lang`, or as the file is called, or und.

    Raises ValueError as corpus.read.
    """
    columns = Columns(text=column)

    def read(language: str | None) -> list[Text]:
        files = Files(name="texts", path=path, columns=columns, language=language, split="train")
        rows = (row for row in documents.read(files) if isinstance(row, documents.Document))
        return [(row.text, row.language) for row, _ in zip(rows, range(_LOOKED_AT), strict=False)]

    try:
        found = read(None)
    except ValueError:
        found = read("und")
    return random.Random(seed).sample(found, min(limit, len(found)))


# ----------------------------------------------------------------------------------------------------------- measuring


class _Judge:
    """Compares vectors with those of float32."""

    def __init__(self, source: Source, texts: Sequence[Text], min_cosine: float, max_drop: float) -> None:
        self.texts, self.min_cosine, self.max_drop = texts, min_cosine, max_drop
        self.languages = np.array([language for _, language in texts])
        whole = [text for text, _ in texts]
        self.sides = [whole, *map(list, zip(*map(halves, whole), strict=True))]
        self.exact = [source.plain.encode(side, **_HOW) for side in self.sides]

    def lowest(self, encoder: Encoder) -> float:
        """Cosine of any text."""
        return float((encoder.encode(self.sides[0], **_HOW) * self.exact[0]).sum(1).min())

    def tried(self, one: Candidate) -> Tried:
        """The quality of an engine, by language."""
        found = [one.encoder.encode(side, **_HOW) for side in self.sides]
        cosines, right = (found[0] * self.exact[0]).sum(1), np.arange(len(self.texts))
        before, after = (nearest(side[1], side[2], 1)[0][:, 0] == right for side in (self.exact, found))

        def quality(rows: Any) -> Quality:
            return Quality(
                texts=int(rows.sum()),
                lowest_cosine=float(cosines[rows].min()),
                median_cosine=float(np.median(cosines[rows])),
                before=100 * float(before[rows].mean()),
                after=100 * float(after[rows].mean()),
            )

        by_language = {str(name): quality(self.languages == name) for name in np.unique(self.languages)}
        why_not = self._why_not(by_language, quality(right >= 0))
        return Tried(one.name, one.choice.threads, one.choice.max_tokens, by_language, why_not=why_not)

    def _why_not(self, by_language: dict[str, Quality], whole: Quality) -> str:
        """Which bound is not held, and where; one text more or less is no loss, however few there are of a language."""
        for language, found in {**by_language, "all": whole}.items():
            if not found.lowest_cosine >= self.min_cosine:
                return f"cosine {found.lowest_cosine:.5f} in {language}"
            lost = found.before - found.after
            if lost > max(self.max_drop, 100.1 / found.texts):
                return f"{lost:.1f} points of retrieval lost in {language}"
        return ""


def _time(engines: Sequence[tuple[Tried, Candidate]], texts: list[str], tokens: int) -> None:
    """In turns, the least of three after one to warm up; fills in what was measured."""
    alone = sorted(texts, key=len)[:_ALONE]
    for turn in range(_TURNS + 1):
        for found, engine in engines:
            torch.set_num_threads(found.threads)
            encode, budget = engine.encoder.encode, found.max_tokens
            seconds = _seconds(lambda: encode(texts, max_tokens=budget, on_truncated=silent))  # noqa: B023
            each = float(np.median([_seconds(lambda: encode([text], on_truncated=silent)) for text in alone]))  # noqa: B023
            if turn:
                found.tokens_per_second = max(found.tokens_per_second, tokens / seconds)
                found.milliseconds = min(found.milliseconds, 1e3 * each)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _settings(source: Source, engine: Candidate, best: Tried, threads: int) -> list[tuple[Tried, Candidate]]:
    """The best engine with other threads and token budgets; measured anew, so that all were measured at one time."""
    found = []
    for several in sorted({1, max(1, threads // 2), threads}):
        for budget in _BUDGETS:
            other = source.with_threads(engine, several, budget)
            found.append((Tried(best.name, several, budget, best.by_language), other))
    return found


# ------------------------------------------------------------------------------------------------------------- writing


def _write(inside: Path, tuning: Tuning, engine: Candidate, bounds: dict[str, Any]) -> None:
    """The choice with what it needs, whole or not at all; then the card."""
    chosen = tuning.chosen
    choice = replace_choice(engine.choice, threads=chosen.threads, max_tokens=chosen.max_tokens)
    with atomic_folder(inside / FOLDER, replace=True, sealed=True) as draft:
        if (engine.folder / FOLDER).is_dir():
            shutil.copytree(engine.folder / FOLDER, draft, dirs_exist_ok=True)
        measured = [{**asdict(one), "milliseconds": min(one.milliseconds, 1e9)} for one in tuning.tried]
        write_json(draft / CHOICE, {**choice.model_dump(), **bounds, "measured": measured}, sealed=True)
    card = inside / "README.md"
    before = _SECTION.sub("\n", card.read_text(encoding="utf-8")) if card.is_file() else f"# {inside.name}\n"
    listed = card.is_file() and checksums.check(card)
    write_text(card, f"{before.rstrip()}\n\n{_section(tuning, choice, bounds)}\n")
    if listed:
        checksums.seal_again(card)


def _section(tuning: Tuning, choice: Choice, bounds: dict[str, Any]) -> str:
    columns, rows = tuning.table()
    lines = [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
    return (
        f"<!-- tessera tune -->\n## Fastest engine\n\n{choice.name}, {choice.threads} threads, for {tuning.goal}, of "
        f"those that keep a cosine of {bounds['min_cosine']} and lose at most {bounds['max_drop']} points of retrieval "
        f"on {bounds['texts']} texts; {choice.processor}.\n\n" + "\n".join(lines) + "\n<!-- /tessera tune -->"
    )
