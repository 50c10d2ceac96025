"""Token frequencies of each language, and the vocabulary entries to keep: by coverage, by count or by size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera.progress import Progress, silent
from tessera.tokenizer.tokenizer import Tokenizer

_AT_ONCE = 2_000  # texts
Counts = dict[str, NDArray[np.int64]]  # [vocab_size] of each language


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which of the tokens that a text uses are kept; one of three. Checks itself.

    coverage   of each language the most frequent tokens that make up this share of its text, in (0, 1]
    min_count  all tokens that come so often, in all languages together
    size       so many rows in all: the tokens that make up most of the text of any language

    Without any of them coverage is 0.9999.

    scripts  besides, all entries of these scripts, as Taml: where a vocabulary has few of a script, none is missed
    prior    of size: what a piece's own probability in a Unigram vocabulary weighs beside its share of the text. It was
             learnt on more and other text than is at hand, of all languages at once, which it does not tell apart
    """

    coverage: float | None = None
    min_count: int | None = None
    size: int | None = None
    scripts: tuple[str, ...] = ()
    prior: float = 0.0

    def __post_init__(self) -> None:
        given = [name for name in ("coverage", "min_count", "size") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; rows are kept by one of coverage, min_count and size")
        if not given:
            object.__setattr__(self, "coverage", 0.9999)
        if self.coverage is not None and not 0.0 < self.coverage <= 1.0:
            raise ValueError(f"coverage is {self.coverage}; it is a share of the text, so above 0 and at most 1")
        if self.min_count is not None and self.min_count < 1:
            raise ValueError(f"min_count is {self.min_count}; give a number from 1 on")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is {self.size}; give the rows that are wanted, e.g. 32768")
        if not 0.0 <= self.prior < float("inf"):
            raise ValueError(f"prior is {self.prior}; it is a weight beside that of the text, so 0 or more, e.g. 0.3")
        if self.prior and self.size is None:
            raise ValueError("prior is given without size; it says which rows are taken where only so many are")

    def __str__(self) -> str:
        whole = f", all of {', '.join(self.scripts)}" if self.scripts else ""
        whole = f", prior {self.prior:g}{whole}" if self.prior else whole
        if self.coverage is not None:
            return f"coverage {self.coverage:g} of each language{whole}"
        return (f"min_count {self.min_count}" if self.min_count is not None else f"size {self.size}") + whole

    def wanted(self, counts: Counts, own: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
        """Ids by worth, the most wanted first; of `size`, all that are used: the caller takes as many as fit.

        own  [vocab_size], the probability of each piece, for `prior`
        """
        worth = np.max([row / max(1, row.sum()) for row in counts.values()], axis=0)
        if own is not None:
            worth = worth + self.prior * own
        order = np.lexsort((np.arange(len(worth)), -worth))
        total = np.sum(list(counts.values()), axis=0)
        if self.coverage is not None:
            kept = np.zeros(len(worth), np.bool_)
            for row in counts.values():
                kept[covering(row, self.coverage)] = True
        elif self.min_count is not None:
            kept = total >= self.min_count
        else:
            kept = worth > 0
        return order[kept[order]]


def covering(counts: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The most frequent tokens that together are at least `share` of all; those that are as frequent as the last too.

    counts  [V]
    """
    order = np.argsort(-counts, kind="stable")
    running = counts[order].cumsum()
    if not len(running) or not running[-1]:
        return order[:0]
    needed = int(np.searchsorted(running, share * running[-1] * (1 - 1e-12))) + 1
    least = max(1, counts[order[min(needed, len(order)) - 1]])
    return np.flatnonzero(counts >= least)


def count(tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]], on_progress: Progress = silent) -> Counts:
    """How often each token comes in the text of each language, without special tokens."""
    total, done = sum(map(len, texts.values())), 0
    counts = {}
    for language, some in texts.items():
        found = np.zeros(tokenizer.vocab_size, np.int64)
        for start in range(0, len(some), _AT_ONCE):
            part = some[start : start + _AT_ONCE]
            found += np.bincount(np.concatenate(tokenizer.encode_plain(part)), minlength=tokenizer.vocab_size)
            done += len(part)
            on_progress(done, total, f"counting the tokens of {language}")
        counts[language] = found
    return counts
