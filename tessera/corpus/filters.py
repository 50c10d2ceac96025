"""Quality filtering by rules: drops texts that are too short or too long, that repeat themselves, that are in another
language or script than they are said to be, or that hold a passage of an evaluation set.

Each rule has one reason, the same for every document, so that reasons can be counted. The rules that cost least come
first, and the first that applies gives the reason.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.corpus import decontaminate, language_id
from tessera.data.hashing import GOLDEN
from tessera.data.languages import CHARACTERS_A_WORD, code_points, has_spaces, other_script, script_of
from tessera.plan.corpus import Filters, Repetition

JUDGED_WORDS = 50  # shorter documents repeat by chance; MassiveText, whose thresholds these are, has none
JUDGED_CHARACTERS = JUDGED_WORDS * CHARACTERS_A_WORD  # where words have no spaces between them

_READ = 1_000  # characters that say what script a text is in
_FOURTH_POWER = np.uint64(pow(0x9E3779B97F4A7C15, CHARACTERS_A_WORD, 2**64))

Hashes = NDArray[np.uint64]


class Filter:
    """The rules of a corpus. Small when it is sent to another process: what is heavy is loaded there, at first use."""

    def __init__(self, filters: Filters) -> None:
        """Raises ValueError or ImportError for what the rules need and is not there."""
        self.filters = filters
        self._sets: decontaminate.Sets = ()
        if filters.contamination is not None:
            self._sets = decontaminate.found_files(filters.contamination)
        if filters.language is not None:
            language_id.check(filters.language.model)

    @property
    def fingerprint(self) -> str:
        """Another one, other decisions: of the rules, the evaluation files and the identifier."""
        parts: list[Any] = [self.filters.model_dump(mode="json")]
        parts += [[name, [file.stamp for file in found]] for name, found in self._sets]
        if (language := self.filters.language) is not None:
            if language.model == language_id.PY3LANGID:
                parts.append(importlib.metadata.version(language.model))
            else:
                with Path(language.model).expanduser().open("rb") as file:
                    parts.append(hashlib.file_digest(file, "sha256").hexdigest())
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def why_not(self, text: str, language: str) -> str | None:
        """Why a text that is said to be in this language is not wanted; None where it is."""
        rules, words = self.filters, None
        length = len(text.strip())
        if length < rules.min_characters:
            return _counted("fewer than", rules.min_characters, "character")
        if rules.max_characters is not None and length > rules.max_characters:
            return _counted("more than", rules.max_characters, "character")
        if has_spaces(language) and (rules.min_words is not None or rules.repetition is not None):
            words = text.split()
            if rules.min_words is not None and len(words) < rules.min_words:
                return _counted("fewer than", rules.min_words, "word")
        reason = self._other_script(text, language)
        if reason is None and rules.repetition is not None:
            reason = repeats(text, words, rules.repetition)
        if reason is None and rules.language is not None and length >= rules.language.min_characters:
            judge = language_id.identifier(rules.language.model)
            other = judge.other_language(text.lstrip(), language, rules.language.min_probability)
            if other is not None:
                reason = f"{judge.name}: surely {other}, not {language if '_' in other else language[:3]}"
        if reason is None and rules.contamination is not None:
            reason = decontaminate.load(self._sets, rules.contamination.n_gram).why_not(text)
        return reason

    def _other_script(self, text: str, language: str) -> str | None:
        check, script = self.filters.language, script_of(language)
        if check is None or script is None:
            return None
        other = other_script(
            text[:_READ], script, min_share=check.min_probability, min_letters=min(check.min_characters, _READ)
        )
        return None if other is None else f"{other} script, not {script}"


def repeats(text: str, words: Sequence[str] | None, limits: Repetition) -> str | None:
    """How a text repeats itself more than is let through; None where it does not.

    words  of the text; None where they have no spaces between them: n words in a row are then 4 x n characters

    A line is repeated where the document had it before; white space around it does not count. The commonest n words are
    those that occur most often, the longest of them where several do; their share is of all characters that are not
    white space, and occurrences that overlap count each. Documents of fewer than 50 words (200 characters) are not
    judged: a text of four words would repeat a quarter of itself by saying one of them twice.
    """
    if words is not None and len(words) < JUDGED_WORDS:
        return None
    solid = "".join(text.split()) if words is None else ""
    if words is None and len(solid) < JUDGED_CHARACTERS:
        return None
    reason = _repeated_lines(text, limits)
    if reason is not None:
        return reason
    if words is None:
        return _commonest_characters(code_points(solid).astype(np.uint64), limits)
    return _commonest_words(words, limits)


def _repeated_lines(text: str, limits: Repetition) -> str | None:
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    different = set(lines)
    repeated = len(lines) - len(different)
    if repeated > limits.lines * len(lines):
        return f"more than {_percent(limits.lines)} of its lines are repeated"
    if repeated:
        characters = sum(map(len, lines))
        if characters - sum(map(len, different)) > limits.line_characters * characters:
            return f"more than {_percent(limits.line_characters)} of its characters are in repeated lines"
    return None


def _commonest_words(words: Sequence[str], limits: Repetition) -> str | None:
    hashes = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)
    ends = np.zeros(len(words) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, words), dtype=np.int64, count=len(words)), out=ends[1:])
    grams, count, characters = hashes, len(words), int(ends[-1])
    for n, limit in ((2, limits.top_2_gram), (3, limits.top_3_gram), (4, limits.top_4_gram)):
        grams = grams[:-1] * GOLDEN + hashes[n - 1 :]
        lengths = ends[n:] - ends[:-n]
        longest, allowed = int(lengths.max()), limit * characters
        if count * longest <= allowed:
            continue  # more words in a row do not occur more often than fewer
        in_order = np.sort(grams)
        count, where = _commonest(in_order)
        if count == 1:
            return None
        if count * longest > allowed:
            longest = int(lengths[np.isin(grams, in_order[where])].max())
            if count * longest > allowed:
                return f"its commonest {n} words in a row are more than {_percent(limit)} of it"
    return None


def _commonest_characters(codes: Hashes, limits: Repetition) -> str | None:
    fours = codes
    for shift in range(1, CHARACTERS_A_WORD):
        fours = fours[:-1] * GOLDEN + codes[shift:]
    grams, count = fours, len(codes)
    for n, limit in ((2, limits.top_2_gram), (3, limits.top_3_gram), (4, limits.top_4_gram)):
        characters = n * CHARACTERS_A_WORD
        grams = grams[:-CHARACTERS_A_WORD] * _FOURTH_POWER + fours[characters - CHARACTERS_A_WORD :]
        allowed = limit * len(codes)
        if count * characters <= allowed:
            continue
        count, _ = _commonest(np.sort(grams))
        if count == 1:
            return None
        if count * characters > allowed:
            return f"its commonest {characters} characters in a row are more than {_percent(limit)} of it"
    return None


def _commonest(in_order: Hashes) -> tuple[int, NDArray[np.intp]]:
    """How often the commonest occur, and where each of them begins."""
    edges = np.flatnonzero(in_order[1:] != in_order[:-1]) + 1
    edges = np.concatenate(([0], edges, [len(in_order)]))
    counts = edges[1:] - edges[:-1]
    count = int(counts.max())
    return count, edges[:-1][counts == count]


def _counted(how: str, n: int, what: str) -> str:
    return f"{how} {n:,} {what}{'' if n == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:g}%"
