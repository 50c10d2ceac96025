"""Whether two results differ, by the best evidence that both hold; the weaker the evidence, the less is claimed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Outcomes = Mapping[str, NDArray[np.float64]]
DRAWS = 10_000  # of the bootstrap: the error of p = 0.05 is 0.002
LEVEL = 0.05
_FEW = 6  # languages: with fewer, their spread says little


class Measured(Protocol):
    """What is needed of a result."""

    @property
    def values(self) -> dict[str, float]: ...
    @property
    def average(self) -> float | None: ...
    @property
    def half(self) -> float | None: ...
    @property
    def over(self) -> str: ...
    @property
    def outcomes(self) -> dict[str, NDArray[np.float64]]: ...
    @property
    def data(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """A difference of averages, first minus second."""

    difference: float
    p: float  # of such a difference or a larger one where there is none, two-sided
    sign: int  # 1 better, -1 worse, 0 not told apart
    test: str  # by what


def differ(a: Measured, b: Measured, *, lower_is_better: bool = False) -> Verdict | None:
    """By examples if both have theirs, else by seeds, else by languages; None without any, or on different data."""
    if a.data is not None and b.data is not None and a.data != b.data:
        return None
    judged = _by_examples(a, b) or _by_seeds(a, b) or _by_languages(a, b)
    if judged is None:
        return None
    difference, p, test = judged
    better = difference < 0 if lower_is_better else difference > 0
    return Verdict(difference, p, 0 if p >= LEVEL or difference == 0 else 1 if better else -1, test)


def bootstrap(a: Outcomes, b: Outcomes, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """(difference of the means over languages of the means over examples, two-sided p) by a paired bootstrap.

    Languages with equally many examples may be translations of one set, so the same places are drawn in all of them:
    without that, two hundred translations of a sentence would count as two hundred sentences.
    """
    gaps = {code: a[code] - b[code] for code in a}
    rng = np.random.default_rng(seed)
    drawn = np.zeros(draws)
    for size in sorted({len(gap) for gap in gaps.values()}):
        total = np.sum([gap for gap in gaps.values() if len(gap) == size], axis=0)
        for start in range(0, draws, 500):
            places = rng.integers(size, size=(min(500, draws - start), size))
            drawn[start : start + 500] += total[places].mean(1)
    difference = float(np.mean([gap.mean() for gap in gaps.values()]))
    drawn /= len(gaps)
    tail = min(float((drawn <= 0).mean()), float((drawn >= 0).mean()))
    return difference, min(1.0, 2 * max(tail, 1 / draws))


def _by_examples(a: Measured, b: Measured) -> tuple[float, float, str] | None:
    shared = {code: len(a.outcomes[code]) for code in a.outcomes if code in b.outcomes}
    if not shared or a.data is None or b.data is None or set(a.outcomes) != set(b.outcomes):
        return None
    if any(len(b.outcomes[code]) != size for code, size in shared.items()):
        return None
    difference, p = bootstrap(a.outcomes, b.outcomes)
    over = f"{sum(shared.values()):,} examples of {len(shared)} languages"
    return 100 * difference, p, f"paired bootstrap over {over}"


def _by_seeds(a: Measured, b: Measured) -> tuple[float, float, str] | None:
    """From the half widths of both intervals, as if they were normal: cautious where seeds are few."""
    if not a.half or not b.half or a.average is None or b.average is None:
        return None
    error = (a.half**2 + b.half**2) ** 0.5 / 1.96
    return a.average - b.average, _two_sided((a.average - b.average) / error), f"intervals over {a.over} and {b.over}"


def _by_languages(a: Measured, b: Measured) -> tuple[float, float, str] | None:
    gaps = np.array([value - b.values[code] for code, value in a.values.items() if code in b.values])
    if len(gaps) < _FEW or set(a.values) != set(b.values):
        return None
    rng = np.random.default_rng(0)
    drawn = gaps[rng.integers(len(gaps), size=(DRAWS, len(gaps)))].mean(1)
    tail = min(float((drawn <= 0).mean()), float((drawn >= 0).mean()))
    return float(gaps.mean()), min(1.0, 2 * max(tail, 1 / DRAWS)), f"bootstrap over {len(gaps)} languages"


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))
