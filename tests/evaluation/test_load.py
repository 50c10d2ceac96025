import json
import re

import pytest
from task_files import CLASSIFY, TAG, task, write

from tessera.data.examples import Choices, Labelled, Question, Tagged
from tessera.evaluation import load
from tessera.evaluation.rows import DataError

SPAN = {
    "kind": "span",
    "columns": {"id": "id", "question": "q", "context": "c", "answers": "a.text", "starts": "a.start"},
    "metric": "squad_f1",
    "languages": ["fo"],
}


def refused(tmp_path, given, row, **options):
    """What is said of a row, the second of a file; the path is left out."""
    path = tmp_path / "t" / "fo" / "test.jsonl"
    write(path, [GOOD[given["kind"]], row])
    with pytest.raises(DataError) as error:
        load.load(task(given), "test", "fo", tmp_path, **options)
    return str(error.value).replace(str(path), "FILE")


GOOD = {
    "classify": {"id": 1, "text": "gott", "label": "good"},
    "pair": {"id": 1, "text": "gott", "second": "betur", "label": 0},
    "regress": {"id": 1, "text": "gott", "label": 3},
    "choose": {"text": "Tað regnar.", "one": "vátt", "two": "turt", "o": ["vátt", "turt"], "label": 0},
    "tag": {"words": ["Jógvan", "kom"], "tags": ["B-PER", "O"]},
    "span": {"id": 1, "q": "Hvar?", "c": "Í Havn býr hann.", "a": [{"text": "Havn", "start": 2}]},
    "reward": {"text": "1 + 1 + 1?", "steps": ["1 + 1 = 2", "2 + 1 = 3"], "label": [True, True]},
}


# ------------------------------------------------------------------------------------------------------------ good rows


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.zst", ".parquet"])
@pytest.mark.parametrize("place", ["t/fo/test", "t/test"])
def test_rows_are_found_whatever_their_format_with_or_without_a_folder_of_the_language(tmp_path, ending, place):
    write(tmp_path / f"{place}{ending}", [GOOD["classify"], {"id": 2, "text": "illa", "label": "bad"}])
    found = load.load(task(CLASSIFY), "test", "fo", tmp_path)
    assert found == [
        Labelled(text="gott", label=1, id="1", row=f"{tmp_path / place}{ending}:1"),
        Labelled(text="illa", label=0, id="2", row=f"{tmp_path / place}{ending}:2"),
    ]


def test_every_kind_has_its_example(tmp_path):
    def first(given, **more):
        write(tmp_path / "t" / "fo" / "test.jsonl", [GOOD[given["kind"]]])
        return load.load(task(given, **more), "test", "fo", tmp_path)

    row = f"{tmp_path / 't' / 'fo' / 'test.jsonl'}:1"
    pair = {**CLASSIFY, "kind": "pair", "columns": {"text": "text", "second": "second", "label": "label"}}
    assert first(pair) == [Labelled(text="gott", second="betur", label=0, id=row, row=row)]
    regress = {**CLASSIFY, "kind": "regress", "labels": None, "range": (0, 5), "metric": "spearman"}
    assert first(regress) == [Labelled(text="gott", label=3.0, id="1", row=row)]
    choose = {
        **CLASSIFY,
        "kind": "choose",
        "labels": None,
        "columns": {"text": "Nú: {text}", "options": ["one", "two"], "label": "label"},
    }
    assert first(choose) == [Choices(text="Nú: Tað regnar.", options=("vátt", "turt"), label=0, id=row, row=row)]
    assert first(TAG) == [Tagged(words=("Jógvan", "kom"), tags=(1, 0), id=row, row=row)]
    assert first(SPAN) == [
        Question(question="Hvar?", context="Í Havn býr hann.", answers=(("Havn", 2),), id="1", row=row)
    ]


def test_answers_as_squad_and_the_hub_write_them_are_the_same(tmp_path):
    write(tmp_path / "t/fo/test.jsonl", [{**GOOD["span"], "a": {"text": ["Havn", "Í Havn"], "start": [2, 0]}}])
    (found,) = load.load(task(SPAN), "test", "fo", tmp_path)
    assert found.answers == (("Havn", 2), ("Í Havn", 0))


