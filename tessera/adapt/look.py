"""A look at a model: does it know these languages, what should be done that it does, and what would that cost here."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tessera.adapt.measure import Language, Measured, measure
from tessera.adapt.sample import read_sample
from tessera.adapt.verdict import Verdict, of_language, of_model
from tessera.progress import Silent, Watcher

ADAPTED_TOKENS = 1_000_000  # that continued training reads of a language, as `tessera adapt` does by default
TAUGHT_TOKENS = 20_000_000  # and what a language that a model does not know takes, at the least
_MASKED = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A model, what was measured of it, what to do about each language, and about all."""

    measured: Measured
    verdicts: tuple[Verdict, ...]  # of measured.languages
    verdict: Verdict
    hours: dict[str, float]  # of each step that the verdict names, on this machine

    def cut_small(self, languages: set[str]) -> list[str]:
        """Those of the languages that the vocabulary cuts small."""
        both = zip(self.measured.languages, self.verdicts, strict=True)
        return [one.language for one, said in both if "extend" in said.steps and one.language in languages]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        rows = [
            {**_row(language), "verdict": list(said.steps), "reasons": list(said.reasons), "doubts": list(said.doubts)}
            for language, said in zip(self.measured.languages, self.verdicts, strict=True)
        ]
        model = {key: value for key, value in asdict(self.measured).items() if key != "languages"}
        return {
            **model, "memory": self.measured.memory, "verdict": list(self.verdict.steps),
            "reasons": list(self.verdict.reasons), "hours": self.hours,
            "languages": rows,
        }  # fmt: skip


def look(
    model: str | Path,
    texts: list[str],
    *,
    language: str | None = None,
    column: str = "text",
    sample_bytes: int | None = None,
    watcher: Watcher | None = None,
) -> Look:
    """Looks at a model folder, or one of the Hub by its name, with text of one language or many.

    texts         files, folders, globs or URLs
    language      of text whose files do not say it; None: as it is identified
    sample_bytes  of each language that are read; None: 200 kB, less where there are many files

    Raises ValueError as `read_sample` and `measure`.
    """
    watcher = watcher or Silent()
    sample = read_sample(
        texts,
        language=language,
        column=column,
        most_bytes=sample_bytes,
        skip=True,
        on_progress=watcher.progress("text"),
    )
    for file, why in sample.skipped.items():
        watcher.warn(f"left out: {file}: {why}")
    for file, code in sample.unnamed.items():
        watcher.warn(
            f"{file}: does not say its language; it is read as {code}, which its text seems to be (--language)"
        )
    return judge(measure(model, sample, watcher))


def judge(measured: Measured) -> Look:
    """What to do about what was measured."""
    verdicts = tuple(of_language(one, measured) for one in measured.languages)
    whole = of_model(measured, verdicts)
    return Look(
        measured=measured, verdicts=verdicts, verdict=whole, hours=_hours(measured, verdicts, whole)
    )  # fmt: skip


def training_speed(measured: Measured) -> float:
    """Tokens a second of masked language modelling here, from the speed without a gradient: an estimate.

    A backward pass is twice a forward pass; the head scores 15% of the tokens with every row of the vocabulary.
    """
    layers = 2 * max(1, measured.parameters - measured.in_rows)
    head = 2 * measured.vocabulary * measured.width * _MASKED
    return measured.tokens_a_second * layers / (3 * (layers + head))


def _hours(measured: Measured, verdicts: tuple[Verdict, ...], whole: Verdict) -> dict[str, float]:
    speed = training_speed(measured)
    wanting = {step: sum(step in said.steps for said in verdicts) for step in whole.steps}
    price = {
        "use as it is": 0.0,
        "trim": 2 / 60,
        "extend": 1 / 60 * max(1, wanting.get("extend", 0)),
        "continue training": wanting.get("continue training", 0) * ADAPTED_TOKENS / speed / 3600,
        "teach from the start": wanting.get("teach from the start", 0) * TAUGHT_TOKENS / speed / 3600,
    }
    return {step: round(price[step], 3) for step in whole.steps}


def _row(language: Language) -> dict[str, Any]:
    row: dict[str, Any] = {
        "language": language.language,
        "identified": asdict(language.identified),
        "documents": language.documents,
        "bytes": language.bytes,
        "tokens_per_byte": language.tokens["tokens"] / max(1, language.tokens["bytes"]),
        **{key: language.tokens[key] for key in ("tokens_per_word", "unknown_share", "byte_fallback_share", "cost")},
        "used_tokens": language.used,
        "nearest": None
        if language.nearest is None
        else {"language": language.nearest[0], "share": language.nearest[1]},
        "surprise": language.surprise,
        "bits_per_byte": None,
    }
    if language.hidden is not None:
        value, low, high = (None if end != end else end for end in language.hidden.interval())
        row["bits_per_byte"] = {"value": value, "low": low, "high": high, "words": language.hidden.words}
    return row
