"""Scores into four tiers, 1 (worst) to 4, by three thresholds.

Source: four quality levels and the choice of the upper two, EuroBERT, arXiv:2503.05500, 2.2 and 4.
"""

import bisect
from collections.abc import Sequence


def tier(score: float, thresholds: Sequence[float]) -> int:
    """The tier of a score: 1 below the first threshold, 4 at or above the third; a threshold belongs to the tier above.

    thresholds  three, rising
    """
    assert len(thresholds) == 3, "four tiers have three thresholds"
    return bisect.bisect_right(thresholds, score) + 1
