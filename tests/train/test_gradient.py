"""The passes of a batch, and dropout that does not depend on how it is cut."""

import numpy as np
import pytest
import torch
from going import ALONE, changed

from tessera.data.packing import Batch, even_batches, filled, micro_batches, select
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.cost import passes_of
from tessera.train.distributed import World
from tessera.train.gradient import Cut, SeededDropout, kept, prepare


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


def sizes(lengths: list[int], tokens: int, rank: int = 0, size: int = 1, **more: int) -> list[int]:
    world = World(rank=rank, size=size, device=ALONE.device)
    return prepare(batch(lengths), Cut(world=world, micro_batch_tokens=tokens, **more)).sizes


def test_documents_are_dealt_out_to_processes_and_then_to_passes():
    # Three processes, longest first, each document to the one with least: 6 | 5 | 4 + 3; at most 5 tokens a pass.
    assert [sizes([3, 6, 5, 4], 5, rank, 3) for rank in range(3)] == [[6], [5], [4, 3]]
    assert sizes([3, 6, 5, 4], 9) == [9, 9]


def test_passes_of_a_gpu_are_even_and_filled_up_to_sizes_that_recur():
    lengths = [100] * 27
    assert sizes(lengths, 2_000) == [2_000, 700]
    assert sizes(lengths, 2_000, longest=100, pad_id=0) == [1_408, 1_408]  # 14 and 13 documents, in tiles of 128
    assert sizes([1_500, 1_100], 2_000, longest=1_500, pad_id=0) == [1_536, 1_152]


def test_what_fills_a_pass_up_is_padding_in_documents_of_their_own():
    whole = batch([9, 4])
    full = filled(whole, 32, 10, pad_id=3)
    assert full.starts.tolist() == [0, 9, 13, 23, 32]
    assert full.tokens.tolist() == [*whole.tokens.tolist(), *[3] * 19]
    assert (full.positions.tolist(), full.targets.tolist()) == ([1], [7])
    assert filled(full, 32, 10, pad_id=3) is full


@pytest.mark.parametrize("seed", range(20))
def test_even_parts_lose_and_repeat_nothing(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 300, rng.integers(1, 60)).tolist()
    whole = batch(lengths)
    parts = even_batches(whole, 1_000)
    assert sorted(n for part in parts for n in np.diff(part.starts).tolist()) == sorted(lengths)
    assert max(len(part.tokens) for part in parts) <= 1_015  # 1,000 and a 64th
    assert passes_of(sum(lengths), 1_000) <= len(parts) <= len(micro_batches(whole, 1_000))


def test_a_batch_of_twice_the_tokens_of_a_pass_makes_two_of_them_and_not_three():
    lengths = [*[999] * 130, *[7] * 171, 5]
    assert sum(lengths) == 131_072
    parts = even_batches(batch(lengths), 65_536)
    assert len(micro_batches(batch(lengths), 65_536)) == 3
    assert [len(part.tokens) for part in parts] == [65_537, 65_535]
    assert len(even_batches(batch([600, 600]), 1_000)) == 2  # no two documents fit one of these
    assert [len(part.tokens) for part in even_batches(batch([2_000, 3]), 1_000)] == [2_000, 3]