REWARD = {
    "kind": "reward",
    "columns": {"text": "text", "steps": "steps", "label": "label"},
    "metric": "macro_f1",
    "languages": ["fo"],
}


def test_a_solution_is_a_question_for_each_step_or_one_for_all(tmp_path):
    wrong = {"text": "2 + 1 + 1?", "steps": ["2 + 1 = 3", "3 + 1 = 5"], "label": [1, 0]}
    write(tmp_path / "t/fo/test.jsonl", [GOOD["reward"], wrong, {"text": "?", "steps": ["x"], "label": ["+"]}])
    steps = load.load(task(REWARD, steps=2), "test", "fo", tmp_path)
    assert [(e.text, e.second, e.label) for e in steps] == [
        ("1 + 1 + 1?", "1 + 1 = 2", 1),
        ("1 + 1 + 1?", "1 + 1 = 2\n2 + 1 = 3", 1),
        ("2 + 1 + 1?", "2 + 1 = 3", 1),
        ("2 + 1 + 1?", "2 + 1 = 3\n3 + 1 = 5", 0),
    ]
    assert [e.label for e in load.load(task(REWARD, steps=2, whole=True), "test", "fo", tmp_path)] == [1, 0]


def test_labels_of_a_task_that_names_none_are_those_of_its_training_rows_in_order(tmp_path):
    write(tmp_path / "t/fo/train.jsonl", [{"id": n, "text": "x", "label": n} for n in (10, 2, 2.0, 1)][:2])
    write(tmp_path / "t/fo/test.jsonl", [{"id": 1, "text": "x", "label": 10}])
    found = task({**CLASSIFY, "labels": None})
    assert load.labels(found, tmp_path, "fo") == ("2", "10")
    assert load.load(found, "test", "fo", tmp_path)[0].label == 1
    write(tmp_path / "t/fo/test.jsonl", [{"id": 1, "text": "x", "label": 3}])
    with pytest.raises(DataError, match="label is 3, which is no label of the task; known are 10, 2"):
        load.load(found, "test", "fo", tmp_path)


def test_several_languages_come_one_after_the_other_and_may_share_ids(tmp_path):
    for code in ("fo", "is"):
        write(tmp_path / f"t/{code}/train.jsonl", [{"id": 1, "text": code, "label": 0}])
    found = load.load(task({**CLASSIFY, "languages": ["fo", "is"]}), "train", ["is", "fo"], tmp_path)
    assert [e.text for e in found] == ["is", "fo"]


def test_languages_are_those_with_files_to_train_on_too_where_each_has_its_own(tmp_path):
    for name in ("fo/test", "fo/train", "is/test"):
        write(tmp_path / f"t/{name}.jsonl", [GOOD["classify"]])
    assert load.languages(task({**CLASSIFY, "languages": "all"}), tmp_path) == ("fo",)
    assert load.languages(task({**CLASSIFY, "languages": "all", "train": "fo"}), tmp_path) == ("fo", "is")
    with pytest.raises(DataError, match="give it"):
        load.languages(task({**CLASSIFY, "languages": "all"}))


# ------------------------------------------------------------------------------------------------------ parts and draws

PARTS = {
    "splits": {
        "train": {"from": "all", "share": 0.6},
        "validation": {"from": "all", "share": 0.1},
        "test": {"from": "all", "share": 0.3},
    }
}


