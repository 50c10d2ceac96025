"""Rankings of documents for retrieval and reranking: ranked by vectors, and nDCG, MRR, recall, average precision."""

# Shapes: n texts, h embedding width.

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tessera.data.examples import Search
from tessera.inference.nearest import Floats, check_vectors, nearest

Grades = Mapping[str, int]  # of one query: document -> grade; some grade is above 0
Embed = Callable[[Sequence[str]], Floats]  # texts -> [n, h], rows of length 1 where cosines are wanted

_TEXTS = 16_384  # documents embedded at once


def ndcg(ranked: Sequence[str], grades: Grades, k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first k documents: gain is the grade, discount log2(rank + 1).

    As trec_eval's ndcg_cut and mteb have it.
    """
    _check_ranking(ranked, grades)
    gains = [max(0, grades.get(document, 0)) for document in ranked[:k]]
    return _discounted(gains) / _discounted(sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:k])


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def recall(ranked: Sequence[str], grades: Grades, k: int = 100) -> float:
    """Share of the relevant documents that are among the first k."""
    _check_ranking(ranked, grades)
    wanted = {document for document, grade in grades.items() if grade > 0}
    return len(wanted & set(ranked[:k])) / len(wanted)


def mrr(ranked: Sequence[str], grades: Grades, k: int = 10) -> float:
    """1 / rank of the first relevant document among the first k; 0 where there is none."""
    _check_ranking(ranked, grades)
    return 1 / next((n for n, document in enumerate(ranked[:k], 1) if grades.get(document, 0) > 0), math.inf)


def average_precision(ranked: Sequence[str], grades: Grades) -> float:
    """Mean of the precision at the rank of each relevant document; 0 for those that are not ranked."""
    _check_ranking(ranked, grades)
    hits = [grades.get(document, 0) > 0 for document in ranked]
    precisions = [sum(hits[:n]) / n for n, hit in enumerate(hits, 1) if hit]
    return sum(precisions) / sum(grade > 0 for grade in grades.values())


def _check_ranking(ranked: Sequence[str], grades: Grades) -> None:
    if len(set(ranked)) < len(ranked):
        twice = next(document for document, times in Counter(ranked).items() if times > 1)
        raise ValueError(f"the ranking has document {twice!r} more than once; each document has one rank")
    if not any(grade > 0 for grade in grades.values()):
        raise ValueError("no document answers the query (no grade is above 0), so a ranking cannot be scored")


MEASURES: dict[str, Callable[[Sequence[str], Grades], float]] = {
    "ndcg@10": functools.partial(ndcg, k=10),
    "mrr@10": functools.partial(mrr, k=10),
    "recall@10": functools.partial(recall, k=10),
    "recall@100": functools.partial(recall, k=100),
    "average_precision": average_precision,  # of the DEPTH first
}
DEPTH = 100  # documents found for each query


def rank(search: Search, queries: Embed, documents: Embed, depth: int = DEPTH) -> dict[str, list[str]]:
    """The ids of the `depth` nearest documents of each query that has an answer, the nearest first.

    Documents are embedded part by part and forgotten, so memory is that of the queries and of one part.
    Raises ValueError where there is no query with an answer, and naming a text whose vector is not finite.
    """

    def embedded(embed: Embed, texts: Sequence[str]) -> Floats:
        vectors = embed(texts)
        check_vectors(vectors, texts)
        return vectors

    asked = [query for query in search.queries if any(grade > 0 for grade in search.relevant.get(query, {}).values())]
    if not asked:
        raise ValueError(f"search: none of {len(search.queries)} queries has a document that answers it")
    ids = list(search.corpus)
    parts = (
        embedded(documents, [search.corpus[name] for name in ids[start : start + _TEXTS]])
        for start in range(0, len(ids), _TEXTS)
    )
    found, _ = nearest(embedded(queries, [search.queries[query] for query in asked]), parts, depth)
    return {query: [ids[place] for place in row] for query, row in zip(asked, found.tolist(), strict=True)}


def measure(search: Search, ranked: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """How well the documents of each query are ranked: by query, each measure in [0, 1]."""
    return {
        query: {name: of(names, search.relevant[query]) for name, of in MEASURES.items()}
        for query, names in ranked.items()
    }


def averages(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure over queries."""
    return {name: math.fsum(row[name] for row in rows.values()) / len(rows) for name in next(iter(rows.values()))}
