"""Linear layers of CPU inference give the same by oneDNN and by the BLAS library, activation and sum included."""

import pytest
import torch
from torch.nn import functional

from tessera.packed import products
from tessera.packed.products import FUSED_ACTIVATIONS, by_blas, can_pack, product, summed

pytestmark = pytest.mark.skipif(not can_pack(), reason="this PyTorch is built without oneDNN")

EXACT = {
    None: lambda x: x,
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
}


@pytest.fixture(params=["oneDNN", "BLAS"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(products, "by_blas", lambda dtype: request.param == "BLAS")
    return request.param


@pytest.fixture
def some(rows: int) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(rows)
    return tuple(torch.randn(*shape, generator=draw) for shape in ((rows, 24), (40, 24), (40,), (rows, 40)))


@pytest.mark.parametrize("rows", [0, 1, 7, 200])
@pytest.mark.parametrize("activation", EXACT)
@pytest.mark.parametrize("biased", [True, False])
@torch.no_grad()
def test_a_product_is_a_linear_layer(way: str, some: tuple, activation: str | None, biased: bool) -> None:
    x, weight, bias, _ = some
    bias = bias if biased else None
    found = product(weight, bias, torch.float32, activation)(x)
    torch.testing.assert_close(found, EXACT[activation](functional.linear(x, weight, bias)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 7, 200])
@pytest.mark.parametrize("biased", [True, False])
@torch.no_grad()
def test_a_sum_adds_to_what_is_there(way: str, some: tuple, biased: bool) -> None:
    x, weight, bias, before = some
    bias = bias if biased else None
    exact = before + functional.linear(x, weight, bias)
    torch.testing.assert_close(summed(weight, bias, torch.float32)(x, before.clone()), exact, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_weights_are_copied(way: str) -> None:
    weight, x = torch.ones(3, 4), torch.ones(2, 4)
    layer = product(weight, None, torch.float32)
    weight.zero_()
    assert layer(x).eq(4).all()


def test_an_activation_that_is_not_known_is_never_left_out(way: str) -> None:
    with pytest.raises(KeyError, match="relu6"):
        product(torch.ones(3, 4), None, torch.float32, "relu6")


def test_every_activation_has_both_forms() -> None:
    assert set(EXACT) == {None, *FUSED_ACTIVATIONS} == set(products._IN_PLACE)


@pytest.mark.parametrize(("old", "new", "mkl", "expected"), [
    (True, False, True, True), (True, True, True, False), (False, False, True, False), (True, False, False, False),
])  # fmt: skip
def test_blas_is_for_float32_on_avx2(
    monkeypatch: pytest.MonkeyPatch, old: bool, new: bool, mkl: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: old)
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: new)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert by_blas(torch.float32) is expected
    assert not by_blas(torch.bfloat16)
