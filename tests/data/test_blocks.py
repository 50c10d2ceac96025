"""Blocks are counted once, found without a list of them, and never taken from a file that is not theirs."""

import errno
import itertools
import mmap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tessera.data import blocks
from tessera.data.blocks import MmapArray
from tessera.data.shard_writer import ShardWriter
from tessera.data.shards import Shards, verify
from tessera.data.stream import Stream
from tessera.plan.mixture import MixtureSchedule

MANY = 10_000  # numbers in a file
LENGTHS = [3, 40, 8, 1, 17] * 90  # 450 documents: three strides and a bit


def write(folder, lengths, language="fao_Latn"):
    ids = [np.full(length, 7, np.int32) for length in lengths]
    with ShardWriter(folder, "print", 100) as writer:
        writer.add("web", language, None, ids, 1)
    return Shards.open(folder)


def by_hand(lengths, context):
    """(document, which of its blocks) of all blocks in a row."""
    return [(d, k) for d, length in enumerate(lengths) for k, _ in enumerate(range(0, length, context))]


def found(counted):
    document, inside = counted.find(np.arange(int(counted.strides[-1])))
    return list(zip(document.tolist(), inside.tolist(), strict=True))


@pytest.fixture
def kept(monkeypatch):
    """Counts are kept for stores of any size."""
    monkeypatch.setattr(blocks, "_KEPT_FROM", 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
    st.integers(1, 40),
    st.integers(1, 50),
    st.sampled_from([8, 128]),
)
@example([1, 1, 3, 1, 1], 3, 2, 8)  # the last stride has 7 documents and 8 blocks: as many as a whole one has documents
def test_blocks_are_those_that_one_would_write_down(tmp_path_factory, some, times, context, stride):
    lengths = (some * times)[:500]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "STRIDE", stride)
        patch.setattr(blocks, "_SLICE", 2 * stride)
        counted = write(tmp_path_factory.mktemp("blocks") / "s", lengths).blocks(context)
        expected = by_hand(lengths, context)
        assert found(counted) == expected
        before = list(itertools.accumulate((-(-length // context) for length in lengths), initial=0))
        assert counted.before(np.arange(len(lengths) + 1)).tolist() == before
        assert before[-1] == len(expected)


def test_counts_are_made_once_for_each_context_and_mapped_afterwards(tmp_path, kept, monkeypatch):
    store = write(tmp_path / "s", LENGTHS)
    once = {context: found(store.blocks(context)) for context in (8, 16)}
    assert sorted(p.name for p in (tmp_path / "s").glob("*blocks*")) == ["blocks-16.bin", "blocks-8.bin"]
    monkeypatch.setattr(blocks, "_count", lambda offsets, context: pytest.fail("counted again"))
    again = Shards.open(tmp_path / "s")
    assert {context: found(again.blocks(context)) for context in (8, 16)} == once
    verify(tmp_path / "s")


def test_a_small_store_is_left_as_it_was_written(tmp_path):
    store = write(tmp_path / "s", LENGTHS)
    before = sorted((tmp_path / "s").iterdir())
    assert found(store.blocks(8)) == by_hand(LENGTHS, 8)
    assert sorted((tmp_path / "s").iterdir()) == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "no header", "of another store", "of another context"])
def test_counts_that_are_not_right_are_made_again(tmp_path, kept, damage):
    store = write(tmp_path / "s", LENGTHS)
    path = tmp_path / "s/blocks-8.bin"
    store.blocks(8)
    good = path.read_bytes()
    other = write(tmp_path / "other", LENGTHS[::-1])
    other.blocks(8)
    store.blocks(16)
    bad = {
        "flipped": good[:-3] + bytes([good[-3] ^ 1]) + good[-2:],
        "cut": good[:-8],
        "empty": b"",
        "no header": b"x" * len(good),
        "of another store": (tmp_path / "other/blocks-8.bin").read_bytes(),
        "of another context": (tmp_path / "s/blocks-16.bin").read_bytes(),
    }[damage]
    path.write_bytes(bad)
    if not damage.startswith("of another"):
        with pytest.raises(ValueError, match=r"blocks-8\.bin: not the bytes that were written .* delete it"):
            verify(tmp_path / "s")
    assert found(Shards.open(tmp_path / "s").blocks(8)) == by_hand(LENGTHS, 8)
    assert path.read_bytes() == good
    verify(tmp_path / "s")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_where_nothing_can_be_written_reading_goes_on_and_says_what_it_costs(tmp_path, kept, monkeypatch, number):
    store = write(tmp_path / "s", LENGTHS)
    opened = Path.open

    def refuse(self, mode="r", *rest, **more):
        if "x" in mode:
            raise OSError(number, "not here", str(self))
        return opened(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", refuse)
    why = r"\((not here|No space left on device)\)"
    with pytest.warns(UserWarning, match=rf"blocks-8\.bin cannot be written {why}: .* at every start"):
        counted = store.blocks(8)
    assert found(counted) == by_hand(LENGTHS, 8)
    assert not list((tmp_path / "s").glob("*blocks*"))


def test_many_may_start_at_once(tmp_path, kept):
    write(tmp_path / "s", LENGTHS)
    with ThreadPoolExecutor(8) as pool:
        all_found = list(pool.map(lambda _: found(Shards.open(tmp_path / "s").blocks(8)), range(8)))
    assert all(each == by_hand(LENGTHS, 8) for each in all_found)
    assert [p.name for p in (tmp_path / "s").glob("*blocks*")] == ["blocks-8.bin"]
    verify(tmp_path / "s")


def test_a_stream_reads_the_same_whether_the_counts_were_kept_or_not(tmp_path, monkeypatch):
    store = write(tmp_path / "s", LENGTHS)

    def batch():
        stream = Stream(
            Shards.open(store.folder), MixtureSchedule((0, 1), ([1.0],)), context=8, seed=0, phase_name="p",
            replacement="mask", crop=None, mask_id=4, special_ids=range(5), vocab_size=100,
        )  # fmt: skip
        read = stream.read(1_000, 2_000, 0.3)
        return read.starts.tolist(), read.positions.tolist()

    plain = batch()
    monkeypatch.setattr(blocks, "_KEPT_FROM", 0)
    assert batch() == plain, "counting and keeping"
    assert batch() == plain, "mapping"


@pytest.fixture
def file(tmp_path):
    np.arange(MANY, dtype="<u2").tofile(tmp_path / "numbers.bin")
    return MmapArray(tmp_path / "numbers.bin", np.dtype("<u2"))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, MANY - 1), st.integers(1, MANY)), max_size=20))
