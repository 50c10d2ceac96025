"""The dataloader of sentence embeddings: windows, epochs, sides, and what a teacher has to read."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.data.pair_stream import EmbeddingStream, PairStream, text_keys, with_negatives
from tessera.data.shard_writer import ShardWriter
from tessera.data.shards import Shards
from tessera.data.stream import Stream
from tessera.plan.mixture import MixtureSchedule

CONTEXT = 20


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """(documents, pairs); a side of a pair begins with its number in its bucket and says which side it is."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("stores")
    with ShardWriter(folder / "documents", "none", 1_000) as writer:
        for language in ("a", "b"):
            texts = [rng.integers(10, 1_000, rng.integers(3, 60)).astype(np.int32) for _ in range(50)]
            writer.add("web", language, None, texts, 1)
    with ShardWriter(folder / "pairs", "none", 1_000) as writer:
        for language, count in (("a", 40), ("b", 7)):
            for pair in range(count):
                both = [np.array([100 + pair, side, *rng.integers(10, 99, rng.integers(2, 30))]) for side in (1, 2)]
                writer.add("pairs", language, None, both, 1)
    return Shards.open(folder / "documents"), Shards.open(folder / "pairs")


def stream(stores, share=0.4, seed=0, taught=None):
    documents, pairs = stores
    plain = Stream(
        documents, MixtureSchedule((0, 1), ((0.7, 0.3),)), context=CONTEXT, seed=seed, phase_name="distil",
        replacement="mask", crop=None, mask_id=4, special_ids=range(5), vocab_size=1_000,
    )  # fmt: skip
    sides = PairStream(pairs, MixtureSchedule((0, 1), ((0.5, 0.5),)), context=CONTEXT, seed=seed, phase_name="distil")
    rows = taught or (lambda keys: (keys % 1_000_003).astype(np.int64))
    if share == 1:
        return EmbeddingStream(None, sides, 1.0, None)
    return EmbeddingStream(plain, sides if share else None, share, rows)


def texts(batch):
    ends = list(pairwise(batch.starts.tolist()))
    return [
        (int(source), int(row), tuple(batch.tokens[a:b].tolist()))
        for source, row, (a, b) in zip(batch.sources, batch.rows, ends, strict=True)
    ]


@settings(max_examples=30)
@given(
    st.integers(0, 10**12),
    st.integers(0, 2_000),
    st.integers(0, 2_000),
    st.integers(0, 4),
    st.sampled_from([0, 0.3, 0.9]),
)
def test_windows_concatenate_wherever_they_are_cut(stores, start, first, second, seed, share):
    reader = stream(stores, share, seed)
    a, b, c = start, start + first, start + first + second
    assert Counter(texts(reader.read(a, b)) + texts(reader.read(b, c))) == Counter(texts(reader.read(a, c)))


def test_sides_of_a_pair_stay_together_and_each_pair_comes_once_an_epoch(stores):
    reader = stream(stores, 1)
    seen = Counter()
    for t in range(0, 40_000, 1_000):
        found = texts(reader.read(t, t + 1_000))
        for (of, row, first), (other, next_row, second) in zip(found[::2], found[1::2], strict=True):
            assert (of, row + 1, first[0], first[1], second[1]) == (other, next_row, second[0], 1, 2)
            assert row % 2 == 0
            seen[of, first[0]] += 1
    for bucket, pairs in ((0, 40), (1, 7)):
        times = [seen[bucket, 100 + pair] for pair in range(pairs)]
        assert max(times) - min(times) <= 1, "an epoch reads each pair once"
    assert min(seen.values()) > 2


def test_tokens_are_shared_between_documents_and_pairs_as_asked(stores):
    batch = stream(stores, 0.25).read(0, 200_000)
    lengths = np.diff(batch.starts)
    assert len(batch.tokens) == pytest.approx(200_000, rel=0.01)
    assert lengths[batch.sources >= 2].sum() / len(batch.tokens) == pytest.approx(0.25, abs=0.01)
    assert lengths.max() <= CONTEXT
    assert [bucket.key for bucket in stream(stores).buckets] == ["web/a", "web/b", "pairs/a", "pairs/b"]


def test_a_teacher_reads_each_text_of_the_phase_once_and_second_sides_alone(stores):
    documents, pairs = stores
    reader, asked = stream(stores, 0.4), set()

    def rows(keys):
        asked.update(keys.tolist())
        return np.zeros(len(keys), np.int64)

    for t in range(0, 9_000, 900):
        stream(stores, 0.4, taught=rows).read(t, t + 900)
    due = set()
    for store, places in zip((documents, pairs), reader.texts(9_000), strict=True):
        tokens = store.gather(*places.T)
        keys = text_keys(tokens, np.concatenate(([0], np.cumsum(places[:, 1]))))
        assert len(places) == len({tuple(place) for place in places.tolist()})
        due.update(keys.tolist())
    assert asked == due


