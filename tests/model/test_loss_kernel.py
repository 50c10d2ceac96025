"""The loss of GPUs in one Triton kernel: right in Triton's interpreter, compiled for GPUs, never missing in silence."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from in_triton import child, needs_triton

from tessera.model import cross_entropy

CHILD = Path(__file__).with_name("loss_in_triton.py")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return child(CHILD, "interpret", tmp_path_factory.mktemp("triton"))


@needs_triton
def test_losses_and_gradients_are_those_of_pytorch_for_any_width(interpreted):
    assert len(interpreted["cases"]) == 28
    for row in interpreted["cases"]:
        rough = "bfloat16" in row["case"]
        assert row["loss_off"] < 1e-5, row
        assert row["gradient_off"] < (5e-3 if rough else 5e-6), row


@needs_triton
def test_scores_change_where_a_gradient_is_asked_for_and_nowhere_else(interpreted):
    assert all(row["untouched_without_gradient"] and row["nothing_beside"] for row in interpreted["cases"])


@needs_triton
def test_the_blocks_do_not_show_in_the_answer(interpreted):
    for row in interpreted["cases"]:
        assert row["off_in_other_blocks"] < (0.01 if "bfloat16" in row["case"] else 1e-5), row


@needs_triton
def test_the_whole_loss_through_the_kernel_has_the_gradients_of_pytorch(interpreted):
    assert set(interpreted["whole"]) == {"loss", "losses", "hidden", "weight", "bias"}
    assert max(interpreted["whole"].values()) < 1e-6, interpreted["whole"]


@needs_triton
def test_what_is_no_token_and_what_is_no_number_is_no_loss(interpreted):
    odd = interpreted["odd"]
    assert odd["no such token"] == ["nan", "nan", pytest.approx(2.7725887, abs=1e-6)]
    assert odd["nan and inf"] == ["nan", "nan"]
    assert odd["a first block of -inf"] == [0.0]
    assert odd["a share of nothing"] == [pytest.approx(203.0485873, rel=1e-6)]
    assert odd["no rows"] == []


@needs_triton
def test_it_compiles_for_gpus_and_reads_and_writes_sixteen_bytes_at_once(tmp_path):
    for capability, made in child(CHILD, "compile", tmp_path).items():
        assert made["bytes"] > 0, capability
        # Two passes over the scores, two loads each of them in bfloat16, four each of the bias in float32.
        assert made["loads_of_16_bytes"] == 12, (capability, made)
        assert made["stores_of_16_bytes"] == 2, (capability, made)
        assert made["spilled"] == 0, (capability, made)


def test_without_triton_the_loss_says_so_and_runs_in_pytorch(monkeypatch, logged):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "tessera.kernels.loss_kernel", raising=False)
    cross_entropy.without_kernel.cache_clear()
    for _ in range(2):
        assert cross_entropy.without_kernel(torch.device("cuda")) == "Triton is not installed"
    assert logged == ["loss: in PyTorch's operations, not in one kernel; Triton is not installed"]
    cross_entropy.without_kernel.cache_clear()


def test_a_cpu_has_no_kernel_and_that_is_no_news(logged):
    assert cross_entropy.without_kernel(torch.device("cpu")) == "there is none for cpu"
    assert logged == []
