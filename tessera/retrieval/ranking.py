"""Rankings of documents for retrieval and reranking: ranked by vectors, and nDCG, MRR, recall, average precision."""

# Shapes: n texts, h embedding width.

import functools
import math
from collections.abc import Callable, Mapping, Sequence

from tessera.bulk.nearest import Floats, check_vectors, nearest
from tessera.data.examples import Search
from tessera.prediction import metrics
from tessera.prediction.metrics import Grades

Embed = Callable[[Sequence[str]], Floats]  # texts -> [n, h], rows of length 1 where cosines are wanted

_TEXTS = 16_384  # documents embedded at once


MEASURES: dict[str, Callable[[Sequence[str], Grades], float]] = {
    "ndcg@10": functools.partial(metrics.ndcg, k=10),
    "mrr@10": functools.partial(metrics.mrr, k=10),
    "recall@10": functools.partial(metrics.recall, k=10),
    "recall@100": functools.partial(metrics.recall, k=100),
    "average_precision": metrics.average_precision,  # of the DEPTH first
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
