import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.data.packing import Batch, by_length, micro_batches, ranges, select, share


def batch(lengths, seed=0):
    """Tokens count up from 0 over the whole batch, so every token can be told from all others."""
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    positions = np.flatnonzero(rng.random(total) < 0.3)
    return Batch(
        tokens=np.arange(total, dtype=np.int32),
        starts=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        positions=positions,
        targets=(positions * 2).astype(np.int32),
        sources=np.arange(len(lengths), dtype=np.int32),
    )


def documents(b):
    """What is in a batch, as one tuple a document."""
    assert b.starts[0] == 0
    assert b.starts[-1] == len(b.tokens)
    assert len(b.starts) == len(b.sources) + 1
    assert len(b.positions) == len(b.targets)
    assert np.all(np.diff(b.positions) > 0)
    for name, dtype in (("tokens", "i4"), ("starts", "i8"), ("positions", "i8"), ("targets", "i4"), ("sources", "i4")):
        assert getattr(b, name).dtype == np.dtype(dtype), name
    found = []
    for i, (a, z) in enumerate(zip(b.starts[:-1], b.starts[1:], strict=True)):
        here = (b.positions >= a) & (b.positions < z)
        assert np.array_equal(b.targets[here], 2 * b.tokens[b.positions[here]]), "a target lost its token"
        found.append((int(b.sources[i]), tuple(b.tokens[a:z].tolist()), tuple(b.targets[here].tolist())))
    return found


Lengths = st.lists(st.integers(0, 60), max_size=60)


@given(Lengths, st.integers(0, 1000), st.data())
def test_selected_documents_come_in_the_order_asked_for(lengths, seed, data):
    whole = batch(lengths, seed)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=20)) if lengths else []
    everything = documents(whole)
    assert documents(select(whole, np.array(chosen, np.int64))) == [everything[i] for i in chosen]


@given(Lengths, st.integers(1, 80))
def test_micro_batches_lose_and_repeat_nothing_and_split_no_document(lengths, room):
    whole = batch(lengths)
    parts = micro_batches(whole, room)
    assert sorted(d for part in parts for d in documents(part)) == sorted(documents(whole))
    for part in parts:
        assert len(part.tokens) <= room or len(part.sources) == 1 or set(np.diff(part.starts)) <= {0, len(part.tokens)}
        assert list(part.sources) == sorted(part.sources), "documents changed their order"


def test_micro_batches_are_well_filled():
    rng = np.random.default_rng(0)
    lengths = np.minimum(1 + rng.exponential(200, 5000), 1024).astype(int).tolist()
    parts = micro_batches(batch(lengths), 4096)
    assert len(parts) <= 1.02 * sum(lengths) / 4096 + 1


@given(Lengths, st.integers(1, 80))
def test_batches_by_length_hold_every_document_once_the_longest_first(lengths, room):
    batches = list(by_length(lengths, room))
    order = [number for numbers in batches for number in numbers]
    assert order == sorted(range(len(lengths)), key=lambda n: (-lengths[n], n))
    sums = [sum(lengths[n] for n in numbers) for numbers in batches]
    assert all(numbers and (size <= room or len(numbers) == 1) for numbers, size in zip(batches, sums, strict=True))
    # the next document would not have gone in
    assert all(size + lengths[after[0]] > room for size, after in zip(sums, batches[1:], strict=False))


def test_a_document_longer_than_a_micro_batch_stands_alone():
    assert [len(p.tokens) for p in micro_batches(batch([5, 100, 5]), 50)] == [100, 10]


@given(Lengths, st.integers(1, 9))
def test_processes_read_disjoint_parts_of_about_the_same_size_that_make_the_whole(lengths, world):
    whole = batch(lengths)
    parts = [share(whole, rank, world) for rank in range(world)]
    assert sorted(d for part in parts for d in documents(part)) == sorted(documents(whole))
    sizes = [len(part.tokens) for part in parts]
    assert max(sizes) - min(sizes) <= max(lengths, default=0)


def test_a_rank_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="rank is 2 of 2 processes"):
        share(batch([3]), 2, 2)


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 10)), max_size=30))
def test_ranges_count_up_from_each_begin(pairs):
    begins, lengths = (np.array([p[i] for p in pairs], np.int64) for i in (0, 1))
    assert ranges(begins, lengths).tolist() == [b + i for b, n in pairs for i in range(n)]
