import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.data.hashing import keys, permute
from tessera.data.packing import micro_batches, share
from tessera.data.shard_writer import ShardWriter
from tessera.data.shards import Shards
from tessera.data.stream import Stream, cut
from tessera.plan.mixture import MixtureSchedule, mixture_of, shares
from tessera.plan.phase import Crop, Mixture, Phase

FIRST = 10  # ids below are special; every token of a store is its position + FIRST, so a token says where it was read


def write(folder, lengths_of_buckets, file_bytes=2**30):
    """A store with the given document lengths in buckets s/l000, s/l001, ..."""
    vocab_size, at = FIRST + sum(map(sum, lengths_of_buckets)), FIRST
    with ShardWriter(folder, "none", vocab_size, file_bytes=file_bytes) as writer:
        for number, lengths in enumerate(lengths_of_buckets):
            ends = at + np.cumsum(lengths)
            ids = [np.arange(end - length, end, dtype=np.int32) for end, length in zip(ends, lengths, strict=True)]
            writer.add("s", f"l{number:03d}", None, ids, 4 * sum(lengths))
            at += sum(lengths)
    return Shards.open(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    counts = (1, 2, 3, 17, 40, 300, 0, 64)
    buckets = [rng.integers(1, 90, count).tolist() for count in counts if count]
    return write(tmp_path_factory.mktemp("stream") / "store", buckets, file_bytes=10_000)


def still(*row):
    """A mixture of these shares, which do not move."""
    return MixtureSchedule((0, 1), (row,))


def stream(store, mixture=None, **more):
    settings = {
        "context": 32,
        "seed": 0,
        "phase_name": "pretrain",
        "replacement": "80_10_10",
        "crop": None,
        "mask_id": 4,
        "special_ids": range(FIRST),
        "vocab_size": store.vocab_size,
    } | more
    return Stream(store, mixture or still(*shares(Mixture(temperature=0.3), store.buckets)), **settings)


def documents(batch):
    """(bucket, inputs, masked positions, tokens as they were) of each document."""
    whole = batch.tokens.copy()
    whole[batch.positions] = batch.targets
    found = []
    for number, (a, b) in enumerate(itertools.pairwise(batch.starts.tolist())):
        here = batch.positions[(batch.positions >= a) & (batch.positions < b)] - a
        tokens = tuple(whole[a:b].tolist())
        found.append((int(batch.sources[number]), tuple(batch.tokens[a:b].tolist()), tuple(here.tolist()), tokens))
    return found


CROPS = [None, Crop(how="complementary", min_length=5), Crop(how="uniform", min_length=5)]


@settings(max_examples=40)
@given(st.integers(0, 10**15), st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 5), st.sampled_from(CROPS))
def test_windows_concatenate_wherever_they_are_cut(store, start, first, second, seed, crop):
    reader = stream(store, seed=seed, crop=crop)
    a, b, c = start, start + first, start + first + second
    parts = documents(reader.read(a, b, 0.3)) + documents(reader.read(b, c, 0.3))
    assert Counter(parts) == Counter(documents(reader.read(a, c, 0.3)))


def test_reading_in_steps_from_the_middle_is_reading_on(store):
    whole = [documents(stream(store).read(t, t + 700, 0.3)) for t in range(0, 7000, 700)]
    for stop in range(10):
        resumed = stream(store)
        assert [documents(resumed.read(t, t + 700, 0.3)) for t in range(700 * stop, 7000, 700)] == whole[stop:]


def blocks_of(store, bucket, context):
    first = int(store.first_document[bucket])
    found = []
    for a, b in itertools.pairwise(store.offsets[first : first + store.buckets[bucket].documents + 1].tolist()):
        found += [tuple(range(FIRST + at, FIRST + min(at + context, b))) for at in range(a, b, context)]
    return found


@pytest.mark.parametrize("context", [8, 32, 1000])
def test_wherever_reading_stops_no_block_was_read_twice_more_than_another(store, context):
    reader = stream(store, context=context)
    draws = {number: [] for number in range(len(store.buckets))}
    for t in range(0, 80_000, 100):
        arrived = documents(reader.read(t, t + 100, 0.3))
        for bucket, group in itertools.groupby(sorted(arrived), key=lambda d: d[0]):
            draws[bucket] += [d[3] for d in group]
    for bucket, drawn in draws.items():
        n, times = int(reader.blocks[bucket]), Counter(drawn)
        assert sorted(times) == sorted(blocks_of(store, bucket, context))
        assert n == len(times)
        assert max(times.values()) - min(times.values()) <= 1, "a block came again before all others had"
        assert len(drawn) == reader.draws(t + 100)[bucket]


