"""A probe on embeddings that we drew, and scores worked out by hand."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.evaluation import probe as probes
from tessera.evaluation.probe import FOLDS, GRID, choose, fit, folds, scores

C = 0.01


def clusters(seed, labels=("animal", "fish", "plant"), each=30, width=6):
    """Rows around one centre for each label; the centres do not depend on the seed."""
    centres = 4 * np.random.default_rng(0).standard_normal((len(labels), width))
    rng = np.random.default_rng(seed)
    rows = np.concatenate([centre + rng.standard_normal((each, width)) for centre in centres])
    return rows.astype(np.float32), [label for label in labels for _ in range(each)]


@pytest.mark.parametrize("labels", [("animal", "fish"), ("animal", "fish", "plant")])
def test_a_probe_tells_clusters_apart(labels):
    probe = fit(*clusters(1, labels), C)
    rows, truth = clusters(2, labels)
    assert scores(probe.predict(rows), truth) == {"accuracy": 1.0, "macro_f1": 1.0}


def test_rows_that_are_not_finite_are_named_on_either_side():
    rows, labels = clusters(1)
    broken = rows.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="vector of 'training row 4' of 90 texts is not finite"):
        fit(broken, labels, C)
    with pytest.raises(ValueError, match="vector of 'row 4' of 90 texts is not finite"):
        fit(rows, labels, C).predict(broken)


def test_labels_that_have_nothing_to_do_with_the_rows_are_not_found():
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((400, 6)).astype(np.float32), rng.choice(["a", "b", "c", "d"], 400).tolist()
    probe = fit(rows[:200], labels[:200], C)
    assert scores(probe.predict(rows[200:]), labels[200:])["accuracy"] < 0.4


def test_the_scale_of_a_feature_and_features_that_do_not_vary_do_not_matter():
    rows, labels = clusters(1)
    new, _ = clusters(2)
    stretched = np.array([1, 10, 100, 1e3, 1e-2, 1], np.float32)
    still = np.ones((len(rows), 1), np.float32)
    plain = fit(rows, labels, C).predict(new)
    assert fit(rows * stretched + 5, labels, C).predict(new * stretched + 5) == plain
    assert fit(np.hstack([rows, still]), labels, C).predict(np.hstack([new, 99 * still])) == plain


@pytest.mark.parametrize("c", GRID)
def test_the_probe_is_the_minimum_of_what_it_says_it_minimises(c):
    rows, labels = clusters(3)
    probe = fit(rows, labels, c)
    x = (rows - probe.mean) / probe.scale
    logits = x @ probe.weight.T + probe.bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    truth = np.array([[label == known for known in probe.labels] for label in labels])
    gradient = probe.weight + c * (p - truth).T @ x  # of |W|^2 / 2 + c * sum of cross-entropies
    assert np.abs(gradient).max() < 1e-4 * max(1, c * len(rows))  # the solver looks at the mean of cross-entropies


def noisy(seed, each, width=30):
    """Three in ten labels are wrong: whoever believes all of them learns noise."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((2 * each, width)).astype(np.float32)
    rows[:each] += 0.5
    labels = np.array(["a"] * each + ["b"] * each)
    wrong = rng.random(2 * each) < 0.3
    return rows, np.where(wrong, labels[::-1], labels).tolist()


def crossed(seed, each, width=6):
    """The label is in the difference of two features that hardly differ: only large weights read it."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((2 * each, width)).astype(np.float32)
    rows[:, 1] = rows[:, 0] + np.repeat([0.3, -0.3], each)
    return rows, ["a"] * each + ["b"] * each


@pytest.mark.parametrize("validated", [True, False])
def test_noise_asks_for_a_strong_penalty_and_fine_differences_for_a_weak_one(validated):
    strong, weak = (choose(make(1, 40), make(2, 200) if validated else None)[1] for make in (noisy, crossed))
    assert strong.c < weak.c == GRID[-1]
    for chosen in (strong, weak):
        assert set(chosen.accuracy) == set(GRID)
        assert chosen.accuracy[chosen.c] == max(chosen.accuracy.values())
        assert chosen.rows == (400 if validated else 80)


def test_the_chosen_probe_is_trained_on_all_training_rows_and_on_no_other():
    train = noisy(1, 40)
    for validation in (noisy(2, 100), None):
        probe, chosen = choose(train, validation)
        again = fit(*train, chosen.c)
        assert (probe.weight == again.weight).all()
        assert (probe.bias == again.bias).all()


def test_no_row_is_judged_by_a_probe_that_was_trained_on_it(monkeypatch):
    rows, labels = noisy(1, 10)
    trained = []

    def remember(embeddings, given, c):
        trained.append({row.tobytes() for row in embeddings})
        return fit(embeddings, given, c)

    def judge(self, embeddings):
        assert not trained[-1] & {row.tobytes() for row in embeddings}
        return ["a"] * len(embeddings)

    monkeypatch.setattr(probes, "fit", remember)
    monkeypatch.setattr(probes.Probe, "predict", judge)
    chosen = choose((rows, labels))[1]
    assert set(chosen.accuracy.values()) == {labels.count("a") / 20}
    assert chosen.c == GRID[0]  # of equals the strongest penalty
    assert len(trained) == FOLDS * len(GRID) + 1


def test_each_label_is_dealt_out_over_the_folds():
    assert folds(["a", "a", "b", "a", "b", "a", "b", "a", "b", "b", "a"]).tolist() == [0, 1, 0, 2, 1, 3, 2, 4, 3, 4, 0]
    assert folds(["a", "b", "b", "a", "a", "c"]).tolist() == [0, 0, 1, 1, 0, 0]  # two rows of b: two folds
    with pytest.raises(ValueError, match=r"two labels with at least two rows each, .* \{'a': 3, 'b': 1\}"):
        folds(["a", "a", "b", "a"])


@given(st.lists(st.sampled_from("abcd"), min_size=4, max_size=40))
def test_whichever_fold_is_taken_away_two_labels_are_left(labels):
    try:
        part = folds(labels)
    except ValueError:
        return
    for fold in range(part.max() + 1):
        assert len({label for label, other in zip(labels, part, strict=True) if other != fold}) >= 2


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
        fit(np.ones((3, 2), np.float32), ["a", "b"], C)
    with pytest.raises(ValueError, match="1 different labels; give at least 2"):
        fit(np.ones((2, 2), np.float32), ["a", "a"], C)
    with pytest.raises(ValueError, match="1 answers for 2 examples"):
        scores(["a"], ["a", "b"])
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(ImportError, match=r'pip install "tessera-encoders\[evaluate\]"'):
        fit(np.ones((2, 2), np.float32), ["a", "b"], C)
