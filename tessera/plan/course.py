"""Shares that move within a phase: temperature, fixed shares, languages that enter, and the cap on all of it.

The phase is cut into 512 stretches of planned tokens, and cut again where a language enters. Over a stretch the shares
stand still, at the value of its middle, so that the tokens planned of a bucket are a polygon: nothing depends on the
machine, and the position in each bucket at any token is one interpolation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import mul

from tessera.plan.mixture import Bucket, ResolvedMixture, cap
from tessera.plan.recipe import Phase

STRETCHES = 512


@dataclass(frozen=True, slots=True)
class MixtureSchedule:
    """The shares of the buckets over a phase.

    knots    [K + 1] planned tokens, from 0 to the tokens of the phase, rising
    shares   [K][B], each row with the sum 1
    """

    knots: tuple[int, ...]
    shares: tuple[Sequence[float], ...]

    def mean(self) -> list[float]:
        """The share of each bucket in the whole phase."""
        lengths = [b - a for a, b in pairwise(self.knots)]
        return [sum(map(mul, column, lengths)) / self.knots[-1] for column in zip(*self.shares, strict=True)]


def shares_of(
    phase: Phase, buckets: Sequence[Bucket], available: Sequence[float] | None = None
) -> list[float] | MixtureSchedule:
    """What a phase reads, with the cap on repetition: plain shares where its mixture stands still.

    available   tokens of each bucket for the cap, where they are not those of the bucket (inf: unknown)
    Raises ValueError as `plan.mixture.shares` and `plan.mixture.cap` do.
    """
    diet, limit = ResolvedMixture(phase.mixture, buckets), phase.mixture.max_epochs
    tokens = [bucket.tokens for bucket in buckets] if available is None else available
    if not phase.mixture.moves:
        still = diet.shares(0.0, 0)
        return still if limit is None else cap(still, tokens, phase.tokens, limit)
    knots = sorted({phase.tokens * k // STRETCHES for k in range(STRETCHES + 1)} | {*phase.mixture.entries.values()})
    middles = [(a + b) / 2 for a, b in pairwise(knots)]
    rows = [diet.shares(middle / phase.tokens, middle) for middle in middles]
    if limit is not None:
        rows = cap_over_time(rows, knots, tokens, limit)
    return MixtureSchedule(tuple(knots), tuple(rows))


def mean_shares(given: Sequence[float] | MixtureSchedule) -> list[float]:
    """The share of each bucket in the whole phase, moving or not."""
    return given.mean() if isinstance(given, MixtureSchedule) else list(given)


def cap_over_time(
    rows: Sequence[Sequence[float]], knots: Sequence[int], available: Sequence[float], max_epochs: float
) -> list[list[float]]:
    """Moving shares with which no bucket is read more than `max_epochs` times over the phase.

    rows        [K][B] shares over the stretches between the `knots` [K + 1]
    available   [B] tokens

    As `plan.mixture.cap`, at every moment: a bucket that would be read too often has its curve scaled down to the
    limit, what that frees goes to the buckets below theirs in proportion to their shares of that moment, and so on
    until nobody is above. For shares that stand still the two are the same.

    Raises ValueError where the text cannot fill the phase, or one stretch of it.
    """
    lengths = [b - a for a, b in pairwise(knots)]
    total = knots[-1]
    curves = [list(column) for column in zip(*rows, strict=True)]  # [B][K]
    limits = [max_epochs * tokens for tokens in available]
    possible = math.fsum(limit for limit, curve in zip(limits, curves, strict=True) if any(curve))
    if possible < total * (1 - 1e-9):
        raise ValueError(
            f"max_epochs: {max_epochs:g} epochs of all that is read are {int(possible)} tokens, "
            f"but the phase has {total}; raise max_epochs, shorten the phase or add text"
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


_NOTHING = 1e-300  # share of a moment: what lifts less than this to a whole is no finite number


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
