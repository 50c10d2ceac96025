"""Labelled rows of files: what they are taken for, how they are divided, and what is refused before training."""

import csv
import json
import random

import learnable
import pytest

from tessera.labelled import dataset, splits
from tessera.labelled.guess import guess
from tessera.labelled.tables import DataError
from tessera.prediction.tags import broken_at, scheme
from tessera.tokenizer.tokenizer import Tokenizer


def rows_of(*several):
    return [dict(row) for row in several]


@pytest.mark.parametrize(
    ("kind", "rows", "columns"),
    [
        ("classify", [{"text": "a", "label": "x"}], {"text": "text", "label": "label"}),
        ("classify", [{"utterance": "a", "intent": 3}], {"text": "utterance", "label": "intent"}),
        ("classify", [{"setningur": "ein long linja", "flokkur": n % 2} for n in range(8)],
         {"text": "setningur", "label": "flokkur"}),
        ("regress", [{"sentence1": "a", "sentence2": "b", "score": "2.5"}],
         {"text": "sentence1", "second": "sentence2", "label": "score"}),
        ("regress", [{"text": "a", "score": n} for n in range(50)], {"text": "text", "label": "score"}),
        ("pair", [{"premise": "a", "hypothesis": "b", "label": 1}],
         {"text": "premise", "second": "hypothesis", "label": "label"}),
        ("multilabel", [{"text": "a", "labels": ["x", "y"]}], {"text": "text", "label": "labels"}),
        ("tag", [{"tokens": ["a"], "ner_tags": ["O"], "lang": "swa"}],
         {"words": "tokens", "tags": "ner_tags", "language": "lang"}),
        ("tag", [{"text": "a b", "entities": [{"start": 0, "end": 1, "label": "PER"}]}],
         {"text": "text", "spans": "entities"}),
        ("span", [{"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": [0]}}],
         {"question": "question", "context": "context", "answers": "answers.text", "starts": "answers.answer_start"}),
        ("choose", [{"premise": "a", "choice1": "b", "choice2": "c", "label": 0}],
         {"text": "premise", "options": ("choice1", "choice2"), "label": "label"}),
        ("reward", [{"text": "a", "steps": ["b"], "label": [True]}],
         {"text": "text", "steps": "steps", "label": "label"}),
        ("rerank", [{"query": "a", "passage": "b", "label": 1}],
         {"query": "query", "document": "passage", "label": "label"}),
        ("retrieve", [{"anchor": "a", "positive": "b"}], None),
    ],
)  # fmt: skip
def test_kind_and_columns_are_guessed_from_what_stands_in_the_rows(kind, rows, columns):
    found = guess(rows, None, {})
    assert found.kind == kind
    assert columns is None or found.columns == columns
    assert found.why


def test_what_somebody_says_goes_over_what_is_guessed():
    rows = rows_of({"text": "a", "title": "b", "label": "x", "stars": 3})
    assert guess(rows, "regress", {"text": "title", "label": "stars"}).columns == {"text": "title", "label": "stars"}
    several = guess(rows_of({"text": "a", "toxic": 1, "spam": 0}), None, {"label": ("toxic", "spam")})
    assert (several.kind, several.columns["label"]) == ("multilabel", ("toxic", "spam"))


