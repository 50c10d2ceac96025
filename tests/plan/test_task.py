import math

import pytest
from pydantic import ValidationError

from tessera.plan.task import Data, Protocol, Splits, Task


def task(**fields):
    given = {
        "name": "t",
        "kind": "classify",
        "data": {"path": "t/{language}/{split}.jsonl"},
        "columns": {"text": "text", "label": "label"},
        "metric": "accuracy",
    }
    return Task.model_validate({**given, **fields})


def refused(**fields):
    with pytest.raises(ValidationError) as error:
        task(**fields)
    return "; ".join(item["msg"].removeprefix("Value error, ") for item in error.value.errors())


def test_a_task_says_which_columns_its_kind_needs():
    assert "kind classify needs a column for 'label'" in refused(columns={"text": "text"})
    assert "kind tag needs a column for 'tags'" in refused(kind="tag", columns={"words": "tokens"})


def test_a_role_that_a_kind_does_not_know_is_refused_with_the_nearest():
    assert refused(columns={"text": "text", "labl": "label"}) == (
        "columns: 'labl' is no role of kind classify; did you mean 'label'?"
    )


def test_columns_of_other_data_are_checked_too_and_replace_those_of_the_task():
    retrieval = {"kind": "retrieve", "columns": {"id": "qid", "query": "text", "relevant": "doc"}, "metric": "ndcg@10"}
    assert "corpus.columns: kind retrieve needs a column for 'document'" in refused(
        **retrieval, corpus={"columns": {"document_id": "_id"}}
    )
    found = task(**retrieval, corpus={"columns": {"document_id": "_id", "document": "text"}})
    assert found.columns_of(found.corpus) == {"document_id": "_id", "document": "text"}
    assert found.columns_of(found.data)["query"] == "text"


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"range": (0, 5)}, "it is of kind regress"),
        ({"steps": 3}, "steps and whole are of kind reward"),
        ({"whole": True}, "steps and whole are of kind reward"),
        ({"corpus": {"columns": {"document_id": "a", "document": "b"}}}, "no role of kind classify"),
        ({"only_relevant": True}, "only_relevant are of kind retrieve"),
        ({"labels": ("yes",)}, "at least two are needed"),
        ({"labels": ("yes", "yes")}, "no two the same"),
        ({"languages": ("de", "en"), "data": {"hub": "a/b", "config": "all"}}, "write {language} in config, files"),
        ({"metric": "bleu"}, "Input should be"),
        ({"nmae": "x"}, "Extra inputs"),
    ],
)
def test_what_does_not_fit_is_refused(fields, part):
    assert part in refused(**fields)


def test_parts_of_a_split_follow_on_one_another_and_the_whole_is_what_they_leave():
    splits = Splits.model_validate(
        {"train": {"from": "all", "share": 0.6}, "validation": {"from": "all", "share": 0.1}, "test": "all"}
    )
    assert splits.place("train") == ("all", 0.0, 0.6)
    assert splits.place("validation") == ("all", 0.6, pytest.approx(0.7))
    assert splits.place("test") == ("all", pytest.approx(0.7), math.inf)
    assert Splits().place("train") is None


def test_parts_that_are_more_than_the_whole_and_splits_that_are_one_are_refused():
    with pytest.raises(ValidationError, match=r"parts of 'all' add up to 1\.2"):
        Splits.model_validate({"train": {"from": "all", "share": 0.6}, "test": {"from": "all", "share": 0.6}})
    with pytest.raises(ValidationError, match="two splits are called 'validation'"):
        Splits(train="train", validation="validation", test="validation")


def test_train_and_validation_come_from_other_data_where_it_has_them():
    found = task(train_data={"hub": "a/b", "splits": {"train": "train"}})
    assert found.source("train").hub == "a/b"
    assert found.source("validation") == found.source("test") == found.data


def test_what_a_model_is_trained_on():
    assert task(train="own").trained_on("fo") == ("fo",)
    assert task(train="en").trained_on("fo") == ("en",)
    assert task(train=("da", "is")).trained_on("fo") == ("da", "is")
    assert task(train="all").trained_on("fo") == ()
    assert not task(train="none").trained


def test_rows_of_each_language_are_told_from_rows_of_all():
    assert Data().by_language  # a folder for each
    assert Data(hub="a/b", where={"lang": "{language}"}).by_language
    assert not Data(hub="a/b", config="all").by_language


def protocol(**fields):
    return Protocol.model_validate({"name": "p", "steps": 100, "batch_size": 8, "learning_rates": [1e-5], **fields})


def test_ten_rates_at_equal_ratios_are_those_of_eurobert():
    # 10 ** (k / 9 - 5); arXiv:2503.05500 prints 2.8e-5, 3.6e-5 and 4.6e-5 among the best
    rates = protocol(learning_rates={"from": 1e-5, "to": 1e-4, "count": 10}).rates()
    assert [f"{rate:.1e}" for rate in rates] == [
        *("1.0e-05", "1.3e-05", "1.7e-05", "2.2e-05", "2.8e-05"),
        *("3.6e-05", "4.6e-05", "6.0e-05", "7.7e-05", "1.0e-04"),
    ]


def test_a_protocol_is_as_long_as_its_steps_or_its_epochs():
    with pytest.raises(ValidationError, match="either `steps` or `epochs`"):
        protocol(epochs=3)
    with pytest.raises(ValidationError, match="either `steps` or `epochs`"):
        protocol(steps=None)
    assert protocol(steps=None, epochs=2.5).epochs == 2.5


def test_a_sweep_tries_all_combinations_once_and_keeps_the_rest():
    swept = protocol(steps=None, sweep={"weight_decay": [1e-6, 1e-5], "epochs": [1, 2, 3]}, seeds=(1, 2))
    tried = [(one.weight_decay, one.epochs) for one in swept.variants()]
    assert sorted(tried) == [(decay, epochs) for decay in (1e-6, 1e-5) for epochs in (1, 2, 3)]
    assert all(one.seeds == (1, 2) and one.variants() == [one] for one in swept.variants())
