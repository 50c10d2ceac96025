"""The token store gives back what went in, and says so when it cannot."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.data import shard_writer
from tessera.data.shard_writer import ShardWriter
from tessera.data.shards import Shards, verify


def write(folder, documents, vocab_size=1000, **limits):
    """documents: [(source, language, tier, ids)]"""
    with ShardWriter(folder, "print", vocab_size, **limits) as writer:
        for source, language, tier, ids in documents:
            writer.add(source, language, tier, [np.array(ids, dtype=np.int32)], 10 * len(ids))
    return Shards.open(folder)


def read(store):
    """What `write` was given, bucket by bucket, read back through the public face."""
    out = {}
    for b, bucket in enumerate(store.buckets):
        first, n = int(store.first_document[b]), bucket.documents
        starts = store.offsets[first : first + n]
        lengths = store.lengths(b)
        whole = store.gather(starts, lengths)
        out[bucket.key] = [part.tolist() for part in np.split(whole, np.cumsum(lengths)[:-1])]
        assert starts[0] == store.first_token[b]
        assert lengths.sum() == bucket.tokens
    return out


THREE = [
    ("web", "fao_Latn", None, [1, 2, 3]),
    ("web", "deu_Latn", 3, [9]),
    ("code", "code", None, [4, 5]),
    ("web", "fao_Latn", None, [6]),
    ("web", "deu_Latn", 1, [7, 8]),
]


def test_documents_of_a_bucket_lie_together_in_the_order_they_came(tmp_path):
    store = write(tmp_path / "s", THREE)
    assert read(store) == {
        "code/code": [[4, 5]],
        "web/deu_Latn@1": [[7, 8]],
        "web/deu_Latn@3": [[9]],
        "web/fao_Latn": [[1, 2, 3], [6]],
    }
    assert [b.bytes for b in store.buckets] == [20, 20, 10, 40]
    assert (store.tokens, store.documents, store.tokenizer_fingerprint) == (9, 5, "print")
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["index.json", "offsets.bin", "tokens-00000.bin"]
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=st.lists(
        st.tuples(
            st.sampled_from(["web", "code"]),
            st.sampled_from(["fao_Latn", "deu_Latn", "tha_Thai"]),
            st.sampled_from([None, 1, 4]),
            st.lists(st.integers(0, 69_999), min_size=1, max_size=12),
        ),
        max_size=30,
    ),
    memory=st.sampled_from([1, 200, 2**20]),
    file_bytes=st.sampled_from([4, 12, 1000]),
    vocab_size=st.sampled_from([65_536, 70_000]),
)
def test_any_documents_come_back_whatever_the_size_of_memory_and_files(
    tmp_path_factory, documents, memory, file_bytes, vocab_size
):
    documents = [(s, l, t, [i % vocab_size for i in ids]) for s, l, t, ids in documents]  # noqa: E741
    folder = tmp_path_factory.mktemp("any") / "s"
    store = write(folder, documents, vocab_size, memory_bytes=memory, file_bytes=file_bytes)
    expected = {}
    for source, language, tier, ids in documents:
        expected.setdefault(f"{source}/{language}" + (f"@{tier}" if tier else ""), []).append(ids)
    assert read(store) == dict(sorted(expected.items()))
    verify(folder)


def test_pieces_are_gathered_in_any_order_across_files(tmp_path):
    ids = np.random.default_rng(0).integers(0, 1000, 5000).astype(np.int32)
    store = write(tmp_path / "s", [("web", "eng_Latn", None, ids)], file_bytes=300)
    assert len(list((tmp_path / "s").glob("tokens-*.bin"))) == 34
    rng = np.random.default_rng(1)
    starts = rng.integers(0, 4900, 200)
    lengths = rng.integers(0, 100, 200)
    expected = np.concatenate([ids[s : s + n] for s, n in zip(starts, lengths, strict=True)])
    found = store.gather(starts, lengths)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("file_bytes", [2**30, 2**12])
def test_gathering_takes_little_more_memory_than_what_it_gives(tmp_path, file_bytes):
    store = write(tmp_path / "s", [("web", "eng_Latn", None, np.arange(200_000) % 1000)], file_bytes=file_bytes)
    starts, lengths = np.arange(0, 199_000, 500)[::-1], np.full(398, 499)
    store.gather(starts, lengths)
    tracemalloc.start()
    found = store.gather(starts, lengths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * found.nbytes


def test_an_empty_piece_may_lie_anywhere(tmp_path):
    store = write(tmp_path / "s", [("web", "eng_Latn", None, range(10))], file_bytes=4)
    assert store.gather(np.array([10, 3, 0, 5]), np.array([0, 4, 0, 1])).tolist() == [3, 4, 5, 6, 5]
    assert store.gather(np.array([10]), np.array([0])).tolist() == []


def test_a_store_that_would_need_too_many_files_has_larger_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "_MOST_FILES", 5)
    store = write(tmp_path / "s", [("web", "eng_Latn", None, range(999))], file_bytes=4)
    assert len(list((tmp_path / "s").glob("tokens-*.bin"))) <= 5
    assert read(store)["web/eng_Latn"] == [list(range(999))]


def test_small_vocabularies_take_two_bytes_a_token_and_large_ones_four(tmp_path):
    write(tmp_path / "small", [("web", "eng_Latn", None, [65_535])], vocab_size=65_536)
    write(tmp_path / "large", [("web", "eng_Latn", None, [65_536])], vocab_size=65_537)
    assert (tmp_path / "small/tokens-00000.bin").stat().st_size == 2
    assert (tmp_path / "large/tokens-00000.bin").stat().st_size == 4


def test_an_empty_store_opens(tmp_path):
    store = write(tmp_path / "s", [])
    assert (store.buckets, store.tokens, store.documents) == ((), 0, 0)
    assert len(store.gather(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))) == 0


@pytest.mark.parametrize("bad", [-1, 1000])
def test_an_id_outside_the_vocabulary_is_refused(tmp_path, bad):
    with pytest.raises(ValueError, match=f"token id {bad} is outside the vocabulary of 1000"):
        write(tmp_path / "s", [("web", "eng_Latn", None, [5, bad])])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_written_over(tmp_path):
    write(tmp_path / "s", THREE)
    with pytest.raises(FileExistsError, match="there already"):
        ShardWriter(tmp_path / "s", "print", 1000)


def test_what_a_killed_run_left_does_not_disturb(tmp_path):
    killed = ShardWriter(tmp_path / "s", "print", 1000, memory_bytes=1)
    killed.add("web", "eng_Latn", None, [np.array([1, 2])], 3)
    assert not (tmp_path / "s").exists()
    assert read(write(tmp_path / "s", THREE))["web/fao_Latn"] == [[1, 2, 3], [6]]
    killed.abort()


@pytest.mark.parametrize("name", ["tokens.spool", "lengths.spool", "tokens-00000.bin", "offsets.bin", "index.json"])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch, name):
    opened = Path.open

    def full(self, mode="r", *rest, **more):
        return opened(Path("/dev/full") if self.name == name and "w" in mode else self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match=f"the disk is full after .*nothing was kept.*{name}"):
        write(tmp_path / "s", [("web", "eng_Latn", None, range(1000))] * 20, memory_bytes=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tokens-00000.bin", "offsets.bin", "index.json"])
def test_a_missing_file_is_named(tmp_path, name):
    write(tmp_path / "s", THREE)
    (tmp_path / "s" / name).unlink()
    with pytest.raises(ValueError, match=f"{name}.*missing"):
        Shards.open(tmp_path / "s")


@pytest.mark.parametrize("name", ["tokens-00000.bin", "offsets.bin"])
def test_a_file_cut_short_is_named(tmp_path, name):
    write(tmp_path / "s", THREE)
    path = tmp_path / "s" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{name}: has \d+ bytes, \d+ were written"):
        Shards.open(tmp_path / "s")


@pytest.mark.parametrize("name", ["tokens-00000.bin", "offsets.bin"])
def test_verify_names_the_file_with_a_flipped_byte(tmp_path, name):
    write(tmp_path / "s", THREE)
    verify(tmp_path / "s")
    path = tmp_path / "s" / name
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}: not the bytes that were written"):
        verify(tmp_path / "s")


def test_a_changed_index_is_refused(tmp_path):
    write(tmp_path / "s", THREE)
    path = tmp_path / "s" / "index.json"
    index = json.loads(path.read_text())
    index["buckets"][0]["documents"] = 2
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index.json: was changed"):
        Shards.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "not an index"), ("[1]", "not an index"), ('{"format": "zarr"}', "this reads 'tessera-shards'")],
)
def test_something_else_called_index_is_refused(tmp_path, text, says):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        Shards.open(tmp_path)
