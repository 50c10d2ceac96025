"""Splits of labelled rows: by cells, by the names in a path, by groups that stay together."""

import json

import pytest

from tessera.labelled import dataset, splits
from tessera.labelled.tables import DataError

GOOD = [{"text": f"row {n}", "label": "ab"[n % 2]} for n in range(60)]


def write(place, rows, name="rows.jsonl"):
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    (place / name).write_text("\n".join(json.dumps(row) for row in rows))
    return str(place / name)


def sizes(data):
    return [len(part) for part in data.parts]


def by_split(rows, **more):
    return [{**row, "split": ["train", "dev", "test"][n % 3], **more} for n, row in enumerate(rows)]


@pytest.mark.parametrize("bad", [None, "", "unsupervised", "heldout", 3])
def test_a_row_whose_split_is_none_is_named_and_refused_or_left_out_and_counted(bad, tmp_path):
    where = write(tmp_path, [*by_split(GOOD), {"text": "more", "label": "a", "split": bad}])
    with pytest.raises(DataError, match=r"rows.jsonl:61: split is .*train, validation or test.*\n.*--skip-bad"):
        dataset.read(where)
    data = dataset.read(where, dataset.Options(skip_bad=True))
    assert sizes(data) == [20, 20, 20]
    assert len(data.left_out) == 1


def test_a_column_that_is_only_called_split_and_names_none_is_no_split(tmp_path):
    data = dataset.read(write(tmp_path, [{**row, "split": "AB"[n % 2]} for n, row in enumerate(GOOD)]))
    assert sum(sizes(data)) == 60
    with pytest.raises(DataError, match="split is 'A'; train, validation or test is needed"):
        dataset.read(write(tmp_path, [{**GOOD[0], "split": "A"}]), dataset.Options(columns={"split": "split"}))


@pytest.mark.parametrize("word", ["dev", "eval", "Evaluation", "VALID"])
def test_a_split_may_stand_inside_a_column_and_be_called_by_any_of_its_names(word, tmp_path):
    splits_ = ["train", word, "test"]
    rows = [{**row, "meta": {"part": splits_[n % 3]}} for n, row in enumerate(GOOD)]
    data = dataset.read(write(tmp_path, rows), dataset.Options(columns={"split": "meta.part"}))
    assert sizes(data) == [20, 20, 20]
    assert any("as the data names them" in line for line in data.said)


@pytest.mark.parametrize("where", ["", "*", "*/*.jsonl", "[te]*/*.jsonl"])
def test_a_folder_says_the_split_of_its_files_also_where_a_glob_finds_them(where, tmp_path):
    for name, some in (("train", GOOD[:40]), ("test", GOOD[40:])):
        write(tmp_path, some, f"data/{name}/000.jsonl")
    data = dataset.read(str(tmp_path / "data" / where))
    assert len(data.test) == 20
    assert {one.text for one in data.test.examples} == {row["text"] for row in GOOD[40:]}


@pytest.mark.parametrize(
    ("file", "where", "split"),
    [
        ("https://host/set/train/0.parquet", "https://host/set/*/*.parquet", "train"),
        ("https://host/set/test/0.parquet", "https://host/set", "test"),
        ("https://host/test/set/0.parquet", "https://host/test/set", ""),
        ("https://host/test/train.csv", "https://host/test/train.csv", "train"),
        ("train/0.jsonl", "*/*.jsonl", "train"),
        ("/test/data/0.jsonl", "/test/data/*.jsonl", ""),
    ],
)
def test_what_stands_above_the_place_that_was_asked_for_says_no_split(file, where, split):
    assert splits.split_of(file, where) == split


@pytest.mark.parametrize("kind", [int, float, str])
def test_rows_of_a_group_stay_on_one_side_however_the_group_is_written(kind, tmp_path):
    rows = [{**row, "user": kind(n // 5)} for n, row in enumerate(GOOD)]
    data = dataset.read(write(tmp_path, rows), dataset.Options(columns={"group": "user"}, held_out=0.2))
    of = [{int(one.text.split()[1]) // 5 for one in part.examples} for part in data.parts]
    assert all(of)
    assert len(of[0] | of[1] | of[2]) == sum(map(len, of))
    assert any("by a hash of each 'user', or row where it is empty" in line for line in data.said)


@pytest.mark.parametrize("empty", [None, "", float("nan")])
def test_where_a_group_is_empty_equal_texts_stay_together(empty, tmp_path):
    rows = [{**row, "group": empty} for row in GOOD for _ in range(3)]
    texts = [{one.text for one in part.examples} for part in dataset.read(write(tmp_path, rows)).parts]
    assert len(texts[0] | texts[1] | texts[2]) == sum(map(len, texts))


def test_a_group_that_is_no_name_is_refused(tmp_path):
    where = write(tmp_path, [{**row, "group": 0.5} for row in GOOD])
    with pytest.raises(DataError, match=r"rows.jsonl:1: group is 0.5; text or a whole number is needed"):
        dataset.read(where)


def test_the_same_rows_are_the_same_data_wherever_their_file_lies(tmp_path):
    first, second = (dataset.read(write(tmp_path, GOOD, f"{name}/rows.jsonl")) for name in "ab")
    assert first.fingerprint == second.fingerprint
    named = dataset.read(
        write(tmp_path, [{**row, "id": n} for n, row in enumerate(GOOD)]), dataset.Options(columns={"id": "id"})
    )
    assert named.fingerprint != first.fingerprint
