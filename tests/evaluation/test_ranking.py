"""Rankings of documents, and measures of them worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from tessera.data.examples import Search
from tessera.evaluation.retrieve import averages, by_length, measure, outcomes, rank


def vectors(texts):
    """A text is a point: '3 4' is the vector [3, 4]."""
    return np.array([[float(number) for number in text.split()] for text in texts], np.float32)


POINTS = Search(
    queries={"east": "1 0", "north": "0 1", "nobody asks": "1 1", "unknown": "1 1"},
    corpus={"a": "9 1", "b": "5 5", "c": "1 9", "d": "-5 0"},
    relevant={"east": {"b": 1, "a": 3}, "north": {"d": 1, "c": 0}, "nobody asks": {"a": 0}},
)


def test_only_queries_with_an_answer_are_asked_and_documents_come_in_order_of_their_products():
    assert rank(POINTS, vectors, vectors) == {"east": ["a", "b", "c", "d"], "north": ["c", "b", "a", "d"]}
    assert rank(POINTS, vectors, vectors, depth=2) == {"east": ["a", "b"], "north": ["c", "b"]}


@pytest.mark.parametrize("text", ["nan 1", "1 inf"])
def test_a_query_or_document_whose_vector_is_not_finite_is_named(text):
    with pytest.raises(ValueError, match=f"vector of '{text}' of 2 texts is not finite"):
        rank(Search(queries={**POINTS.queries, "north": text}, corpus=POINTS.corpus, relevant=POINTS.relevant),
             vectors, vectors)  # fmt: skip
    with pytest.raises(ValueError, match=f"vector of '{text}' of 4 texts is not finite"):
        rank(Search(queries=POINTS.queries, corpus={**POINTS.corpus, "c": text}, relevant=POINTS.relevant),
             vectors, vectors)  # fmt: skip


def test_queries_and_documents_are_embedded_each_in_their_own_way():
    turned = rank(POINTS, lambda texts: -vectors(texts), vectors)
    assert turned["east"] == ["d", "c", "b", "a"]


def test_measures_worked_out_by_hand():
    ranked = {"east": ["b", "c", "a"], "north": ["c", "d"]}
    rows = measure(POINTS, ranked)
    # east: gains 1, 0, 3 at ranks 1, 2, 3; the best order is 3, 1
    assert rows["east"] == pytest.approx(
        {
            "ndcg@10": (1 / 1 + 3 / math.log2(4)) / (3 / 1 + 1 / math.log2(3)),
            "mrr@10": 1.0,
            "recall@10": 1.0,
            "recall@100": 1.0,
            "average_precision": (1 + 2 / 3) / 2,
        }
    )
    # north: its only answer is second; grade 0 is no answer
    assert rows["north"] == pytest.approx(
        {"ndcg@10": 1 / math.log2(3), "mrr@10": 1 / 2, "recall@10": 1.0, "recall@100": 1.0, "average_precision": 1 / 2}
    )
    assert averages(rows)["mrr@10"] == pytest.approx(3 / 4)
    each = outcomes(rows)
    assert each["ndcg@10"] == [round(2.5 / (3 + 1 / math.log2(3)), 6), 0.63093]
    assert (each["mrr@10"], each["average_precision"]) == ([1.0, 0.5], [0.833333, 0.5])


def test_ranks_beyond_ten_count_for_recall_at_100_only():
    many = Search(
        queries={"q": ""}, corpus={str(n): "" for n in range(200)}, relevant={"q": {"10": 1, "99": 1, "100": 1}}
    )
    row = measure(many, {"q": [str(n) for n in range(200)]})["q"]
    assert row.pop("average_precision") == pytest.approx((1 / 11 + 2 / 100 + 3 / 101) / 3)
    assert row == pytest.approx({"ndcg@10": 0, "mrr@10": 0, "recall@10": 0, "recall@100": 2 / 3})


@given(st.permutations(list("abcdefghijkl")), st.dictionaries(st.sampled_from("abcdefghijklxy"), st.integers(0, 3)))
def test_ndcg_agrees_with_scikit_learn(ranked, grades):
    if not any(grades.values()):
        return
    found = measure(Search(queries={}, corpus={}, relevant={"q": grades}), {"q": ranked})["q"]["ndcg@10"]
    names = [*ranked, *(name for name in grades if name not in ranked)]
    theirs = ndcg_score([[grades.get(name, 0) for name in names]], [[-n for n in range(len(names))]], k=10)
    assert found == pytest.approx(theirs)


def test_scores_are_told_apart_by_the_length_of_what_answers():
    corpus = {"none": "", "short": "x" * 10, "edge": "x" * 100, "long": "x" * 101, "endless": "x" * 2000}
    relevant = {"a": {"short": 1}, "b": {"edge": 1, "long": 0}, "c": {"short": 1, "long": 2}, "d": {"endless": 1}}
    search = Search(queries=dict.fromkeys(relevant, ""), corpus=corpus, relevant=relevant)
    rows = {"a": {"mrr@10": 1.0}, "b": {"mrr@10": 0.5}, "c": {"mrr@10": 0.25}, "d": {"mrr@10": 0.0}}
    assert by_length(search, rows, lengths=(100, 1000)) == {
        "0-100": {"mrr@10": 0.75, "queries": 2},
        "100-1000": {"mrr@10": 0.25, "queries": 1},
        ">1000": {"mrr@10": 0.0, "queries": 1},
    }


def test_a_search_without_answers_is_refused():
    with pytest.raises(ValueError, match="none of 1 queries has a document that answers it"):
        rank(Search(queries={"q": "a"}, corpus={"d": "b"}, relevant={"q": {"d": 0}}), vectors, vectors)
