"""Confidence intervals and significance tests: Student's t, Welch's t-test, permutation, jackknife, by scipy.

Every test keeps its level: tests/results/test_significance.py holds each to its one false alarm in twenty.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Outcomes = Mapping[str, NDArray[np.float64]]
_ALL_SIGNS = 16  # differences of which all 65,536 assignments of signs are tried; of more, so many are drawn:
_DRAWS = 9_999  # the error of p = 0.05 is 0.002
_MANY = 1_000  # differences that move, from which on Student's t gives the same three digits


# ------------------------------------------------------------------------------------------------------------ intervals


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """(mean, half the width of its confidence interval) of scores with several seeds; Student's t. One: (it, nan)."""
    found = np.asarray(values, float)
    if not len(found):
        raise ValueError("there are no values to average")
    if len(found) == 1:
        return float(found[0]), math.nan
    error = float(found.std(ddof=1)) / math.sqrt(len(found))
    return float(found.mean()), critical_t(level, len(found) - 1) * error


def critical_t(level: float, freedom: float) -> float:
    """The value that |t| stays below with probability `level`."""
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, freedom))


def ratio_interval(
    above: Sequence[float], below: Sequence[float], less: Sequence[float] | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """(ratio of the sums, both ends of its interval) of measurements that come in groups, as documents: a jackknife.

    above, below  of each group, as bits and bytes; each of `below` above 0
    less          subtracted from `above` group by group: the interval of a difference between two models

    One group: its ends are nan. Student's t, since groups may be few (a percentile bootstrap leaves out the truth in 48
    of 100 cases at two documents and 13 at five, not 5), with as many degrees of freedom as groups of one size would
    have that weigh as these do (Kish 1965). Source: Tukey 1958, one group left out.
    """
    top = np.asarray(above, float) - (0.0 if less is None else np.asarray(less, float))
    bottom = np.asarray(below, float)
    if not len(top):
        raise ValueError("there is nothing to take a ratio of")
    ratio = float(top.sum() / bottom.sum())
    if len(top) == 1:
        return ratio, math.nan, math.nan
    freedom = max(1.0, float(bottom.sum() ** 2 / (bottom**2).sum()) - 1)
    half = critical_t(level, freedom) * jackknife((top.sum() - top) / (bottom.sum() - bottom))
    return ratio, ratio - half, ratio + half


def jackknife(without: ArrayLike) -> float:
    """Standard error of a statistic, from its values where one of n independent groups is left out [n]."""
    values = np.asarray(without, float)
    return math.sqrt((len(values) - 1) / len(values) * float(((values - values.mean()) ** 2).sum()))


def pooled_spread(by_variant: Mapping[str, Mapping[int, float]]) -> tuple[float, int] | None:
    """(standard deviation of chance in one score, degrees of freedom), from the seeds that all variants have.

    What is left of the scores when the mean of each variant and of each seed is taken off: randomised blocks, Fisher
    1935. None where fewer than two variants or seeds are there.
    """
    seeds = sorted(set.intersection(*(set(scores) for scores in by_variant.values()))) if by_variant else []
    if len(seeds) < 2 or len(by_variant) < 2:
        return None
    table = np.array([[scores[seed] for seed in seeds] for scores in by_variant.values()])
    left = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    freedom = (len(table) - 1) * (len(seeds) - 1)
    return math.sqrt(float((left**2).sum()) / freedom), freedom


# --------------------------------------------------------------------------------------------------------- significance


def permutation(gaps: ArrayLike) -> float:
    """Two-sided p of a mean of paired differences: in how many of all assignments of signs is it as far from 0?

    Exact for up to 16 differences other than 0, by seeded draws for more, by Student's t for a thousand and more. A
    bootstrap takes chance for a difference too often where they are few: at 8 languages in 12 of 100 cases, not 5.
    Source: Fisher 1935, The design of experiments, section 21.
    """
    from scipy import stats

    moved = np.asarray(gaps, float)
    moved = moved[np.abs(moved) > 1e-9]  # the sign of 0 changes nothing
    if len(moved) < 2:
        return 1.0
    if len(moved) > _MANY:
        error = float(stats.sem(moved))
        return float(2 * stats.t.sf(abs(moved.mean()) / error, len(moved) - 1)) if error else 0.0
    draws = 2**_ALL_SIGNS if len(moved) <= _ALL_SIGNS else _DRAWS
    found = stats.permutation_test(
        (moved,), _total, permutation_type="samples", vectorized=True, n_resamples=draws, batch=2_000, rng=0
    )
    return float(found.pvalue)


def _total(values: NDArray[np.float64], axis: int) -> Any:
    """Rounded, so that sums that are equal stay so whatever order they are added in."""
    return values.sum(axis).round(9)


def paired(a: Outcomes, b: Outcomes) -> tuple[float, float] | None:
    """(difference of the means over languages of the means over examples, two-sided p); None where examples are few.

    Languages with equally many examples may be translations of one set, so the examples at one place change sides
    together: without that, two hundred translations of a sentence would count as two hundred sentences. Which of them
    are translations of which is not known where languages differ in number, so between those the worst is assumed, that
    they err alike: errors are added, not their squares.
    """
    from scipy.stats import sem, t

    gaps = [a[code] - b[code] for code in a]
    sizes = sorted({len(gap) for gap in gaps})
    rows = [np.sum([gap for gap in gaps if len(gap) == size], axis=0) / len(gaps) for size in sizes]
    difference = float(sum(row.mean() for row in rows))
    if len(rows) == 1:
        return difference, permutation(rows[0])
    if sizes[0] < 2:
        return None
    error = sum(float(sem(row)) for row in rows)
    return difference, float(2 * t.sf(abs(difference) / error, sizes[0] - 1)) if error else 1.0


def over_pairs(gaps: Mapping[tuple[str, ...], float]) -> float:
    """Two-sided p of a mean of differences of pairs of languages that share languages, as all pairs of ten.

    What a model knows of one language moves all its pairs: counted as independent, the 28 pairs of eight languages are
    called different in 48 of 100 cases, not 5. So each language is left out with all its pairs, and those count that
    move the mean: a few that most pairs share are worth a few, however many stand beside them.

    gaps  by the languages of a pair, or the one language of a task; no language is in all of them

    Raises no false alarm where pairs are independent either, but sees less. Source: jackknife over the nodes of a
    network, Snijders and Borgatti 1999, Connections 22(2), without their correction for independent pairs.
    """
    from scipy.stats import t

    pairs_of: dict[str, list[float]] = {}
    for pair, gap in gaps.items():
        for language in pair:
            pairs_of.setdefault(language, []).append(gap)
    total, several = sum(gaps.values()), len(gaps)
    error = jackknife([(total - sum(own)) / (several - len(own)) for own in pairs_of.values()])
    weights = np.array([len(own) for own in pairs_of.values()], float) ** 2
    count = float(weights.sum() ** 2 / (weights**2).sum())
    if count <= 2 or not error:
        return 1.0
    return float(2 * t.sf(abs(total / several) / error, count - 1))


def welch(a: tuple[float, float, int], b: tuple[float, float, int]) -> float:
    """Two-sided p of a difference of two means, of each (mean, standard error, how many values); Welch 1947.

    Against two values, several of another spread would be called different in 10 of 100 cases, and with the one degree
    of freedom that two values have in none; so it is taken half-way. Two means without any spread are not told apart:
    equal scores of a few seeds are those of a coarse measure, as accuracy over twenty examples, and no proof that
    chance moves nothing.
    """
    from scipy.stats import t

    (first, error, n), (second, other, m) = a, b
    square = error**2 + other**2
    if not square:
        return 1.0
    freedom = square**2 / (error**4 / (n - 1) + other**4 / (m - 1))
    if min(n, m) == 2 and n != m:
        freedom = math.sqrt(freedom)
    return float(2 * t.sf(abs(first - second) / math.sqrt(square), freedom))
