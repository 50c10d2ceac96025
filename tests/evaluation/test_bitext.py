"""Retrieval on sentences that lie where we put them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.evaluation import bitext as mining
from tessera.evaluation.bitext import mine


def bitext(*sides, **k):
    return mine(*sides, **k)[0]


def at(*degrees):
    """Sentences on the unit circle."""
    return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], dtype=np.float32)


def test_translations_that_lie_together_are_all_found():
    scores = bitext(at(0, 90, 180), at(5, 95, 185), k=1)
    assert scores == pytest.approx(dict.fromkeys(scores, 1.0))
    assert list(scores) == ["accuracy_forward", "accuracy_backward", "accuracy", "f1", "margin_accuracy", "margin_f1"]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e30])
def test_vectors_that_are_not_finite_are_named_and_not_scored(wrong):
    broken = at(0, 90, 180)
    broken[1, 0] = wrong  # 1e30 squared is beyond float32: a vector of no length is near to nothing
    with pytest.raises(ValueError, match="vector of 'source 2' of 3 texts is not finite"):
        mine(broken, at(0, 90, 180))
    with pytest.raises(ValueError, match="vector of 'target 2' of 3 texts is not finite"):
        mine(at(0, 90, 180), broken)


def test_scores_worked_out_by_hand():
    # sources at 0, 40, 90; targets at 10, 21, 80
    #   0 -> 10 right;  40 -> 21 right;  90 -> 80 right             forward 3/3
    #  10 ->  0 right;  21 -> 40 right;  80 -> 90 right             backward 3/3
    scores = bitext(at(0, 40, 90), at(10, 21, 80), k=1)
    assert scores["accuracy_forward"] == 1.0
    assert scores["accuracy_backward"] == 1.0
    # sources at 0, 12, 90; targets at 10, 30, 80
    #   0 -> 10 right;  12 -> 10 wrong;  90 -> 80 right             forward 2/3
    #  10 -> 12 wrong;  30 -> 12 right;  80 -> 90 right             backward 2/3
    #  target 10 was predicted twice, once rightly: P 1/2, R 1, F1 2/3; target 30: 0; target 80: 1
    scores = bitext(at(0, 12, 90), at(10, 30, 80), k=1)
    assert scores["accuracy_forward"] == pytest.approx(2 / 3)
    assert scores["accuracy_backward"] == pytest.approx(2 / 3)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    same, each = mine(at(0, 12, 90), at(10, 30, 80), k=1)
    assert same == scores
    assert (each["accuracy_forward"], each["accuracy_backward"]) == ([1, 0, 1], [0, 1, 1])
    assert (each["accuracy"], each["f1"]) == ([0.5, 0.5, 1], [0.666667, 0, 1])


def test_a_margin_worked_out_by_hand():
    # cosines, given directly: rows are sources, columns are targets. Target 0 is a hub, near to everyone.
    cosines = np.array([[0.90, 0.20, 0.10], [0.80, 0.70, 0.10], [0.10, 0.10, 0.60]], dtype=np.float32)
    #   nearest of sources  0.90 0.80 0.60;  of targets  0.90 0.70 0.60          (k = 1)
    #   source 1: target 0: 0.80 / ((0.80 + 0.90) / 2) = 0.941;  target 1: 0.70 / ((0.80 + 0.70) / 2) = 0.933
    near_s, near_t = cosines.max(1), cosines.max(0)
    assert mining._search_margin(cosines, np.eye(3, dtype=np.float32), near_s, near_t).tolist() == [0, 0, 2]
    #   with k = 2: sources 0.55 0.75 0.35; targets 0.85 0.45 0.35
    #   source 1: target 0: 0.80 / 0.80 = 1.0;  target 1: 0.70 / 0.60 = 1.167: the hub is no longer chosen
    near_s = np.sort(cosines, 1)[:, -2:].mean(1)
    near_t = np.sort(cosines, 0)[-2:].mean(0)
    assert near_s == pytest.approx([0.55, 0.75, 0.35])
    assert near_t == pytest.approx([0.85, 0.45, 0.35])
    assert mining._search_margin(cosines, np.eye(3, dtype=np.float32), near_s, near_t).tolist() == [0, 1, 2]


def test_margin_f1_counts_pairs_that_choose_each_other(monkeypatch):
    # forward margin picks 0 1 1 3, backward picks 0 1 3 2: mutual are 0 and 1 only; 2 of 2 right, 2 of 4 found
    picks = iter([np.array([0, 1, 1, 3]), np.array([0, 1, 3, 2])])
    monkeypatch.setattr(mining, "_search_margin", lambda *_: next(picks))
    scores = bitext(at(0, 90, 180, 270), at(0, 90, 180, 270))
    assert scores["margin_f1"] == pytest.approx(2 * 1.0 * 0.5 / 1.5)
    assert scores["margin_accuracy"] == pytest.approx((3 / 4 + 2 / 4) / 2)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6))
def test_scores_are_shares_and_do_not_depend_on_scale_or_on_the_order_of_pairs(seed, n, k):
    rng = np.random.default_rng(seed)
    source = rng.standard_normal((n, 8)).astype(np.float32)
    target = source + rng.standard_normal((n, 8)).astype(np.float32)
    scores = bitext(source, target, k=k)
    assert all(0.0 <= value <= 1.0 for value in scores.values())
    order = rng.permutation(n)
    assert bitext(3 * source[order], 0.5 * target[order], k=k) == pytest.approx(scores)
    assert bitext(target, source, k=k)["accuracy_forward"] == pytest.approx(scores["accuracy_backward"])


def test_the_size_of_the_pieces_does_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((2, 50, 8)).astype(np.float32)
    whole = bitext(source, target)
    monkeypatch.setattr(mining, "_ROWS", 7)
    assert bitext(source, target) == pytest.approx(whole)


def test_sentences_that_point_away_from_everything_do_not_turn_the_ranking_round():
    assert bitext(at(0, 10), at(180, 190), k=2)["margin_accuracy"] <= 1.0
    with np.errstate(all="raise"):
        bitext(np.zeros((3, 2), np.float32), at(0, 1, 2))


@pytest.mark.parametrize("shapes", [((2, 3), (3, 3)), ((2, 3), (2, 4)), ((0, 3), (0, 3))])
def test_sides_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match="give two equal"):
        bitext(*(np.ones(shape, np.float32) for shape in shapes))