def test_every_epoch_reads_each_block_once_in_an_order_of_its_own(store):
    """One draw at a time, so that their order is seen: each run of n draws is a shuffle of the n blocks."""
    reader = stream(store, still(0, 0, 0, 1.0, 0, 0, 0))
    expected = sorted(blocks_of(store, 3, 32))
    drawn = [d[3] for t in range(0, 4000) for d in documents(reader.read(t, t + 1, 0.3))]
    n = len(expected)
    epochs = [drawn[i : i + n] for i in range(0, len(drawn) - n, n)]
    assert len(epochs) >= 3
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_a_second_reading_of_a_block_has_another_mask(store):
    reader = stream(store, still(1.0, 0, 0, 0, 0, 0, 0), context=1000)
    seen = [d[2] for t in range(0, 2000) for d in documents(reader.read(t, t + 1, 0.3))]
    assert len(seen) > 10
    assert len(set(seen)) == len(seen)


def test_seeds_and_phases_read_in_other_orders(store):
    orders = {
        tuple(d[3] for d in documents(stream(store, seed=seed, phase_name=name).read(0, 2000, 0.3)))
        for seed in (0, 1)
        for name in ("pretrain", "decay")
    }
    assert len(orders) == 4


def test_a_batch_does_not_depend_on_the_number_of_processes(store):
    for t in range(0, 5000, 1000):
        batch = stream(store).read(t, t + 1000, 0.3)
        whole = Counter(documents(batch))
        for world in (1, 2, 3, 7):
            parts = [share(batch, rank, world) for rank in range(world)]
            assert Counter(d for part in parts for m in micro_batches(part, 64) for d in documents(m)) == whole


@settings(max_examples=25)
@given(
    st.integers(0, 2**63),
    st.integers(0, 10**13),
    st.lists(st.tuples(st.integers(0, 1500), st.sampled_from([1, 2, 4, 8]), st.integers(1, 300)), max_size=6),
    st.sampled_from(CROPS),
)
def test_any_number_of_processes_sees_the_same_global_batches_wherever_it_stops(store, seed, start, runs, crop):
    """Each run goes on where the last one stopped: a new stream, other processes, other micro-batches."""
    whole, together, t = stream(store, seed=seed, crop=crop), Counter(), start
    for tokens, world, room in runs:
        resumed = stream(store, seed=seed, crop=crop)
        parts = [share(resumed.read(t, t + tokens, 0.3), rank, world) for rank in range(world)]
        seen = Counter(d for part in parts for piece in micro_batches(part, room) for d in documents(piece))
        assert seen == Counter(documents(whole.read(t, t + tokens, 0.3)))
        loads = [len(part.tokens) for part in parts]
        assert max(loads) - min(loads) <= 32, "shares differ by more than one block"
        together, t = together + seen, t + tokens
    assert together == Counter(documents(whole.read(start, t, 0.3)))


@pytest.mark.parametrize("crop", CROPS)
def test_a_run_may_stop_at_every_token(store, crop):
    reader = stream(store, seed=7, crop=crop)
    whole = Counter(documents(reader.read(10_000, 10_400, 0.3)))
    for stop in range(10_000, 10_401):
        resumed = reader.read(stop, 10_400, 0.3)
        assert Counter(documents(reader.read(10_000, stop, 0.3)) + documents(resumed)) == whole


def test_shares_read_are_the_shares_planned(tmp_path):
    """100 languages, the largest over 1,000 times the smallest; 10 million tokens in batches of 100,000."""
    rng = np.random.default_rng(1)
    lengths = [rng.integers(50, 150, int(20_000 / (rank + 1) ** 1.6)).tolist() for rank in range(100)]
    store = write(tmp_path / "store", lengths)
    planned = shares(Mixture(temperature=0.3, shares={"l005": 0.2}), store.buckets)
    reader = stream(store, still(*planned), context=150, replacement="mask")
    tokens = np.zeros(100)
    for t in range(0, 10_000_000, 100_000):
        batch = reader.read(t, t + 100_000, 0.3)
        tokens += np.bincount(batch.sources, weights=np.diff(batch.starts), minlength=100)
    assert tokens.sum() == pytest.approx(10_000_000, rel=0.002)
    # Whole epochs are exact; which blocks the last one has drawn is luck, of this standard deviation in tokens:
    last = reader.draws(10_000_000) % reader.blocks
    luck = np.array([np.std(n) for n in lengths]) * np.sqrt(last * (1 - last / reader.blocks))
    wanted = 10_000_000 * np.array(planned)
    enough = 3 * luck + 150 < 0.01 * wanted
    assert enough.sum() > 80
    assert np.abs(tokens / wanted - 1)[enough].max() < 0.01
    assert np.all(np.abs(tokens - wanted) < 4 * luck + 150)


