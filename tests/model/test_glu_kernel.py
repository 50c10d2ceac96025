"""Gated units in two Triton kernels: right in Triton's interpreter, compiled for GPUs, never missing in silence."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from in_triton import child, needs_triton

from tessera.kernels import gated_units
from tessera.model import glu
from tessera.model.encoder import MLP

CHILD = Path(__file__).with_name("glu_in_triton.py")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return child(CHILD, "interpret", tmp_path_factory.mktemp("triton"))


@needs_triton
def test_products_and_gradients_are_those_of_pytorch_for_any_width(interpreted):
    assert len(interpreted["cases"]) == 28
    for row in interpreted["cases"]:
        bound = 6e-3 if "bfloat16" in row["case"] else 5e-7
        assert row["off"] < bound, row
        assert row["gradient_off"] < bound, row
        assert row["blocks_agree"], row


@needs_triton
def test_layers_reach_the_kernels_through_an_operation_with_a_gradient(interpreted):
    found = interpreted["autograd"]
    assert found["of_no_tokens"] == 0
    assert max(found["answer"], found["gradient"]) < 1e-6, found


@needs_triton
def test_they_compile_for_gpus_and_read_and_write_sixteen_bytes_at_once(tmp_path):
    for name, made in child(CHILD, "compile", tmp_path).items():
        back = "backward" in name  # three loads and two stores; two and one on the way there
        assert made["bytes"] > 0, name
        assert made["loads_of_16_bytes"] == made["loads"] == 2 + back, (name, made)
        assert made["stores_of_16_bytes"] == made["stores"] == 1 + back, (name, made)
        assert made["spilled"] == 0, (name, made)


def of_layer(mlp: MLP, x: torch.Tensor, *, compiled: bool) -> tuple[torch.Tensor, ...]:
    """What the layer answers, and the gradients of its sum."""
    forward = torch.compile(mlp.forward, backend="aot_eager", fullgraph=True, dynamic=True) if compiled else mlp.forward
    answer = forward(x)
    return answer, *torch.autograd.grad(answer.square().sum(), [x, *mlp.parameters()])


@pytest.mark.parametrize("activation", glu.ACTIVATIONS)
def test_on_a_gpu_layers_that_are_compiled_and_others_use_the_kernels(varlen_on_cpu, tiny, activation):
    torch._dynamo.reset()
    torch.compiler.assume_constant_result(glu.in_kernels)  # as encoder.py does
    torch.manual_seed(0)
    mlp, kernels = MLP(tiny("mmbert", hidden_act=activation)), sys.modules["tessera.kernels.glu_kernel"]
    x = torch.randn(7, mlp.gate_up.in_features, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glu, "without_kernel", lambda device: "switched off")
        wanted = of_layer(mlp, x, compiled=False)
    assert kernels.calls == 0
    for compiled in (False, True):
        kernels.calls = 0
        found = of_layer(mlp, x, compiled=compiled)
        assert kernels.calls == 3  # one tensor on the way there, two on the way back
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    torch._dynamo.reset()


def test_the_operations_say_their_shapes_and_gradients_as_torch_wants_them(varlen_on_cpu):
    x = torch.randn(5, 12, requires_grad=True)
    torch.library.opcheck(gated_units.gated, (x, "gelu"))
    torch.library.opcheck(gated_units.gated_backward, (torch.randn(5, 6), x.detach(), "silu"))


def test_without_triton_gated_units_say_so_and_run_in_pytorch(monkeypatch, logged):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "tessera.kernels.glu_kernel", raising=False)
    glu.without_kernel.cache_clear()
    for _ in range(2):
        assert glu.without_kernel(torch.device("cuda")) == "Triton is not installed"
    assert logged == ["gated units: in PyTorch's operations, not in kernels of their own; Triton is not installed"]
    glu.without_kernel.cache_clear()


def test_a_cpu_has_no_such_kernels_and_that_is_no_news(logged):
    assert glu.without_kernel(torch.device("cpu")) == "there is none for cpu"
    assert logged == []
