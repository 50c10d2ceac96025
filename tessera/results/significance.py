"""Significance of a difference of two results: by the same examples, else by seeds, else by languages.

Every test keeps its level: tests/results/test_significance.py holds each to its one false alarm in twenty.
"""

import re
import statistics
from collections import Counter
from dataclasses import dataclass

from tessera.results.published import Score
from tessera.statistics import critical_t, over_pairs, paired, permutation, welch

_LEVEL = 0.05
_PAIR = re.compile(r"[a-z]\w*-[a-z]\w*")  # of codes; English-EWT is a treebank
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
    """A pair of languages counts once, whichever is sought in which; pairs that share one are not independent."""
    if set(a.values) != set(b.values):
        return None
    of_pair: dict[tuple[str, ...], list[float]] = {}
    for code, value in a.values.items():
        pair = code.split("-") if _PAIR.fullmatch(code) else [code]
        of_pair.setdefault(tuple(sorted(set(pair))), []).append(value - b.values[code])
    gaps = _without_a_hub({pair: statistics.fmean(several) for pair, several in of_pair.items()})
    times = Counter(language for pair in gaps for language in pair)
    if min(len(gaps), len(times)) < _FEW:
        return None
    difference = statistics.fmean(a.values.values()) - statistics.fmean(b.values.values())
    if max(times.values()) == 1:
        return difference, permutation(list(gaps.values())), f"permutation test over {len(gaps)} languages"
    return difference, over_pairs(gaps), f"t-test over {len(gaps)} pairs of {len(times)} languages"


def _without_a_hub(gaps: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """Without the language that is in all pairs, as English often is: what pairs have in common is no chance."""
    hubs = set.intersection(*map(set, gaps)) if len(gaps) > 1 else set()
    return {tuple(one for one in pair if one not in hubs) or pair: gap for pair, gap in gaps.items()}