def test_anything_may_be_expected(file, pieces):
    begins = np.array([begin for begin, _ in pieces], np.int64)
    ends = np.array([min(begin + size, MANY) for begin, size in pieces], np.int64)
    file._fetched = -1
    file.expect(begins, ends)
    assert file.values.tolist() == list(range(MANY))
    assert not file.values.flags.writeable


def test_pages_are_asked_for_only_while_a_disk_is_being_read(file, monkeypatch):
    asked, disk = [], SimpleNamespace(ru_inblock=0, ru_majflt=0)
    monkeypatch.setattr(blocks.resource, "getrusage", lambda who: disk)
    file._map = SimpleNamespace(madvise=lambda *given: asked.append(given))
    first = (mmap.MADV_WILLNEED, 0, 200)
    later = (mmap.MADV_WILLNEED, 2 * mmap.PAGESIZE, 6)  # from the start of the page that holds the first
    begins, ends = np.array([50, mmap.PAGESIZE]), np.array([100, mmap.PAGESIZE + 3])
    file.expect(begins, ends)
    assert asked == [first, later], "nothing is known yet"
    file.expect(begins, ends)
    assert asked == [first, later], "nothing was read since"
    disk.ru_majflt = 1
    file.expect(begins, ends)
    assert asked == [first, later] * 2