@pytest.mark.parametrize(
    ("rows", "kind", "given", "says"),
    [
        ([{"a": "x", "b": "y", "c": "z"}], None, {}, "cannot tell what these rows are: their columns are a, b, c"),
        ([{"text": "x", "label": "y"}], None, {"label": "lable"}, "no column is called 'lable'; the rows have text"),
        ([{"text": "x", "label": "y"}], None, {"tekst": "text"}, "no role is called 'tekst'; did you mean 'text'"),
        ([{"text": "x", "label": "y"}], "span", {}, "kind span needs a column for 'answers' (--column answers=COLUMN)"),
        ([{"text": "x", "label": "y"}], "classify", {"words": "text"}, "kind classify reads no 'words'"),
    ],
)
def test_what_cannot_be_guessed_is_asked_for_by_its_flag(rows, kind, given, says):
    with pytest.raises(DataError) as error:
        guess(rows, kind, given)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("train.csv", "train"), ("data/valid-00000-of-00001.parquet", "validation"),
        ("my_dev_set.jsonl.zst", "validation"),
        ("fo/test/part.csv", "test"), ("latest.csv", ""), ("contest.csv", ""), ("reviews.csv", ""),
        ("TRAIN.TSV", "train"), ("train/validation.csv", "validation"),
    ],
)  # fmt: skip
def test_a_split_is_named_by_a_whole_word_of_the_file_or_a_folder(file, split, tmp_path):
    assert splits.split_of(str(tmp_path / file), str(tmp_path)) == split


@pytest.mark.parametrize("seed", range(10))
def test_a_row_is_held_out_by_its_text_alone_whatever_stands_around_it(seed):
    rng = random.Random(seed)
    keys = [f"{rng.random()}" for _ in range(400)]
    share = rng.choice([0.1, 0.15, 0.3])
    alone = {key: splits.side(key, share) for key in keys}
    rng.shuffle(keys)
    assert {key: splits.side(key, share) for key in keys[:100]} == {key: alone[key] for key in keys[:100]}
    counts = [list(alone.values()).count(name) / len(keys) for name in ("test", "validation")]
    assert all(abs(count - share) < 0.08 for count in counts)


def write(place, rows, name="rows.jsonl"):
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text("\n".join(json.dumps(row) for row in rows))
    return str(place / name)


GOOD = [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(60)]


def test_equal_texts_fall_on_one_side_so_none_is_trained_on_and_tested(tmp_path):
    data = dataset.read(write(tmp_path, [row for row in GOOD for _ in range(3)]))
    sides = [{one.text for one in part.examples} for part in data.parts]
    assert not (sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2])
    assert sum(map(len, data.parts)) == 180


def test_a_column_may_say_the_split(tmp_path):
    rows = [{**row, "split": ["train", "dev", "test"][n % 3]} for n, row in enumerate(GOOD)]
    assert [len(part) for part in dataset.read(write(tmp_path, rows)).parts] == [20, 20, 20]


@pytest.mark.parametrize("bad", [None, "", float("nan"), [], {"a": 1}])
def test_rows_without_a_label_are_named_and_refused_or_left_out_and_counted(bad, tmp_path):
    where = write(tmp_path, [*GOOD, {"text": "without", "label": bad}])
    with pytest.raises(DataError, match=r"rows.jsonl:61.*\n.*--skip-bad"):
        dataset.read(where, dataset.Options(kind="classify"))
    data = dataset.read(where, dataset.Options(kind="classify", skip_bad=True))
    assert len(data.left_out) == 1
    assert any(line.startswith("1 rows left out, first: ") for line in data.said)
    assert data.labels == ("a", "b")


@pytest.mark.parametrize(("labels", "names"), [
    ([True, False], ("false", "true")), ([10, 9], ("9", "10")), ([1.0, 0.0], ("0", "1")),
    (["Já", "Nei"], ("Já", "Nei")),
])  # fmt: skip
def test_labels_may_be_text_numbers_and_truth_values(labels, names, tmp_path):
    rows = [{"text": f"row {n}", "label": labels[n % 2]} for n in range(60)]
    assert dataset.read(write(tmp_path, rows)).labels == names


