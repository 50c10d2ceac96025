import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from going import ALONE, changed, go, weights
from torch import nn

from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.phase import Optimizer
from tessera.train import distributed
from tessera.train.optimizer import build, clip_gradients, pack_state, set_learning_rate, unpack_state

STABLE = Optimizer(name="stableadamw", weight_decay=0.0008, fully_decoupled=True)


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
    assert float(clip_gradients(net.parameters(), 1.0)) == pytest.approx(4.0)  # 12 + 4 ones
    assert float(clip_gradients(net.parameters(), None)) == pytest.approx(1.0, rel=1e-4)


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


@pytest.mark.parametrize("name", ["adamw", "stableadamw"])
def test_the_state_of_a_layer_with_one_output_is_put_back(name):
    net = nn.Linear(3, 1)  # its bias is one number, as the count of steps is
    optimizer = build(net, Optimizer(name=name), peak=1e-3)
    step(net, optimizer, 0.1)
    twin = build(net, Optimizer(name=name), peak=1e-3)
    unpack_state(twin, *pack_state(optimizer))
    for parameter in net.parameters():
        moments = {key: value for key, value in optimizer.state[parameter].items() if isinstance(value, torch.Tensor)}
        assert moments
        assert all(torch.equal(twin.state[parameter][key], value) for key, value in moments.items())


def test_a_state_of_another_optimizer_is_refused():
    net = model()
    optimizer = build(net, Optimizer(name="adamw"), peak=1e-3)
    step(net, optimizer, 0.1)
    with pytest.raises(ValueError, match="of another optimizer or another model; set keep_optimizer: false"):
        unpack_state(build(net, Optimizer(name="stableadamw"), peak=1e-3), *pack_state(optimizer))


def tiny() -> MaskedLM:
    net = MaskedLM(changed().model.config(vocab_size=50))
    initialize(net, torch.Generator().manual_seed(0))
    return net


MUON = Optimizer(name="muon", weight_decay=0.0008, fully_decoupled=True, momentum=0.9)


def test_muon_turns_the_matrices_inside_the_layers_and_adamw_moves_the_rest():
    net = tiny()
    optimizer = build(net, MUON, peak=1e-3)
    names = {id(p): name for name, p in net.named_parameters()}
    turned, decayed, plain = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    kinds = ("attention.qkv", "attention.output", "mlp.gate_up", "mlp.down")
    assert turned == [f"encoder.layers.{layer}.{kind}.weight" for layer in range(3) for kind in kinds]
    assert decayed == ["encoder.embedding.weight", "transform.dense.weight"]
    assert len(plain) == len(names) - len(turned) - len(decayed)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [pytest.approx(0.8), pytest.approx(0.8), 0.0]


def newton_schulz(singular: float, norm: float) -> float:
    """What five turns make of a singular value of a matrix of that Frobenius norm, in plain numbers."""
    s = singular / norm
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


def test_a_step_of_muon_by_hand():
    # The gradient is diag(3, 1, 0, ...): its singular values are 3 and 1, its Frobenius norm sqrt(10).
    net = tiny()
    weight = net.encoder.layers[0].attention.output.weight  # 32 x 32
    optimizer = build(net, MUON, peak=1e-3)
    set_learning_rate(optimizer, 5e-4)
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    weight.grad[0, 0], weight.grad[1, 1] = 3.0, 1.0
    optimizer.step()
    # decay 0.0008 x 5e-4 / 1e-3; an update of the size that AdamW's has: 0.2 sqrt(32)
    moved = (before * (1 - 0.0004) - weight) / (5e-4 * 0.2 * math.sqrt(32))
    assert moved[0, 0].item() == pytest.approx(newton_schulz(3, math.sqrt(10)), abs=0.02)  # bfloat16
    assert moved[1, 1].item() == pytest.approx(newton_schulz(1, math.sqrt(10)), abs=0.02)
    assert moved[2:].abs().max() < 1e-4
    # the second gradient is nothing: momentum alone moves it, as far as before, since only its direction counts
    before = weight.detach().clone()
    weight.grad.zero_()
    optimizer.step()
    again = (before * (1 - 0.0004) - weight) / (5e-4 * 0.2 * math.sqrt(32))
    torch.testing.assert_close(again[:2, :2], moved[:2, :2], rtol=0, atol=0.02)


