"""What a task asks, read from files that the tests write."""

import json
from pathlib import Path

import pytest

from tessera.evaluation.tasks import read_task
from tessera.plan.recipe import BitextTask, ProbeTask


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pair(source_language, source, target_language, target):
    return {"src": source, "tgt": target, "src_lang": source_language, "tgt_lang": target_language}


def test_pairs_are_turned_so_that_english_is_the_target(tmp_path):
    write(
        tmp_path / "a.jsonl", [pair("fao_Latn", "hon", "eng_Latn", "she"), pair("fao_Latn", "ein", "eng_Latn", "one")]
    )
    write(tmp_path / "b.jsonl", [pair("eng_Latn", "two", "fao_Latn", "tvey"), pair("fao_Latn", "ja", "isl_Latn", "já")])
    data = read_task(BitextTask(task="bitext", name="t", path=str(tmp_path)))
    assert data.pairs == {
        "fao_Latn": (["hon", "ein", "tvey"], ["she", "one", "two"]),
        "fao_Latn-isl_Latn": (["ja"], ["já"]),
    }
    assert list(data.texts()) == ["hon", "ein", "tvey", "she", "one", "two", "ja", "já"]
    assert data.examples() == {"fao_Latn": 3, "fao_Latn-isl_Latn": 1}


def test_lines_that_cannot_be_used_are_counted_in_the_protocol(tmp_path):
    good = [pair("fao_Latn", str(i), "eng_Latn", str(i)) for i in range(3)]
    write(tmp_path / "a.jsonl", [*good, {"src": "alone"}])
    assert read_task(BitextTask(task="bitext", name="t", path=str(tmp_path))).protocol["skipped"] == 1


def test_another_sentence_is_another_protocol(tmp_path):
    task = BitextTask(task="bitext", name="t", path=str(tmp_path / "a.jsonl"))
    write(tmp_path / "a.jsonl", [pair("fao_Latn", "hon", "eng_Latn", "she")])
    first = read_task(task).protocol
    assert read_task(task).protocol == first
    write(tmp_path / "a.jsonl", [pair("fao_Latn", "hon", "eng_Latn", "her")])
    assert read_task(task).protocol != first


def rows(*labels, word="w"):
    return [{"topic": label, "text": f"{word} {i}", "lang": "??"} for i, label in enumerate(labels)]


@pytest.fixture
def topics(tmp_path):
    for language in ("eng_Latn", "fao_Latn"):
        write(tmp_path / "sib" / language / "train.jsonl", rows("a", "b", word=language))
        write(tmp_path / "sib" / language / "test.jsonl", rows("b", word="test " + language))
    write(tmp_path / "sib" / "isl_Latn" / "test.jsonl", rows("a", word="test isl"))
    path = str(tmp_path / "sib" / "{language}")
    return {
        "task": "probe",
        "name": "sib",
        "train": f"{path}/train.jsonl",
        "test": f"{path}/test.jsonl",
        "label": "topic",
    }


def test_all_languages_are_those_with_something_to_train_on_and_to_test_on(topics):
    data = read_task(ProbeTask(**topics))
    assert list(data.test) == ["eng_Latn", "fao_Latn"]
    path, tested = data.test["fao_Latn"]
    assert tested == (["test fao_Latn 0"], ["b"])
    assert data.train[path] == (["fao_Latn 0", "fao_Latn 1"], ["a", "b"])
    assert data.examples() == {"eng_Latn": 1, "fao_Latn": 1}
    assert data.protocol["skipped"] == 0


def test_transfer_trains_on_one_language_and_tests_on_every(topics):
    data = read_task(ProbeTask(**topics, transfer_from="eng_Latn"))
    assert list(data.test) == ["eng_Latn", "fao_Latn", "isl_Latn"]
    assert len(data.train) == 1
    assert {Path(path).parent.name for path, _ in data.test.values()} == {"eng_Latn"}
    assert data.protocol != read_task(ProbeTask(**topics)).protocol


def test_what_the_penalty_is_chosen_on_goes_with_what_is_trained_on(tmp_path, topics):
    for language in ("eng_Latn", "fao_Latn"):
        write(tmp_path / "sib" / language / "dev.jsonl", rows("a", word="dev " + language))
    with_dev = {**topics, "validation": topics["train"].replace("train", "dev")}
    data = read_task(ProbeTask(**with_dev))
    assert {Path(path).parent.name: texts for path, (texts, _) in data.validation.items()} == {
        "eng_Latn": ["dev eng_Latn 0"],
        "fao_Latn": ["dev fao_Latn 0"],
    }
    assert "dev fao_Latn 0" in data.texts()
    # transfer looks at the language it trains on only
    transfer = read_task(ProbeTask(**with_dev, transfer_from="eng_Latn"))
    assert [texts for texts, _ in transfer.validation.values()] == [["dev eng_Latn 0"]]
    without = read_task(ProbeTask(**topics))
    assert without.validation == {}
    assert (data.protocol["chosen_on"], without.protocol["chosen_on"]) == ("validation", "5 folds of train")
    write(tmp_path / "sib" / "eng_Latn" / "dev.jsonl", rows("b", word="dev eng_Latn"))
    assert read_task(ProbeTask(**with_dev)).protocol["data"] != data.protocol["data"]


def test_languages_may_be_named_and_stand_in_the_path_twice(tmp_path, topics):
    assert list(read_task(ProbeTask(**topics, languages=("fao_Latn",))).test) == ["fao_Latn"]
    for language in ("eng_Latn", "fao_Latn"):
        for split in ("train", "test"):
            write(tmp_path / "x" / language / f"{language}.{split}.jsonl", rows("a", "b"))
    write(tmp_path / "x" / "eng_Latn" / "isl_Latn.test.jsonl", rows("a"))
    twice = {k: f"{tmp_path}/x/{{language}}/{{language}}.{k}.jsonl" for k in ("train", "test")}
    assert list(read_task(ProbeTask(task="probe", name="x", label="topic", **twice)).test) == ["eng_Latn", "fao_Latn"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": "sib/test.jsonl"}, "task 'sib': test is 'sib/test.jsonl'; write {language} where"),
        ({"train": "x.jsonl", "transfer_from": "eng_Latn"}, "transfer_from is 'eng_Latn', but train is 'x.jsonl'"),
        (
            {"train": "x.jsonl", "validation": "{language}.jsonl"},
            "train is 'x.jsonl' for all; one probe",
        ),
        ({"validation": "no/{language}/dev.jsonl"}, "no file at .*no/eng_Latn/dev.jsonl"),
        ({"test": "nowhere/{language}.jsonl"}, "no language has files at"),
        ({"languages": ("deu_Latn",)}, "no file at .*deu_Latn"),
        ({"label": "lable"}, "a row has no 'lable'; name the column of labels as `label`"),
        ({"text": "txet"}, "lines cannot be used: .*no column 'txet'"),
    ],
)
def test_a_task_that_cannot_be_read_is_named(topics, change, message):
    with pytest.raises(ValueError, match=message):
        read_task(ProbeTask(**{**topics, **change}))