def test_several_labels_stand_in_a_list_between_separators_or_in_columns_of_their_own(tmp_path):
    sets = [("a", "b"), ("a",), (), ("b",)]
    rows = [sets[n % 4] for n in range(60)]
    lists = write(tmp_path, [{"text": f"row {n}", "label": list(x)} for n, x in enumerate(rows)], "lists.jsonl")
    cells = write(tmp_path, [{"text": f"row {n}", "label": " ; ".join(x)} for n, x in enumerate(rows)], "cells.jsonl")
    own = [{"text": f"row {n}", "a": int("a" in x), "b": str("b" in x)} for n, x in enumerate(rows)]
    columns = write(tmp_path, own, "columns.jsonl")
    options = [
        (lists, dataset.Options()),
        (cells, dataset.Options(kind="multilabel", separator=";")),
        (columns, dataset.Options(columns={"label": ("a", "b")})),
    ]
    read = [dataset.read(where, how) for where, how in options]
    assert {one.labels for one in read} == {("a", "b")}
    assert len({json.dumps([[e.label for e in part.examples] for part in one.parts]) for one in read}) == 1


def test_a_label_only_the_test_set_has_is_said_with_the_flag_that_declares_it(tmp_path):
    for name, rows in (("train", GOOD), ("dev", GOOD), ("test", [*GOOD, {"text": "new", "label": "c"}])):
        write(tmp_path, rows, f"{name}.jsonl")
    with pytest.raises(DataError, match="--labels a,b,c"):
        dataset.read(str(tmp_path))
    with pytest.raises(DataError, match="--labels"):
        dataset.read(str(tmp_path), dataset.Options(labels=("a", "b")))
    assert dataset.read(str(tmp_path), dataset.Options(labels=("a", "b", "c"))).labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "a", "label": "x"}] * 60, "the labels are ['x']; at least two are needed"),
        (GOOD[:6], "row"),
        ([{"text": f"{n}", "label": f"name {n}"} for n in range(60)], "has 60 different values in 60 rows"),
        ([], "holds no rows"),
        (
            [{"query": "a", "positive": "b"}] * 9,
            "these are rows of kind retrieve; say so, if that",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_said_before_training(rows, says, tmp_path):
    with pytest.raises(DataError) as error:
        dataset.read(write(tmp_path, rows))
    assert says in str(error.value)


def test_a_path_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        dataset.read(str(tmp_path / "nothing.csv"))


# ---------------------------------------------------------------------------------------------------------------- tags


@pytest.mark.parametrize(
    ("tags", "at"),
    [
        (["O", "B-PER", "I-PER", "O"], None), (["B-PER", "B-PER", "I-PER"], None), (["O", "I-PER"], 1), (["I-PER"], 0),
        (["B-PER", "I-LOC"], 1), (["B-PER", "E-PER", "S-LOC", "O"], None), (["E-PER"], 0),
        (["B-PER", "E-PER", "I-PER"], 2),
    ],
)  # fmt: skip
def test_a_tag_that_cannot_stand_behind_another_is_found(tags, at):
    assert broken_at(tags) == at


def test_the_scheme_is_known_by_the_tags_and_mixed_tags_are_refused():
    assert scheme(["O", "B-PER", "I-PER"]) == "BIO"
    assert scheme(["O", "B-PER", "E-PER", "S-LOC"]) == "BIOES"
    assert scheme(["NOUN", "VERB", "X"]) == ""
    assert scheme(["B", "I", "O"]) == "BIO"
    assert scheme(["O", "B", "I", "E", "S"]) == "BIOES"
    assert scheme(["A", "B", "I"]) == ""  # three classes that happen to be letters
    with pytest.raises(ValueError, match="'LOC' has no B- or I- before it, but 'B-PER' has"):
        scheme(["O", "B-PER", "LOC"])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.load(learnable.model(tmp_path_factory.mktemp("model")))


def spans(*several):
    return [{"start": a, "end": b, "label": name} for a, b, name in several]


def test_raw_text_with_spans_becomes_words_with_tags(tokenizer, tmp_path):
    rows = [{"text": f"Jógvan Hansen, {n}!", "spans": spans((0, 13, "PER"), (15, 15 + len(str(n)), "NUM"))}
            for n in range(60)]  # fmt: skip
    data = dataset.read(write(tmp_path, rows), None, tokenizer)
    assert data.labels == ("B-NUM", "B-PER", "I-NUM", "I-PER", "O")
    one = data.train.examples[0]
    assert one.words[:4] == ("Jógvan", "Hansen", ",", one.words[3])
    assert [data.labels[tag] for tag in one.tags] == ["B-PER", "I-PER", "O", "B-NUM", "O"]
    assert one.spaced[:4] == (False, True, False, True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (spans((0, 6, "PER"), (3, 9, "LOC")), "overlap at character 3"),
        (spans((0, 99, "PER")), "span 1 goes from 0 to 99; characters 0 to 13 of the text are allowed"),
        (spans((4, 4, "PER")), "start before end"),
        ([{"start": 0, "end": 3}], "the label of span 1 is None"),
        (spans((0, 2, "PER"), (3, 5, "LOC")), "two spans share the word 'Jógvan'"),
        (["PER"], "a list of objects is needed"),
    ],
)
def test_spans_are_checked_before_training(wrong, says, tokenizer, tmp_path):
    rows = [{"text": "Jógvan Hansen", "spans": spans((0, 6, "PER"), (7, 13, "LOC"))} for n in range(60)]
    with pytest.raises(DataError, match=says):
        dataset.read(write(tmp_path, [*rows, {"text": "Jógvan Hansen", "spans": wrong}]), None, tokenizer)


