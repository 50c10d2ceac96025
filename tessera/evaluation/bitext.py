"""Bitext mining: does a sentence lie nearest to its translation?

Row i of one side translates row i of the other; nothing else is right, not even an equal sentence in another row.
"""

# Shapes: n pairs, h embedding width, q queries, c candidates, k neighbours.

import numpy as np
from numpy.typing import NDArray

from tessera.bulk.nearest import Floats, check_vectors, unit

NEIGHBOURS = 4  # k of the margin, as in the paper
_ROWS = 1024  # queries compared at once: bounds the memory at _ROWS x c similarities


def mine(source: Floats, target: Floats, k: int = NEIGHBOURS) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Scores of retrieval in both directions, each in [0, 1]; and of all but margin_f1, means, what each pair adds.

    source, target   [n, h], row i of one translates row i of the other
    k                neighbours that the margin is measured against

    accuracy_forward    share of sources whose nearest target by cosine is their translation
    accuracy_backward   the same from target to source
    accuracy            mean of the two
    f1                  forward; F1 of each target as a class of its own, averaged (what MTEB's bitext mining reports)
    margin_accuracy     as `accuracy`, by ratio margin: cosine / mean cosine of both sentences with their k nearest
    margin_f1           of the pairs that choose each other by ratio margin: harmonic mean of the share that is right
                        and of the share of all translations found

    Raises ValueError where the two sides do not fit, and for vectors that are not finite. Needs O(n) memory and
    n x n x h time.
    Source: ratio margin and mutual retrieval ("intersection"), Artetxe and Schwenk 2019, arXiv:1811.01136, section 3;
    F1 per class, Muennighoff et al. 2022, arXiv:2210.07316, section 3.1.
    """
    if source.ndim != 2 or source.shape != target.shape or not len(source):
        raise ValueError(
            f"bitext: {list(source.shape)} sources and {list(target.shape)} targets; give two equal [n, h]"
        )
    for side, rows in (("source", source), ("target", target)):
        check_vectors(rows, [f"{side} {place + 1}" for place in range(len(rows))])
    source, target = unit(source), unit(target)
    truth = np.arange(len(source))
    forward, source_near = _search(source, target, k)
    backward, target_near = _search(target, source, k)
    margin_forward = _search_margin(source, target, source_near, target_near)
    margin_backward = _search_margin(target, source, target_near, source_near)
    mutual = margin_backward[margin_forward] == truth
    found = int((mutual & (margin_forward == truth)).sum())
    each = {
        "accuracy_forward": (forward == truth).astype(np.float64),
        "accuracy_backward": (backward == truth).astype(np.float64),
        "accuracy": ((forward == truth) + (backward == truth).astype(np.float64)) / 2,
        "f1": _f1(forward),
        "margin_accuracy": ((margin_forward == truth) + (margin_backward == truth).astype(np.float64)) / 2,
    }
    scores = {metric: float(values.mean()) for metric, values in each.items()}
    scores["margin_f1"] = 2 * found / (int(mutual.sum()) + len(truth))
    return scores, {metric: values.round(6).tolist() for metric, values in each.items()}


def _search(queries: Floats, candidates: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """The nearest candidate of each query [q] (the first of equals), and its mean cosine with its k nearest [q].

    Not bulk/nearest.nearest: that has the k in order, and a sum in another order of the same four numbers has
    another last digit, by which ratio margins of equal sentences are told apart. Of 1,000 pairs of which one in ten
    is there twice, margin_accuracy moved by one or two pairs.
    """
    k = min(k, len(candidates))
    nearest, near = np.empty(len(queries), np.int64), np.empty(len(queries), np.float32)
    for start in range(0, len(queries), _ROWS):
        rows = slice(start, start + _ROWS)
        cosines = queries[rows] @ candidates.T
        nearest[rows] = cosines.argmax(1)
        near[rows] = np.partition(cosines, -k, axis=1)[:, -k:].mean(1)
    return nearest, near


def _search_margin(queries: Floats, candidates: Floats, near: Floats, candidates_near: Floats) -> NDArray[np.int64]:
    """The candidate of each query with the highest ratio margin [q]; near [q], candidates_near [c] from `_search`."""
    best = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _ROWS):
        rows = slice(start, start + _ROWS)
        usual = (near[rows, None] + candidates_near[None, :]) / 2
        # A ratio of negative cosines would rank backwards; where even the nearest point away, distances say nothing.
        best[rows] = (queries[rows] @ candidates.T / np.maximum(usual, 1e-6)).argmax(1)
    return best


def _f1(nearest: NDArray[np.int64]) -> NDArray[np.float64]:
    """2PR/(P+R) of each class [n]. It has one query: where it is found R = 1 and P = 1 / times predicted."""
    times = np.bincount(nearest, minlength=len(nearest))
    right = nearest == np.arange(len(nearest))
    return np.where(right, 2.0 / (1.0 + np.maximum(times, 1)), 0.0)
