"""A whole evaluation of a tiny model: what is written, what is skipped, what is run again."""

import json

import numpy as np
import pytest
import torch
from learnable import COMMON

from tessera import __version__
from tessera.data import tokenizer as tokenizers
from tessera.data.shards import ShardWriter
from tessera.evaluation import suite
from tessera.evaluation.suite import evaluate, probe_results
from tessera.evaluation.tasks import Probing
from tessera.model import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.plan.recipe import Evaluation, Machine

WORDS = ["tree", "fish", "stone", "cloud", "bread", "night", "river", "king"]
CALM = Machine(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, held-out text and tasks."""
    place = tmp_path_factory.mktemp("evaluation")
    tokenizer = tokenizers.train({"a": [" ".join(WORDS)] * 9}, TokenizerTraining(vocab_size=300), place / "tokenizer")
    fields = {**COMMON, "vocab_size": tokenizer.vocab_size, "num_hidden_layers": 1}
    config = EncoderConfig.model_validate({**PRESETS["mmbert-small"].model_dump(), **fields})
    for name, seed in (("model", 0), ("other", 1)):
        model = MaskedLM(config, attention="auto")
        initialize(model, torch.Generator().manual_seed(seed))
        hub.save(model, place / name, place / "tokenizer", None)
    with ShardWriter(place / "held_out", tokenizer.fingerprint, tokenizer.vocab_size) as writer:
        for language, words in (("aaa_Latn", WORDS[:4]), ("bbb_Latn", WORDS[4:])):
            ids = tokenizer.encode_batch([" ".join(words * 20)] * 3)
            writer.add("web", language, None, ids, 1)
    pairs = [
        {"src": f"{word} {other}", "tgt": f"{word} {other}!", "src_lang": "aaa_Latn", "tgt_lang": "eng_Latn"}
        for word in WORDS
        for other in WORDS[:3]
    ]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    for language, words in (("aaa_Latn", WORDS[:4]), ("bbb_Latn", WORDS[4:])):
        for split, ends in (("train", "abcdefgh"), ("test", "xyz")):
            rows = [{"text": f"{word} {end}", "label": word} for word in words for end in ends]
            path = place / "topics" / language / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture
def evaluation(folder):
    topics = f"{folder}/topics/{{language}}"
    files = {"train": f"{topics}/train.jsonl", "test": f"{topics}/test.jsonl"}
    return Evaluation.model_validate(
        {
            "mask_ratio": 0.3,
            "tasks": [
                {"task": "bitext", "name": "mining", "path": str(folder / "pairs.jsonl")},
                {"task": "probe", "name": "topics", **files},
                {"task": "probe", "name": "transfer", **files, "transfer_from": "aaa_Latn"},
            ],
        }
    )


def test_every_task_is_written_with_its_protocol_and_averages(folder, evaluation, tmp_path):
    files = evaluate(
        folder / "model", evaluation, tmp_path / "out", name="m", held_out=folder / "held_out", seed=5, machine=CALM
    )
    assert [path.name for path in files] == ["m.held_out.json", "m.mining.json", "m.topics.json", "m.transfer.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in files)
    found = {path.name.split(".")[1]: json.loads(path.read_text()) for path in files}
    for name, kind in (("held_out", "held_out"), ("mining", "bitext"), ("topics", "probe"), ("transfer", "probe")):
        whole = found[name]
        assert (whole["model"], whole["task"], whole["kind"]) == ("m", name, kind)
        assert whole["tessera"] == __version__
        assert whole["data"]
        for metric, average in whole["average"].items():
            values = [row[metric] for row in whole["results"].values()]
            assert average == pytest.approx(np.mean(values))
            assert whole["spread"][metric] == pytest.approx(np.std(values))
    assert set(found["held_out"]["results"]) == {"aaa_Latn", "bbb_Latn"}
    assert set(found["held_out"]["average"]) == {"bits_per_byte", "loss"}
    assert found["held_out"]["examples"]["aaa_Latn"] > 10
    assert found["mining"]["results"]["aaa_Latn"]["accuracy"] > 0.5  # even a random model sees equal words
    assert found["mining"]["examples"] == {"aaa_Latn": 24}
    assert found["topics"]["average"]["accuracy"] > 0.9
    assert found["topics"]["chosen"]["bbb_Latn"]["rows"] == 4 * 8  # all of train, by cross-validation
    assert found["transfer"]["chosen"]["bbb_Latn"] == found["topics"]["chosen"]["aaa_Latn"]
    # what was trained on the labels of one language knows none of another
    assert found["transfer"]["results"]["bbb_Latn"]["accuracy"] == 0.0
    assert found["transfer"]["results"]["aaa_Latn"] == found["topics"]["results"]["aaa_Latn"]


def test_every_text_is_embedded_once(folder, evaluation, tmp_path, monkeypatch):
    seen = []

    def embed(model, tokenizer, texts, **how):
        seen.extend(texts)
        return np.random.default_rng(0).standard_normal((len(texts), 32)).astype(np.float32)

    monkeypatch.setattr(suite, "embed", embed)
    evaluate(folder / "model", evaluation, tmp_path, name="m", machine=CALM)
    assert len(seen) == len(set(seen)) == 2 * 24 + 2 * 4 * (8 + 3)


def test_finished_tasks_are_skipped_and_changed_ones_run_again(folder, evaluation, tmp_path, monkeypatch):
    arguments = {"name": "m", "held_out": folder / "held_out", "machine": CALM}
    files = evaluate(folder / "model", evaluation, tmp_path, **arguments)
    before = {path: path.read_text() for path in files}

    def load(*_, **__):
        raise AssertionError("the model was loaded again")

    with monkeypatch.context() as patch:
        patch.setattr(hub, "load", load)
        assert evaluate(folder / "model", evaluation, tmp_path, **arguments) == files
        assert {path: path.read_text() for path in files} == before
        with pytest.raises(AssertionError, match="loaded again"):  # another seed hides other tokens
            evaluate(folder / "model", evaluation, tmp_path, **arguments, seed=1)
    changed = evaluation.model_copy(update={"mask_ratio": 0.5})
    evaluate(folder / "model", changed, tmp_path, **arguments)
    assert [path.read_text() == before[path] for path in files] == [False, True, True, True]
    evaluate(folder / "other", changed, tmp_path, **arguments)
    assert not any(path.read_text() == before[path] for path in files)


def test_a_broken_result_is_written_again_and_an_interrupted_one_leaves_nothing(
    folder, evaluation, tmp_path, monkeypatch
):
    evaluation = evaluation.model_copy(update={"tasks": evaluation.tasks[:1]})
    (path,) = evaluate(folder / "model", evaluation, tmp_path, name="m", machine=CALM)
    whole = json.loads(path.read_text())
    path.write_text(path.read_text()[:50])
    evaluate(folder / "model", evaluation, tmp_path, name="m", machine=CALM)
    assert json.loads(path.read_text())["results"] == whole["results"]

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "bitext_results", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder / "model", evaluation, tmp_path / "new", name="m", machine=CALM)
    assert not list(tmp_path.glob("new/*"))


def test_a_probe_is_trained_once_for_all_languages_that_share_it():
    looked_up = []

    def look_up(texts):
        looked_up.append(tuple(texts))
        return np.array([[float(text[0] == "a"), float(len(text))] for text in texts], np.float32)

    rows = (["a", "b", "aa", "bb"], ["first", "second", "first", "second"])
    test = {"x": ("one", rows), "y": ("one", (["a"], ["second"]))}
    data = Probing(train={"one": rows}, validation={"one": (["a", "bbb"], rows[1][:2])}, test=test, protocol={})
    results, outcomes, chosen = probe_results(data, look_up)
    assert results["x"]["accuracy"] == 1.0
    assert results["y"]["accuracy"] == 0.0
    assert outcomes == {"accuracy": {"x": [1.0, 1.0, 1.0, 1.0], "y": [0.0]}}
    assert chosen["x"] == chosen["y"] == {"C": chosen["x"]["C"], "accuracy": 1.0, "rows": 2}
    assert len(looked_up) == 4


def test_a_folder_without_weights_or_tokenizer_is_named(folder, evaluation, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json: is missing; a model to evaluate is a folder"):
        evaluate(tmp_path, evaluation, tmp_path / "out", name="m")
    with pytest.raises(ValueError, match=r"no token store here \(index\.json is missing\)"):
        evaluate(folder / "model", evaluation, tmp_path / "out", name="m", held_out=tmp_path, machine=CALM)
