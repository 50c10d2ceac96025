"""Scores: those of transformers, the same in every batch and process."""

import json
import pickle

import numpy as np
import pytest
import torch

from tessera.huggingface import hub
from tessera.huggingface.task_heads import TaskModel
from tessera.inference import text_scorer
from tessera.inference.text_scorer import Scorer, load, scores
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.task_config import SCORE
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.tokenizer import tokenizer as tokenizers

TEXTS = ["one two three", "", "tveir", "a much longer text " * 30, "þrír fjórir fimm", "x"]
FAMILIES = {"modernbert": ("mmbert-small", ("mean", "cls")), "eurobert": ("eurobert-210m", ("mean", "cls", "late"))}
EVERY_HEAD = [(family, pooling) for family, (_, poolings) in FAMILIES.items() for pooling in poolings]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return tokenizers.train(
        {"aaa_Latn": TEXTS[:1] * 20}, TokenizerTraining(vocab_size=300), folder, model_max_length=40
    )


def tiny(family, tokenizer):
    fields = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4 if family == "modernbert" else 2,
        "head_dim": 8,
        "local_attention": 16 if family == "modernbert" else None,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mask_token_id": 3,
        "initializer_range": 0.2,
    }
    return EncoderConfig.model_validate({**PRESETS[FAMILIES[family][0]].model_dump(), **fields})


def regressor(family, tokenizer, pooling):
    config = tiny(family, tokenizer)
    return TaskModel.of(config, SCORE, pooling)


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory):
    """{family: a folder with a model for masked tokens}"""
    folders = {}
    for family in FAMILIES:
        model = MaskedLM(tiny(family, tokenizer))
        initialize(model, torch.Generator().manual_seed(1))
        folders[family] = tmp_path_factory.mktemp("base") / family
        hub.save(model, folders[family], tokenizer.folder)
    return folders


def their_folder(family, pooling, tokenizer, folder, labels=1):
    """A sequence classifier with random weights, made and written by transformers."""
    transformers = pytest.importorskip("transformers")
    hub.save(regressor(family, tokenizer, pooling), folder / "ours", tokenizer.folder)
    config = transformers.AutoConfig.from_pretrained(folder / "ours", num_labels=labels)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    model.save_pretrained(folder / "theirs")
    for file in tokenizer.files():
        (folder / "theirs" / file.name).write_bytes(file.read_bytes())
    return model, folder / "theirs"


def their_scores(model, tokenizer, max_length=40):
    found = []
    for ids in tokenizer.encode_batch(TEXTS):
        kept = ids if len(ids) <= max_length else np.concatenate([ids[: max_length - 1], ids[-1:]])
        with torch.no_grad():
            found.append(float(model(torch.from_numpy(kept.astype(np.int64))[None]).logits[0, 0]))
    return found


@pytest.mark.parametrize(("family", "pooling"), EVERY_HEAD)
def test_scores_are_those_of_transformers(family, pooling, tokenizer, tmp_path):
    theirs, folder = their_folder(family, pooling, tokenizer, tmp_path)
    loaded = load(folder)
    assert loaded.max_length == 40  # of the tokenizer's configuration, less than the model's 64
    assert loaded.model.head.pooling == pooling
    found = scores(loaded, TEXTS, dtype="float32")
    assert found.dtype == np.float32
    assert found == pytest.approx(their_scores(theirs, tokenizer), abs=1e-4)
    assert np.ptp(found) > 0.01


