"""Rows of pairs, triplets, grades and translations; what is wrong with one is said with its place."""

import pytest

from tessera.labelled.tables import DataError
from tessera.retrieval.pairs import judged, search, sentences, split, triples


def placed(*rows):
    return [(f"rows.jsonl:{n}", row) for n, row in enumerate(rows, 1)]


def test_pairs_triplets_and_grades_say_the_same_of_a_query():
    pairs = judged(placed({"query": "q", "positive": "a", "negative": ["b", "c"]}, {"query": "q", "positive": "d"}))
    grades = judged(placed(*({"query": "q", "document": d, "grade": g} for d, g in zip("abcd", (1, 0, 0, 1)))))  # noqa: B905
    assert [(one.query, one.grades) for one in pairs] == [("q", {"a": 1, "b": 0, "c": 0, "d": 1})]
    assert [(one.query, one.grades) for one in grades] == [(one.query, one.grades) for one in pairs]
    assert [(t.query, t.positive, t.negatives) for t in triples(pairs)] == [
        ("q", "a", ("b", "c")),
        ("q", "d", ("b", "c")),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"query": "q", "positive": "a"},
        {"anchor": "q", "positive": "a"},
        {"sentence1": "q", "sentence2": "a"},
        {"question": "q", "answer": "a"},
        {"query": "q", "passage": "a", "relevance": 1},
        {"query": "q", "code": "a", "label": 1},
        {"Query": "q", "Positive": ["a"]},
    ],
)
def test_columns_are_found_by_what_they_are_usually_called(row):
    assert [(one.query, one.grades) for one in judged(placed(row))] == [("q", {"a": 1})]


def test_columns_may_be_named():
    rows = placed({"frage": "q", "gut": "a", "schlecht": "b"})
    named = {"query": "frage", "positive": "gut", "negatives": "schlecht"}
    assert judged(rows, named)[0].grades == {"a": 1, "b": 0}


def test_what_answers_a_query_in_one_row_is_no_negative_of_it_in_another():
    rows = placed(
        {"query": "q", "positive": "b", "negatives": ["a"]}, {"query": "q", "positive": "a", "negatives": ["b"]}
    )
    assert judged(rows)[0].grades == {"b": 1, "a": 1}


def test_negatives_may_be_missing_in_some_rows():
    rows = placed(
        {"query": "q", "positive": "a", "negatives": ["b"]}, {"query": "r", "positive": "c", "negatives": None}
    )
    assert [one.grades for one in judged(rows)] == [{"a": 1, "b": 0}, {"c": 1}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"query": "q", "positive": "a"}, {"query": " ", "positive": "a"}], "rows.jsonl:2: query has no text"),
        ([{"query": "q", "positive": None}], "rows.jsonl:1: positive is missing"),
        ([{"query": "q", "positive": []}], "rows.jsonl:1: positive is empty"),
        ([{"query": "q", "positive": 3}], "rows.jsonl:1: positive is 3; text is needed"),
        ([{"query": "q", "positive": "a", "negatives": ["b", ""]}], "rows.jsonl:1: negatives has no text"),
        ([{"query": "q", "document": "a", "grade": 0.5}], "rows.jsonl:1: grade is 0.5; a whole number is needed"),
        ([{"query": "q", "document": "a", "grade": -1}], "rows.jsonl:1: the grade is -1; give 0"),
        ([{"query": "q", "document": "a", "grade": g} for g in (1, 0)], "rows.jsonl:2: grades 'a' as 0 for 'q', but"),
        ([{"left": "q", "right": "a"}], "rows.jsonl:1: no column is the query; .* the row has left, right"),
        ([], "there are no rows of pairs"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(rows, message):
    with pytest.raises(DataError, match=message):
        judged(placed(*rows))


def test_a_role_that_is_none_is_refused():
    with pytest.raises(DataError, match="'positiv' is no role of pairs; roles are query"):
        judged(placed({"a": "q"}), {"positiv": "a"})
    with pytest.raises(DataError, match="'text' is no role of sentences; roles are source"):
        sentences(placed({"a": "q"}), {"text": "a"})


@pytest.mark.parametrize(
    ("row", "columns", "due"),
    [
        ({"text": "a"}, None, ("a", None, "")),
        ({"source": "web", "text": "a"}, None, ("a", None, "")),  # where it is from, not a sentence
        ({"src": "ein", "tgt": "one", "src_lang": "deu", "tgt_lang": "eng_Latn"}, None, ("one", "ein", "deu")),
        ({"src": "one", "tgt": "un", "src_lang": "eng_Latn", "tgt_lang": "fra"}, None, ("one", "un", "fra")),
        ({"src": "one", "tgt": "un"}, None, ("one", "un", "")),
        ({"english": "one", "translation": "un", "language": "fra"}, None, ("one", "un", "fra")),
        ({"sentence1": "one", "sentence2": "un"}, None, ("one", "un", "")),
        ({"source": "one", "target": "un"}, None, ("one", "un", "")),
        ({"x": "one", "y": "un"}, {"source": "x", "target": "y"}, ("one", "un", "")),
        ({"x": "one", "y": "un"}, {"source": "x"}, ("one", None, "")),
    ],
)  # fmt: skip
def test_the_sentence_that_the_teacher_reads_and_its_translation(row, columns, due):
    one = sentences(placed(row), columns)[0]
    assert (one.text, one.translation, one.language) == due


def test_a_row_without_a_translation_is_a_plain_sentence_where_that_is_said():
    rows = [{"source": "a", "target": None}, {"source": "b", "target": "c"}]
    assert [row.translation for row in sentences(placed(*rows))] == [None, "c"]
    with pytest.raises(DataError, match="target"):
        sentences(placed(rows[1], {"source": "a"}))  # the column is not there at all


def test_a_sentence_without_text_is_named():
    with pytest.raises(DataError, match=r"rows\.jsonl:2: target has no text"):
        sentences(placed({"src": "a", "tgt": "b"}, {"src": "a", "tgt": ""}))


def test_a_text_is_on_one_side_of_the_split_in_every_language():
    rows = sentences(
        placed(*({"english": f"t{n % 50}", "translation": "x", "lang": f"l{n // 50}"} for n in range(150)))
    )
    learn, held = split(rows, 0.3)
    assert not {r.text for r in learn} & {r.text for r in held}
    assert len(learn) + len(held) == 150
    assert 15 <= len(held) <= 75
    assert split(rows[::-1], 0.3)[1] == held[::-1]


def test_queries_without_an_answer_are_not_asked_but_their_documents_are_searched():
    rows = [{"query": "q", "document": "a", "grade": 2}, {"query": "r", "document": "b", "grade": 0}]
    found = search(judged(placed(*rows)), ["c"])
    assert found.queries == {"q": "q"}
    assert list(found.corpus) == ["a", "b", "c"]
    assert found.relevant == {"q": {"a": 2}}
