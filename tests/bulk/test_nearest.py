"""Exact search against the plainest way to do it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.bulk import nearest as searching
from tessera.bulk.nearest import nearest


def brute_force(queries, documents, k):
    """Python's own sort of all products: it keeps equals in order."""
    places = []
    for query in queries.tolist():
        products = [sum(a * b for a, b in zip(query, document, strict=True)) for document in documents.tolist()]
        places.append(sorted(range(len(products)), key=lambda n, products=products: -products[n])[:k])
    return places


small = st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), min_size=1, max_size=12)  # full of ties


@given(queries=small, documents=small, k=st.integers(1, 14), rows=st.integers(1, 5), columns=st.integers(1, 5))
def test_search_is_brute_force_ties_included_however_it_is_cut(queries, documents, k, rows, columns):
    queries, documents = np.array(queries, np.float32), np.array(documents, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "_ROWS", rows)
        patch.setattr(searching, "_COLUMNS", columns)
        places, products = nearest(queries, documents, k)
    assert places.tolist() == brute_force(queries, documents, k)
    assert (products == np.take_along_axis(queries @ documents.T, places, 1)).all()


def test_a_corpus_may_come_in_parts():
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((7, 5)).astype(np.float32), rng.standard_normal((50, 5)).astype(np.float32)
    whole = nearest(queries, documents, 9)
    parts = nearest(queries, iter([documents[:3], documents[3:4], documents[4:]]), 9)
    assert (whole[0] == parts[0]).all()
    assert whole[1] == pytest.approx(parts[1])


def test_memory_is_bounded_by_what_is_compared_at_once(monkeypatch):
    largest = []
    top = searching._top

    def remember(products, k):
        largest.append(products.size)
        return top(products, k)

    monkeypatch.setattr(searching, "_ROWS", 10)
    monkeypatch.setattr(searching, "_COLUMNS", 20)
    monkeypatch.setattr(searching, "_top", remember)
    nearest(np.ones((95, 3), np.float32), np.ones((201, 3), np.float32), 4)
    assert max(largest) == 10 * (20 + 4)


def test_what_cannot_be_searched_is_said():
    with pytest.raises(ValueError, match="k is 0; it is a number of documents, so give at least 1"):
        nearest(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), 0)
    with pytest.raises(ValueError, match=r"\[1, 2\] queries, \[1, 3\] documents; give \[n, h\] of one h"):
        nearest(np.ones((1, 2), np.float32), np.ones((1, 3), np.float32), 1)
