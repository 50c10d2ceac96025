"""Attention of inference, whose positions are turned inside the tiles, gives the answer of the reference."""

import pytest
import torch

from tessera.model.attention import Layout, attend, frequencies
from tessera.model.attention_cpu import cut
from tessera.packed import attention as attention_still

HEADS, PAIRS, WIDTH, THETA = 4, 2, 6, 100.0
LENGTHS = ([1], [5, 1, 3], [64, 64, 64], [30, 0, 7, 200], [300, 12], [700])


def both(lengths: list[int], window: int | None, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    starts = torch.tensor([0, *lengths]).cumsum(0)
    layout = Layout.of(starts, len(qkv), "reference")
    seen = layout.window(window)
    tiles = attention_still.still_tiles(
        cut(starts.tolist(), seen, HEADS), len(qkv), frequencies(THETA, WIDTH), qkv.dtype
    )
    exact = attend(qkv, layout, heads=HEADS, key_value_heads=PAIRS, window=window, theta=THETA)
    return attention_still.attend_still(qkv, tiles, HEADS, PAIRS), exact


def some(lengths: list[int]) -> torch.Tensor:
    return torch.randn(sum(lengths), (HEADS + 2 * PAIRS) * WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("window", [None, 1, 20])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_the_answer_is_that_of_the_reference(lengths: list[int], window: int | None) -> None:
    found, exact = both(lengths, window, some(lengths))
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 20])
def test_products_cut_into_parts_give_the_same(monkeypatch: pytest.MonkeyPatch, window: int | None) -> None:
    monkeypatch.setattr(attention_still, "_SCORES", 1 << 12)
    found, exact = both([300, 12, 90], window, some([300, 12, 90]))
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


def test_what_is_no_number_stays_in_its_document() -> None:
    qkv = some([30, 7, 28])
    qkv[33] = float("nan")
    found, _ = both([30, 7, 28], None, qkv)
    assert found[30:37].isnan().all()
    assert found[:30].isfinite().all()
    assert found[37:].isfinite().all()
