"""A run folder as values: what the report shows, read from the files that the run wrote.

Reading is forgiving, because a report may be asked for while the run is still writing: a file that is missing leaves
a gap, a line that is cut is left out, and both are said in `Run.notes`.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera import checksums
from tessera.files import read_json
from tessera.plan.loading import load
from tessera.plan.phase import Phase
from tessera.plan.recipe import Merge, Recipe
from tessera.results.result import HELD_OUT, Result, read_all

STEP_COLUMNS = (
    "step", "tokens", "tokens_read", "total_tokens", "loss", "learning_rate", "mask_ratio", "batch_tokens",
    "tokens_per_second", "mfu",
)  # fmt: skip
_LARGEST = 1e100  # of a number that can still be added up
NOT_LANGUAGES = frozenset({"code", "math"})
EVERYTHING, PSEUDO, UNREAD, UNSURE = "all languages", "code and math", "never read", "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one phase reads of one language. Shares are of the tokens of the phase."""

    planned: float
    read: float | None  # None: not known yet
    epochs: float | None
    available: float  # tokens at hand


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Held-out bits per byte in the middle of a phase."""

    total_tokens: float  # since the start of the run, along the chain of `from`
    bits: dict[str, float]  # by language


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseLog:
    """All that a phase has written so far."""

    phase: Phase
    origin: int  # tokens before its first step, along the chain of `from`
    steps: dict[str, list[float]]  # by the names of STEP_COLUMNS, of equal length; NaN where a line has no such value
    held_out: tuple[HeldOut, ...]
    mixture: dict[str, Reading]  # by language
    finished: bool

    @property
    def name(self) -> str:
        return self.phase.name

    @property
    def started(self) -> bool:
        return bool(self.steps["step"])

    @property
    def tokens(self) -> float:
        """Planned tokens read so far."""
        return self.steps["tokens"][-1] if self.started else 0.0

    @property
    def languages(self) -> list[str]:
        """Of which it reads something."""
        return [code for code, reading in self.mixture.items() if reading.planned > 0 or (reading.read or 0) > 0]

    @property
    def seconds(self) -> float:
        """Time spent in steps, which leaves out pauses between a stop and a resumption."""
        spent, before = 0.0, 0.0
        for tokens, speed in zip(self.steps["tokens_read"], self.steps["tokens_per_second"], strict=True):
            if speed > 0 and tokens > before:
                spent += (tokens - before) / speed
            before = tokens if tokens == tokens else before
        return spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run folder. Models are called by their stage: phases first, then merges, in the order of the recipe."""

    folder: Path
    recipe: Recipe
    recipe_text: str
    phases: tuple[PhaseLog, ...]
    merged: tuple[str, ...]  # merges that are finished
    results: tuple[Result, ...]
    notes: tuple[str, ...]
    vocab_size: int | None  # of the model; None where no phase has left one
    groups: dict[str, tuple[str, ...]]  # language groups, EVERYTHING first

    @property
    def models(self) -> list[str]:
        return [p.name for p in self.phases] + [m.name for m in self.recipe.merges]

    @property
    def names(self) -> list[str]:
        """The models of the run, then others that were evaluated beside them."""
        return list(dict.fromkeys([*self.models, *(r.model for r in self.results)]))

    @property
    def unfinished(self) -> list[str]:
        done = {p.name for p in self.phases if p.finished} | set(self.merged)
        return [name for name in self.models if name not in done]

    @property
    def available(self) -> dict[str, float]:
        """Tokens of training text at hand, by language."""
        found: dict[str, float] = {}
        for code, reading in (item for log in self.phases for item in log.mixture.items()):
            found[code] = max(found.get(code, 0.0), reading.available)
        return found

    def has_read(self, model: str) -> set[str] | None:
        """The languages that a model was trained on; None where that is not known: a phase says it when it ends."""
        inside = self.recipe.went_into(model)
        logs = [p for p in self.phases if p.name in inside]
        return {code for p in logs for code in p.languages} if logs and all(p.mixture for p in logs) else None

    def final_bits(self) -> tuple[dict[str, dict[str, float]], set[str]]:
        """Held-out bits per byte by model and language, and the models for which it is a sample taken in training."""
        bits = {
            r.model: {code: row["bits_per_byte"] for code, row in r.results.items() if "bits_per_byte" in row}
            for r in self.results
            if r.kind == HELD_OUT
        }
        sampled = {p.name: p.held_out[-1].bits for p in self.phases if p.held_out and p.name not in bits}
        return {m: {**bits, **sampled}[m] for m in self.names if m in bits or m in sampled}, set(sampled)

    def untrained_bits(self) -> dict[str, float]:
        """Bits per byte, by language, of a model that finds every token equally likely: nats are the logarithm of the
        vocabulary's size. Follows from any measurement of a language, which has nats and bits; {} where none has both.
        """
        if self.vocab_size is None:
            return {}
        rows = [item for r in self.results if r.kind == HELD_OUT for item in r.results.items()]
        return {
            code: row["bits_per_byte"] * math.log(self.vocab_size) / row["loss"]
            for code, row in rows
            if row.get("loss", 0) > 0 and "bits_per_byte" in row
        }


