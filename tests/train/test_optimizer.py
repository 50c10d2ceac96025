import pytest
import torch
from torch import nn

from tessera.plan.recipe import Optimizer
from tessera.train.optimizer import build, clip_gradients, pack_state, set_learning_rate, unpack_state


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.LayerNorm(4, bias=False))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, gradient: float) -> None:
    for p in net.parameters():
        p.grad = torch.full_like(p, gradient)
    optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "stableadamw"])
def test_fully_decoupled_decay_takes_its_share_whatever_the_rate(name):
    net = model()
    matrix, norm = (p.detach().clone() for p in net.parameters())
    optimizer = build(net, Optimizer(name=name, weight_decay=0.0008, fully_decoupled=True), peak=1e-3)
    set_learning_rate(optimizer, 5e-4)  # half the peak: half of the decay
    step(net, optimizer, 0.0)
    torch.testing.assert_close(net[0].weight, matrix * (1 - 0.0004))
    torch.testing.assert_close(net[1].weight, norm)  # norms are not decayed


def test_adamw_multiplies_decay_by_the_rate():
    net = model()
    matrix = net[0].weight.detach().clone()
    optimizer = build(net, Optimizer(weight_decay=0.1), peak=1e-2)
    step(net, optimizer, 0.0)
    torch.testing.assert_close(net[0].weight, matrix * (1 - 0.1 * 1e-2))


def test_the_first_adam_step_moves_by_the_rate_and_eps_dampens_it():
    # after one step m/(sqrt(v)+eps) is g/(|g|+eps): with g = eps = 1e-5 that is 1/2 (EuroBERT's eps)
    net = model()
    before = net[0].weight.detach().clone()
    step(net, build(net, Optimizer(eps=1e-5), peak=1e-3), 1e-5)
    torch.testing.assert_close(before - net[0].weight, torch.full((4, 3), 5e-4), rtol=1e-3, atol=1e-6)


def test_stableadamw_shrinks_the_step_at_a_spike():
    moved = {}
    for name in ("adamw", "stableadamw"):
        net = model()
        optimizer = build(net, Optimizer(name=name, betas=(0.9, 0.999)), peak=1e-3)
        for _ in range(20):
            step(net, optimizer, 1e-3)
        before = net[0].weight.detach().clone()
        step(net, optimizer, 1.0)
        moved[name] = (before - net[0].weight).abs().mean().item()
    assert moved["stableadamw"] < moved["adamw"] / 2


def test_the_gradient_is_clipped_as_a_whole():
    net = model()
    for p in net.parameters():
        p.grad = torch.full_like(p, 1.0)
    assert clip_gradients(net.parameters(), 1.0) == pytest.approx(4.0)  # 12 + 4 ones
    assert clip_gradients(net.parameters(), None) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("name", ["adamw", "stableadamw"])
def test_a_state_taken_and_put_back_goes_on_the_same_way(name):
    settings = Optimizer(name=name, weight_decay=0.0008, fully_decoupled=True)
    net = model()
    optimizer = build(net, settings, peak=1e-3)
    for i in range(3):
        step(net, optimizer, 0.1 * i)
    twin = model()
    twin.load_state_dict(net.state_dict())
    resumed = build(twin, settings, peak=1e-3)
    unpack_state(resumed, *pack_state(optimizer))
    for each, o in ((net, optimizer), (twin, resumed)):
        step(each, o, 0.3)
    assert torch.equal(net[0].weight, twin[0].weight)


def test_a_state_of_another_optimizer_is_refused():
    net = model()
    optimizer = build(net, Optimizer(name="adamw"), peak=1e-3)
    step(net, optimizer, 0.1)
    with pytest.raises(ValueError, match="of another optimizer or another model; set keep_optimizer: false"):
        unpack_state(build(net, Optimizer(name="stableadamw"), peak=1e-3), *pack_state(optimizer))
