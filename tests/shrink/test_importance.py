"""Which layers go: greedy by a cost worked out by hand, and by what layers do to what they are given."""

import learnable
import numpy as np
import pytest
import task_folders
import torch
import transformers

from tessera.huggingface import hub
from tessera.huggingface.transformers_model import quietly
from tessera.model.encoder import pack
from tessera.model.pooling import pool
from tessera.shrink.importance import block_influence, influence_cost, outcome_cost, smaller
from tessera.shrink.layers import Stack

TEXTS = [np.array(ids, np.int32) for ids in ([1, 5, 7, 2], [1, 9, 2], [1, 6, 6, 8, 4, 2])]


def pooled(encoder):
    """Vectors of length 1."""
    tokens, starts = pack(TEXTS)
    return torch.nn.functional.normalize(pool(encoder(tokens, starts), starts, ("mean",)), dim=-1)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return task_folders.bert(tmp_path_factory.mktemp("b"), num_hidden_layers=4)


def test_each_time_the_layer_goes_whose_loss_costs_least(bert):
    # Alone layer 1 costs least, then 2. Without 1, layer 3 costs less than 2; without 1 and 3, layer 0 costs less.
    costs = {(0, 2, 3): 1.0, (0, 1, 3): 2.0, (0, 1, 2): 3.0, (1, 2, 3): 4.0,
             (0, 2): 1.5, (0, 3): 2.5, (2, 3): 3.5, (2,): 5.0, (0,): 6.0}  # fmt: skip
    found = smaller(Stack.of(bert), [3, 2, 1], costs.__getitem__)
    assert found == {3: ((0, 2, 3), 1.0), 2: ((0, 2), 1.5), 1: ((2,), 5.0)}
    assert list(smaller(Stack.of(bert), [2], costs.__getitem__)) == [2]


def test_runs_go_whole_where_kinds_of_attention_repeat(tmp_path):
    folder = learnable.model(tmp_path, num_hidden_layers=7, max_position_embeddings=64, local_attention=4)
    found = smaller(Stack.of(folder), [4, 1], influence_cost([0, 5, 1, 1, 1, 5, 5]))
    assert found == {4: ((0, 1, 5, 6), 3), 1: ((0,), 18)}


def test_influence_is_added_up_over_what_is_left_out():
    cost = influence_cost([0.5, 0.25, 0.125])
    assert (cost((0, 1, 2)), cost((0, 2)), cost((1,))) == (0, 0.25, 0.625)


@pytest.fixture
def idle(tmp_path):
    """A model whose layer 2 does nothing, and its folder."""
    folder = learnable.model(tmp_path, "eurobert-210m", num_hidden_layers=4, max_position_embeddings=64)
    encoder = hub.load_encoder(folder).eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.mul_(10 if weight.ndim > 1 else 1)
        encoder.layers[2].attention.output.weight.zero_()
        encoder.layers[2].mlp.down.weight.zero_()
    return Stack.of(folder), encoder


def test_a_layer_that_does_nothing_has_no_influence_and_goes_first(idle):
    stack, encoder = idle
    influence = block_influence(stack, encoder, TEXTS)
    assert influence[2] == pytest.approx(0, abs=1e-12)
    assert min(influence[n] for n in (0, 1, 3)) > 0.01
    cost = outcome_cost(stack, encoder, pooled)
    assert cost((0, 1, 3)) == pytest.approx(0, abs=1e-6)
    assert smaller(stack, [3], cost)[3][0] == (0, 1, 3)
    assert smaller(stack, [3], influence_cost(influence))[3][0] == (0, 1, 3)


@torch.no_grad()
def test_block_influence_is_that_of_the_hidden_states_of_transformers(bert):
    with quietly():
        whole = transformers.AutoModel.from_pretrained(bert, dtype=torch.float32).eval()
    sums, tokens = [0.0] * 4, 0
    for ids in TEXTS:
        states = whole(input_ids=torch.from_numpy(ids.astype(np.int64))[None], output_hidden_states=True).hidden_states
        for n in range(4):
            sums[n] += float((1 - torch.cosine_similarity(states[n][0], states[n + 1][0], dim=-1)).sum())
        tokens += len(ids)
    found = block_influence(Stack.of(bert), hub.load_encoder(bert), TEXTS)
    assert found == pytest.approx([value / tokens for value in sums], abs=1e-6)


@torch.no_grad()
def test_the_cost_of_vectors_of_length_1_is_one_less_the_mean_cosine(bert):
    stack, encoder = Stack.of(bert), hub.load_encoder(bert)
    whole, small = (pooled(model) for model in (encoder, stack.without(encoder, (0, 2))))
    due = 1 - float(torch.cosine_similarity(whole, small).mean())
    asked = []
    cost = outcome_cost(stack, encoder, pooled, lambda *said: asked.append(said[:2]))
    assert cost((0, 2)) == pytest.approx(due, abs=1e-6)
    assert asked == [(1, 9)]  # 4 ways to 3 layers, 3 to 2, 2 to 1
