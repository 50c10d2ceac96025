"""Windows of attention in their own Triton kernels: right in Triton's interpreter, compiled for GPUs, never missing in
silence; and the operation around them on a CPU, the kernels stood in for."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from in_triton import child, needs_triton

from tessera.kernels import window_attention
from tessera.model.attention import Layout, attend

CHILD = Path(__file__).with_name("windows_in_triton.py")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return child(CHILD, "interpret", tmp_path_factory.mktemp("triton"))


@needs_triton
def test_attention_and_its_gradient_are_those_of_the_reference(interpreted):
    assert len(interpreted["cases"]) == 20
    for row in interpreted["cases"]:
        assert row["dtypes"], row
        assert row["untouched"], row
        assert max(row["answer_off"], row["gradient_off"]) < (1e-3 if "float16" in row["case"] else 2e-6), row


@needs_triton
def test_the_tiles_do_not_show_in_the_answer(interpreted):
    assert len(interpreted["tiles"]) == 4
    for row in interpreted["tiles"]:
        assert max(row["answer_off"], row["gradient_off"]) < 2e-6, row


@needs_triton
def test_it_compiles_for_gpus_without_spilling_registers(tmp_path):
    for width, kernels in child(CHILD, "compile", tmp_path).items():
        assert len(kernels) == 3
        for name, made in kernels.items():
            assert made["spilled"] <= 16, (width, name, made)
            assert made["programs"] >= (1 if width == "128" else 3), (width, name, made)  # at a time
            assert made["products"] >= 6, (width, name, made)  # of a group of warps
            assert made["loads_of_16_bytes"] >= 15, (width, name, made)


def test_without_triton_windows_stay_with_the_varlen_kernel_and_that_is_said(monkeypatch, logged):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "tessera.kernels.window_kernel", raising=False)
    monkeypatch.delattr("tessera.kernels.window_kernel", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    window_attention.without_kernel.cache_clear()
    for _ in range(2):
        assert window_attention.without_kernel(torch.device("cuda")) == "Triton is not installed"
    assert logged == ["attention: windows by the varlen kernel, not by their own; Triton is not installed"]
    window_attention.without_kernel.cache_clear()


def test_a_cpu_and_other_gpus_have_no_kernel_and_that_is_no_news(logged, monkeypatch):
    assert window_attention.without_kernel(torch.device("cpu")) == "there is none for cpu"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert "made for the products of Hopper" in window_attention.without_kernel.__wrapped__(torch.device("cuda"))
    assert logged == []


# ------------------------------------------------------------------------------------- the operation, on stand-ins


def layer_of(width: int = 32, lengths: tuple[int, ...] = (70, 1, 29)) -> tuple[torch.Tensor, Layout]:
    """qkv of two heads on one pair of keys and values, and where its documents lie."""
    qkv = torch.randn(sum(lengths), 4 * width, generator=torch.Generator().manual_seed(0)).bfloat16()
    return qkv, Layout.of(torch.tensor([0, *lengths]).cumsum(0), sum(lengths), "varlen")


@pytest.mark.parametrize(
    ("window", "width", "why_not", "own"),
    [(64, 32, None, True), (128, 64, None, True), (129, 32, None, False), (None, 32, None, False),
     (64, 16, None, False), (64, 32, "switched off", False)],
)  # fmt: skip
def test_layers_of_a_small_window_have_their_own_kernel_and_no_others(
    varlen_on_cpu, monkeypatch, window, width, why_not, own
):
    taken = []
    monkeypatch.setattr(window_attention, "without_kernel", lambda device: why_not)
    operation = window_attention.window_attention
    monkeypatch.setattr(window_attention, "window_attention", lambda *given: taken.append(1) or operation(*given))
    qkv, layout = layer_of(width)
    answer = attend(qkv, layout, heads=2, key_value_heads=1, window=window, theta=1e4)
    assert answer.shape == (100, 2 * width)
    assert len(taken) == own


def test_the_trial_of_the_kernel_passes_a_right_one_and_refuses_a_wrong_one(varlen_on_cpu, monkeypatch):
    window_attention._try(torch.device("cpu"))
    right = window_attention.window_attention
    monkeypatch.setattr(window_attention, "window_attention", lambda *given: (right(*given)[0] * 1.2, None))
    with pytest.raises(AssertionError, match="not close"):
        window_attention._try(torch.device("cpu"))


def test_the_operation_is_one_that_the_compiler_may_trust(varlen_on_cpu):
    """Its shapes without data, its gradient, nothing changed in place: for any number of tokens."""
    qkv, layout = layer_of()
    given = (qkv.requires_grad_(), layout.bounds(), *layout.turns(1e4, 32), 2, 1, 16)
    torch.library.opcheck(window_attention.window_attention, given)


def test_positions_that_do_not_restart_are_turned_as_exactly_far_into_a_pack(varlen_on_cpu):
    """Angles of 400,000 tokens, added from two tables, are those that float64 gives."""
    places = torch.arange(400_000)
    layout = Layout("varlen", torch.tensor([0, 400_000]), 400_000)
    whole, rest = layout.turns(10.0, 32)
    turn = torch.complex(*whole.chunk(2, 1))[places // 64] * torch.complex(*rest.chunk(2, 1))[places % 64]
    frequencies = (1.0 / 10.0 ** (torch.arange(0, 32, 2, dtype=torch.float32) / 32)).double()
    angles = places[:, None] * frequencies
    wanted = torch.complex(angles.cos(), angles.sin())
    assert float((turn - wanted).abs().max()) < 5e-7
