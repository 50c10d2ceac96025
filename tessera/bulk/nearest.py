"""Nearest-neighbour search by inner product: exact, and approximate by a graph (HNSW) where documents are millions."""

# Shapes: q queries, c documents, h embedding width, k documents found for each query.

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tessera.plan.shipped import pip_line

Floats = NDArray[np.float32]

_ROWS = 512  # queries compared at once
_COLUMNS = 16_384  # with so many documents: bounds the memory at _ROWS x _COLUMNS similarities, twice, and their flags
_LINKS, _LOOKED_AT = 32, 128  # of a graph: links of a document, documents that a search keeps in view


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
    kept = products >= least
    for row in np.flatnonzero(kept.sum(1) > k):  # of those that equal the least too many: the first ones stay
        equal = np.flatnonzero(products[row] == least[row])
        kept[row, equal[k - int(kept[row].sum()) :]] = False
    columns = np.nonzero(kept)[1].reshape(len(products), k)
    order = np.argsort(-np.take_along_axis(products, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A hierarchical navigable small world: each document linked to near ones, and a search that walks along the links.

    It holds all documents in memory, in float32, and looks at some hundreds of them for a query: it misses some.
    Source: Malkov and Yashunin 2016, arXiv:1603.09320; the implementation is that of faiss.
    """

    index: Any  # faiss.IndexHNSWFlat

    @classmethod
    def of(cls, parts: Iterable[Floats]) -> Self:
        """Of documents [c, h] in parts, in order; at least one. Raises ImportError where faiss is not installed."""
        faiss, index = _faiss(), None
        for part in parts:
            if index is None:
                index = faiss.IndexHNSWFlat(part.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
                index.hnsw.efConstruction = _LOOKED_AT
            index.add(np.ascontiguousarray(part, np.float32))
        return cls(index)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote, and nobody else: faiss does not survive every file. Raises ImportError as `of`."""
        return cls(_faiss().read_index(str(path)))

    @staticmethod
    def check() -> None:
        """Raises ImportError where faiss is not installed."""
        _faiss()

    def write(self, path: Path) -> None:
        _faiss().write_index(self.index, str(path))

    def nearest(self, queries: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
        """As the function `nearest`, but some may be missed; a place is -1 where fewer than k were met."""
        how = _faiss().SearchParametersHNSW(efSearch=max(_LOOKED_AT, 2 * k))
        products, places = self.index.search(queries, min(k, self.index.ntotal), params=how)
        return places, products


def recall(found: NDArray[np.int64], due: NDArray[np.int64]) -> float:
    """The share of what is due that was found, mean over rows: [q, k] both."""
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found.tolist(), due.tolist(), strict=True)]))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ImportError(
            f"approximate search needs faiss; {pip_line('search')}, or compare every text (tessera search --exact)"
        ) from None
    import torch  # here: what is exact does without it

    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def unit(vectors: Floats) -> Floats:
    """Rows of length 1, whose inner products are cosines; a row of zeros stays one and is near to nothing."""
    length = np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)


def check_vectors(vectors: Floats, texts: Sequence[str]) -> None:
    """Raises ValueError naming the first text whose vector is not finite, or too long for its length to be.

    Such a vector is near to nothing or to everything, and no score would show it. vectors [n, h] of n texts.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        wrong = np.flatnonzero(~np.isfinite(np.square(vectors, dtype=np.float32).sum(1)))
    if len(wrong):
        shown, more = texts[int(wrong[0])], f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        shown = repr(shown if len(shown) <= 60 else shown[:56] + " ...")
        raise ValueError(
            f"the model's vector of {shown}{more} of {len(texts)} texts is not finite; weights that hold NaN or "
            "infinity do that, and products that overflow (try --dtype float32)"
        )
