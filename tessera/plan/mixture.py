"""Which share of a phase's tokens comes from which bucket: fixed shares, temperature, caps on repetition.

A bucket is the smallest thing that has a share: one quality tier of one language of one source.
"""

import difflib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tessera.plan.recipe import Largest, Mixture, at


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Documents of one source, one language and one tier that lie in a row in the token store."""

    source: str
    language: str
    tier: int | None = None  # 1 (worst) to 4; None where the source has no tiers
    tokens: int
    documents: int
    bytes: int  # of UTF-8 text

    @property
    def key(self) -> str:
        """`web/fao_Latn`, or `web/fao_Latn@3` where the source has tiers."""
        return f"{self.source}/{self.language}" + ("" if self.tier is None else f"@{self.tier}")


def shares(mixture: Mixture, buckets: Sequence[Bucket]) -> list[float]:
    """The share of tokens that each bucket gets, before any cap on repetition; they sum to 1.

    1. Buckets of tiers that `mixture.tiers` leaves out get nothing; sources without tiers are not touched by it.
    2. `mixture.shares`: a bucket belongs to the most specific key that matches it (`web/eng_Latn`, then the source
       `web`, then the language `eng_Latn`); the buckets of one key divide its share in proportion to their tokens.
       Of a source that holds selected languages only these are read: pairs of a language enter with the language.
    3. What is left goes to the selected languages among the other buckets, language l in proportion to
       n_l ** temperature, n_l its tokens in those buckets; the buckets of a language divide by tokens again.
       `largest: n` selects the n languages with most such tokens, or all where there are fewer.

    Fixed shares may miss 1 by 0.001 where no bucket is left to take the rest; they are then scaled.
    Where the mixture moves (see plan/course.py) these are the shares as the phase begins.
    Raises ValueError where a key or a language matches nothing, or where nothing can take what is left.
    Source: exponent on sizes, Conneau et al. 2020, arXiv:1911.02116, 3.1; mmBERT, arXiv:2509.06888, 3.
    """
    return ResolvedMixture(mixture, buckets).shares(0.0, 0)


class ResolvedMixture:
    """A mixture on the text at hand: who divides what, settled once; the shares at any moment of a phase.

    Raises ValueError where a key or a language matches nothing.
    """

    def __init__(self, mixture: Mixture, buckets: Sequence[Bucket]) -> None:
        readable = _of_tiers(mixture, buckets)
        owner = _owners(mixture, buckets)
        self.mixture, self.buckets = mixture, buckets
        self.fixed: dict[str, list[int]] = {key: [] for key in mixture.shares}  # buckets of each fixed share
        free: dict[str, list[int]] = {}
        for i in readable:
            if (key := owner[i]) is not None:
                self.fixed[key].append(i)
            else:
                free.setdefault(buckets[i].language, []).append(i)
        languages = _selected(mixture, buckets, free)
        for key, found in self.fixed.items():
            named = mixture.languages if isinstance(mixture.languages, tuple) else languages
            members = found if mixture.languages == "all" else _of_languages(named, key, found, buckets)
            if not members and max(at(mixture.shares[key], 0), at(mixture.shares[key], 1)) > 0:
                why = f"tiers {list(mixture.tiers or ())} leave it nothing, or more specific keys take all of it"
                raise ValueError(f"shares: {key!r} has a share of {mixture.shares[key]:g} but no tokens to read; {why}")
            self.fixed[key] = members
        self.free = {language: free[language] for language in languages}  # buckets of each selected language
        _check_entries(mixture, buckets)
        self._present: tuple[frozenset[str], dict[str, _Members], dict[str, _Members]] | None = None

    def shares(self, progress: float, tokens: float) -> list[float]:
        """The shares once a part `progress` of the phase, `tokens` planned tokens, is read.

        A language that enters later is as if it were not there; a fixed share that has only such languages is left to
        the others until then.
        """
        values = {key: at(share, progress) for key, share in self.mixture.shares.items()}
        fixed, free = self._there(tokens)
        result = [0.0] * len(self.buckets)
        for key, members in fixed.items():
            members.divide(values[key], result)
        rest = 1.0 - sum(value for key, value in values.items() if key in fixed or not self.fixed[key])
        if free and rest > 1e-9:
            temperature = at(self.mixture.temperature, progress)
            largest = max(members.tokens for members in free.values())
            weights = [(members.tokens / largest) ** temperature for members in free.values()]
            whole = math.fsum(weights)
            for members, weight in zip(free.values(), weights, strict=True):
                members.divide(rest * weight / whole, result)
        elif rest > 1e-3:
            raise ValueError(
                f"shares add up to {1 - rest:.4f} and no selected language is left to take the other {rest:.4f}; "
                "raise the shares to 1 or select languages that they do not name"
            )
        total = math.fsum(result)
        return [share / total for share in result]

    def _there(self, tokens: float) -> tuple[dict[str, "_Members"], dict[str, "_Members"]]:
        """The members of each fixed share and of each free language that have entered by then, where there are any."""
        absent = frozenset(language for language, entry in self.mixture.entries.items() if entry > tokens)
        if self._present is None or self._present[0] != absent:
            fixed, free = (
                {name: _Members(there, self.buckets) for name, members in group.items()
                 if (there := [i for i in members if self.buckets[i].language not in absent])}
                for group in (self.fixed, self.free)
            )  # fmt: skip
            self._present = absent, fixed, free
        return self._present[1:]


class _Members:
    """Buckets that divide one share by their tokens."""

    def __init__(self, members: Sequence[int], buckets: Sequence[Bucket]) -> None:
        self.parts = [(i, buckets[i].tokens) for i in members]
        self.tokens = sum(tokens for _, tokens in self.parts)

    def divide(self, share: float, result: list[float]) -> None:
        for i, tokens in self.parts:
            result[i] = share * tokens / self.tokens


def cap(shares: Sequence[float], available: Sequence[float], total_tokens: int, max_epochs: float) -> list[float]:
    """Shares with which no bucket is read more than `max_epochs` times in a phase of `total_tokens` tokens.

    shares      of the buckets, sum 1
    available   tokens of the buckets

    Water-filling: a bucket that would be read too often keeps max_epochs * available / total_tokens, and what it
    loses goes to the others in proportion to their shares, until nobody is above the limit.

    Raises ValueError where all buckets together cannot fill the phase.
    """
    limits = [max_epochs * tokens / total_tokens for tokens in available]
    possible = math.fsum(limit for share, limit in zip(shares, limits, strict=True) if share > 0)
    if possible < 1 - 1e-9:
        raise ValueError(
            f"max_epochs: {max_epochs:g} epochs of all that is read are {int(possible * total_tokens)} tokens, "
            f"but the phase has {total_tokens}; raise max_epochs, shorten the phase or add text"
        )
    # The bucket whose limit is smallest beside its share fills first; once one fits under the water, all later ones do.
    order = sorted((i for i, share in enumerate(shares) if share > 0), key=lambda i: limits[i] / shares[i])
    result = [0.0] * len(shares)
    dry = list(itertools.accumulate(shares[i] for i in reversed(order)))[::-1]  # what stands from each place on
    left = 1.0
    for place, i in enumerate(order):
        if shares[i] * left <= limits[i] * dry[place]:
            for j in order[place:]:
                result[j] = shares[j] * left / dry[place]
            break
        result[i] = limits[i]
        left -= limits[i]
    return result


def _of_tiers(mixture: Mixture, buckets: Sequence[Bucket]) -> list[int]:
    with_text = [i for i, bucket in enumerate(buckets) if bucket.tokens > 0]
    if not with_text:
        raise ValueError("there is no text: every bucket of the token store is empty")
    if mixture.tiers is None:
        return with_text
    known = sorted({b.tier for b in buckets if b.tier is not None})
    if not set(mixture.tiers) & set(known):
        have = f"tiers {known}" if known else "no tiers; give a source `tiers` and `columns.quality`"
        raise ValueError(f"tiers: {list(mixture.tiers)} are asked for, but the text has {have}")
    return [i for i in with_text if buckets[i].tier is None or buckets[i].tier in mixture.tiers]


def _owners(mixture: Mixture, buckets: Sequence[Bucket]) -> list[str | None]:
    """The key of `mixture.shares` that each bucket belongs to."""
    names = {name for b in buckets for name in (b.source, b.language, f"{b.source}/{b.language}")}
    for key in mixture.shares:
        if key not in names:
            raise ValueError(f"shares: {key!r} is no source, language or source/language; {_did_you_mean(key, names)}")
    return [
        next((name for name in (f"{b.source}/{b.language}", b.source, b.language) if name in mixture.shares), None)
        for b in buckets
    ]


def _selected(mixture: Mixture, buckets: Sequence[Bucket], free: dict[str, list[int]]) -> list[str]:
    """The languages that share what the fixed shares leave, in the order of `free` or of the recipe."""
    if mixture.languages == "all":
        return list(free)
    if isinstance(mixture.languages, Largest):
        by_size = sorted(free, key=lambda name: (-sum(buckets[i].tokens for i in free[name]), name))
        return by_size[: mixture.languages.largest]
    known = {bucket.language for bucket in buckets}
    for language in mixture.languages:
        if language not in known:
            missing = [name for name in mixture.languages if name not in known]
            raise ValueError(f"languages: there is no text in {', '.join(missing)}; {_did_you_mean(language, known)}")
    return [language for language in dict.fromkeys(mixture.languages) if language in free]


def _of_languages(selected: Sequence[str], key: str, members: list[int], buckets: Sequence[Bucket]) -> list[int]:
    """The members of a source's share in selected languages; all of them where it holds none of these."""
    if any(buckets[i].source != key for i in members):
        return members
    within = [i for i in members if buckets[i].language in selected]
    return within or members


def _check_entries(mixture: Mixture, buckets: Sequence[Bucket]) -> None:
    known = {bucket.language for bucket in buckets}
    for language in mixture.entries:
        if language not in known:
            raise ValueError(f"entries: there is no text in {language!r}; {_did_you_mean(language, known)}")


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    few = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"did you mean {close[0]!r}?" if close else f"known are {few}"
