import re

import pytest
from task_files import task, write

from tessera.data.examples import Triple
from tessera.evaluation import load
from tessera.evaluation.load_retrieval import search
from tessera.evaluation.rows import DataError
from tessera.plan.task import Task

BEIR = {
    "kind": "retrieve",
    "columns": {"id": "_id", "query": "text"},
    "corpus": {"columns": {"document_id": "_id", "document": "{title} {text}"}},
    "relevant": {"columns": {"id": "query-id", "document_id": "corpus-id", "grade": "score"}},
    "metric": "ndcg@10",
    "languages": ["fo"],
}
DOCUMENTS = [{"_id": "d1", "title": "Havn", "text": "Býur."}, {"_id": "d2", "title": "", "text": "Oyggj."}]


def beir(tmp_path, queries, grades, documents=DOCUMENTS):
    write(tmp_path / "t/fo/test.jsonl", queries)
    write(tmp_path / "t/fo/corpus.jsonl", documents)
    write(tmp_path / "t/fo/relevant.jsonl", grades)
    return task(BEIR)


def test_queries_documents_and_grades_are_joined_and_queries_without_grades_are_not_asked(tmp_path):
    given = beir(
        tmp_path,
        [{"_id": 7, "text": "Hvar?"}, {"_id": 8, "text": "Hvør?"}],
        [{"query-id": 7, "corpus-id": "d2", "score": 2}, {"query-id": 7, "corpus-id": "d1", "score": 0}],
    )
    found = search(given, "test", "fo", tmp_path)
    assert found.queries == {"7": "Hvar?"}
    assert found.corpus == {"d1": "Havn Býur.", "d2": "Oyggj."}
    assert found.relevant == {"7": {"d2": 2}}
    only = search(given.model_copy(update={"only_relevant": True}), "test", "fo", tmp_path)
    assert only.corpus == {"d2": "Oyggj."}


@pytest.mark.parametrize(
    ("grade", "says"),
    [
        (
            {"query-id": 9, "corpus-id": "d1", "score": 1},
            "relevant.jsonl:1: grades query '9', which is not among the 1",
        ),
        (
            {"query-id": 7, "corpus-id": "d9", "score": 1},
            "relevant.jsonl:1: query '7' asks for document 'd9', which is not",
        ),
        ({"query-id": 7, "corpus-id": "d1", "score": "x"}, "relevant.jsonl:1: score is 'x'; a whole number is needed"),
        ({"query-id": 7, "corpus-id": "d1", "score": 0}, "no query has a document that answers it"),
    ],
)
def test_grades_that_point_nowhere_are_named(tmp_path, grade, says):
    with pytest.raises(DataError, match=re.escape(says)):
        search(beir(tmp_path, [{"_id": 7, "text": "Hvar?"}], [grade]), "test", "fo", tmp_path)


@pytest.mark.parametrize(
    ("queries", "documents", "says"),
    [
        ([{"_id": 7, "text": " "}], DOCUMENTS, "test.jsonl:1: query '7' has no text"),
        ([{"_id": 7, "text": "a"}] * 2, DOCUMENTS, "test.jsonl:2: query id '7' is there twice, first at"),
        ([{"_id": 7, "text": "a"}], DOCUMENTS * 2, "corpus.jsonl:3: document id 'd1' is there twice, first at"),
        (
            [{"_id": 7, "text": "a"}],
            [{"_id": "d1", "title": "", "text": ""}],
            "asks for document 'd1', which has no text",
        ),
        ([{"_id": 7, "text": "a"}], [], "split 'test' holds no rows of language 'fo'"),
        ([], DOCUMENTS, "split 'test' holds no rows of language 'fo'"),
    ],
)
def test_empty_and_doubled_queries_and_documents_are_named(tmp_path, queries, documents, says):
    given = beir(tmp_path, queries, [{"query-id": 7, "corpus-id": "d1", "score": 1}], documents)
    with pytest.raises(DataError, match=re.escape(says)):
        search(given, "test", "fo", tmp_path)


PAIRS = {
    "kind": "retrieve",
    "columns": {"query": "anchor", "positive": "positive"},
    "metric": "ndcg@10",
    "languages": ["fo"],
}


