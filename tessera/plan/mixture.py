"""The data mixture and its curriculum: which share of a phase's tokens comes from which bucket, and when.

Shares are fixed or follow a temperature; they may move within the phase (annealing), languages may enter later, and a
cap on epochs holds over all of it. A bucket is the smallest thing that has a share: one quality tier of one language of
one source.

A phase whose mixture moves is cut into 512 stretches of planned tokens, and cut again where a language enters. Over a
stretch the shares stand still, at the value of its middle, so that the tokens planned of a bucket are a polygon:
nothing depends on the machine, and the position in each bucket at any token is one interpolation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import mul

from tessera.plan.corpus import Bucket
from tessera.plan.errors import did_you_mean
from tessera.plan.fields import Largest, at
from tessera.plan.phase import Mixture, Phase

STRETCHES = 512
_NOTHING = 1e-300  # share of a moment: what lifts less than this to a whole is no finite number


class TooLittleTextError(ValueError):
    """Text that cannot fill a phase without being read too often: the tokens that are possible, and those asked for."""

    def __init__(self, message: str, possible: float, total: int) -> None:
        super().__init__(message)
        self.possible, self.total = possible, total


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
    Where the mixture moves these are the shares as the phase begins.
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
        named = mixture.languages if isinstance(mixture.languages, tuple) else [*languages, *self._with_a_share()]
        for key, found in self.fixed.items():
            members = found if mixture.languages == "all" else _of_languages(named, key, found, buckets)
            if not members and max(at(mixture.shares[key], 0), at(mixture.shares[key], 1)) > 0:
                why = f"tiers {list(mixture.tiers or ())} leave it nothing, or more specific keys take all of it"
                raise ValueError(f"shares: {key!r} has a share of {mixture.shares[key]:g} but no tokens to read; {why}")
            self.fixed[key] = members
        self.free = {language: free[language] for language in languages}  # buckets of each selected language
        known = {bucket.language for bucket in buckets}
        for language in mixture.entries:
            if language not in known:
                raise ValueError(f"entries: there is no text in {language!r}; {did_you_mean(language, known)}")
        self._present: tuple[frozenset[str], dict[str, _Members], dict[str, _Members]] | None = None

    def _with_a_share(self) -> list[str]:
        """The languages that have a fixed share of their own: they are read, so their pairs are."""
        of = ((key, self.buckets[i]) for key, found in self.fixed.items() for i in found)
        return list(dict.fromkeys(bucket.language for key, bucket in of if bucket.source != key))

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


@dataclass(frozen=True, slots=True)
class MixtureSchedule:
    """The shares of the buckets over a phase; of a mixture that stands still, one stretch.

    knots    [K + 1] planned tokens, from 0 to the tokens of the phase, rising
    shares   [K][B], each row with the sum 1
    """

    knots: tuple[int, ...]
    shares: tuple[Sequence[float], ...]

    def mean(self) -> list[float]:
        """The share of each bucket in the whole phase."""
        if len(self.shares) == 1:
            return list(self.shares[0])
        lengths = [b - a for a, b in pairwise(self.knots)]
        return [sum(map(mul, column, lengths)) / self.knots[-1] for column in zip(*self.shares, strict=True)]


def mixture_of(phase: Phase, buckets: Sequence[Bucket], available: Sequence[float] | None = None) -> MixtureSchedule:
    """What a phase reads, with the cap on repetition.

    available   tokens of each bucket for the cap, where they are not those of the bucket (inf: unknown)
    Raises ValueError as `shares` and `cap` do.
    """
    resolved, knots, rows = ResolvedMixture(phase.mixture, buckets), [0, phase.tokens], []
    if phase.mixture.moves:
        cuts = {phase.tokens * k // STRETCHES for k in range(STRETCHES + 1)}
        knots = sorted(cuts | {*phase.mixture.entries.values()})
        middles = [(a + b) / 2 for a, b in pairwise(knots)]
        rows = [resolved.shares(middle / phase.tokens, middle) for middle in middles]
    else:
        rows = [resolved.shares(0.0, 0)]
    if phase.mixture.max_epochs is not None:
        tokens = [bucket.tokens for bucket in buckets] if available is None else available
        rows = cap(rows, knots, tokens, phase.mixture.max_epochs)
    return MixtureSchedule(tuple(knots), tuple(rows))


def mixtures_of_embeddings(
    phase: Phase, documents: Sequence[Bucket], pairs: Sequence[Bucket]
) -> tuple[MixtureSchedule | None, MixtureSchedule | None]:
    """What a phase of sentence embeddings reads of documents and of pairs; None where it reads nothing of these.

    documents   those of sources of pairs, which stand there joined, are left out
    Raises ValueError as `shares` and `cap` do, and where there are no pairs to read.
    """
    how = phase.distil.pair_mixture if phase.distil is not None else phase.mixture
    plain = round(phase.tokens * (1 - phase.pairs))
    joined = {bucket.source for bucket in pairs}
    alone = [replace(bucket, tokens=0) if bucket.source in joined else bucket for bucket in documents]
    if phase.pairs and not sum(bucket.tokens for bucket in pairs):
        raise ValueError("there are no pairs to read; give corpus.sources one of kind: pairs")
    return (
        mixture_of(phase.model_copy(update={"tokens": plain}), alone) if plain else None,
        mixture_of(phase.model_copy(update={"tokens": phase.tokens - plain, "mixture": how}), pairs)
        if phase.tokens > plain
        else None,
    )


def cap(
    rows: Sequence[Sequence[float]], knots: Sequence[int], available: Sequence[float], max_epochs: float
) -> list[list[float]]:
    """Shares with which no bucket is read more than `max_epochs` times (epochs) over the phase.

    rows        [K][B] shares over the stretches between the `knots` [K + 1]
    available   [B] tokens

    Water-filling, at every moment: a bucket that would be read too often has its curve scaled down to the limit, what
    that frees goes to the buckets below theirs in proportion to their shares of that moment, and so on until nobody is
    above.

    Raises ValueError where the text cannot fill the phase, or one stretch of it.
    """
    lengths = [b - a for a, b in pairwise(knots)]
    total = knots[-1]
    curves = [list(column) for column in zip(*rows, strict=True)]  # [B][K]
    limits = [max_epochs * tokens for tokens in available]
    possible = math.fsum(limit for limit, curve in zip(limits, curves, strict=True) if any(curve))
    if possible < total * (1 - 1e-9):
        raise TooLittleTextError(
            f"max_epochs: {max_epochs:g} epochs of all that is read are {int(possible)} tokens, "
            f"but the phase has {total}; raise max_epochs, shorten the phase or add text",
            possible,
            total,
        )
    free = [b for b, curve in enumerate(curves) if any(curve)]
    while True:
        planned = {b: sum(map(mul, curves[b], lengths)) for b in free}
        full = {b for b in free if planned[b] > limits[b] * (1 + 1e-9)}
        if not full:
            return [list(row) for row in zip(*curves, strict=True)]
        for b in full:
            factor = limits[b] / planned[b]
            curves[b] = [share * factor for share in curves[b]]
        free = [b for b in free if b not in full]
        _fill(curves, free, knots)


def _fill(curves: list[list[float]], free: Sequence[int], knots: Sequence[int]) -> None:
    """Raises the curves of `free` at every moment by one factor, so that all curves add up to 1 again."""
    whole = [math.fsum(column) for column in zip(*curves, strict=True)]
    taker = [math.fsum(column) for column in zip(*(curves[b] for b in free), strict=True)] or [0.0] * len(whole)
    for k, (now, takes) in enumerate(zip(whole, taker, strict=True)):
        if now < 1 - 1e-6 and takes < _NOTHING:
            raise ValueError(
                f"max_epochs: between planned tokens {knots[k]} and {knots[k + 1]} all that is read reaches its limit "
                "and nothing is left to take over; raise max_epochs, or let other languages enter earlier"
            )
    lift = [1 + (1 - now) / takes if takes >= _NOTHING else 1.0 for now, takes in zip(whole, taker, strict=True)]
    for b in free:
        curves[b] = list(map(mul, curves[b], lift))


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
            raise ValueError(f"shares: {key!r} is no source, language or source/language; {did_you_mean(key, names)}")
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
            raise ValueError(f"languages: there is no text in {', '.join(missing)}; {did_you_mean(language, known)}")
    return [language for language in dict.fromkeys(mixture.languages) if language in free]


def _of_languages(selected: Sequence[str], key: str, members: list[int], buckets: Sequence[Bucket]) -> list[int]:
    """The members of a source's share in selected languages; all of them where it holds none of these."""
    if any(buckets[i].source != key for i in members):
        return members
    within = [i for i in members if buckets[i].language in selected]
    return within or members
