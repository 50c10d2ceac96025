"""The code path of GPUs on a CPU, its attention kernels stood in for: what they ask for, and its gradients."""

from typing import Any

import pytest
import torch

from tessera.model.attention import Layout, attend
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.precision import autocast

CPU = torch.device("cpu")
LENGTHS = {
    "few": [5, 1, 300, 40],
    "at the edges of the kernel's tiles": [128, 129, 130, 65, 64, 63],
    "none in some documents": [300, 0, 40, 0],
    "one token": [1],
}

pytestmark = pytest.mark.usefixtures("varlen_on_cpu")


def parts_off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The difference as a part of what is wanted, by their norms."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def answer_and_gradient(lengths: list[int], backend: str, **shape: Any) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inner = (shape["heads"] + 2 * shape["key_value_heads"]) * 32
    qkv = torch.randn(sum(lengths), inner, generator=generator).bfloat16().requires_grad_()
    given = qkv if backend == "varlen" else qkv.float()
    layout = Layout.of(torch.tensor([0, *lengths]).cumsum(0), len(qkv), backend)
    answer = attend(given, layout, theta=100.0, **shape)
    weight = torch.randn(answer.shape, generator=generator)
    (gradient,) = torch.autograd.grad((answer.float() * weight).sum(), qkv)
    return answer.detach(), gradient


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("window", [None, 3, 64])
@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_attention_agrees_with_the_reference_in_bfloat16(lengths, window, key_value_heads):
    shape = {"heads": 4, "key_value_heads": key_value_heads, "window": window}
    wanted, wanted_gradient = answer_and_gradient(lengths, "reference", **shape)
    found, gradient = answer_and_gradient(lengths, "varlen", **shape)
    assert found.dtype == torch.bfloat16
    assert parts_off(found, wanted) < 1e-2
    assert parts_off(gradient, wanted_gradient) < 2e-2


@pytest.mark.parametrize(
    ("family", "width"),
    [("mmbert", {"hidden_size": 64, "head_dim": 16}), ("eurobert", {})],
    ids=["mmbert", "eurobert"],
)
def test_a_model_on_the_path_of_gpus_has_the_loss_and_the_gradients_of_the_reference(tiny, documents, family, width):
    config = tiny(family, initializer_range=0.1, attention_output_dropout=0.0, **width)
    tokens, starts = documents([5, 130, 64, 2, 300, 11])
    positions = torch.arange(1, len(tokens), 3)
    targets = tokens[positions].flip(0)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for backend in ("reference", "auto"):
        model = MaskedLM(config, attention=backend)
        initialize(model, torch.Generator().manual_seed(0))
        model.train()
        with autocast(CPU, torch.bfloat16 if backend == "auto" else torch.float32):
            loss = model.loss(tokens, starts, positions, targets)
        loss.backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters()}
        assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients.values())
        found[backend] = {"loss": loss.detach(), **gradients}
    assert found["auto"]["loss"].dtype == torch.float32
    for name, wanted in found["reference"].items():
        assert parts_off(found["auto"][name], wanted) < (0.003 if name == "loss" else 0.06), name


def test_a_head_that_is_no_multiple_of_eight_wide_is_what_the_kernel_refuses():
    qkv = torch.zeros(4, 3 * 12, dtype=torch.bfloat16)
    layout = Layout.of(torch.tensor([0, 4]), 4, "varlen")
    with pytest.raises(AssertionError, match="12"):
        attend(qkv, layout, heads=1, key_value_heads=1, window=None, theta=100.0)


def test_a_document_longer_than_the_layout_says_is_what_the_kernel_would_leave_out():
    qkv = torch.zeros(8, 3 * 8, dtype=torch.bfloat16)
    layout = Layout("varlen", torch.tensor([0, 8]), longest=4)
    with pytest.raises(AssertionError):
        attend(qkv, layout, heads=1, key_value_heads=1, window=None, theta=100.0)