def test_parts_of_a_split_share_no_group_and_lose_no_row(tmp_path):
    rows = [{**GOOD["span"], "id": n, "title": f"grein {n // 5}"} for n in range(300)]
    write(tmp_path / "t/fo/all.jsonl", rows)
    given = task({**SPAN, "columns": {**SPAN["columns"], "group": "title"}, "data": PARTS})
    ids = {
        split: [int(e.id) for e in load.load(given, split, "fo", tmp_path)] for split in ("train", "validation", "test")
    }
    assert sorted(n for numbers in ids.values() for n in numbers) == list(range(300))
    groups = {split: {n // 5 for n in numbers} for split, numbers in ids.items()}
    assert not groups["train"] & groups["test"]
    assert not groups["validation"] & (groups["train"] | groups["test"])
    assert 0.45 < len(ids["train"]) / 300 < 0.75


def test_the_same_ids_fall_into_the_same_part_in_every_language(tmp_path):
    for code, text in (("fo", "gott"), ("is", "gott er það")):
        write(tmp_path / f"t/{code}/all.jsonl", [{"id": n, "text": f"{text} {n}", "label": 1} for n in range(100)])
    given = task({**CLASSIFY, "languages": ["fo", "is"], "data": PARTS})
    ids = [[e.id for e in load.load(given, "validation", code, tmp_path)] for code in ("fo", "is")]
    assert ids[0] == ids[1] != []


def test_a_limit_draws_the_same_examples_every_time_and_more_of_them_the_higher_it_is(tmp_path):
    write(tmp_path / "t/fo/train.jsonl", [{"id": n, "text": f"x{n}", "label": n % 2} for n in range(200)])
    ids = [[int(e.id) for e in load.load(task(CLASSIFY), "train", "fo", tmp_path, limit=n)] for n in (20, 50, 1000)]
    assert [len(some) for some in ids] == [20, 50, 200]
    assert set(ids[0]) < set(ids[1])
    assert ids[1] == sorted(ids[1]) != list(range(50))  # in the order of the data, but not its beginning


# ------------------------------------------------------------------------------------------------------------- bad rows


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": 2, "text": "x"}, "FILE:2: has no column 'label'; known are id, text"),
        ({"id": 2, "text": "x", "labl": 1}, "FILE:2: has no column 'label'; did you mean 'labl'?"),
        ({"id": 2, "text": "x", "label": None}, "FILE:2: label is missing"),
        ({"id": 2, "text": "x", "label": 2}, "FILE:2: label is 2, which is no label of the task; numbers are 0 to 1"),
        (
            {"id": 2, "text": "x", "label": -1},
            "FILE:2: label is -1, which is no label of the task; numbers are 0 to 1; -1 stands for a hidden label, so "
            "take another split",
        ),
        (
            {"id": 2, "text": "x", "label": "goood"},
            "FILE:2: label is 'goood', which is no label of the task; did you mean 'good'?",
        ),
        ({"id": 2, "text": None, "label": 1}, "FILE:2: text is missing"),
        ({"id": 2, "text": 7, "label": 1}, "FILE:2: text is 7; text is needed"),
        ({"id": 1, "text": "x", "label": 1}, "FILE:2: id '1' is there twice, first at FILE:1; ids must differ"),
        ({"id": None, "text": "x", "label": 1}, "FILE:2: id is missing"),
    ],
)
def test_a_bad_row_of_classes_is_named(tmp_path, row, says):
    assert refused(tmp_path, CLASSIFY, row) == says


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("much", "FILE:2: label is 'much'; a number is needed"),
        (6, "FILE:2: label is 6; the task allows 0 to 5"),
        (float("nan"), "FILE:2: label is nan; a finite number is needed"),
    ],
)
def test_a_bad_number_is_named(tmp_path, label, says):
    regress = {**CLASSIFY, "kind": "regress", "labels": None, "range": (0, 5), "metric": "spearman"}
    assert refused(tmp_path, regress, {"id": 2, "text": "x", "label": label}) == says


@pytest.mark.parametrize(
    ("words", "tags", "says"),
    [
        (["Jógvan", "kom"], ["B-PER"], "FILE:2: 2 words but 1 tags; each word has one"),
        (["Jógvan"], ["B-PRE"], "FILE:2: word 1 ('Jógvan') is tagged 'B-PRE', which is no label of the task; "),
        (["Jógvan"], [3], "FILE:2: word 1 ('Jógvan') is tagged 3, which is no label of the task; numbers are 0 to 2"),
        ([], [], "FILE:2: has no words"),
        (["Jógvan", ""], [1, 0], "FILE:2: word 2 is ''; a word is text"),
        ("Jógvan", [1], "FILE:2: words is 'Jógvan'; a list is needed"),
    ],
)
def test_bad_words_and_tags_are_named(tmp_path, words, tags, says):
    assert refused(tmp_path, TAG, {"words": words, "tags": tags}).startswith(says)


