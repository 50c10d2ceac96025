"""Exact search among vectors, how well it ranks what answers a query, and groups that vectors fall into."""

# Shapes: q queries, c documents, h embedding width, k documents found for each query.

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tessera.evaluation import metrics
from tessera.evaluation.data import Search

Floats = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Floats]  # texts -> [n, h], rows of length 1 where cosines are wanted

MEASURES: dict[str, Callable[[metrics.Ranking, metrics.Grades], float]] = {
    "ndcg@10": functools.partial(metrics.ndcg, k=10),
    "mrr@10": functools.partial(metrics.mrr, k=10),
    "recall@10": functools.partial(metrics.recall, k=10),
    "recall@100": functools.partial(metrics.recall, k=100),
    "average_precision": metrics.average_precision,  # of the DEPTH first
}
DEPTH = 100  # documents found for each query
LENGTHS = (1_000, 5_000, 9_000, 17_000, 26_000, 151_000)  # characters, as in figure 3 of EuroBERT, arXiv:2503.05500
_ROWS = 512  # queries compared at once
_COLUMNS = 16_384  # with so many documents: bounds the memory at _ROWS x _COLUMNS similarities and as many flags
_TEXTS = 16_384  # documents embedded at once


def nearest(queries: Floats, documents: Floats | Iterable[Floats], k: int) -> tuple[NDArray[np.int64], Floats]:
    """The k documents with the highest inner product with each query, the highest first; of equals the first document.

    queries    [q, h]
    documents  [c, h], or parts of it in order: a corpus need not be in memory as a whole
    returns    (places among the documents [q, min(k, c)], inner products of the same shape)

    Exact. Raises ValueError for k < 1 and for queries and documents of different width.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it is a number of documents, so give at least 1")
    places = np.empty((len(queries), 0), np.int64)
    products = np.empty((len(queries), 0), np.float32)
    seen = 0
    for part in _parts(documents):
        if part.ndim != 2 or queries.ndim != 2 or part.shape[1] != queries.shape[1]:
            raise ValueError(
                f"search: {list(queries.shape)} queries, {list(part.shape)} documents; give [n, h] of one h"
            )
        had = places.shape[1]
        room = min(k, had + len(part))
        best, best_products = np.empty((len(queries), room), np.int64), np.empty((len(queries), room), np.float32)
        for start in range(0, len(queries), _ROWS):
            rows = slice(start, start + _ROWS)
            # What was found before stands first, so that of equal products the earlier document is kept.
            both = np.concatenate((products[rows], queries[rows] @ part.T), axis=1)
            top = _top(both, room)
            # With one column more there is always something to look up, be it never taken.
            old = np.take_along_axis(np.pad(places[rows], ((0, 0), (0, 1))), np.minimum(top, had), 1)
            best[rows] = np.where(top < had, old, seen + top - had)
            best_products[rows] = np.take_along_axis(both, top, 1)
        places, products = best, best_products
        seen += len(part)
    return places, products


def _parts(documents: Floats | Iterable[Floats]) -> Iterator[Floats]:
    for whole in (documents,) if isinstance(documents, np.ndarray) else documents:
        for start in range(0, len(whole), _COLUMNS):
            yield whole[start : start + _COLUMNS]


def _top(products: Floats, k: int) -> NDArray[np.int64]:
    """Columns of the k highest of each row [q, k], the highest first, of equals the first."""
    least = np.partition(products, products.shape[1] - k, axis=1)[:, [products.shape[1] - k]]
    above, equal = products > least, products == least
    room = k - above.sum(1, keepdims=True)
    kept = above | (equal & (np.cumsum(equal, axis=1) <= room))
    columns = np.nonzero(kept)[1].reshape(len(products), k)
    order = np.argsort(-np.take_along_axis(products, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


def rank(search: Search, queries: Embed, documents: Embed, depth: int = DEPTH) -> dict[str, list[str]]:
    """The ids of the `depth` nearest documents of each query that has an answer, the nearest first.

    Documents are embedded part by part and forgotten, so memory is that of the queries and of one part.
    Raises ValueError where there is no query with an answer.
    """
    asked = [query for query in search.queries if any(grade > 0 for grade in search.relevant.get(query, {}).values())]
    if not asked:
        raise ValueError(f"search: none of {len(search.queries)} queries has a document that answers it")
    ids = list(search.corpus)
    parts = (
        documents([search.corpus[name] for name in ids[start : start + _TEXTS]]) for start in range(0, len(ids), _TEXTS)
    )
    found, _ = nearest(queries([search.queries[query] for query in asked]), parts, depth)
    return {query: [ids[place] for place in row] for query, row in zip(asked, found.tolist(), strict=True)}


def measure(search: Search, ranked: metrics.Ranking) -> dict[str, dict[str, float]]:
    """How well the documents of each query are ranked: by query, each measure in [0, 1]."""
    return {
        query: {name: of({query: names}, {query: search.relevant[query]}) for name, of in MEASURES.items()}
        for query, names in ranked.items()
    }


def averages(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure over queries."""
    return {name: math.fsum(row[name] for row in rows.values()) / len(rows) for name in next(iter(rows.values()))}


def outcomes(rows: Mapping[str, Mapping[str, float]]) -> dict[str, list[float]]:
    """Each measure of each query, in the order of the queries, to 6 digits."""
    return {name: [round(row[name], 6) for row in rows.values()] for name in next(iter(rows.values()))}


def by_length(
    search: Search, rows: Mapping[str, Mapping[str, float]], lengths: Sequence[int] = LENGTHS
) -> dict[str, dict[str, float]]:
    """The means by the length of what answers a query, in characters: the longest of its documents counts.

    lengths   rising bounds; a bound belongs to the group below it
    returns   "1000-5000" -> means and "queries", how many there are; groups of no query are left out. Documents up to
              the first bound are "0-1000", those beyond the last ">151000"
    """
    groups: dict[int, dict[str, Mapping[str, float]]] = {}
    for query, row in rows.items():
        answers = [name for name, grade in search.relevant[query].items() if grade > 0 and name in search.corpus]
        longest = max((len(search.corpus[name]) for name in answers), default=0)
        groups.setdefault(int(np.searchsorted(lengths, longest)), {})[query] = row
    names = [f"{low}-{high}" for low, high in zip((0, *lengths), lengths, strict=False)] + [f">{lengths[-1]}"]
    return {names[n]: {**averages(groups[n]), "queries": len(groups[n])} for n in sorted(groups)}


def cluster(embeddings: Floats, labels: Sequence[str], seeds: Sequence[int] = range(10)) -> list[float]:
    """V-measure of k-means with as many groups as there are labels, one value for each seed, each in [0, 1].

    embeddings [n, h], n labels. The harmonic mean of homogeneity (a group has one label) and completeness (a label is
    in one group): Rosenberg and Hirschberg 2007, section 2. It does not fall to 0 for random groups that are small.

    Raises ImportError without scikit-learn, ValueError where rows and labels do not fit.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import v_measure_score
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn
    except ImportError:
        raise ImportError('clustering needs scikit-learn; pip install "tessera-encoders[evaluate]"') from None
    if embeddings.ndim != 2 or len(embeddings) != len(labels) or len(set(labels)) < 2:
        raise ValueError(
            f"clustering: {list(embeddings.shape)} embeddings for {len(labels)} labels, {len(set(labels))} of them "
            "different; give a row for each, and at least 2"
        )
    with threadpool_limits(1):  # see probe.fit
        groups = [KMeans(len(set(labels)), n_init=1, random_state=seed).fit_predict(embeddings) for seed in seeds]
    return [float(v_measure_score(list(labels), found)) for found in groups]
