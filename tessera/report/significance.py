"""Significance of a difference of two results: by the same examples, else by seeds, else by languages.

Every test keeps its level: tests/report/test_significance.py holds each to its one false alarm in twenty.
"""

import statistics
from dataclasses import dataclass

from tessera.report.published import Score
from tessera.statistics import critical_t, paired, permutation, welch

_LEVEL = 0.05
_FEW = 6  # languages: five agree by chance once in sixteen, so fewer can prove nothing


@dataclass(frozen=True, slots=True)
class Verdict:
    """A difference of averages, first minus second."""

    difference: float
    p: float  # of such a difference or a larger one where there is none, two-sided
    sign: int  # 1 better, -1 worse, 0 not told apart
    test: str  # by what


def differ(a: Score, b: Score, *, lower_is_better: bool = False) -> Verdict | None:
    """By examples if both have theirs, else by seeds, else by languages; None without any, or on different data.

    The best evidence that both hold; the weaker the evidence, the less is claimed.
    """
    if a.data is not None and b.data is not None and a.data != b.data:
        return None
    judged = _by_examples(a, b) or _by_seeds(a, b) or _by_languages(a, b)
    if judged is None:
        return None
    difference, p, test = judged
    better = difference < 0 if lower_is_better else difference > 0
    return Verdict(difference, p, 0 if p >= _LEVEL or difference == 0 else 1 if better else -1, test)


def _by_examples(a: Score, b: Score) -> tuple[float, float, str] | None:
    sizes, others = ({code: len(row) for code, row in one.outcomes.items()} for one in (a, b))
    if not sizes or sizes != others or a.data is None or b.data is None:
        return None
    found = paired(a.outcomes, b.outcomes)
    if found is None:
        return None
    kind = "permutation test" if len(set(sizes.values())) == 1 else "t-test"
    return 100 * found[0], found[1], f"paired {kind} over {sum(sizes.values()):,} examples of {len(sizes)} languages"


def _by_seeds(a: Score, b: Score) -> tuple[float, float, str] | None:
    if (
        a.half is None
        or b.half is None
        or not a.half + b.half
        or a.average is None
        or b.average is None
        or min(a.repeats, b.repeats) < 2
    ):
        return None
    errors = [one.half / critical_t(0.95, one.repeats - 1) for one in (a, b) if one.half is not None]
    p = welch((a.average, errors[0], a.repeats), (b.average, errors[1], b.repeats))
    return a.average - b.average, p, f"Welch's t-test over {a.over} and {b.over}"


def _by_languages(a: Score, b: Score) -> tuple[float, float, str] | None:
    """A pair of languages counts once, whichever is sought in which."""
    if set(a.values) != set(b.values):
        return None
    of_pair: dict[tuple[str, ...], list[float]] = {}
    for code, value in a.values.items():
        of_pair.setdefault(tuple(sorted(code.split("-"))), []).append(value - b.values[code])
    if len(of_pair) < _FEW:
        return None
    difference = statistics.fmean(a.values.values()) - statistics.fmean(b.values.values())
    p = permutation([statistics.fmean(several) for several in of_pair.values()])
    return difference, p, f"permutation test over {len(of_pair)} languages"
