"""Verdicts on a model and a language: use as it is, trim, extend, continue training, or teach from the start.

Rules of thumb, each with what was measured, and what was not; `docs/adapt.md` says where the bounds come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tessera.adapt.measure import LOST, Language, Measured

Step = Literal["use as it is", "trim", "extend", "continue training", "teach from the start"]
STEPS: tuple[Step, ...] = ("use as it is", "trim", "extend", "continue training", "teach from the start")

COSTLY = 1.5  # tokens beside the best-served language, for the same information
CUT = 0.05  # of the tokens are bytes in place of a character
SMALL_INFORMATION = 11.0  # bits of letters in a token, where there is no other language to compare with
KNOWN, UNKNOWN = 0.6, 1.0  # of the bits that guessing by letters costs; see Language.surprise
BESIDE = 1.25  # times the surprise of the language that is known best: known as well as that
SPARE = 0.5  # of the rows are used: the others are worth leaving out ...
_HEAVY = 0.25  # ... where the rows are so much of the model
LITTLE_BYTES, LITTLE_DOCUMENTS, LITTLE_WORDS = 20_000, 10, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do about one language, or about the model.

    steps    in the order in which they are done
    reasons  what was measured and speaks for it
    doubts   what was not, or on too little
    """

    steps: tuple[Step, ...]
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.steps)


def of_language(language: Language, measured: Measured) -> Verdict:
    """What to do that this model may serve this language."""
    steps: list[Step] = []
    reasons = _cut_small(language, measured.languages)
    if reasons:
        steps.append("extend")
    learning = _unknown(language, measured.languages)
    if learning is not None:
        step, why = learning
        reasons += [why]
        steps += [step] if step != "use as it is" else []
    return Verdict(
        steps=tuple(steps) or ("use as it is",), reasons=tuple(reasons), doubts=tuple(_doubts(language, measured))
    )


def of_model(measured: Measured, verdicts: Sequence[Verdict]) -> Verdict:
    """What to do with the model for all of these languages: what any of them needs, and whether rows are spared."""
    wanted = {step for verdict in verdicts for step in verdict.steps}
    reasons = []
    used, heavy = measured.needed / measured.vocabulary, measured.in_rows / measured.parameters
    if used < SPARE and heavy > _HEAVY:
        wanted.add("trim")
        less = measured.in_rows * (1 - used)
        reasons.append(
            f"these languages use {measured.needed:,} of {measured.vocabulary:,} rows by this sample; the others are "
            f"{less / 1e6:.1f}M of {measured.parameters / 1e6:.1f}M parameters (trim, if you read no other language)"
        )
    if "teach from the start" in wanted:
        wanted.discard("continue training")
    if wanted != {"use as it is"}:
        wanted.discard("use as it is")
    return Verdict(steps=tuple(step for step in STEPS if step in wanted), reasons=tuple(reasons), doubts=())


def _cut_small(language: Language, all_: Sequence[Language]) -> list[str]:
    """Why the vocabulary does not serve a language; nothing where it does."""
    row, best = language.tokens, all_[0]
    found = []
    if row["unknown_share"] > LOST:
        found.append(f"{row['unknown_share']:.1%} of its tokens stand for what the vocabulary cannot write")
    if row["byte_fallback_share"] > CUT:
        found.append(f"{row['byte_fallback_share']:.0%} of its tokens are bytes in place of a character")
    information = row["information"] / max(1, row["tokens"])
    if best.language != language.language:
        if row["cost"] >= COSTLY:
            found.append(
                f"it takes {row['cost']:.2f} times the tokens of {best.language} for the same information "
                f"({row['tokens_per_word']:.2f} a word)"
            )
    elif information < SMALL_INFORMATION:
        found.append(
            f"a token holds {information:.1f} bits of its letters ({row['tokens_per_word']:.2f} tokens a word); where "
            f"a vocabulary serves a language it is {SMALL_INFORMATION:.0f} and more"
        )
    return found


def _unknown(language: Language, all_: Sequence[Language]) -> tuple[Step, str] | None:
    """Whether the model knows a language, and why; None where that cannot be measured."""
    if language.surprise is None:
        return None
    known = min((one.surprise, one.language) for one in all_ if one.surprise is not None)
    bound = max(KNOWN, BESIDE * known[0]) if len(all_) > 1 else KNOWN
    share = f"hidden words cost {language.surprise:.0%} of the bits that letters by their frequency do"
    if language.surprise >= UNKNOWN:
        return "teach from the start", f"{share}: it knows next to nothing of this language"
    if language.surprise <= bound:
        beside = f", of {known[1]} {known[0]:.0%}" if known[1] != language.language else ""
        return "use as it is", f"{share}{beside}: it knows this language"
    beside = f", of {known[1]} {known[0]:.0%}" if known[1] != language.language else ""
    return "continue training", f"{share}{beside}: it knows this language in part"


def _doubts(language: Language, measured: Measured) -> list[str]:
    """What a verdict does not rest on."""
    found = []
    if language.bytes < LITTLE_BYTES or language.documents < LITTLE_DOCUMENTS:
        found.append(f"little text: {language.documents:,} documents, {language.bytes / 1000:.0f} kB")
    if measured.no_head is not None:
        found.append(
            "the model has no masked-language-model head, so whether it knows the language was not measured; a task "
            "would tell (tessera evaluate)"
        )
    elif language.hidden is not None and language.hidden.words < LITTLE_WORDS:
        found.append(f"only {language.hidden.words:,} words were hidden")
    if len(measured.languages) == 1:
        found.append("no other language to compare with: give text of one the model serves well")
    seems = language.identified
    if seems.language is not None and seems.language[:3] != language.language[:3] and seems.share >= 0.5:
        found.append(f"the text looks like {seems.language} ({seems.share:.0%} of its passages)")
    return found