def test_a_tag_that_begins_an_entity_in_its_middle_is_refused_with_its_word(tmp_path):
    rows = [{"words": ["Jógvan", str(n)], "tags": ["B-PER", "O"]} for n in range(60)]
    where = write(tmp_path, [*rows, {"words": ["í", "Havn"], "tags": ["O", "I-PER"]}])
    with pytest.raises(DataError, match=r"rows.jsonl:61: word 2 \('Havn'\) is tagged I-PER behind O; in BIO an entity"):
        dataset.read(where)
    many = write(tmp_path, [{"words": [*row["words"], str(n)], "tags": [*row["tags"], "O"]} for row in rows
                            for n in range(5)] + [{"words": ["Havn"], "tags": ["I-PER"]}], "many.jsonl")  # fmt: skip
    (line,) = [line for line in dataset.read(many).said if "cannot stand there" in line]
    assert line.startswith("1 rows with a tag that cannot stand there, read as a beginning; first: ")


def test_questions_without_an_answer_make_the_model_say_so(tmp_path):
    rows = [{"question": f"q {n}", "context": f"c {n} stone", "answers": {"text": ["stone"] * (n % 2),
             "answer_start": [len(f"c {n} ")] * (n % 2)}} for n in range(60)]  # fmt: skip
    data = dataset.read(write(tmp_path, rows))
    assert data.no_answer
    assert any("questions have no answer" in line for line in data.said)


def test_grades_are_parts_of_the_highest(tmp_path):
    rows = [{"query": f"q {n // 3}", "document": f"d {n}", "label": n % 3} for n in range(90)]
    data = dataset.read(write(tmp_path, rows))
    assert data.highest == 2.0
    assert {one.label for one in data.train.examples} == {0.0, 0.5, 1.0}


