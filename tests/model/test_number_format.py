"""The number format of matrix products: what auto chooses, and what is said where a processor only emulates one."""

import logging

import pytest
import torch

from tessera.model import precision
from tessera.model.precision import compute_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize(("able", "chosen"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_what_the_processor_is_fast_in(
    monkeypatch: pytest.MonkeyPatch, able: bool, chosen: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda device: able)
    assert compute_dtype("auto", CPU) is chosen
    assert compute_dtype("float32", CPU) is torch.float32


@pytest.mark.parametrize("able", [True, False])
def test_emulated_bfloat16_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, able: bool
) -> None:
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda device: able)
    precision._say_emulated.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert {compute_dtype("bfloat16", CPU) for _ in range(3)} == {torch.bfloat16}
        compute_dtype("auto", CPU)
    assert [("emulated" in one, "dtype auto takes float32" in one) for one in caplog.messages] == [(True, True)] * (
        not able
    )
    precision._say_emulated.cache_clear()
