"""Dropout drops the share that is asked for, independently, and its gradient is its own mask."""

import math

import pytest
import torch
from torch import nn

from tessera.model.dropout import Dropout, dropout, replace_dropout


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_is_dropped_and_the_rest_scaled(share, dtype):
    torch.manual_seed(0)
    found = dropout(torch.ones(1_000, 1_003, dtype=dtype), share)
    n = found.numel()
    assert abs((found == 0).sum().item() - n * share) < 5 * math.sqrt(n * share * (1 - share))  # five deviations
    torch.testing.assert_close(
        found[found != 0].unique(), torch.tensor([1 / (1 - share)], dtype=dtype), rtol=1e-4, atol=0
    )


def test_elements_are_dropped_independently_of_their_neighbours():
    """Four elements share a draw of 64 bits: no pair of them, nor any two draws, may go together."""
    torch.manual_seed(0)
    gone = (dropout(torch.ones(400_000), 0.3) == 0).double() - 0.3
    for shift in range(1, 9):
        assert abs((gone[shift:] * gone[:-shift]).mean()) < 5 * 0.21 / math.sqrt(len(gone))
    lanes = gone.view(-1, 4).mean(0)
    assert lanes.abs().max() < 5 * math.sqrt(0.21 / (len(gone) // 4))


def test_the_gradient_is_the_mask_that_was_drawn():
    x = torch.randn(37, 5, requires_grad=True)
    found = dropout(x, 0.4)
    found.sum().backward()
    torch.testing.assert_close(found, x * x.grad)
    assert {*(x.grad == 0).flatten().tolist()} == {True, False}


def test_a_seed_repeats_it_and_steps_differ():
    x = torch.ones(10_000)
    torch.manual_seed(3)
    first, second = dropout(x, 0.1), dropout(x, 0.1)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.1), first)
    assert not torch.equal(first, second)


def test_nothing_and_everything():
    x = torch.randn(3, 4)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout(x, 1.0), torch.zeros(3, 4))
    assert torch.equal(dropout(x, 0.5, training=False), x)
    assert dropout(torch.empty(0, 4), 0.5).shape == (0, 4)


def test_every_dropout_of_a_model_is_replaced_with_its_share():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.2), nn.AlphaDropout(0.3)), nn.Dropout(0.1)).eval()
    replace_dropout(model)
    found = [part for part in model.modules() if isinstance(part, Dropout)]
    assert [part.p for part in found] == [0.2, 0.1]
    assert not any(part.training for part in found)
    assert model.train()(torch.ones(1_000, 2)).eq(0).any()
    assert type(model[1][1]) is nn.AlphaDropout  # another noise
