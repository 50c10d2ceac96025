"""Metrics of rankings: nDCG, recall, MRR and average precision of the documents ranked for a query."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

Grades = Mapping[str, int]  # of one query: document -> grade; some grade is above 0


def ndcg(ranked: Sequence[str], grades: Grades, k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first k documents: gain is the grade, discount log2(rank + 1).

    As trec_eval's ndcg_cut and mteb have it.
    """
    _check_ranking(ranked, grades, k)
    gains = [max(0, grades.get(document, 0)) for document in ranked[:k]]
    return _discounted(gains) / _discounted(sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:k])


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def recall(ranked: Sequence[str], grades: Grades, k: int = 100) -> float:
    """Share of the relevant documents that are among the first k."""
    _check_ranking(ranked, grades, k)
    wanted = {document for document, grade in grades.items() if grade > 0}
    return len(wanted & set(ranked[:k])) / len(wanted)


def mrr(ranked: Sequence[str], grades: Grades, k: int = 10) -> float:
    """1 / rank of the first relevant document among the first k; 0 where there is none."""
    _check_ranking(ranked, grades, k)
    return 1 / next((n for n, document in enumerate(ranked[:k], 1) if grades.get(document, 0) > 0), math.inf)


def average_precision(ranked: Sequence[str], grades: Grades) -> float:
    """Mean of the precision at the rank of each relevant document; 0 for those that are not ranked."""
    _check_ranking(ranked, grades)
    hits = [grades.get(document, 0) > 0 for document in ranked]
    precisions = [sum(hits[:n]) / n for n, hit in enumerate(hits, 1) if hit]
    return sum(precisions) / sum(grade > 0 for grade in grades.values())


def _check_ranking(ranked: Sequence[str], grades: Grades, k: int = 1) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; so many documents are looked at, at least one")
    for document, grade in grades.items():
        if not math.isfinite(grade):
            raise ValueError(f"the grade of document {document!r} is {grade}; a finite number is needed")
    if len(set(ranked)) < len(ranked):
        twice = next(document for document, times in Counter(ranked).items() if times > 1)
        raise ValueError(f"the ranking has document {twice!r} more than once; each document has one rank")
    if not any(grade > 0 for grade in grades.values()):
        raise ValueError("no document answers the query (no grade is above 0), so a ranking cannot be scored")