def moving(store, tokens=20_000, **mixture):
    phase = Phase.model_validate(
        {
            "name": "pretrain", "from": "scratch", "tokens": tokens, "context": 32, "batch_tokens": 1000,
            "mask_ratio": 0.3, "learning_rate": {"peak": 1.0},
            "mixture": {"temperature": {"from": 0.7, "to": 0.1, "shape": "cosine"}, **mixture},
        }
    )  # fmt: skip
    return mixture_of(phase, store.buckets)


def test_a_mixture_that_stands_still_is_read_alike_however_long_the_phase(store):
    """Shares that stand still read what they always read, to the last bit."""
    short = stream(store)
    long = stream(store, MixtureSchedule((0, 10**15), (shares(Mixture(temperature=0.3), store.buckets),)))
    for t in (0, 1, 777, 12_345, 10**9 + 7, 10**15 - 1):
        assert long.draws(t).tolist() == short.draws(t).tolist()
        assert (
            long.draws(t).tolist() == np.floor(long._draws._rate[0] * t + long._draws._phase).astype(np.int64).tolist()
        )
    assert documents(long.read(5_000, 6_000, 0.3)) == documents(short.read(5_000, 6_000, 0.3))


@settings(max_examples=40)
@given(
    st.integers(0, 20_000), st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 5), st.integers(1, 19_999),
    st.sampled_from(CROPS),
)  # fmt: skip
def test_windows_of_a_moving_mixture_concatenate_wherever_they_are_cut(store, start, first, second, seed, entry, crop):
    reader = stream(store, moving(store, entries={"l003": entry}), seed=seed, crop=crop)
    a, b, c = start, min(start + first, 20_000), min(start + first + second, 20_000)
    parts = documents(reader.read(a, max(a, b), 0.3)) + documents(reader.read(max(a, b), max(a, c), 0.3))
    assert Counter(parts) == Counter(documents(reader.read(a, max(a, c), 0.3)))


def test_draws_of_a_moving_mixture_never_go_back(store):
    reader = stream(store, moving(store, tokens=3_000, entries={"l002": 1_001}))
    drawn = np.array([reader.draws(t) for t in range(3_001)])
    assert (np.diff(drawn, axis=0) >= 0).all()
    assert (drawn[1_001, 2], drawn[3_000, 2]) == (reader.draws(0)[2], reader.draws(3_000)[2])
    assert drawn[3_000, 2] > drawn[1_001, 2]


def test_moving_shares_read_are_the_shares_planned(tmp_path):
    """100 languages over 10 million tokens: temperature and English move, two languages enter, repetition is capped."""
    rng = np.random.default_rng(2)
    lengths = [rng.integers(50, 150, int(20_000 / (rank + 1) ** 1.6)).tolist() for rank in range(100)]
    store = write(tmp_path / "store", lengths)
    course = moving(
        store,
        tokens=10_000_000,
        shares={"l005": {"from": 0.3, "to": 0.05}, "l007": 0.1},
        entries={"l003": 2_000_000, "l040": 4_567_891},
        max_epochs=25,
    )
    reader = stream(store, mixture=course, context=150, replacement="mask")
    tokens, before = np.zeros(100), np.zeros(100)
    for t in range(0, 10_000_000, 100_000):
        batch = reader.read(t, t + 100_000, 0.3)
        tokens += np.bincount(batch.sources, weights=np.diff(batch.starts), minlength=100)
        if t + 100_000 == 2_000_000:
            before = tokens.copy()
    assert before[3] == before[40] == 0
    assert tokens.sum() == pytest.approx(10_000_000, rel=0.002)
    last = reader.draws(10_000_000) % reader.blocks
    luck = np.array([np.std(n) for n in lengths]) * np.sqrt(last * (1 - last / reader.blocks))
    wanted = 10_000_000 * np.array(course.mean())
    enough = 3 * luck + 150 < 0.01 * wanted
    assert enough.sum() > 80
    assert np.abs(tokens / wanted - 1)[enough].max() < 0.01
    assert np.all(np.abs(tokens - wanted) < 4 * luck + 150)
    epochs = tokens / np.array([sum(n) for n in lengths])
    assert 24 < epochs.max() < 26


def test_permutations_are_bijections_for_every_size():
    for n in [*range(1, 70), 127, 128, 129, 1000, 4096, 4097, 65_537]:
        for key in keys(n, np.arange(3)):
            order = permute(np.arange(n), np.full(n, n), np.full(n, key))
            assert sorted(order.tolist()) == list(range(n))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 2**50), st.integers(0, 2**64 - 1)), min_size=1, max_size=20))
