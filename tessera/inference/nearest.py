"""Exact nearest-neighbour search: the documents of the highest inner product with each query."""

# Shapes: q queries, c documents, h embedding width, k documents found for each query.

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_ROWS = 512  # queries compared at once
_COLUMNS = 16_384  # with so many documents: bounds the memory at _ROWS x _COLUMNS similarities, twice, and their flags


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
