"""Rows that say what is right are read for a model as fine-tuning read them: any columns, any kind of task."""

import json
from types import SimpleNamespace

import learnable
import pytest

from tessera.export.head_scores import right_answer
from tessera.files import write_text
from tessera.labelled import judged
from tessera.labelled.tables import DataError
from tessera.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.load(learnable.model(tmp_path_factory.mktemp("model")))


SQUAD = {"question": "who", "context": "a cat sat", "answers": {"text": ["a cat", "cat"], "answer_start": [0, 2]}}
CASES = {
    "a label": ("classify", False, ["no", "yes"], {"sentence": "a", "label": "yes"}, {"text": "a", "label": "yes"}),
    "a number for it": ("classify", False, ["no", "yes"], {"text": "a", "label": 1}, {"text": "a", "label": "yes"}),
    "a pair": (
        "classify", True, ["no", "yes"], {"premise": "a", "hypothesis": "b", "label": "no"},
        {"text": "a", "second": "b", "label": "no"},
    ),
    "a text beside it that is not read": (
        "classify", False, ["no", "yes"], {"text": "a", "second": "b", "label": "no"}, {"text": "a", "label": "no"},
    ),
    "labels": ("multilabel", False, ["x", "y"], {"text": "a", "labels": ["y"]}, {"text": "a", "labels": ["y"]}),
    "a number": ("regress", False, [], {"text": "a", "score": 2.5}, {"text": "a", "score": 2.5}),
    "words": (
        "tag", False, ["O", "B-X"], {"tokens": ["a", "b"], "ner_tags": ["O", "B-X"]},
        {"words": ["a", "b"], "tags": ["O", "B-X"]},
    ),
    "spans of raw text": (
        "tag", False, ["O", "B-X", "I-X"], {"text": "see Rome", "spans": [{"start": 4, "end": 8, "label": "X"}]},
        {"words": ["see", "Rome"], "tags": ["O", "B-X"]},
    ),
    "answers of SQuAD": (
        "span", False, [], SQUAD, {"question": "who", "context": "a cat sat", "answers": ["a cat", "cat"]},
    ),
    "an answer without a place": (
        "span", False, [], {"question": "who", "context": "a cat sat", "answer": "cat"},
        {"question": "who", "context": "a cat sat", "answers": ["cat"]},
    ),
    "no answer": (
        "span", False, [], {**SQUAD, "answers": {"text": [], "answer_start": []}},
        {"question": "who", "context": "a cat sat", "answers": []},
    ),
    "options": (
        "choose", False, [], {"question": "a", "choice1": "b", "choice2": "c", "label": 1},
        {"text": "a", "options": ["b", "c"], "choice": 1},
    ),
    "a choice": (
        "choose", False, [], {"text": "a", "options": ["b", "c"], "choice": 0},
        {"text": "a", "options": ["b", "c"], "choice": 0},
    ),
    "a graded document": (
        "rerank", True, [], {"query": "a", "document": "b", "label": 1}, {"text": "a", "second": "b", "score": 1.0},
    ),
    "two texts and a score": (
        "rerank", True, [], {"text": "a", "second": "b", "score": 0.5}, {"text": "a", "second": "b", "score": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_rows_are_read_as_a_prediction_is_asked_for(case, tokenizer, tmp_path):
    kind, pair, labels, row, due = CASES[case]
    write_text(tmp_path / "rows.jsonl", json.dumps(row) + "\n")
    (found,) = judged.rows(str(tmp_path / "rows.jsonl"), kind=kind, pair=pair, labels=labels, tokenizer=tokenizer)
    assert found == due
    assert right_answer(SimpleNamespace(kind=kind, labels=labels), found, 0)


def test_steps_of_a_solution_are_rows_of_their_own(tokenizer, tmp_path):
    write_text(tmp_path / "rows.jsonl", json.dumps({"problem": "p", "text": "p", "steps": ["a", "b"], "label": [1, 0]}))
    found = judged.rows(
        str(tmp_path / "rows.jsonl"), kind="classify", pair=True, labels=["wrong", "right"], tokenizer=tokenizer
    )
    assert found == [
        {"text": "p", "second": "a", "label": "right"}, {"text": "p", "second": "a\nb", "label": "wrong"},
    ]  # fmt: skip


def test_the_language_of_a_row_goes_with_it(tokenizer, tmp_path):
    write_text(tmp_path / "rows.csv", "text,label,lang\na,yes,fao\nb,no,isl\n")
    found = judged.rows(
        str(tmp_path / "rows.csv"), kind="classify", pair=False, labels=["no", "yes"], tokenizer=tokenizer
    )
    assert [row["lang"] for row in found] == ["fao", "isl"]


def test_ten_options_and_more_stand_in_the_order_of_their_numbers(tokenizer, tmp_path):
    row = {"text": "a", **{f"choice{n}": f"option {n}" for n in range(1, 13)}, "label": 10}
    write_text(tmp_path / "rows.jsonl", json.dumps(row))
    (found,) = judged.rows(str(tmp_path / "rows.jsonl"), kind="choose", pair=False, labels=[], tokenizer=tokenizer)
    assert found["options"][found["choice"]] == "option 11"


def test_rows_that_cannot_be_used_are_all_named(tokenizer, tmp_path):
    write_text(tmp_path / "rows.csv", "text,label\na,yes\nb,perhaps\nc,maybe\n")
    with pytest.raises(DataError, match=r"(?s)rows.csv:3: label is 'perhaps'.*rows.csv:4: label is 'maybe'"):
        judged.rows(str(tmp_path / "rows.csv"), kind="classify", pair=False, labels=["no", "yes"], tokenizer=tokenizer)
    write_text(tmp_path / "none.jsonl", "")
    with pytest.raises(DataError, match="holds no rows"):
        judged.rows(str(tmp_path / "none.jsonl"), kind="classify", pair=False, labels=["no"], tokenizer=tokenizer)