def parents_of(merge: Merge) -> tuple[str, ...]:
    """The phases whose weights a merge joins."""
    return merge.trained


def group_mean(values: dict[str, float], codes: tuple[str, ...]) -> float | None:
    """The mean over those languages of a group that have a value; every language counts once.

    Bitext results may be named by a pair (`fao_Latn-eng_Latn`): the side that is not English is its language.
    """
    members = set(codes)
    found = [value for code, value in values.items() if language_of(code) in members]
    return sum(found) / len(found) if found else None


def language_of(key: str) -> str:
    """`fao_Latn-eng_Latn` and `eng_Latn-fao_Latn` -> `fao_Latn`; anything else is a language already."""
    sides = key.split("-")
    if len(sides) != 2 or "" in sides:
        return key
    return next((side for side in sides if not side.startswith("eng")), sides[0])


def open_run(folder: Path) -> Run:
    """Reads a run folder. Raises ValueError where it is none, RecipeError where its recipe cannot be read."""
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        lack = "has no recipe.yaml" if folder.is_dir() else "does not exist"
        raise ValueError(f"{folder} {lack}, so it is no run folder; give the folder that `tessera run` wrote")
    recipe = load(folder / "recipe.yaml")
    notes: list[str] = []
    try:
        checksums.check_text(folder / "recipe.yaml")
    except checksums.Damaged as error:
        notes.append(str(error))
    phases = tuple(_phase(folder, phase, recipe, notes) for phase in recipe.phases)
    merged = tuple(m.name for m in recipe.merges if (folder / m.name / "final").exists())
    results = _results(folder / "evaluation", [p.name for p in recipe.phases] + [m.name for m in recipe.merges], notes)
    return Run(
        folder=folder,
        recipe=recipe,
        recipe_text=(folder / "recipe.yaml").read_text(encoding="utf-8"),
        phases=phases,
        merged=merged,
        results=results,
        notes=tuple(notes),
        vocab_size=_vocab_size(folder, recipe),
        groups=_groups(phases, results),
    )


def _vocab_size(folder: Path, recipe: Recipe) -> int | None:
    for phase in recipe.phases:
        config = _json(folder / phase.name / "final" / "config.json", [])
        size = config.get("vocab_size") if isinstance(config, dict) else None
        if isinstance(size, int) and size > 1:
            return size
    return None


def _groups(phases: tuple[PhaseLog, ...], results: tuple[Result, ...]) -> dict[str, tuple[str, ...]]:
    """Every language in the group of the phase that reads it first, in the order of the recipe."""
    groups: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, log in enumerate(phases):
        new = [code for code in log.languages if code not in seen]
        seen.update(new)
        spoken = [code for code in new if code not in NOT_LANGUAGES]
        if spoken:
            groups[f"from {log.name}" if number == 0 else f"added in {log.name}"] = spoken
    measured = {code for log in phases for event in log.held_out for code in event.bits}
    measured |= {language_of(code) for result in results for code in result.results}
    if seen and (unread := sorted(measured - seen - NOT_LANGUAGES)):
        groups[UNREAD if all(log.mixture for log in phases) else UNSURE] = unread
    spoken = sorted((seen | measured) - NOT_LANGUAGES)
    pseudo = sorted((seen | measured) & NOT_LANGUAGES)
    everything = {EVERYTHING: spoken, **(groups if len(groups) > 1 else {}), PSEUDO: pseudo}
    return {name: tuple(codes) for name, codes in everything.items() if codes}