def test_a_model_may_be_trained_on_one_language_and_tested_on_all(tmp_path):
    for name in ("train", "dev", "test"):
        write(tmp_path, [{**row, "lang": ["fao", "isl"][n // 2 % 2]} for n, row in enumerate(GOOD)], f"{name}.jsonl")
    for written in ("fao", "fo", "FAO", "fao_Latn"):
        data = dataset.read(str(tmp_path), dataset.Options(train_languages=(written,)))
        assert [set(part.languages) for part in data.parts] == [{"fao"}, {"fao"}, {"fao", "isl"}]
    with pytest.raises(DataError, match="languages are fao, isl, you said nob"):
        dataset.read(str(tmp_path), dataset.Options(train_languages=("nob",)))


def test_a_separator_means_several_labels_and_nothing_else(tmp_path):
    where = write(tmp_path, [{"text": f"row {n}", "labels": "a; b" if n % 2 else "b;"} for n in range(60)])
    data = dataset.read(where, dataset.Options(separator=";"))
    assert (data.kind, data.labels) == ("multilabel", ("a", "b"))
    with pytest.raises(DataError, match="--separator is for several labels in a cell, --kind multilabel; you said cla"):
        dataset.read(where, dataset.Options(separator=";", kind="classify"))


def test_declared_labels_of_several_are_spelled_and_counted_as_those_of_one(tmp_path):
    rows = [{"text": f"row {n}", "labels": [["caf\u00e9"], ["1.0", "b"], []][n % 3]} for n in range(60)]
    options = dataset.Options(kind="multilabel", labels=("cafe\u0301", "b", "1.0"))
    data = dataset.read(write(tmp_path, rows), options)
    assert {one.label for one in data.train.examples} == {(0,), (1, 2), ()}
    places = [{"text": f"row {n}", "labels": [n % 3]} for n in range(60)]
    declared = dataset.Options(kind="multilabel", labels=("neg", "pos", "neu"))
    found = dataset.read(write(tmp_path, places), declared)
    assert {one.label for one in found.train.examples} == {(0,), (1,), (2,)}


SPANS = [{"text": "Ann saw Oslo", "spans": [{"start": 0, "end": 3, "label": "PER"}], "n": n} for n in range(60)]


@pytest.mark.parametrize("labels", [("PER", "LOC"), ("B-PER", "I-PER", "B-LOC", "I-LOC"), ("O", "PER", "LOC")])
def test_labels_of_spans_may_be_declared_as_they_stand_there(labels, tmp_path):
    tokenizer = Tokenizer.load(learnable.model(tmp_path / "m"))
    rows = [{**row, "text": f"{row['text']} {row['n']}"} for row in SPANS]
    data = dataset.read(write(tmp_path, rows), dataset.Options(labels=labels), tokenizer)
    assert data.labels == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert data.train.examples[0].tags[:3] == (1, 0, 0)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "cut \ud83d", "label": "a"}], "text has half a character"),
        ([{"text": "whole", "label": "a\ud83d"}], "with half a character"),
    ],
)
def test_half_a_character_is_named_and_may_be_left_out(rows, says, tmp_path):
    where = write(tmp_path, [*GOOD, *rows])
    with pytest.raises(DataError, match=rf"rows.jsonl:61: .*{says}"):
        dataset.read(where)
    assert len(dataset.read(where, dataset.Options(skip_bad=True)).left_out) == 1


def test_comments_of_conll_are_passed_over_and_words_that_are_a_hash_are_not(tmp_path):
    some = [f"# id {n} domain=en\nAnn{n} B-PER\nsaw O\n\n# O\nOslo{n} B-LOC\n\n" for n in range(40)]
    (tmp_path / "train.conll").write_text("# sent_id = 0\n" + "".join(some))
    data = dataset.read(str(tmp_path / "train.conll"))
    words = {one.words for part in data.parts for one in part.examples}
    assert words == {pair for n in range(40) for pair in ((f"Ann{n}", "saw"), ("#", f"Oslo{n}"))}


@pytest.mark.parametrize("write_list", [json.dumps, repr], ids=["json", "python"])
def test_lists_in_the_cells_of_a_table_are_lists(write_list, tmp_path):
    rows = [[f"row {n}", write_list(["a", "b"] if n % 2 else ["b"])] for n in range(60)]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "labels"], *rows])
    data = dataset.read(str(tmp_path / "rows.csv"))
    assert (data.kind, data.labels) == ("multilabel", ("a", "b"))
    rows = [[write_list(["the", f"river{n}"]), write_list(["O", "B-X"])] for n in range(60)]
    with (tmp_path / "tags.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["tokens", "ner_tags"], *rows])
    data = dataset.read(str(tmp_path / "tags.csv"))
    assert data.kind == "tag"
    assert data.train.examples[0].words[0] == "the"
    text = dataset.read(write(tmp_path, [{"text": f"[{n}]", "label": "ab"[n % 2]} for n in range(60)]))
    assert text.train.examples[0].text.startswith("[")