def span(answer, start, context="Í Havn býr hann, í Havn."):
    return {"id": 2, "q": "Hvar?", "c": context, "a": [{"text": answer, "start": start}]}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            span("Havn", 3),
            "FILE:2: the answer 'Havn' should start at character 3, but there stands 'avn '; it starts at 2, so "
            "mend the row",
        ),
        (
            span("Suðuroy", 3),
            "FILE:2: the answer 'Suðuroy' should start at character 3, but there stands 'avn býr', and nowhere else "
            "does it stand; mend or drop the row",
        ),
        (
            span("Havn", 99),
            "FILE:2: the answer 'Havn' should start at character 99, but there stands nothing; it starts at 19, so "
            "mend the row",
        ),
        (span("Havn", -5), "FILE:2: the answer 'Havn' should start at character -5, but there stands nothing"),
        (span("", 2), "FILE:2: an answer is empty; where there is none, leave it out"),
        (span("Havn", "2"), "FILE:2: the answer 'Havn' starts at '2'; a whole number is needed"),
        ({**span("Havn", 2), "a": []}, "FILE:2: has no column 'a.text'"),
        ({**span("Havn", 2), "a": {"text": [], "start": []}}, "FILE:2: has no answer; say no_answer: true in the task"),
        ({**span("Havn", 2), "a": {"text": ["a"], "start": []}}, "FILE:2: 1 answers but 0 starts"),
    ],
)
def test_an_answer_that_is_not_in_its_text_is_named_with_what_stands_there(tmp_path, row, says):
    if row["a"] == []:  # an empty list of answers is no answer, however it is written
        says = "FILE:2: has no answer"
    assert refused(tmp_path, SPAN, row).startswith(says)


def test_too_few_options_are_named(tmp_path):
    choose = {
        **CLASSIFY,
        "kind": "choose",
        "labels": None,
        "columns": {"text": "text", "options": "o", "label": "label"},
    }
    assert refused(tmp_path, choose, {"text": "x", "o": ["vátt"], "label": 0}) == (
        "FILE:2: 1 option is not a choice; at least two are needed"
    )
    assert "label is 2, which is no label" in refused(tmp_path, choose, {"text": "x", "o": ["a", "b"], "label": 2})


def test_steps_and_labels_of_different_length_are_named(tmp_path):
    assert refused(tmp_path, REWARD, {"text": "x", "steps": ["a", "b"], "label": [1]}) == (
        "FILE:2: 2 steps but 1 labels; each step has one"
    )
    assert refused(tmp_path, REWARD, {"text": "x", "steps": ["a"], "label": ["?"]}) == (
        "FILE:2: label has '?'; true or false is needed"
    )


def test_lines_that_are_no_rows_are_named(tmp_path):
    path = tmp_path / "t/fo/test.jsonl"
    write(path, [GOOD["classify"]])
    for line, says in (
        ("{", "not JSON"),
        ("[1]", "not a JSON object, where a row is a JSON object on a line: '\\[1\\]'"),
    ):
        path.write_text(json.dumps(GOOD["classify"]) + "\n\n" + line, encoding="utf-8")
        with pytest.raises(DataError, match=f"{re.escape(str(path))}:3: {says}"):
            load.load(task(CLASSIFY), "test", "fo", tmp_path)
    path.write_bytes(b'{"text": "\xff"}')
    with pytest.raises(DataError, match=r"test\.jsonl:1: not UTF-8"):
        load.load(task(CLASSIFY), "test", "fo", tmp_path)


def test_a_language_without_rows_is_named(tmp_path):
    write(tmp_path / "t/fo/test.jsonl", [])
    with pytest.raises(DataError, match="task t: split 'test' holds no rows of language 'fo'"):
        load.load(task(CLASSIFY), "test", "fo", tmp_path)
    write(tmp_path / "rows.jsonl", [{**GOOD["classify"], "lang": "is"}])
    given = task(CLASSIFY, data={"path": "rows.jsonl", "where": {"lang": "{language}"}})
    with pytest.raises(DataError, match="no rows of language 'fo'; none of its 1 rows has lang 'fo'"):
        load.load(given, "test", "fo", tmp_path)