def _phase(folder: Path, phase: Phase, recipe: Recipe, notes: list[str]) -> PhaseLog:
    finished = (folder / phase.name / "final").exists()
    steps: dict[str, list[float]] = {column: [] for column in STEP_COLUMNS}
    held_out: list[HeldOut] = []
    for line in _lines(folder / phase.name / "metrics.jsonl", finished, notes):
        if line.get("kind", "step") == "held_out":
            # A resumed run writes the steps since its last checkpoint again: what comes later is what counts.
            while held_out and held_out[-1].total_tokens >= _number(line.get("total_tokens")):
                held_out.pop()
            rows = line.get("languages")
            rows = rows if isinstance(rows, dict) else {}
            bits = {code: _number(row.get("bits_per_byte")) for code, row in rows.items() if isinstance(row, dict)}
            finite = {code: value for code, value in bits.items() if math.isfinite(value)}
            held_out.append(HeldOut(total_tokens=_number(line.get("total_tokens")), bits=finite))
        elif "step" in line and line.get("kind", "step") == "step":  # not what was skipped or rolled back
            while steps["step"] and steps["step"][-1] >= _number(line["step"]):
                for column in steps.values():
                    column.pop()
            for name, column in steps.items():
                column.append(_number(line.get(name)))
    return PhaseLog(
        phase=phase,
        origin=sum(recipe.phase(parent).tokens for parent in recipe.chain(phase.name)[:-1]),
        steps=steps,
        held_out=tuple(e for e in held_out if e.bits and math.isfinite(e.total_tokens)),
        mixture=_mixture(folder / phase.name / "mixture.json", notes),
        finished=finished,
    )


def _lines(path: Path, finished: bool, notes: list[str]) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        if finished:
            notes.append(f"{_short(path)} is missing, though the phase is finished")
        return
    try:
        checksums.check(path)
    except checksums.Damaged as error:
        notes.append(f"{error}; shown as it stands")
    bad: list[int] = []
    number = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, text in enumerate(lines, 1):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            if isinstance(line, dict):
                yield line
            elif text.strip():
                bad.append(number)
    if bad == [number] and not finished:
        notes.append(f"the last line of {_short(path)} is cut: the run was writing it, or was stopped while it did")
    elif bad:
        notes.append(f"{_short(path)}: {len(bad)} unreadable line(s) left out, the first is line {bad[0]}")


def _mixture(path: Path, notes: list[str]) -> dict[str, Reading]:
    """Buckets of one language added up: its sources and its quality tiers."""
    rows: dict[str, list[dict[str, Any]]] = {}
    given = _json(path, notes)
    buckets = given.get("buckets") if isinstance(given, dict) else None
    for bucket in buckets if isinstance(buckets, list) else ():
        if isinstance(bucket, dict) and isinstance(bucket.get("language"), str):
            rows.setdefault(bucket["language"], []).append(bucket)
    mixture = {}
    for code, parts in rows.items():
        available = sum(_finite(p.get("tokens_available")) for p in parts)
        planned = [_finite(p.get("tokens_planned")) for p in parts]
        read = [p["share_read"] for p in parts if p.get("share_read") is not None]
        mixture[code] = Reading(
            planned=sum(_finite(p.get("share_planned")) for p in parts),
            read=sum(_finite(share) for share in read) if read else None,
            epochs=sum(planned) / available if available else None,
            available=available,
        )
    return mixture


def _results(folder: Path, order: list[str], notes: list[str]) -> tuple[Result, ...]:
    found, left_out = read_all(folder)
    notes += [f"{folder.name}/{line}" for line in left_out]
    position = {name: number for number, name in enumerate(order)}
    last = len(order)
    return tuple(
        sorted(found.values(), key=lambda r: (r.kind != HELD_OUT, r.task, position.get(r.model, last), r.model))
    )


def _json(path: Path, notes: list[str]) -> Any:
    if not path.is_file():
        return None
    try:
        return read_json(path)
    except checksums.Damaged as error:
        notes.append(f"{_short(path)}{str(error).removeprefix(str(path))}; left out".replace(": is not", " is not", 1))
        return None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        return math.nan
    return float(value)


def _finite(value: Any) -> float:
    number = _number(value)
    return number if math.isfinite(number) else 0.0


def _short(path: Path) -> str:
    """The file within its run, e.g. `mid/metrics.jsonl`."""
    return f"{path.parent.name}/{path.name}"
