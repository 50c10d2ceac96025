"""A probe on embeddings that we drew, and scores worked out by hand."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.evaluation.probe import C, fit, scores


def clusters(seed, labels=("animal", "fish", "plant"), each=30, width=6):
    """Rows around one centre for each label; the centres do not depend on the seed."""
    centres = 4 * np.random.default_rng(0).standard_normal((len(labels), width))
    rng = np.random.default_rng(seed)
    rows = np.concatenate([centre + rng.standard_normal((each, width)) for centre in centres])
    return rows.astype(np.float32), [label for label in labels for _ in range(each)]


@pytest.mark.parametrize("labels", [("animal", "fish"), ("animal", "fish", "plant")])
def test_a_probe_tells_clusters_apart(labels):
    probe = fit(*clusters(1, labels))
    rows, truth = clusters(2, labels)
    assert scores(probe.predict(rows), truth) == {"accuracy": 1.0, "macro_f1": 1.0}


def test_labels_that_have_nothing_to_do_with_the_rows_are_not_found():
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((400, 6)).astype(np.float32), rng.choice(["a", "b", "c", "d"], 400).tolist()
    probe = fit(rows[:200], labels[:200])
    assert scores(probe.predict(rows[200:]), labels[200:])["accuracy"] < 0.4


def test_the_scale_of_a_feature_and_features_that_do_not_vary_do_not_matter():
    rows, labels = clusters(1)
    new, _ = clusters(2)
    stretched = np.array([1, 10, 100, 1e3, 1e-2, 1], np.float32)
    still = np.ones((len(rows), 1), np.float32)
    plain = fit(rows, labels).predict(new)
    assert fit(rows * stretched + 5, labels).predict(new * stretched + 5) == plain
    assert fit(np.hstack([rows, still]), labels).predict(np.hstack([new, 99 * still])) == plain


def test_the_probe_is_the_minimum_of_what_it_says_it_minimises():
    rows, labels = clusters(3)
    probe = fit(rows, labels)
    x = (rows - probe.mean) / probe.scale
    logits = x @ probe.weight.T + probe.bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    truth = np.array([[label == known for known in probe.labels] for label in labels])
    gradient = probe.weight + C * (p - truth).T @ x  # of |W|^2 / 2 + C * sum of cross-entropies
    assert np.abs(gradient).max() < 1e-3


def test_scores_worked_out_by_hand():
    #            right  wrong  right  wrong
    predicted = ["a", "a", "b", "c"]
    truth = ["a", "b", "b", "b"]
    # a: 1 of 2 predicted, 1 of 1 found: 2/3.  b: 1 of 1, 1 of 3: 1/2.  c: predicted, never true: 0
    assert scores(predicted, truth) == pytest.approx({"accuracy": 1 / 2, "macro_f1": (2 / 3 + 1 / 2 + 0) / 3})


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_scores_agree_with_scikit_learn(pairs):
    from sklearn.metrics import accuracy_score, f1_score

    predicted, truth = zip(*pairs, strict=True)
    assert scores(predicted, truth) == pytest.approx(
        {"accuracy": accuracy_score(truth, predicted), "macro_f1": f1_score(truth, predicted, average="macro")}
    )


def test_what_cannot_be_probed_is_said(monkeypatch):
    with pytest.raises(ValueError, match=r"\[3, 2\] embeddings for 2 labels"):
        fit(np.ones((3, 2), np.float32), ["a", "b"])
    with pytest.raises(ValueError, match="1 different labels; give at least 2"):
        fit(np.ones((2, 2), np.float32), ["a", "a"])
    with pytest.raises(ValueError, match="1 predictions for 2 labels"):
        scores(["a"], ["a", "b"])
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r'pip install "tessera-encoders\[evaluate\]"'):
        fit(np.ones((2, 2), np.float32), ["a", "b"])