def test_the_first_update_of_muon_has_singular_values_near_one():
    net = tiny()
    weight = net.encoder.layers[1].mlp.gate_up.weight
    optimizer = build(net, Optimizer(name="muon"), peak=1e-3)
    before = weight.detach().clone()
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    singular = torch.linalg.svdvals((before - weight) / (1e-3 * 0.2 * math.sqrt(max(weight.shape))))
    assert 0.5 < singular.min() <= singular.max() < 1.5


def test_a_run_with_muon_resumes_to_the_same_bytes(tmp_path, text):
    plan = changed(optimizer={"name": "muon", "weight_decay": 1e-4, "fully_decoupled": True})
    go(tmp_path / "whole", text, plan=plan)
    for stop in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / str(stop), text, plan=plan, stop=stop)
        go(tmp_path / str(stop), text, plan=plan)
        assert weights(tmp_path / str(stop)) == weights(tmp_path / "whole")


def test_muon_and_matrices_in_parts_are_refused_together(monkeypatch):
    monkeypatch.setattr("tessera.train.optimizer.DTensor", nn.Parameter)  # as if every weight were spread
    with pytest.raises(ValueError, match=r"turns each matrix as a whole, .* set machine\.parallel: ddp"):
        build(tiny(), MUON, peak=1e-3)
    assert distributed.spread(nn.Linear(2, 2), ALONE, "fsdp2").weight.shape == (2, 2)  # one process has no parts


def test_a_checkpoint_of_a_cpu_goes_on_in_triton_and_back(monkeypatch):
    net = model()
    optimizer = build(net, STABLE, peak=1e-3)
    for i in range(3):
        step(net, optimizer, 0.1 * i)
    saved = pack_state(optimizer)
    monkeypatch.setattr("optimi.optimizer.HAS_TRITON", True)
    monkeypatch.setattr("tessera.train.optimizer.in_triton", lambda model: True)  # as on a GPU
    on_gpu = build(net, STABLE, peak=1e-3)
    unpack_state(on_gpu, *saved)
    assert [(group["triton"], group["foreach"]) for group in on_gpu.param_groups] == [(True, False)] * 2
    state = on_gpu.state[net[0].weight]
    assert torch.equal(state["exp_avg"], optimizer.state[net[0].weight]["exp_avg"])
    assert state["mean_square"].tolist() == [0.0]  # scratch, which a checkpoint does not hold
    assert int(on_gpu.param_groups[0]["step"]) == 3
    state["kahan_comp"] = torch.zeros(1, dtype=torch.uint8)  # as its first step makes it
    again, plain = pack_state(on_gpu)
    assert again.keys() == saved[0].keys()
    assert json.loads(plain)["state"] == json.loads(saved[1])["state"]
    monkeypatch.undo()
    back = build(net, STABLE, peak=1e-3)
    unpack_state(back, again, plain)
    step(net, back, 0.1)


STEPS = """
import torch
import test_optimizer
from test_optimizer import STABLE, build, model, pack_state, step, unpack_state
from tessera.train import optimizer
one = model()
on_cpu = build(one, STABLE, peak=1e-3)
for i in range(3):
    step(one, on_cpu, 0.1 * i)
saved = pack_state(on_cpu)
optimizer.in_triton = lambda model: True
other = model()
other.load_state_dict(one.state_dict())
in_triton = build(other, STABLE, peak=1e-3)
unpack_state(in_triton, *saved)
for gradient in (0.3, 20.0, 0.1):  # the second is a spike
    step(one, on_cpu, gradient)
    step(other, in_triton, gradient)
for a, b in zip(one.parameters(), other.parameters()):
    torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7)
"""


def test_the_update_in_triton_is_that_of_a_cpu():
    pytest.importorskip("triton", reason="Triton does not come with PyTorch's build for CPUs")
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": here}
    done = subprocess.run([sys.executable, "-c", STEPS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
