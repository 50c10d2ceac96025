"""MDS shards are read as MosaicML Streaming writes them, and their samples become the tokenizer's own documents."""

import bz2
import gzip
import hashlib
import json
import pickle
from collections import Counter

import numpy as np
import pytest
import zstandard
from damage import survives
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.corpus import token_sources
from tessera.corpus.prepare import prepare
from tessera.corpus.token_sources import Importer, shards_of
from tessera.data.shards import Shards
from tessera.plan.corpus import Columns, Corpus, Source, TokenizerTraining
from tessera.sources import mds
from tessera.tokenizer.tokenizer import train

TOKENS = {"id": "str", "input_ids": "ndarray:uint32"}  # as mmBERT's data has them

# ----------------------------------------------------------------------------------- a writer, after the format's words

CODES = {"uint8": 8, "int8": 9, "uint16": 16, "int16": 17, "float16": 18, "uint32": 32, "int32": 33, "float32": 34}
CODES |= {"uint64": 64, "int64": 65, "float64": 66}
PACK = {"zstd": zstandard.ZstdCompressor().compress, "gz": gzip.compress, "bz2": bz2.compress}


def fixed_size(encoding):
    kind, *details = encoding.split(":")
    if kind == "int":
        return 8
    if kind == "ndarray":
        return np.dtype(details[0]).itemsize * int(np.prod(eval(details[1] + ","))) if len(details) == 2 else None
    return CODES[kind] // 8 if kind in CODES else None


def encode(encoding, value):
    kind, *details = encoding.split(":")
    if kind == "ndarray":
        out = b"" if details else bytes([CODES[value.dtype.name]])
        if len(details) < 2:
            width = next(w for w in range(4) if max(value.shape) < 1 << (8 << w))
            out += bytes([value.ndim << 2 | width]) + np.array(value.shape, f"<u{1 << width}").tobytes()
        return out + value.tobytes()
    if kind in CODES or kind == "int":
        return np.array(value, "int64" if kind == "int" else kind).tobytes()
    plain = {"bytes": bytes, "json": lambda v: json.dumps(v).encode(), "pkl": pickle.dumps}
    return plain.get(kind, lambda v: str(v).encode())(value)


def values(folder, column):
    """Of one column in all shards of a folder."""
    for shard in mds.shards(folder):
        for (block,) in mds.read_shard(shard, [column]):
            yield from block


