"""A model is trained on with the tokenizer that it knows, or the recipe says that another is meant."""

import json
import shutil

import pytest
from tiny_run import documents, recipe

from tessera.plan.corpus import TokenizerTraining
from tessera.tokenizer.tokenizer import train
from tessera.train.start import TrainingError, check_tokenizers


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    made = {}
    for language in ("eng_Latn", "ell_Grek"):
        folder = tmp_path_factory.mktemp(language)
        train({language: documents(language, 60, 0)}, TokenizerTraining(vocab_size=300), folder)
        made[language] = folder
    return made


def starting(folder, tokenizer=None, **more):
    whole = recipe()
    phase = whole.phases[0].model_copy(update={"from_": str(folder), **more})
    given = whole.tokenizer.model_copy(update={"path": None if tokenizer is None else str(tokenizer)})
    return whole.model_copy(update={"phases": (phase,), "tokenizer": given})


def test_another_tokenizer_of_the_same_size_and_a_new_one_are_refused_unless_they_are_meant(two, tmp_path):
    english, greek = two.values()
    check_tokenizers(starting(english, english), tmp_path)
    with pytest.raises(
        TrainingError, match=r"differ: .* is id \d+ and .*set tokenizer.path: .*foreign_tokenizer: true"
    ):
        check_tokenizers(starting(english, greek), tmp_path)
    with pytest.raises(TrainingError, match=r"but the recipe trains a new one\. Set tokenizer\.path"):
        check_tokenizers(starting(english), tmp_path)
    check_tokenizers(starting(english, greek, foreign_tokenizer=True), tmp_path)
    check_tokenizers(starting(english, foreign_tokenizer=True), tmp_path)


def test_the_same_vocabulary_with_other_rules_is_another_tokenizer(two, tmp_path):
    mine = two["eng_Latn"]
    for change, says in (
        ({"normalizer": {"type": "Lowercase"}}, "normalizer is another"),
        ({"pre_tokenizer": None}, "pre_tokenizer is another"),
        ({"added_tokens": []}, "added_tokens is another"),
    ):
        other = tmp_path / next(iter(change))
        shutil.copytree(mine, other)
        written = json.loads((other / "tokenizer.json").read_text())
        (other / "tokenizer.json").write_text(json.dumps({**written, **change}))
        with pytest.raises(TrainingError, match=says):
            check_tokenizers(starting(mine, other), tmp_path)


def test_the_same_tokenizer_written_otherwise_is_the_same(two, tmp_path):
    mine, other = two["eng_Latn"], tmp_path / "other"
    shutil.copytree(mine, other)
    written = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(written, indent=2))
    check_tokenizers(starting(mine, other), tmp_path)


def test_a_folder_without_tokenizer_cannot_be_compared(two, tmp_path):
    (tmp_path / "bare").mkdir()
    with pytest.raises(TrainingError, match=r"has no tokenizer\.json, so nobody knows"):
        check_tokenizers(starting(tmp_path / "bare", two["eng_Latn"]), tmp_path)
