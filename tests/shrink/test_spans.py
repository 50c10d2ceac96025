"""Which layers can stand for those after them: the shortest way against all ways, and a layer that does nothing."""

import itertools
import math

import learnable
import numpy as np
import pytest
import task_folders
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.huggingface import hub
from tessera.shrink import spans
from tessera.shrink.layers import Stack


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    place = tmp_path_factory.mktemp("spans")
    long = {"num_hidden_layers": 7, "max_position_embeddings": 64, "local_attention": 4}
    return {
        1: Stack.of(task_folders.bert(place / "b", num_hidden_layers=5)),
        3: Stack.of(learnable.model(place / "m", **long)),
    }


@given(seed=st.integers(0, 10_000), period=st.sampled_from([1, 3]))
def test_the_cheapest_layers_are_the_cheapest_of_all_ways(stacks, seed, period):
    stack, rng = stacks[period], np.random.default_rng(seed)
    ends = {first: range(first, stack.count, period) for first in range(stack.count)}
    costs = {(first, end): float(end > first) * rng.random() for first in ends for end in ends[first]}
    found = spans.cheapest(stack, costs, stack.sizes)
    for size in stack.sizes:
        ways = [(0, *rest) for rest in itertools.combinations(range(1, stack.count), size - 1)]
        prices = [
            sum(costs.get((a, b - 1), math.inf) for a, b in itertools.pairwise([*way, stack.count])) for way in ways
        ]
        assert found[size][1] == pytest.approx(min(prices))
        assert found[size][0] == ways[int(np.argmin(prices))]


@torch.no_grad()
def test_a_layer_that_does_nothing_costs_nothing_and_goes_first(tmp_path):
    stack = Stack.of(learnable.model(tmp_path / "e", "eurobert-210m", num_hidden_layers=4, max_position_embeddings=64))
    encoder = hub.load_encoder(stack.inside).eval()
    encoder.layers[2].attention.output.weight.zero_()
    encoder.layers[2].mlp.down.weight.zero_()
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 16, rng.integers(3, 12)).astype(np.int32) for _ in range(80)]
    costs = spans.costs(stack, encoder, texts)
    assert set(costs) == {(a, b) for a in range(4) for b in range(a, 4)}
    assert all(costs[n, n] == 0 for n in range(4))
    assert costs[1, 2] < 1e-5 < costs[0, 1]
    assert costs[1, 3] < costs[0, 3]
    assert spans.cheapest(stack, costs, [3])[3][0] == (0, 1, 3)