def test_both_sides_of_a_pair_are_drawn_to_the_vector_of_the_second(stores):
    batch = stream(stores, 0.5).read(0, 3_000)
    keys = text_keys(batch.tokens, batch.starts)
    due = (keys % 1_000_003).astype(np.int64)
    of_pairs = batch.sources >= 2
    np.testing.assert_array_equal(batch.rows[~of_pairs], due[~of_pairs])
    np.testing.assert_array_equal(batch.rows[of_pairs], np.repeat(due[of_pairs][1::2], 2))


def test_texts_are_told_apart_by_their_tokens_and_their_order():
    tokens = np.array([1, 2, 2, 1, 1, 2, 1, 2, 0, 1, 2], np.int32)
    keys = text_keys(tokens, np.array([0, 2, 4, 6, 8, 9, 11]))
    assert keys[0] == keys[2] == keys[3] == keys[5]
    assert len({keys[0], keys[1], keys[4]}) == 3


def test_what_is_recorded_of_a_step_is_what_it_read(stores):
    reader = stream(stores, 0.4)
    batch, found = reader.read(500, 1_500), reader.origins(500, 1_500)
    assert [tokens for *_, tokens in found] == np.diff(batch.starts).tolist()
    assert [bucket for bucket, *_ in found] == batch.sources.tolist()


# ------------------------------------------------------------------------------------------------------ hard negatives


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """1,200 pairs in two buckets, every side with a length of its own kind."""
    rng, folder = np.random.default_rng(1), tmp_path_factory.mktemp("large")
    with ShardWriter(folder / "pairs", "none", 10_000) as writer:
        for language, longest in (("a", 12), ("b", 30)):
            for pair in range(600):
                both = [np.array([100 + pair, *rng.integers(10, 99, rng.integers(2, longest))]) for _ in range(2)]
                writer.add("pairs", language, None, both, 1)
    return Shards.open(folder / "pairs")


def two_of(numbers):
    """Negatives of pairs: the next but one thousand, and for even ones the pair that stands beside it."""
    return np.stack(((numbers + 1_000) % 1_200, np.where(numbers % 2, -1, numbers + 1)), axis=1)


def with_hard(shards, negatives=two_of, count=2):
    mixture = MixtureSchedule((0, 1), ((0.5, 0.5),))
    sides = PairStream(shards, mixture, context=CONTEXT, seed=3, phase_name="hard", negatives=count)
    return EmbeddingStream(None, sides, 1.0, None, negatives)


def test_negatives_stand_once_behind_the_pairs_unless_they_are_among_them(large):
    for t in range(0, 20_000, 2_000):
        batch, (_, number) = with_hard(large).read(t, t + 2_000), with_hard(large).pairs.pairs(t, t + 2_000)
        due = sorted(set(two_of(number).ravel().tolist()) - {-1} - set(number.tolist()))
        assert batch.rows.tolist() == [*range(2 * len(number)), *(-1 - n for n in range(len(due)))]
        tokens, starts = with_hard(large).pairs.texts(2 * np.array(due) + 1)
        assert batch.tokens[batch.starts[2 * len(number)] :].tolist() == tokens.tolist()
        assert np.diff(batch.starts[2 * len(number) :]).tolist() == np.diff(starts).tolist()
        assert batch.sources[2 * len(number) :].tolist() == [int(n >= 600) for n in due]


def test_the_clock_of_a_phase_counts_its_negatives(large):
    def drawn(numbers):
        return np.stack((numbers * 7 % 1_200, numbers * 11 % 1_200), axis=1)

    reader = with_hard(large, drawn)
    assert sum(len(reader.read(t, t + 500).tokens) for t in range(0, 50_000, 500)) == pytest.approx(50_000, rel=0.05)
    tokens = [bucket.tokens for bucket in with_negatives(large, 2)]
    lengths = np.diff(large.offsets)
    assert tokens == [int(part[0::2].sum() + 3 * part[1::2].sum()) for part in np.split(lengths, 2)]
    assert with_negatives(large, 0) == large.buckets


def test_without_negatives_the_pairs_and_their_order_stay(large):
    mixture = MixtureSchedule((0, 1), ((0.5, 0.5),))
    plain = PairStream(large, mixture, context=CONTEXT, seed=3, phase_name="hard")
    for t in range(0, 9_000, 900):
        np.testing.assert_array_equal(plain.pairs(t, t + 900)[1], with_hard(large, None, 0).pairs.pairs(t, t + 900)[1])


def test_what_is_recorded_of_a_step_holds_its_negatives(large):
    batch, found = with_hard(large).read(500, 2_500), with_hard(large).origins(500, 2_500)
    assert [tokens for *_, tokens in found] == np.diff(batch.starts).tolist()
    assert [bucket for bucket, *_ in found] == batch.sources.tolist()
    begins = [large.offsets[large.first_document[bucket] + document] for bucket, document, *_ in found]
    assert large.gather(np.array(begins), np.diff(batch.starts)).tolist() == batch.tokens.tolist()
