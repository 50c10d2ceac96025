"""Regression heads fitted to marks: that they foretell others, here and in transformers, and how well is no guess."""

import json

import learnable
import numpy as np
import pytest
import torch

from tessera.finetune import text_scorer
from tessera.finetune.text_scorer import fit, marked
from tessera.huggingface import hub
from tessera.inference.text_scorer import load, scores
from tessera.tokenizer.tokenizer import Tokenizer

TEXTS = ["one two three", "", "tveir", "a much longer text " * 30, "þrír fjórir fimm", "x"]
PRESETS = {"modernbert": "mmbert-small", "eurobert": "eurobert-210m"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """{family: a folder with a model for masked tokens}"""
    place = tmp_path_factory.mktemp("base")
    fields = {"initializer_range": 0.2, "max_position_embeddings": 64}
    return {family: learnable.model(place, preset, **fields) for family, preset in PRESETS.items()}


def marked_texts(n, seed=0):
    """Texts with more or fewer good words, and how good they are."""
    rng = np.random.default_rng(seed)
    shares = rng.uniform(size=n)
    texts = [" ".join(np.where(rng.uniform(size=12) < share, "three", "xyz")) for share in shares]
    return texts, [5.0 * text.count("three") / 12 for text in texts]


@pytest.mark.parametrize(("family", "pooling"), [("modernbert", "mean"), ("eurobert", "mean"), ("eurobert", "cls")])
def test_a_fitted_head_foretells_marks_it_has_not_seen_here_and_in_transformers(family, pooling, base, tmp_path):
    transformers = pytest.importorskip("transformers")
    found = fit(base[family], *marked_texts(200), tmp_path / "a", pooling=pooling, max_length=30, dtype="float32")
    assert found.texts == 200
    texts, marks = marked_texts(100, seed=1)
    loaded = load(tmp_path / "a")
    assert loaded.max_length == 30
    given = scores(loaded, texts, dtype="float32")
    assert np.corrcoef(given, marks)[0, 1] == pytest.approx(found.correlation, abs=0.1)
    assert (found.r2, found.correlation) > (0.7, 0.8)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "a").eval()
    due = []
    for ids in Tokenizer.load(base[family]).encode_batch(TEXTS):
        kept = ids if len(ids) <= 30 else np.concatenate([ids[:29], ids[-1:]])
        with torch.no_grad():
            due.append(float(theirs(torch.from_numpy(kept.astype(np.int64))[None]).logits[0, 0]))
    assert scores(loaded, TEXTS, dtype="float32") == pytest.approx(due, abs=1e-4)
    before, after = (hub.load_encoder(folder).state_dict() for folder in (base[family], tmp_path / "a"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "on 200 marked texts" in (tmp_path / "a" / "README.md").read_text()


def test_the_error_of_a_fit_is_that_of_heads_fitted_without_each_text():
    rng = np.random.default_rng(0)
    features, marks = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=30)
    marks += features @ np.array([1.0, -1.0, 0.5, 0.0])
    _, _, found = text_scorer._ridge(features, marks)
    spread = np.linalg.eigvalsh(np.cov(features.T, bias=True) * 30).mean()
    errors = []
    for left_out in range(30):
        rest = np.arange(30) != left_out
        x, y = features[rest] - features[rest].mean(0), marks[rest] - marks[rest].mean()
        weight = np.linalg.solve(x.T @ x + found.penalty * spread * np.eye(4), x.T @ y)
        errors.append(marks[left_out] - marks[rest].mean() - (features[left_out] - features[rest].mean(0)) @ weight)
    assert found.r2 == pytest.approx(1 - np.square(errors).sum() / np.square(marks - marks.mean()).sum(), rel=1e-4)


def test_marks_that_mean_nothing_are_not_foretold(base, tmp_path):
    texts, _ = marked_texts(60)
    found = fit(base["eurobert"], texts, np.random.default_rng(5).normal(size=60).tolist(), tmp_path / "a")
    assert found.r2 < 0.2


def test_what_cannot_be_fitted_is_said(base, tmp_path):
    texts, marks = marked_texts(20)
    for wrong, text in (
        ((texts, marks[1:]), "20 texts but 19 marks"),
        ((texts[:9], marks[:9]), "ten texts or more"),
        ((texts, [1.0] * 20), "finite numbers and differ"),
        ((texts, [*marks[1:], float("nan")]), "finite numbers and differ"),
        ((["same"] * 20, marks), "gives all texts the same vector"),
    ):
        with pytest.raises(ValueError, match=text):
            fit(base["eurobert"], *wrong, tmp_path / "a", dtype="float32")
    assert not (tmp_path / "a").exists()


def test_without_scikit_learn_nothing_is_read(base, tmp_path, monkeypatch):
    monkeypatch.setattr(text_scorer, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"fitting a head needs scikit-learn; pip install .*\[evaluate\]"):
        fit(tmp_path / "nowhere", *marked_texts(20), tmp_path / "a")


def test_marked_texts_are_read_by_their_columns(tmp_path):
    rows = [
        {"body": "good", "grade": 4},
        {"body": "bad", "grade": 0.5},
        {"body": "unmarked"},
        {"body": "fair", "grade": 2},
    ]
    (tmp_path / "marks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = marked(tmp_path / "marks.jsonl", text="body", mark="grade")
    assert found == (["good", "bad", "fair"], [4.0, 0.5, 2.0])
