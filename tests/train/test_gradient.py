"""Dropout that does not depend on how a batch is cut."""

import numpy as np
import pytest
import torch
from going import changed

from tessera.data.packing import Batch, select
from tessera.model.mlm import MaskedLM, initialize
from tessera.train.gradient import SeededDropout, kept


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


@pytest.mark.parametrize("share", [655, 6_554, 32_768])
def test_the_share_that_is_dropped_is_the_one_asked_for(share):
    keep = kept(rows(4_000), 0, 250, share)
    assert keep.shape == (4_000, 250)
    spread = 4 * (share / 65_536 * (1 - share / 65_536) / keep.size) ** 0.5
    assert 1 - keep.mean() == pytest.approx(share / 65_536, abs=spread)
    for axis in (0, 1):  # no token and no channel is dropped more than chance has it
        expected = share / 65_536 * keep.shape[axis]
        worst = np.abs((~keep).sum(axis) - expected).max()
        assert worst < 6 * expected**0.5 + 2


def test_layers_tokens_and_neighbouring_channels_are_dropped_independently():
    one, other = kept(rows(2_000), 0, 64, 32_768), kept(rows(2_000), 1, 64, 32_768)
    for a, b in ((one, other), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1]), (one[:, 4:], one[:, :-4])):
        assert (a == b).mean() == pytest.approx(0.5, abs=0.006)


def batch(lengths: list[int]) -> Batch:
    starts = np.concatenate(([0], np.cumsum(lengths)))
    tokens = np.random.default_rng(1).integers(5, 50, starts[-1]).astype(np.int32)
    return Batch(
        tokens=tokens, starts=starts, positions=np.array([1]), targets=np.array([7], np.int32),
        sources=np.arange(len(lengths), dtype=np.int32),
    )  # fmt: skip


def test_a_document_has_the_same_noise_in_whatever_company_and_other_noise_in_another_step():
    model = MaskedLM(changed().model.config(vocab_size=50, attention_output_dropout=0.5))
    initialize(model, torch.Generator().manual_seed(0))
    noise, whole = SeededDropout(model), batch([9, 4, 17])

    def hidden(piece: Batch, seed: int) -> torch.Tensor:
        noise.set(seed, piece)
        return model.encoder(torch.from_numpy(piece.tokens).long(), torch.from_numpy(piece.starts))

    with torch.no_grad():
        together = hidden(whole, 3)
        for documents in ([1], [0, 2], [2]):
            alone = hidden(select(whole, np.array(documents)), 3)
            places = np.concatenate([np.arange(*whole.starts[[d, d + 1]]) for d in documents])
            torch.testing.assert_close(alone, together[places])
        assert not torch.allclose(hidden(whole, 4), together)
        model.eval()  # no noise where nothing is trained
        torch.testing.assert_close(hidden(whole, 3), hidden(whole, 4))


def test_what_stays_is_scaled_so_that_the_mean_is_kept():
    model = MaskedLM(changed().model.config(vocab_size=50, attention_output_dropout=0.25))
    noise, whole = SeededDropout(model), batch([3_000])
    noise.set(1, whole)
    attention = model.encoder.layers[0].attention
    assert attention.dropout == 0.0  # PyTorch's own is off
    (hook,) = attention._forward_hooks.values()
    out = hook(attention, (), torch.ones(3_000, 32))
    assert out.mean().item() == pytest.approx(1.0, abs=0.01)
    assert out.unique().tolist() == [0.0, pytest.approx(4 / 3)]