@pytest.mark.parametrize(("family", "pooling"), EVERY_HEAD)
def test_transformers_give_the_scores_of_our_folders(family, pooling, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    hub.save(regressor(family, tokenizer, pooling), tmp_path / "a", tokenizer.folder)
    theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "a", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.num_labels == 1
    found = scores(load(tmp_path / "a"), TEXTS, dtype="float32")
    assert found == pytest.approx(their_scores(theirs.eval(), tokenizer), abs=1e-4)


def test_neither_batches_nor_order_change_a_score(tokenizer, tmp_path):
    hub.save(regressor("modernbert", tokenizer, "mean"), tmp_path / "a", tokenizer.folder)
    loaded = load(tmp_path / "a")
    expected = scores(loaded, TEXTS, dtype="float32")
    for max_tokens in (1, 20, 100_000):
        found = scores(loaded, TEXTS[::-1], max_tokens=max_tokens, dtype="float32")[::-1]
        assert found == pytest.approx(expected, abs=1e-5)
    assert scores(loaded, []).shape == (0,)
    assert scores(loaded, TEXTS, dtype="bfloat16") == pytest.approx(expected, abs=0.05)


def test_a_scorer_travels_as_a_name_and_reads_its_model_where_it_arrives(tokenizer, tmp_path, monkeypatch):
    hub.save(regressor("eurobert", tokenizer, "late"), tmp_path / "a", tokenizer.folder)
    monkeypatch.chdir(tmp_path)
    scorer = Scorer("./a", dtype="float32")
    sent = pickle.dumps(scorer)
    assert len(sent) < 1000
    monkeypatch.chdir("/")
    found = pickle.loads(sent)(TEXTS)
    assert all(type(one) is float for one in found)
    assert found == pytest.approx(scores(load(tmp_path / "a"), TEXTS, dtype="float32"), abs=1e-5)
    assert scorer([]) == []


def test_a_scorer_computes_with_its_own_threads_and_leaves_those_of_others(tokenizer, tmp_path, monkeypatch):
    hub.save(regressor("eurobert", tokenizer, "mean"), tmp_path / "a", tokenizer.folder)
    seen, before, compute = [], torch.get_num_threads(), text_scorer.scores
    monkeypatch.setattr(text_scorer, "scores", lambda *a, **k: seen.append(torch.get_num_threads()) or compute(*a, **k))
    for threads in (before + 1, 1):
        Scorer(str(tmp_path / "a"), threads=threads)(TEXTS)
        assert (seen[-1], torch.get_num_threads()) == (threads, before)
    with pytest.raises(TypeError):
        Scorer(str(tmp_path / "a"), threads=before + 1)([None])
    assert torch.get_num_threads() == before


def test_the_fingerprint_changes_with_what_the_scores_depend_on(tokenizer, tmp_path):
    model = regressor("eurobert", tokenizer, "mean")
    for name in ("a", "b"):
        hub.save(model, tmp_path / name, tokenizer.folder, card=f"# {name}\n")
    first = Scorer(str(tmp_path / "a")).fingerprint()
    assert first == Scorer(str(tmp_path / "b")).fingerprint()
    assert first != Scorer(str(tmp_path / "a"), dtype="float32").fingerprint()
    with torch.no_grad():
        model.head.classifier.bias += 1
    hub.save(model, tmp_path / "c", tokenizer.folder)
    assert first != Scorer(str(tmp_path / "c")).fingerprint()
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        Scorer(str(tmp_path / "nowhere")).fingerprint()


def test_what_does_not_score_is_refused(tokenizer, base, tmp_path):
    with pytest.raises(ValueError, match=r"no weight 'classifier\.weight', so it holds no regression head"):
        load(base["modernbert"])
    _, folder = their_folder("modernbert", "mean", tokenizer, tmp_path, labels=3)
    with pytest.raises(ValueError, match="tells 3 classes apart; a score is one number"):
        load(folder)
    with pytest.raises(ValueError, match="pooling is 'late'; modernbert has cls and mean"):
        hub.save(regressor("modernbert", tokenizer, "late"), tmp_path / "late")


def test_a_score_that_is_no_number_names_its_text(tokenizer, tmp_path):
    model = regressor("eurobert", tokenizer, "mean")
    with torch.no_grad():
        model.head.classifier.weight.fill_(3e38)  # a finite one, of which a product is not
    hub.save(model, tmp_path / "a", tokenizer.folder)
    with pytest.raises(ValueError, match=r"gives (nan|-?inf) to the text that begins '"):
        scores(load(tmp_path / "a"), TEXTS)


def test_how_a_folder_pools_is_read_from_old_and_new_configurations(tokenizer, tmp_path):
    hub.save(regressor("eurobert", tokenizer, "mean"), tmp_path / "a", tokenizer.folder)
    place = tmp_path / "a" / "config.json"
    written = json.loads(place.read_text())
    del written["classifier_pooling"]
    for said, pooling in (({}, "late"), ({"clf_pooling": "bos"}, "cls"), ({"classifier_pooling": "mean"}, "mean")):
        place.write_text(json.dumps({**written, **said}))
        assert hub.load_regressor(tmp_path / "a").head.pooling == pooling
    place.write_text(json.dumps({**written, "classifier_pooling": "max"}))
    with pytest.raises(ValueError, match="classifier_pooling is 'max'; eurobert has late, bos, mean"):
        hub.load_regressor(tmp_path / "a")