def test_each_draw_has_its_own_size_and_key(pairs):
    n, key = np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.uint64)
    index = n // 2
    together = permute(index, n, key)
    assert np.all((together >= 0) & (together < n))
    alone = [int(permute(index[i : i + 1], n[i : i + 1], key[i : i + 1])[0]) for i in range(len(n))]
    assert together.tolist() == alone


@pytest.mark.parametrize("n", [3, 5, 8, 13])
def test_shuffles_are_fair(n):
    many = 20_000
    key = keys(n, np.arange(many))
    where = np.array([permute(np.full(many, i), np.full(many, n), key) for i in range(n)])
    counts = np.array([np.bincount(row, minlength=n) for row in where])
    assert counts == pytest.approx(np.full((n, n), many / n), rel=0.15)
    after = np.mean(where[1] == (where[0] + 1) % n)  # neighbours stay neighbours no more often than by chance
    assert after == pytest.approx(1 / (n - 1), rel=0.15)


@settings(max_examples=100)
@given(
    st.lists(st.integers(1, 200), max_size=40),
    st.sampled_from(["complementary", "uniform"]),
    st.integers(1, 60),
    st.integers(0, 1000),
)
def test_crops_keep_every_token_and_no_piece_is_short(lengths, how, min_length, seed):
    size = np.array(lengths, np.int64)
    starts = np.cumsum(size) - size
    crop = Crop(how=how, min_length=min_length)
    block, first, length, key = cut(starts, size, keys(seed, np.arange(len(size))), crop, 200)
    pieces = sorted(zip(first.tolist(), length.tolist(), block.tolist(), strict=True))
    assert [t for a, n, _ in pieces for t in range(a, a + n)] == list(range(size.sum()))
    assert all(starts[b] <= a and a + n <= starts[b] + size[b] for a, n, b in pieces)
    assert all(n >= min(min_length, size[b]) for _, n, b in pieces)
    assert len(set(key.tolist())) == len(key)
    if how == "complementary":
        count = np.bincount(block, minlength=len(size))
        assert count.tolist() == [2 if n >= 2 * min_length else 1 for n in lengths]


def test_complementary_lengths_are_uniform():
    blocks = 40_000
    size = np.full(blocks, 100)
    crop = Crop(how="complementary", min_length=12)
    _, first, length, _ = cut(np.zeros(blocks, np.int64), size, keys(0, np.arange(blocks)), crop, 100)
    counts = np.bincount(length[first == 0], minlength=89)[12:89]
    assert counts == pytest.approx(np.full(77, blocks / 77), rel=0.25)


def test_uniform_pieces_are_as_long_as_drawn():
    """The first piece of a full block is uniform in [min, context]; what would leave a short tail takes it along."""
    blocks = 40_000
    crop = Crop(how="uniform", min_length=10)
    first = cut(np.zeros(blocks, np.int64), np.full(blocks, 100), keys(0, np.arange(blocks)), crop, 100)
    length = first[2][first[1] == 0]
    counts = np.bincount(length, minlength=101)[10:91]
    assert counts == pytest.approx(np.full(81, blocks / 91), rel=0.3)
    assert np.mean(length == 100) == pytest.approx(10 / 91, rel=0.1)


def test_pieces_of_one_block_have_masks_of_their_own(store):
    reader = stream(store, crop=CROPS[1], context=1000)
    docs = documents(reader.read(0, 50_000, 0.3))
    long = [d[2] for d in docs if len(d[3]) > 30]
    assert len(long) > 300
    assert len(set(long)) > 0.98 * len(long)


def test_an_empty_window_is_an_empty_batch(store):
    for crop in CROPS:
        batch = stream(store, crop=crop).read(500, 500, 0.3)
        assert (len(batch.tokens), batch.starts.tolist(), len(batch.positions), len(batch.sources)) == (0, [0], 0, 0)


def test_batches_are_masked_as_asked(store):
    for ratio in (0.1, 0.4):
        batch = stream(store).read(0, 50_000, ratio)
        assert len(batch.positions) == pytest.approx(ratio * len(batch.tokens), rel=0.05)
    hidden = stream(store, replacement="mask").read(0, 5000, 0.4)
    assert set(hidden.tokens[hidden.positions].tolist()) == {4}
    with pytest.raises(ValueError, match="mask_ratio is 30"):
        stream(store).read(0, 100, 30)


def test_shares_that_do_not_fit_are_refused(store):
    with pytest.raises(ValueError, match="2 shares for 7 buckets"):
        stream(store, still(0.5, 0.5))
    with pytest.raises(ValueError, match=r"shares add up to 0\.7"):
        stream(store, still(*[0.1] * 7))
    with pytest.raises(ValueError, match=r"the window \[10, 5\) is none"):
        stream(store).read(10, 5, 0.3)
