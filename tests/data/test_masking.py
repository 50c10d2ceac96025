import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.data.hashing import keys
from tessera.data.masking import mask

VOCAB = 1000
SPECIAL = [0, 1, 2, 3, 500]
MASK = 3


def masked(documents, document_keys, ratio=0.3, replacement="mask"):
    """For each document its inputs, and its (index, target) pairs."""
    starts = np.concatenate(([0], np.cumsum([len(d) for d in documents]))).astype(np.int64)
    tokens = np.concatenate([*documents, []]).astype(np.int32)
    before = tokens.copy()
    inputs, positions, targets = mask(
        tokens, np.array(document_keys, np.uint64), starts, ratio, replacement, MASK, SPECIAL, VOCAB
    )
    assert np.array_equal(tokens, before), "the tokens given were changed"
    assert inputs.dtype == np.int32
    assert targets.dtype == np.int32
    assert positions.dtype == np.int64
    assert np.all(np.diff(positions) > 0)
    restored = inputs.copy()
    restored[positions] = targets
    assert np.array_equal(restored, tokens), "something changed that is not to be predicted"
    result = []
    for a, b in itertools.pairwise(starts):
        inside = (positions >= a) & (positions < b)
        pairs = list(zip((positions[inside] - a).tolist(), targets[inside].tolist(), strict=True))
        result.append((inputs[a:b].tolist(), pairs))
    return result


def texts(rng, count, longest=400):
    return [rng.integers(0, VOCAB, rng.integers(0, longest)) for _ in range(count)]


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.sampled_from(["mask", "80_10_10"]), st.floats(0.01, 0.99))
def test_a_document_is_masked_alike_whatever_else_is_in_the_batch(seed, replacement, ratio):
    rng = np.random.default_rng(seed)
    documents = texts(rng, 12)
    chance = rng.integers(0, 2**64, 12, dtype=np.uint64)
    together = masked(documents, chance, ratio, replacement)
    order = rng.permutation(12)[: rng.integers(1, 12)]
    assert masked([documents[i] for i in order], chance[order], ratio, replacement) == [together[i] for i in order]


def test_a_long_document_is_masked_alike_wherever_it_starts():
    rng = np.random.default_rng(0)
    long = rng.integers(4, VOCAB, 200_000)
    alone = masked([long], [7])[0]
    assert masked([rng.integers(4, VOCAB, 12_345), long, long[:9]], [1, 7, 2])[1] == alone


@pytest.mark.parametrize("replacement", ["mask", "80_10_10"])
def test_special_tokens_are_never_chosen_and_never_put_in(replacement):
    rng = np.random.default_rng(1)
    documents = [rng.integers(0, 8, 50_000), np.full(1000, 500)]
    for (inputs, pairs), document in zip(masked(documents, [1, 2], 0.9, replacement), documents, strict=True):
        assert not {target for _, target in pairs} & set(SPECIAL)
        chosen = np.zeros(len(document), bool)
        chosen[[i for i, _ in pairs]] = True
        put_in = np.array(inputs)[chosen]
        assert not set(put_in.tolist()) & (set(SPECIAL) - {MASK})
        assert len(pairs) == pytest.approx(0.9 * np.sum(~np.isin(document, SPECIAL)), abs=300)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5])
def test_the_ratio_is_kept_everywhere_in_a_document(ratio):
    documents = [np.full(1000, 9)] * 1000
    result = masked(documents, keys(3, np.arange(1000)), ratio)
    index = np.array([i for _, pairs in result for i, _ in pairs])
    by_tenth = np.bincount(index // 100, minlength=10) / 100_000
    assert by_tenth == pytest.approx([ratio] * 10, abs=0.007)
    assert len({tuple(pairs) for _, pairs in result}) == 1000, "two documents with other keys got the same mask"


def test_of_the_chosen_80_in_100_are_hidden_10_random_and_10_kept():
    document = np.full(400_000, 9)
    inputs, pairs = masked([document], [5], 0.5, "80_10_10")[0]
    chosen = np.array(inputs)[[i for i, _ in pairs]]
    assert np.mean(chosen == MASK) == pytest.approx(0.8, abs=0.005)
    assert np.mean(chosen == 9) == pytest.approx(0.1 + 0.1 / 995, abs=0.004)
    drawn = chosen[(chosen != MASK) & (chosen != 9)]
    assert len(set(drawn.tolist())) == VOCAB - len(SPECIAL) - 1, "some ordinary token is never drawn"
    counts = np.bincount(drawn, minlength=VOCAB)
    assert counts.max() < 3 * len(drawn) / 994


def test_the_same_positions_are_chosen_by_either_replacement():
    document = np.arange(4, 499)
    hidden, mixed = (masked([document], [5], 0.3, how)[0][1] for how in ("mask", "80_10_10"))
    assert hidden == mixed


def test_a_higher_ratio_only_adds_positions():
    document = np.full(5000, 9)
    few, many = ({i for i, _ in masked([document], [5], ratio)[0][1]} for ratio in (0.1, 0.5))
    assert few < many


def test_documents_may_be_empty_or_missing():
    assert masked([], []) == []
    assert masked([[], [], []], [1, 2, 3]) == [([], [])] * 3


def test_a_percentage_is_refused():
    with pytest.raises(ValueError, match="mask_ratio is 30"):
        masked([[5]], [1], ratio=30)


def test_keys_differ_between_seeds_and_documents_and_stay_as_they_are():
    found = {int(k) for seed in range(20) for k in keys(seed, np.arange(1000))}
    assert len(found) == 20_000
    assert [int(k) for k in keys(0, np.array([0, 1]))] == [int(keys(0, np.array([i]))[0]) for i in (0, 1)]
