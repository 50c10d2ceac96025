"""StableAdamW of GPUs in a few Triton kernels: torch-optimi's numbers in Triton's interpreter, compiled for GPUs."""

from pathlib import Path

import torch
from in_triton import child, needs_triton
from optimi import StableAdamW
from torch import nn

from tessera.plan.phase import Optimizer
from tessera.train import optimizer
from tessera.train.optimizer import AtOnce, build, pack_state, unpack_state

CHILD = Path(__file__).with_name("optimizer_in_triton.py")
SETTINGS = Optimizer(name="stableadamw", weight_decay=0.0008, fully_decoupled=True)


@needs_triton
def test_weights_and_moments_are_those_of_the_plain_form_for_any_sizes(tmp_path):
    found = child(CHILD, "interpret", tmp_path)
    assert len(found["cases"]) == 8
    for off in found["cases"]:
        assert off["moved"] > 1e-3, off
        assert off["weights"] < 1e-6, off
        assert max(off["exp_avg"], off["exp_avg_sq"]) < 1e-3, off
    assert "not close" in found["refused"]  # by the trial on each GPU, of a kernel that does nothing


@needs_triton
def test_they_compile_for_gpus_and_read_and_write_sixteen_bytes_at_once(tmp_path):
    for name, made in child(CHILD, "compile", tmp_path).items():
        assert made["bytes"] > 0, name
        assert made["loads_of_16_bytes"] == 12, (name, made)  # three arrays, 16 floats of each
        assert made["stores_of_16_bytes"] == (8 if "moments" in name else 4), (name, made)
        assert made["spilled"] == 0, (name, made)


def two_weights() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.LayerNorm(4, bias=False))
    for weight in net.parameters():
        weight.grad = torch.full_like(weight, 0.5)
    return net


@needs_triton  # torch-optimi asks for it, though nothing is moved here
def test_a_state_written_on_a_cpu_is_read_on_a_gpu_and_the_other_way(monkeypatch):
    net = two_weights()
    plain = build(net, SETTINGS, peak=1e-3)
    assert type(plain) is StableAdamW
    plain.step()
    monkeypatch.setattr(optimizer, "in_triton", lambda model: True)
    there = build(net, SETTINGS, peak=1e-3)
    assert type(there) is AtOnce
    unpack_state(there, *pack_state(plain))
    monkeypatch.undo()
    back = build(net, SETTINGS, peak=1e-3)
    unpack_state(back, *pack_state(there))
    for weight in net.parameters():
        assert int(back.param_groups[0]["step"]) == 1
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(back.state[weight][name], plain.state[weight][name])


def test_weights_of_another_kind_go_the_plain_way(monkeypatch):
    monkeypatch.setattr(optimizer, "without_compiler", lambda device: None)
    assert optimizer.in_triton(two_weights())
    assert not optimizer.in_triton(two_weights().bfloat16())
