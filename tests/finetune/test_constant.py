"""A model that gives one answer to everything is found out, whatever the kind of the answer."""

from types import SimpleNamespace

import pytest

from tessera.data.examples import Labelled
from tessera.finetune.scores import constant
from tessera.labelled.dataset import Part


def part(*labels):
    return Part([Labelled(text="t", label=label, id="i", row="r") for label in labels], [""] * len(labels))


def test_a_reranker_that_scores_all_pairs_alike_is_constant_though_no_two_scores_are_equal():
    # What 58 steps on CoSQA left: the logit of the share of answers, with a spread of 0.008
    said = [-1.572, -1.564, -1.580, -1.571, -1.573]
    assert constant(SimpleNamespace(kind="rerank"), part(1, 0, 0, 0, 0), said) == "about -1.57"
    assert not constant(SimpleNamespace(kind="rerank"), part(1, 0, 0, 0, 0), [1.2, -1.5, -1.9, -1.1, -2.0])


@pytest.mark.parametrize(("spread", "said_so"), [(0.01, True), (0.3, False)])
def test_numbers_are_constant_where_they_hardly_move_beside_the_labels(spread, said_so):
    given = [50 + 20 * spread * step for step in (-1, 0, 1, 0)]
    assert bool(constant(SimpleNamespace(kind="regress"), part(30, 50, 70, 50), given)) == said_so


def test_one_class_is_named():
    data = SimpleNamespace(kind="classify", labels=("bad", "good"))
    assert constant(data, part(0, 1, 1), [1, 1, 1]) == "good"
    assert not constant(data, part(0, 1, 1), [1, 0, 1])