def write(folder, columns, samples, *, compression=None, hashes=(), per_shard=1000):
    """What MDSWriter makes of `columns` {name: encoding} and `samples` [{name: value}]."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("shard.*"):
        old.unlink()
    names = sorted(columns)
    sizes = [fixed_size(columns[name]) for name in names]
    config = {"version": 2, "format": "mds", "compression": compression, "hashes": list(hashes), "size_limit": 1 << 26}
    config |= {"column_names": names, "column_encodings": [columns[n] for n in names], "column_sizes": sizes}
    text = json.dumps(config, sort_keys=True).encode()
    entries = []
    for number, first in enumerate(range(0, len(samples), per_shard)):
        rows = []
        for sample in samples[first : first + per_shard]:
            data = [encode(columns[name], sample[name]) for name in names]
            heads = [len(d) for d, size in zip(data, sizes, strict=True) if size is None]
            rows.append(np.array(heads, "<u4").tobytes() + b"".join(data))
        begins = 4 + 4 * (len(rows) + 1) + len(text) + np.cumsum([0, *map(len, rows)])
        raw = np.uint32(len(rows)).tobytes() + begins.astype("<u4").tobytes() + text + b"".join(rows)
        basename = f"shard.{number:05d}.mds"
        files = {"raw_data": (basename, raw), "zip_data": None}
        if compression:
            kind = compression.split(":")[0]
            files["zip_data"] = (f"{basename}.{kind}", PACK[kind](raw))
        (folder / (files["zip_data"] or files["raw_data"])[0]).write_bytes((files["zip_data"] or files["raw_data"])[1])
        entry = {"samples": len(rows), **config}
        for key, file in files.items():
            entry[key] = file and {
                "basename": file[0],
                "bytes": len(file[1]),
                "hashes": {name: hashlib.new(name, file[1]).hexdigest() for name in hashes},
            }
        entries.append(entry)
    (folder / "index.json").write_text(json.dumps({"shards": entries, "version": 2}, sort_keys=True))
    return folder


def merge(folder, *below):
    """What streaming's merge_index makes: one index over those of sub-folders, their names before the files'."""
    shards = []
    for sub in below:
        for entry in json.loads((folder / sub / "index.json").read_text())["shards"]:
            for key in ("raw_data", "zip_data"):
                if entry[key]:
                    entry[key]["basename"] = f"{sub}/{entry[key]['basename']}"
            shards.append(entry)
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))


def change(folder, **entries):
    """Changes the index of a folder: its own keys, or with `shard` those of its first shard."""
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0] |= entries.pop("shard", {})
    (folder / "index.json").write_text(json.dumps(index | entries))
    return folder


def rows(*ids, **more):
    return [{"input_ids": np.array(i, "uint32"), "id": f"doc-{n}", **more} for n, i in enumerate(ids)]


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


# ------------------------------------------------------------------------------------------------------------- reading

# Written by MDSWriter of mosaicml-streaming 0.13.0: two samples of TOKENS.
REAL = """
02000000dc000000f7000000100100007b22636f6c756d6e5f656e636f64696e6773223a205b22737472222c20226e6461727261793a75696e743332
225d2c2022636f6c756d6e5f6e616d6573223a205b226964222c2022696e7075745f696473225d2c2022636f6c756d6e5f73697a6573223a205b6e75
6c6c2c206e756c6c5d2c2022636f6d7072657373696f6e223a206e756c6c2c2022666f726d6174223a20226d6473222c2022686173686573223a205b
5d2c202273697a655f6c696d6974223a2036373130383836342c202276657273696f6e223a20327d0100000012000000610404020000000700000008
00000001000000030000000e0000006263640403020000002c01000001000000
"""
REAL_ROWS = [
    {"input_ids": np.array([2, 7, 8, 1], "uint32"), "id": "a"},
    {"input_ids": np.array([2, 300, 1], "uint32"), "id": "bcd"},
]


def test_a_shard_of_the_streaming_library_is_read_and_our_test_writer_writes_the_same_bytes(tmp_path):
    folder = write(tmp_path, TOKENS, REAL_ROWS)
    assert (folder / "shard.00000.mds").read_bytes() == bytes.fromhex(REAL)
    assert [ids.tolist() for ids in values(folder, "input_ids")] == [[2, 7, 8, 1], [2, 300, 1]]
    assert list(values(folder, "id")) == ["a", "bcd"]


EVERY = {
    "bytes": [b"", b"\0\xff", b"x" * 300],
    "str": ["", "føroyskt", "中"],
    "int": [0, -1, 2**62],
    "uint8": [0, 1, 255],
    "uint16": [0, 1, 2**16 - 1],
    "uint32": [0, 1, 2**32 - 1],
    "uint64": [0, 1, 2**64 - 1],
    "int8": [-128, 0, 127],
    "int16": [-(2**15), 0, 1],
    "int32": [-(2**31), 0, 1],
    "int64": [-(2**63), 0, 1],
    "float16": [0.5, -2.0, 65504.0],
    "float32": [0.5, -2.0, 2.0**100],
    "float64": [0.1, -2.0, 1e300],
    "str_int": [0, -5, 10**30],
    "str_float": [0.1, -2.0, 1e300],
    "json": [[1, 2], {"a": None}, "text"],
    "pkl": [{1, 2}, None, "never read"],
    "ndarray:uint16:4": [np.arange(4, dtype="u2") + n for n in range(3)],
    "ndarray:int8:2,3": [np.arange(6, dtype="i1").reshape(2, 3) - n for n in range(3)],
    "ndarray:uint32": [np.arange(n, dtype="u4") for n in (1, 255, 256)],
    "ndarray": [np.ones(70_000, "u1"), np.ones((2, 1, 3), "f2"), np.array([-1], "i8")],
}


@pytest.mark.parametrize("compression", [None, "zstd", "zstd:7", "gz", "bz2"])
def test_every_encoding_comes_back_beside_all_others(tmp_path, compression):
    columns = {f"column {n}": encoding for n, encoding in enumerate(EVERY)}
    samples = [{name: EVERY[encoding][n] for name, encoding in columns.items()} for n in range(3)]
    folder = write(tmp_path, columns, samples, compression=compression, per_shard=2, hashes=["md5", "sha1"])
    for name, encoding in columns.items():
        if encoding != "pkl":
            got = list(values(folder, name))
            assert len(got) == 3
            assert all(map(same, got, EVERY[encoding])), encoding


arrays = st.builds(
    lambda kind, shape: (np.arange(np.prod(shape)) % 100).astype(kind).reshape(shape),
    st.sampled_from(sorted(CODES)),
    st.lists(st.integers(1, 300), min_size=1, max_size=1) | st.lists(st.integers(1, 6), min_size=1, max_size=4),
)


@given(st.lists(st.tuples(arrays, st.binary(max_size=9)), min_size=1, max_size=9), st.sampled_from([1, 600, 2**24]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arrays_of_any_shape_and_type_come_back_whatever_is_read_at_a_time(tmp_path, monkeypatch, found, block):
    monkeypatch.setattr(mds, "_BLOCK_BYTES", block)
    samples = [{"a": array, "b": other, "c": array} for array, other in found]
    folder = write(tmp_path, {"a": "ndarray", "b": "bytes", "c": "ndarray"}, samples, compression="zstd", per_shard=4)
    for name in "abc":
        got = list(values(folder, name))
        assert len(got) == len(samples)
        assert all(same(g, sample[name]) for g, sample in zip(got, samples, strict=True))
    kind = found[0][0].dtype.name
    typed = [{"a": array.astype(kind)} for array, _ in found]
    folder = write(tmp_path, {"a": f"ndarray:{kind}"}, typed)
    assert all(same(g, sample["a"]) for g, sample in zip(values(folder, "a"), typed, strict=True))
    shape = ",".join(map(str, found[0][0].shape))
    folder = write(tmp_path, {"a": f"ndarray:{kind}:{shape}"}, typed[:1])
    assert same(next(values(folder, "a")), typed[0]["a"])


def test_a_pickle_is_stepped_over_and_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "went off"), "w"))

    folder = write(tmp_path / "data", {"a": "pkl", "input_ids": "ndarray:uint32"}, rows([1, 2], a=Bomb()))
    assert [ids.tolist() for ids in values(folder, "input_ids")] == [[1, 2]]
    with pytest.raises(ValueError, match=r"column 'a' is encoded as 'pkl'; a pickle may run any program, so none is"):
        list(values(folder, "a"))
    assert not (tmp_path / "went off").exists()


def test_a_shard_that_lies_there_decompressed_is_read_as_it_is(tmp_path):
    folder = write(tmp_path, TOKENS, rows([1, 2, 3]), compression="zstd")
    packed = folder / "shard.00000.mds.zstd"
    (folder / "shard.00000.mds").write_bytes(zstandard.ZstdDecompressor().decompress(packed.read_bytes()))
    packed.unlink()  # as mmBERT's decompress.py --delete_zip leaves it; the index still speaks of zstd
    assert [ids.tolist() for ids in values(folder, "input_ids")] == [[1, 2, 3]]


# -------------------------------------------------------------------------------------------------------------- folders


def test_folders_of_folders_are_found_and_an_index_that_joins_others_counts_nothing_twice(tmp_path):
    for name in ("fao_Latn/part0", "fao_Latn/part1", "ell_Grek"):
        write(tmp_path / "train" / name, TOKENS, rows([1]), compression="zstd")
    merge(tmp_path / "train/fao_Latn", "part0", "part1")
    merge(tmp_path / "train", "fao_Latn", "ell_Grek")
    found = mds.folders(tmp_path)
    assert [str(folder.relative_to(tmp_path)) for folder in found] == [
        "train/ell_Grek",
        "train/fao_Latn/part0",
        "train/fao_Latn/part1",
    ]
    assert mds.folders(str(tmp_path / "train" / "fao*")) == found[1:]


def test_a_joined_index_alone_is_enough(tmp_path):
    write(tmp_path / "fao_Latn", TOKENS, rows([1, 2]))
    merge(tmp_path, "fao_Latn")
    (tmp_path / "fao_Latn/index.json").unlink()
    assert mds.folders(tmp_path) == [tmp_path]
    assert [ids.tolist() for ids in values(tmp_path, "input_ids")] == [[1, 2]]


def test_where_there_is_nothing_to_read_the_error_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: no index.json of MDS shards here or below"):
        mds.folders(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"hf://datasets/a/b: MDS shards are read from this machine; fetch them first"):
        mds.folders("hf://datasets/a/b")
    (tmp_path / "index.json").write_text('{"format": "tessera-shards"}')
    with pytest.raises(ValueError, match=r"index.json: no index of MDS shards; point the source at a folder"):
        mds.folders(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index.json: cannot be read"):
        mds.folders(tmp_path)


# --------------------------------------------------------------------------------------------------------------- broken


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_shard_cut_short_anywhere_is_an_error_that_names_it(tmp_path, compression):
    folder = write(tmp_path, TOKENS, rows([1, 2, 3], [4]), compression=compression)
    file = next(folder.glob("shard.*"))
    whole, key = file.read_bytes(), "zip_data" if compression else "raw_data"
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"{file.name}: has {len(whole) - 1} bytes, index.json says {len(whole)}"):
        list(values(folder, "input_ids"))
    for size in range(len(whole)):  # and where the index believes the cut
        file.write_bytes(whole[:size])
        change(folder, shard={key: {"basename": file.name, "bytes": size, "hashes": {}}})
        with pytest.raises(ValueError, match=rf"{file.name}: broken \(.*copy it again"):
            list(values(folder, "input_ids"))


def test_a_shard_that_goes_on_behind_its_last_sample_is_an_error(tmp_path):
    folder = write(tmp_path, TOKENS, rows([1, 2, 3]), compression="zstd")
    file = folder / "shard.00000.mds.zstd"
    content = PACK["zstd"](zstandard.ZstdDecompressor().decompress(file.read_bytes()) + b"?")
    file.write_bytes(content)
    change(folder, shard={"zip_data": {"basename": file.name, "bytes": len(content), "hashes": {}}})
    with pytest.raises(ValueError, match=r"broken \(it goes on behind its last sample, byte \d+\); copy it again"):
        list(values(folder, "id"))


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_an_error_or_another_value_and_never_another_kind_of_failure(tmp_path, data):
    folder = write(tmp_path, {"a": "ndarray", "b": "str", "c": "json"}, [{"a": np.arange(3), "b": "ab", "c": [1]}] * 3)
    file = folder / "shard.00000.mds"
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    for name in "abc":
        try:
            assert len(list(values(folder, name))) == 3
        except ValueError as error:
            assert str(file) in str(error)  # noqa: PT017


def test_a_checksum_that_does_not_fit_names_the_file_and_one_that_python_has_not_is_passed_over(tmp_path):
    folder = write(tmp_path, TOKENS, rows([1, 2, 3]), compression="zstd", hashes=["sha1"])
    file = folder / "shard.00000.mds.zstd"
    right = {"sha1": hashlib.sha1(file.read_bytes()).hexdigest(), "xxh64": "0123456789abcdef"}
    zipped = {"basename": file.name, "bytes": file.stat().st_size}
    change(folder, shard={"zip_data": {**zipped, "hashes": right}})
    assert len(list(values(folder, "id"))) == 1
    change(folder, shard={"zip_data": {**zipped, "hashes": {"sha1": "0" * 40}}})
    with pytest.raises(ValueError, match=rf"{file.name}: its sha1 is {right['sha1']}, index.json says 0000"):
        list(values(folder, "id"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, r"index.json: version 3 of MDS; only version 2 is known"),
        ({"shard": {"version": 1}}, r"shard.00000.mds is 'mds' version 1; only 'mds' version 2 is known"),
        ({"shard": {"format": "json"}}, r"shard.00000.mds is 'json' version 2; only 'mds'"),
        ({"shard": {"samples": 2}}, r"shard.00000.mds: broken \(1 samples in .* index.json says 2"),
        ({"shard": {"samples": None}}, r"shard shard.00000.mds: .* is missing or wrong"),
        (
            {"shard": {"raw_data": {"basename": "shard.00009.mds", "bytes": 1}}},
            r"1 of 1 shards are not there, the first",
        ),
        ({"shard": {"raw_data": {"basename": "../other.mds", "bytes": 1}}}, r"'../other.mds' is outside the folder"),
        ({"shard": {"raw_data": 7}}, r"shard 0 has no raw_data with a basename"),
        ({"shard": {"column_sizes": [None, 4]}}, r"sample 0 has not the size of its columns"),
        ({"shard": {"column_encodings": ["str", "jpeg"]}}, r"'input_ids' is encoded as 'jpeg'; that is not known here"),
        ({"shard": {"column_encodings": ["str", "ndarray:int128"]}}, r"'ndarray:int128'; that is not known here"),
        ({"shard": {"column_encodings": ["str", "uint64"]}}, r"sample 0, column 'input_ids': 14 bytes for one uint64"),
        ({"shard": {"column_names": ["a", "b"]}}, r"has no column 'input_ids'; it has a, b. Name the right one"),
    ],
)
def test_what_does_not_fit_is_said_with_what_to_do(tmp_path, changes, message):
    folder = change(write(tmp_path, TOKENS, rows([1, 2, 3])), **changes)
    with pytest.raises(ValueError, match=message):
        list(values(folder, "input_ids"))


def test_a_compression_that_is_not_known_says_which_are(tmp_path):
    folder = write(tmp_path, TOKENS, rows([1]), compression="zstd")
    with pytest.raises(
        ValueError, match=r"compression 'snappy' is not known, only zstd, gz, bz2, br; decompress it to"
    ):
        mds.shards(change(folder, shard={"compression": "snappy"}))


# ------------------------------------------------------------------------------------------------------------ documents

WORDS = ["the cat sat", "on the mat", "η γάτα", "猫坐在垫子上", "føroyskt mál", "1234"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    small = TokenizerTraining(vocab_size=300, sample_bytes=10_000)
    return train({"eng_Latn": WORDS * 5}, small, tmp_path_factory.mktemp("tokenizer"))


def source(path, **more):
    return Source(
        **{"name": "web", "path": str(path), "kind": "tokens", "split": "train", "language": "fao_Latn"} | more
    )


def documents(path, tokenizer, **more):
    """([ids], Counter of bytes and of what samples were) of a source."""
    given = source(path, **more)
    ids, counts = [], Counter()
    for shard in shards_of(given):
        for found in Importer(given, tokenizer)(shard):
            ids += [document.tolist() for document in found.ids]
            counts.update({name: getattr(found, name) for name in ("bytes", "completed", "split", "empty")})
    return ids, counts


def test_a_sample_is_cut_and_completed_into_documents_as_the_tokenizer_makes_them(tmp_path, tokenizer):
    begin, end, pad = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
    folder = write(
        tmp_path,
        TOKENS,
        rows(
            [begin, 7, 8, end],  # as it should be
            [begin, 9],  # the first piece of a long document
            [10, 11, end],  # its last piece
            [12],
            [begin, 13, end, begin, 14, end],  # two documents in a sample
            [15, end, 16, end, 17],  # three, as language models have them
            [begin, 18, end, pad, pad, pad],
            [begin, end],  # an empty text
            [pad],
        ),
    )
    ids, counts = documents(folder, tokenizer)
    texts = [[7, 8], [9], [10, 11], [12], [13], [14], [15], [16], [17], [18]]
    assert ids == [[begin, *text, end] for text in texts]
    n_bytes = int(tokenizer.token_bytes()[np.concatenate(texts)].sum())
    assert counts == {"bytes": n_bytes, "completed": 4, "split": 2, "empty": 2}


@given(st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_texts_were_packed_their_documents_are_those_of_the_tokenizer(tmp_path, tokenizer, monkeypatch, data):
    texts = data.draw(st.lists(st.text(min_size=1, max_size=9) | st.sampled_from(WORDS), min_size=1, max_size=12))
    wanted = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    begin, end = tokenizer.bos_id, tokenizer.eos_id
    samples, sample = [], []
    for ids in wanted:
        style = data.draw(st.sampled_from(["whole", "no begin", "no end", "bare"]))
        piece = ids[1:] if style in ("no begin", "bare") else ids
        piece = piece[:-1] if style in ("no end", "bare") else piece
        if not (sample and (sample[-1] == end or piece[0] == begin) and data.draw(st.booleans())):
            samples.append(sample := [])
        sample += piece + [tokenizer.pad_id] * data.draw(st.sampled_from([0, 0, 3]))
    monkeypatch.setattr(mds, "_BLOCK_BYTES", data.draw(st.sampled_from([1, 100, 2**24])))
    ids, counts = documents(write(tmp_path, TOKENS, rows(*samples), compression="zstd"), tokenizer)
    assert ids == wanted
    assert counts["bytes"] == sum(len(text.encode()) for text in texts)
    assert counts["empty"] == 0


@pytest.mark.parametrize(
    ("encoding", "make"),
    [
        ("ndarray:uint16", lambda ids: np.array(ids, "uint16")),
        ("ndarray:int64", lambda ids: np.array(ids, "int64")),
        ("ndarray:int32:1,4", lambda ids: np.array([ids], "int32")),
        ("ndarray", lambda ids: np.array(ids, "uint64" if ids[1] == 7 else "int64")),  # each has its own type
        ("bytes", lambda ids: np.array(ids, "int64").tobytes()),  # llm-foundry
        ("json", list),
    ],
)
def test_token_ids_may_be_written_in_many_ways(tmp_path, tokenizer, encoding, make):
    begin, end = tokenizer.bos_id, tokenizer.eos_id
    wanted = [[begin, 7, 8, end], [begin, 9, 10, end]]
    folder = write(tmp_path, {"tokens": encoding}, [{"tokens": make(ids)} for ids in wanted])
    assert documents(folder, tokenizer, columns=Columns(tokens="tokens"))[0] == wanted


@pytest.mark.parametrize(
    ("encoding", "value", "message"),
    [
        ("ndarray", np.ones(3, "float32"), r"holds an array of float32 \(3,\), not a row of token ids"),
        ("ndarray", np.ones((2, 2), "int32"), r"holds an array of int32 \(2, 2\), not a row of token ids"),
        ("str", "text", r"sample 0: column 'input_ids' holds 'text', not a row of token ids; name their column"),
        ("json", [[1], [1, 2]], r"holds \[\[1\], \[1, 2\]\], not a row"),
        ("bytes", b"123", r"has 3 bytes, no array of int64"),
        ("ndarray", np.array([5, -1], "int16"), r"sample 0: token id -1 is outside the vocabulary of 300"),
        ("ndarray", np.array([2**63 + 5], "uint64"), r"sample 0: token id 9223372036854775813 is outside"),
    ],
)
def test_what_is_no_token_id_of_this_tokenizer_is_refused(tmp_path, tokenizer, encoding, value, message):
    folder = write(tmp_path, {"input_ids": encoding}, [{"input_ids": value}])
    with pytest.raises(ValueError, match=message):
        documents(folder, tokenizer)


def test_ids_of_another_tokenizer_name_the_shard_the_sample_and_the_key_to_set(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(mds, "_BLOCK_BYTES", 1)
    folder = write(tmp_path, TOKENS, rows([5, 6], [7], [8, 255_999]))
    with pytest.raises(ValueError, match=r"shard.00000.mds, sample 2: token id 255999 .*vocabulary.*tokenizer.path"):
        documents(folder, tokenizer)


# ---------------------------------------------------------------------------------------------- languages and the store


def test_the_language_is_that_of_a_column_or_of_the_folder_or_of_the_source(tmp_path, tokenizer):
    write(tmp_path / "a/fao_Latn/part0", TOKENS, rows([7]))
    write(tmp_path / "a/fineweb2-ell_Grek_train-sampled", TOKENS, rows([8]))
    write(tmp_path / "a/books", TOKENS, rows([9]))
    write(
        tmp_path / "a/labelled/eng_Latn", TOKENS | {"lang": "str"}, rows([10], lang="is") + rows([11], lang="deu_Latn")
    )
    given = source(tmp_path / "a", language="mul")
    found = {}
    for shard in shards_of(given):
        for some in Importer(given, tokenizer)(shard):
            found.setdefault(some.language, []).extend(document[1] for document in some.ids)
    assert found == {"fao_Latn": [7], "ell_Grek": [8], "mul": [9], "isl": [10], "deu_Latn": [11]}
    with pytest.raises(ValueError, match=r"source 'web' does not say its language, and no folder is called like one"):
        documents(tmp_path / "a/books", tokenizer, language=None)
    write(tmp_path / "b", TOKENS | {"lang": "str"}, rows([9], lang="Elvish"))
    with pytest.raises(ValueError, match=r"shard.00000.mds, sample 0: unknown language 'Elvish'"):
        documents(tmp_path / "b", tokenizer)


def test_a_score_in_a_column_makes_tiers(tmp_path, tokenizer):
    samples = rows([7], score=0.1) + rows([8], score=0.6) + rows([9], score=0.9)
    folder = write(tmp_path, TOKENS | {"score": "float32"}, samples)
    given = source(folder, columns=Columns(quality="score"), tiers=(0.2, 0.5, 0.8))
    found = [(some.tier, some.ids[0][1]) for some in Importer(given, tokenizer)(mds.shards(folder)[0])]
    assert found == [(1, 7), (3, 8), (4, 9)]


def test_what_is_excluded_is_not_read(tmp_path):
    for name in ("train", "validation"):
        write(tmp_path / name, TOKENS, rows([1], [2]), per_shard=1)
    given = source(tmp_path, exclude=("validation", "shard.00001.*"))
    assert [str(shard.path.relative_to(tmp_path)) for shard in shards_of(given)] == ["train/shard.00000.mds"]
    with pytest.raises(ValueError, match=r"`exclude` leaves no shard of"):
        shards_of(source(tmp_path, exclude=("shard.*",)))


def test_a_folder_of_languages_goes_into_a_token_store_whole(tmp_path, tokenizer):
    texts = {"fao_Latn": WORDS[:4], "ell_Grek": WORDS[2:]}
    for language, some in texts.items():
        ids = [ids.tolist() for ids in tokenizer.encode_batch(some)]
        write(tmp_path / "mds" / language, TOKENS, rows(*ids), compression="zstd", per_shard=3)
    write(tmp_path / "mds" / "isl_Latn", TOKENS, rows([7, 8], []), per_shard=3)
    given = source(tmp_path / "mds", language=None, exclude=("isl_Latn",))
    rest = source(tmp_path / "mds" / "isl_Latn", language=None, name="rest", split="held_out")
    report = prepare(Corpus(sources=(given, rest)), tokenizer, tmp_path / "store")
    assert report.total("held_out")["tokens"] == 4  # with the begin and end tokens that its one sample lacked
    assert report.notes == {"rest": {"samples that lacked a begin or end token, or were padded": 1}}
    assert report.skipped["rest"]["sample without text"]["languages"] == {"isl_Latn": 1}
    store = Shards.open(tmp_path / "store" / "train")
    assert [bucket.key for bucket in store.buckets] == ["web/ell_Grek", "web/fao_Latn"]
    for b, bucket in enumerate(store.buckets):
        lengths, some = store.lengths(b), texts[bucket.language]
        starts = store.offsets[store.first_document[b] :][: len(lengths)]
        tokens = np.split(store.gather(starts, lengths), np.cumsum(lengths)[:-1])
        assert [tokenizer.decode(ids) for ids in tokens] == some
        n_bytes = sum(len(text.encode()) for text in some)
        assert bucket.bytes == n_bytes


def test_what_imports_can_be_sent_to_another_process(tmp_path, tokenizer):
    given = source(write(tmp_path, TOKENS, rows([7, 8])))
    importer, shard = pickle.loads(pickle.dumps((Importer(given, tokenizer), shards_of(given)[0])))
    assert [some.ids[0].tolist() for some in importer(shard)] == [[tokenizer.bos_id, 7, 8, tokenizer.eos_id]]


def test_a_tokenizer_without_begin_and_end_tokens_gets_documents_without(tmp_path, tokenizer, monkeypatch):
    folder = write(tmp_path, TOKENS, rows([tokenizer.bos_id, 7, 8, tokenizer.eos_id], [9, 10]))
    importer = Importer(source(folder), tokenizer)
    monkeypatch.setattr(importer, "_prefix", ())
    monkeypatch.setattr(importer, "_suffix", ())
    found = next(iter(importer(mds.shards(folder)[0])))
    assert [ids.tolist() for ids in found.ids] == [[7, 8], [9, 10]]
    assert found.completed == 1  # or rather: not as it was
    assert token_sources.language_of(mds.shards(folder)[0], source(folder)) == "fao_Latn"


# ------------------------------------------------------------------------------------------------------- damaged shards


def tried(folder, inputs, seconds):
    write(folder, TOKENS, [{"id": str(n), "input_ids": np.arange(n, dtype="uint32")} for n in range(9)], per_shard=5)
    paths = sorted(folder.glob("shard.*"))

    def read():
        for place in mds.folders(folder):
            for shard in mds.shards(place):
                for column in TOKENS:
                    list(mds.read_shard(shard, [column]))

    return survives(read, [folder / mds.INDEX, folder / mds.INDEX, *paths], inputs=inputs, seconds=seconds)


def test_damaged_shards_are_read_or_refused_by_name(tmp_path):
    found = tried(tmp_path / "mds", 400, 30)
    assert found["refused"] > 100


@pytest.mark.slow
def test_many_damaged_shards_are_read_or_refused_by_name(tmp_path):
    found = tried(tmp_path / "mds", 50_000, 300)
    assert found["refused"] > found["read"]