def test_the_documents_of_pairs_are_the_positives_of_validation_and_test_each_text_once(tmp_path):
    rows = [{"anchor": f"q{n // 2}", "positive": f"d{n % 15}"} for n in range(40)]
    write(tmp_path / "t/fo/all.jsonl", rows)
    splits = {"validation": {"from": "all", "share": 0.5}, "test": {"from": "all", "share": 0.5}}
    given = task(PAIRS, data={"splits": splits})
    found = {split: search(given, split, "fo", tmp_path) for split in ("validation", "test")}
    assert sorted([*found["validation"].queries, *found["test"].queries]) == sorted({row["anchor"] for row in rows})
    for part in found.values():
        assert sorted(part.corpus.values()) == sorted({row["positive"] for row in rows})
        for query, grades in part.relevant.items():
            wanted = {row["positive"] for row in rows if row["anchor"] == query}
            assert {part.corpus[document] for document in grades} == wanted


def test_halves_of_graded_queries_search_the_documents_of_both(tmp_path):
    write(tmp_path / "t/fo/test.jsonl", [{"_id": n, "text": f"q{n}"} for n in range(20)])
    write(tmp_path / "t/fo/corpus.jsonl", [{"_id": n, "title": "", "text": f"d{n}"} for n in range(30)])
    write(tmp_path / "t/fo/relevant.jsonl", [{"query-id": n, "corpus-id": n, "score": 1} for n in range(20)])
    halves = {"validation": {"from": "test", "share": 0.5}, "test": {"from": "test", "share": 0.5}}
    given = task({**BEIR, "only_relevant": True}, data={"splits": halves})
    found = [search(given, split, "fo", tmp_path) for split in ("validation", "test")]
    assert [list(part.corpus) for part in found] == [[str(n) for n in range(20)]] * 2
    assert sorted([*found[0].queries, *found[1].queries], key=int) == [str(n) for n in range(20)]


def test_validation_among_triples_searches_their_positives_and_not_the_documents_of_the_test(tmp_path):
    given = beir(tmp_path, [{"_id": 7, "text": "Hvar?"}], [{"query-id": 7, "corpus-id": "d2", "score": 1}])
    write(tmp_path / "triples.jsonl", [{"q": f"q{n}", "p": f"d{n}", "n": "x"} for n in range(50)])
    triples = {
        "path": "triples.jsonl",
        "columns": {"query": "q", "positive": "p", "negatives": ["n"]},
        "splits": {"train": "all", "validation": {"from": "all", "share": 0.2}},
    }
    both = Task.model_validate({**given.model_dump(by_alias=True), "train": "en", "train_data": triples})
    assert search(both, "test", "fo", tmp_path) == search(given, "test", "fo", tmp_path)
    found = search(both, "validation", "en", tmp_path)
    assert {found.corpus[d] for grades in found.relevant.values() for d in grades} == set(found.corpus.values())
    trained = load.load(both, "train", "en", tmp_path)
    assert not {triple.query for triple in trained} & set(found.queries)
    assert len(trained) + len(found.queries) == 50


def test_pairs_to_train_on_are_triples_with_whatever_negatives_they_bring(tmp_path):
    write(tmp_path / "t/fo/train.jsonl", [{"anchor": "q", "positive": ["a", "b"], "n1": "x", "n2": "y"}])
    given = task({**PAIRS, "columns": {**PAIRS["columns"], "negatives": ["n1", "n2"]}})
    found = load.load(given, "train", "fo", tmp_path)
    assert [(t.query, t.positive, t.negatives) for t in found] == [("q", "a", ("x", "y")), ("q", "b", ("x", "y"))]
    assert all(isinstance(t, Triple) for t in found)


def test_a_limit_of_queries_leaves_all_documents(tmp_path):
    write(tmp_path / "t/fo/test.jsonl", [{"anchor": f"q{n}", "positive": f"d{n}"} for n in range(30)])
    found = search(task(PAIRS), "test", "fo", tmp_path, limit=5)
    assert len(found.queries) == len(found.relevant) == 5
    assert len(found.corpus) == 30
