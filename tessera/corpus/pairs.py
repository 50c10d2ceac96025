"""Parallel pairs (translations) as training documents: which are fit, and how two texts become one, both ways."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera.corpus.documents import Pair
from tessera.tokenizer.tokenizer import Tokenizer

MAX_LENGTH_RATIO = 6.0  # of UTF-8 bytes after scripts are accounted for: Thai is three bytes a letter, English one
_FREE_BYTES = 60  # short sentences of a pair differ by chance


class JoinedPair(NamedTuple):
    """The two sides of a parallel pair that become one document, in one direction; it counts for `language`."""

    first: str
    second: str
    language: str


def why_not_pair(pair: Pair) -> str | None:
    """The reason why a pair is not trained on, or None.

    Lengths are compared in characters weighted by what one carries: a Chinese character counts as three letters.
    """
    if pair.source_language == pair.target_language:
        return "both sides in one language"
    if pair.source_text.strip() == pair.target_text.strip():
        return "both sides are the same text"
    short, long = sorted((_weight(pair.source_text), _weight(pair.target_text)))
    if long + _FREE_BYTES > MAX_LENGTH_RATIO * (short + _FREE_BYTES):
        return f"one side more than {MAX_LENGTH_RATIO:g} times as long as the other"
    return None


def directions(pair: Pair) -> Iterator[JoinedPair]:
    """Both orders of a pair: to English and from English, or either way round between two other languages.

    Both count for the side that is not English; where there is none, each counts for the side it leads to.
    Source: `src<|parallel_sep|>tgt`, to English and from English, EuroBERT, arXiv:2503.05500, 2.2.
    """
    sides = ((pair.source_language, pair.source_text), (pair.target_language, pair.target_text))
    others = [language for language, _ in sides if language != "eng" and not language.startswith("eng_")]
    for (_, first), (language, second) in (sides, sides[::-1]):
        yield JoinedPair(first, second, others[0] if len(others) == 1 else language)


def join_pair(first: NDArray[np.int32], second: NDArray[np.int32], tokenizer: Tokenizer) -> NDArray[np.int32]:
    """One document of two texts' plain ids: template start, first, separator, second, template end.

    The separator is the tokenizer's `<|parallel_sep|>`, or its end-of-text token where it has none.
    """
    start, end = tokenizer.template
    separator = tokenizer.eos_id if tokenizer.separator_id is None else tokenizer.separator_id
    return np.concatenate([np.array(part, dtype=np.int32) for part in (start, first, [separator], second, end)])


def _weight(text: str) -> int:
    return len(text) + 2 * sum("\u2e80" <= c <= "\ud7ff" or "\U00020000" <= c <= "\U0003ffff" for c in text)
