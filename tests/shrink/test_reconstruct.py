"""Layers solved anew: least squares worked out another way, neurons left out by brute force, folders that load."""

import numpy as np
import pytest
import small
import torch
import transformers
from torch import nn

from tessera.huggingface import hub
from tessera.huggingface.transformers_model import quietly
from tessera.model.encoder import pack
from tessera.shrink import layers, reconstruct
from tessera.shrink.feedforward import Call, FeedForward
from tessera.shrink.layers import Stack
from tessera.shrink.reconstruct import Moments, alike, surgeon

FAMILIES = ["bert", "eurobert", "modernbert"]
KEPT = {"bert": (0, 3), "eurobert": (0, 1, 3), "modernbert": (0, 1, 2, 6)}
ALONE = {"bert": [], "eurobert": [0], "modernbert": [0, 1]}  # of these the layers that are given and give what they did


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return small.families(tmp_path_factory.mktemp("layers"), intermediate_size=48, initializer_range=0.2)


def drawn(count=120, seed=0):
    """Documents of ids, of different lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 16, rng.integers(3, 12)).astype(np.int32) for _ in range(count)]


def students(folder, kept):
    """The whole model, and one with these layers in weights of its own."""
    stack, whole = Stack.of(folder), hub.load_encoder(folder).eval()
    return stack, whole, stack.without(hub.load_encoder(folder).eval(), kept)


@torch.no_grad()
def apart(one, other, texts):
    found, due = one(*pack(texts)), other(*pack(texts))
    return float((found - due).square().sum() / (due - due.mean(0)).square().sum())


# ------------------------------------------------------------------------------------------------------- least squares


def moments(neurons, lack):
    found = Moments.of(nn.Linear(neurons.shape[1], lack.shape[1]))
    for rows in torch.arange(len(neurons)).split(17):
        found.add(neurons[rows], lack[rows])
    return found


@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_the_ridge_regression_around_the_one_that_was(biased):
    torch.manual_seed(0)
    neurons, lack = torch.randn(200, 6) + 1, torch.randn(200, 3) + 2
    weight, bias = torch.randn(3, 6), torch.randn(3) if biased else None
    kept, found, moved = moments(neurons, lack).solved(weight, bias, 6)
    assert kept.tolist() == list(range(6))
    a, r = neurons.double().numpy(), lack.double().numpy()
    if biased:
        a, r = a - a.mean(0), r - r.mean(0)
    dear = reconstruct.RIDGE * np.square(a).mean() * len(a)
    rows = np.vstack([a, np.sqrt(dear) * np.eye(6)])  # the ridge as rows of the data
    step, *_ = np.linalg.lstsq(rows, np.vstack([r, np.zeros((6, 3))]), rcond=None)
    np.testing.assert_allclose(found.numpy(), weight.numpy() + step.T, atol=1e-5)
    if biased:
        given = neurons.double() @ found.T + moved - neurons.double() @ weight.T.double() - bias.double()
        np.testing.assert_allclose((given - lack).mean(0).numpy(), 0, atol=1e-6)
    else:
        assert moved is None


def test_where_nothing_is_lacking_nothing_changes():
    neurons, weight, bias = torch.randn(50, 4), torch.randn(2, 4), torch.randn(2)
    _, found, moved = moments(neurons, torch.zeros(50, 2)).solved(weight, bias, 4)
    np.testing.assert_allclose(found.numpy(), weight.numpy(), atol=1e-12)
    np.testing.assert_allclose(moved.numpy(), bias.numpy(), atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_the_neuron_goes_whose_loss_costs_least_when_the_others_are_solved_for_it(seed, monkeypatch):
    monkeypatch.setattr(reconstruct, "_BLOCK", 1)
    rng = np.random.default_rng(seed)
    neurons, weight = rng.normal(size=(80, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(5, 2))
    square, due = neurons.T @ neurons, neurons @ weight
    left = list(range(5))
    while len(left) > 2:
        ways = [[n for n in left if n != gone] for gone in left]
        costs = [np.linalg.lstsq(neurons[:, way], due, rcond=None)[1].sum() for way in ways]
        left = ways[int(np.argmin(costs))]
        assert surgeon(torch.tensor(square), torch.tensor(weight), len(left)).tolist() == left


def test_of_two_equal_neurons_one_goes_and_the_other_does_its_work():
    neurons = torch.randn(100, 3, dtype=torch.float64)
    neurons = torch.cat([neurons, neurons[:, :1]], 1)
    weight = torch.tensor([[1.0, 3, 3, 1], [-1, 3, -3, 2]])
    kept, found, _ = moments(neurons, torch.zeros(100, 2, dtype=torch.float64)).solved(weight, torch.zeros(2), 3)
    assert {1, 2} < set(kept.tolist())
    due = neurons @ weight.T.double()
    assert (neurons[:, kept] @ found.T - due).square().mean() < 1e-3 * due.square().mean()


# ---------------------------------------------------------------------------------------------------------- of layers


@pytest.mark.parametrize(
    ("family", "down", "ups", "norm"),
    [
        ("bert", "output.dense", ["intermediate.dense"], "output.LayerNorm"),
        ("eurobert", "mlp.down", ["mlp.gate_up"], None),
        ("modernbert", "mlp.down", ["mlp.gate_up"], None),
    ],
)
def test_the_products_of_a_layer_are_found_by_watching_it(folders, family, down, ups, norm):
    stack, encoder, _ = students(folders[family], KEPT[family])
    found, given = stack.layers_of(encoder), []
    hook = found[1].register_forward_pre_hook(lambda _, args, named: given.append((args, named)), with_kwargs=True)
    encoder(*pack(drawn(1)))
    hook.remove()
    (args, named), names = given[0], {part: name for name, part in found[1].named_modules()}
    part = FeedForward.of(found[1], Call(args[0], args[1:], named))
    assert names[part.down] == down
    assert [names[up] for up in part.ups] == ups
    assert (names[part.norm] if part.norm else None) == norm


def test_a_layer_without_such_products_is_refused():
    layer = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
    with pytest.raises(ValueError, match="takes 8 neurons back to 8, and makes none before that; no feed-forward netw"):
        FeedForward.of(layer, Call(torch.randn(4, 8), (), {}))
    with pytest.raises(ValueError, match="does not end in the product of a feed-forward network"):
        FeedForward.of(nn.Sequential(nn.LayerNorm(8)), Call(torch.randn(4, 8), (), {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_solved_layers_are_nearer_and_those_that_stand_alone_stay(folders, family):
    kept = KEPT[family]
    stack, whole, student = students(folders[family], kept)
    others = drawn(40, 1)
    before, states = apart(student, whole, others), [layer.state_dict() for layer in stack.layers_of(whole)]
    reconstruct.reconstruct(stack, whole, student, kept, drawn())
    assert apart(student, whole, others) < 0.9 * before
    mine = stack.layers_of(student)
    assert [n for n, layer in enumerate(mine) if all(
        torch.equal(value, states[kept[n]][name]) for name, value in layer.state_dict().items()
    )] == ALONE[family]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrower_folder_is_what_transformers_computes_and_nearer_than_unsolved(folders, tmp_path, family):
    all_ = tuple(range(Stack.of(folders[family]).count))
    stack, whole, student = students(folders[family], all_)
    few = stack.neurons // 2
    reconstruct.reconstruct(stack, whole, student, all_, drawn(), neurons=few)
    (tmp_path / "out").mkdir()
    layers.renew(folders[family], student, [], tmp_path / "out", few)
    assert Stack.of(tmp_path / "out").neurons == few
    ids = drawn(1)[0]
    with quietly():
        theirs = transformers.AutoModel.from_pretrained(tmp_path / "out", dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        due = theirs.eval()(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0]
        torch.testing.assert_close(hub.load_encoder(tmp_path / "out").eval()(*pack([ids])), due, atol=1e-5, rtol=1e-4)
    plain = hub.load_encoder(folders[family]).eval()
    for layer in stack.layers_of(plain):  # the same number of neurons, drawn by chance
        down = layer.output.dense if family == "bert" else layer.mlp.down
        down.weight.data[:, ::2] = 0
    assert apart(student, whole, drawn(40, 1)) < 0.7 * apart(plain, whole, drawn(40, 1))


def test_without_the_first_layer_all_that_is_left_is_given_something_else_and_solved(folders):
    stack, whole, student = students(folders["bert"], (2, 3))
    before = apart(student, whole, drawn(40, 1))
    reconstruct.reconstruct(stack, whole, student, (2, 3), drawn())
    assert apart(student, whole, drawn(40, 1)) < 0.9 * before


def test_all_layers_and_all_neurons_are_the_model_bit_for_bit(folders):
    stack, whole, student = students(folders["bert"], (0, 1, 2, 3))
    reconstruct.reconstruct(stack, whole, student, (0, 1, 2, 3), drawn())
    assert apart(student, whole, drawn(5)) == 0


def test_more_neurons_than_there_are_is_refused(folders):
    stack, whole, student = students(folders["bert"], (0, 1))
    with pytest.raises(ValueError, match="49 neurons: a feed-forward network of this model has 48"):
        reconstruct.reconstruct(stack, whole, student, (0, 1), drawn(), neurons=49)


def test_batches_hold_documents_of_one_length_and_all_of_them():
    found = alike([*drawn(50), np.array([], np.int32)])
    assert all(len({len(ids) for ids in batch}) == 1 for batch in found)
    assert sorted(len(ids) for batch in found for ids in batch) == sorted(map(len, drawn(50)))
