"""What `encode` takes: texts and nothing that merely holds them, keywords of the right kind, each refused by name."""

import copy
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_encoder import TEXTS, small_model, write_model

from tessera import Encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(folder):
    return Encoder.from_pretrained(folder, dtype="float32")


class _Table:
    """As pandas and polars have one: it yields the names of its columns."""

    columns = ("id", "text")

    def __iter__(self):
        return iter(self.columns)


NO_TEXTS = {
    "table": (_Table(), r"texts is a .*_Table, a table; give the column that holds the text"),
    "arrow table": (pa.table({"text": ["a"]}), "a table; give the column"),
    "dict": ({"text": ["one"]}, r"texts is a dict, which yields its keys; .* list\(texts\.values\(\)\)"),
    "set": ({"one", "two"}, "texts is a set, which has no order"),
    "frozenset": (frozenset({"one"}), "texts is a frozenset, which has no order"),
    "bytes": (b"one", r"texts is bytes, not text; decode it first"),
    "bytearray": (bytearray(b"one"), "texts is bytearray, not text"),
    "none": (None, "texts is None, a NoneType; give a str, or a list of them"),
    "number": (3, "texts is 3, a int; give a str"),
    "path": (Path("one"), "give a str, or a list of them"),
    "matrix": (np.array([["one", "two"]]), r"texts is an array of shape \(1, 2\); give one row"),
    "array of nothing": (np.array("one"), r"texts is an array of shape \(\)"),
    "tuples": ((pair for pair in [("one", "two")]), r"texts\[0\] is a tuple, not a str"),
    "lists": ([["one"]], r"texts\[0\] is a list, not a str"),
    "None among objects": (np.array(["one", None], dtype=object), r"texts\[1\] is a NoneType, not a str"),
    "NaN among objects": (np.array(["one", np.nan], dtype=object), r"texts\[1\] is a float, not a str"),
    "numbers": (np.arange(3), r"texts\[0\] is a int64, not a str"),
    "bytes among": (np.array([b"one"]), r"texts\[0\] is a bytes_, not a str"),
    "arrow strings": (pa.array(["one"]), r"texts\[0\] is a StringScalar, not a str"),
    "paths": ([Path("one")], r"texts\[0\] is a PosixPath, not a str"),
}


@pytest.mark.parametrize("given", NO_TEXTS)
@pytest.mark.parametrize(
    "call", ["encode", "encode_tokens", "encode_query", "embed_documents", "fill_mask", "stream", "tensors"]
)
def test_what_only_holds_texts_is_refused(encoder, call, given):
    texts, message = NO_TEXTS[given]
    if given == "tuples":
        texts = (pair for pair in [("one", "two")])
    calls = {
        "stream": lambda t: list(encoder.stream(t)),
        "tensors": lambda t: encoder.encode(t, convert_to_tensor=True),
    }
    with pytest.raises(TypeError, match=message):
        calls.get(call, getattr(encoder, call, None))(texts)


def test_tables_of_pandas_are_refused_and_their_columns_taken(encoder):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": TEXTS}, index=range(100, 100 + len(TEXTS)))
    with pytest.raises(TypeError, match=r"texts is a pandas\.DataFrame, a table"):
        encoder.encode(table)
    assert (encoder.encode(table["text"]) == encoder.encode(TEXTS)).all()
    with pytest.raises(TypeError, match=r"texts\[1\] is a float"):
        encoder.encode(pandas.Series(["one", float("nan")]))


@pytest.mark.parametrize("make", [tuple, iter, np.array, lambda texts: dict.fromkeys(texts).keys(), pa.Array.to_pylist])
def test_whatever_yields_texts_in_order_is_taken(encoder, make):
    texts = ["one two", "tveir", "x"]
    given = pa.array(texts) if make is pa.Array.to_pylist else texts
    assert (encoder.encode(make(given)) == encoder.encode(texts)).all()


def test_one_str_is_one_text_wherever_texts_are_taken(encoder):
    expected = encoder.encode(["one two"])
    assert (next(encoder.stream("one two")) == expected).all()
    assert len(encoder.encode_tokens("one two")) == 1
    with pytest.raises(TypeError, match="embed_documents takes a list of texts"):
        encoder.embed_documents("one two")
    with pytest.raises(TypeError, match="embed_query takes one str, not a list"):
        encoder.embed_query(["one two"])


WHOLE = ("max_length", "dimensions", "max_tokens", "truncate_dim", "batch_size", "chunk_size")
WRONG = [
    *(
        (name, value, f"{name} is .*; give a whole number, 1 or more")
        for name in WHOLE
        for value in (8.0, "8", True, [8])
    ),
    *((name, value, f"{name} is {value}; give a whole number, 1 or more") for name in WHOLE for value in (0, -1)),
    ("overlap", -1, "overlap is -1; give a whole number, 0 or more"),
    ("overlap", 1.5, r"overlap is 1\.5, a float; give a whole number, 0 or more"),
    ("truncate_dim", 33, "truncate_dim is 33; a vector of this model has 32"),
    ("normalize", "no", "normalize is 'no', a str; give True or False"),
    ("normalize_embeddings", 1, "normalize_embeddings is 1, a int; give True or False"),
    ("convert_to_tensor", "yes", "convert_to_tensor is 'yes'"),
    ("batch_invariant", 0, "batch_invariant is 0, a int; give True or False"),
    ("show_progress_bar", "no", "show_progress_bar is 'no'"),
    ("prompt", 5, "prompt is 5, a int; give a str"),
    ("prompt_name", ["query"], r"prompt_name is \['query'\], a list; give a str"),
    ("long", 1, "long is 1, a int; give a str"),
    ("pooling", 5, "pooling is 5, a int; give cls, max, mean"),
    ("pooling", [], r"pooling is \[\], a list; give cls"),
    ("pooling", [["mean"]], r"pooling is \['mean'\]; give cls"),
    ("precision", "int4", "precision is 'int4'; give float32, int8, uint8, binary, ubinary"),
    ("output_value", "words", "output_value is 'words'; give sentence_embedding, token_embeddings or None"),
    ("device", ["cpu"], r"device is \['cpu'\], a list; an Encoder is on one device"),
    ("device", 0, "device is 0, a int; an Encoder is on one device"),
    ("device", "gpu", "device is 'gpu', a str; an Encoder is on one device"),
    ("device", "cuda", "device is 'cuda', but this Encoder is on cpu; load another one there"),
    ("pool", {"processes": []}, "pool: an Encoder has no pool of processes"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG, ids=lambda value: str(value)[:20])
def test_a_value_of_another_kind_is_refused_by_name(encoder, name, value, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode(TEXTS, **{name: value})


@pytest.mark.parametrize("name", ["processing_kwargs", "task", "output", "prompts", "convert_to_numpi"])
def test_a_keyword_that_nobody_knows_is_refused_by_name(encoder, name):
    with pytest.raises(TypeError, match=f"encode has no keyword '{name}'"):
        encoder.encode(TEXTS, **{name: None})


def test_numbers_of_numpy_are_numbers_and_none_is_as_if_not_given(encoder):
    expected = encoder.encode(TEXTS, max_length=8, dimensions=4)
    assert (encoder.encode(TEXTS, max_length=np.int64(8), dimensions=np.uint8(4)) == expected).all()
    names = (
        *WHOLE,
        "overlap",
        "normalize",
        "pooling",
        "long",
        "precision",
        "device",
        "batch_invariant",
        "pool",
        "prompt",
    )
    assert (encoder.encode(TEXTS, **dict.fromkeys(names)) == encoder.encode(TEXTS)).all()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3, ["cpu"], "", "meta-physical"])
def test_a_device_that_is_not_there_is_refused_where_it_is_opened(folder, device):
    with pytest.raises(ValueError, match=r"device is .*; give one that is here, as auto, cpu"):
        Encoder.from_pretrained(folder, device=device)


@pytest.mark.parametrize("top_k", [0, -1, 2.0, "3"])
def test_so_many_guesses_cannot_be_given(encoder, top_k):
    with pytest.raises(ValueError, match=r"top_k is .*; give a whole number, 1 or more"):
        encoder.fill_mask("one<|mask|>", top_k=top_k)


# ------------------------------------------------------------------------------------------------- cut, and carried on


def test_texts_that_are_cut_are_counted(encoder):
    counts = []
    encoder.encode([*TEXTS, TEXTS[3]], on_truncated=counts.append)
    assert counts == [2]
    encoder.encode([*TEXTS, TEXTS[3]], max_length=8, on_truncated=counts.append)
    reading = encoder.how(max_length=8).reading
    assert counts[1] == sum(len(encoder.tokenizer.encode_batch([t])[0]) > 8 for t in [*TEXTS, TEXTS[3]])
    encoder.encode([*TEXTS, "one " * 10_000], long="chunk", on_truncated=counts.append)
    encoder.encode(["one two"], on_truncated=counts.append)
    assert len(counts) == 2
    exact = next(text for n in range(30) if len(encoder.tokenizer.encode_batch([text := "x" * n])[0]) == 8)
    assert [reading.read([text])[1] for text in (exact, exact + "x", "one " * 10_000)] == [0, 1, 1]


def test_the_log_says_once_that_texts_are_cut_unless_it_is_meant(folder, logged):
    encoder = Encoder.from_pretrained(folder, dtype="float32")
    for options in ({"max_length": 8}, {"long": "truncate"}, {"long": "chunk"}, {"on_truncated": lambda _: None}):
        encoder.encode(TEXTS, **options)
    assert logged == []
    for _ in range(2):
        encoder.encode(TEXTS)
    assert len(logged) == 1
    assert "1 of the texts are longer than 64 tokens and were cut off there" in logged[0]


def _rows(encoder):
    return encoder.encode(TEXTS[:3])


def test_an_encoder_goes_to_other_processes_as_the_folder_it_came_from(encoder, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    relative = Encoder.from_pretrained(folder.name, dtype="float32")
    monkeypatch.chdir("/")
    sent = pickle.dumps(relative)
    assert len(sent) < 1_000
    for other in (pickle.loads(sent), copy.deepcopy(relative), copy.copy(relative)):
        assert (_rows(other) == _rows(encoder)).all()
        assert repr(other).partition(":")[2] == repr(encoder).partition(":")[2]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.abs(pool.apply(_rows, (relative,)) - _rows(encoder)).max() < 1e-5


def test_a_length_that_was_set_is_carried_on(folder):
    encoder = Encoder.from_pretrained(folder, dtype="float32", threads=1)
    encoder.max_seq_length = 7
    assert (pickle.loads(pickle.dumps(encoder)).encode(TEXTS) == encoder.encode(TEXTS, max_length=7)).all()


def test_an_encoder_out_of_no_folder_says_why_it_cannot_be_sent(encoder):
    bare = Encoder(small_model(encoder.tokenizer).encoder, encoder.tokenizer)
    for send in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not opened with from_pretrained cannot be pickled or copied"):
            send(bare)


IN_A_LOADER = """
import sys
import numpy as np, torch
from tessera import Encoder

if __name__ == "__main__":
    encoder, texts = Encoder.from_pretrained(sys.argv[1], dtype="float32"), sys.argv[2:]
    loader = torch.utils.data.DataLoader(
        texts, batch_size=3, num_workers=1, collate_fn=encoder.encode, multiprocessing_context="spawn"
    )
    (found,) = list(loader)
    assert np.abs(found - encoder.encode(texts)).max() < 1e-5
"""


def test_a_dataloader_with_workers_takes_an_encoder(folder, tmp_path):
    script = tmp_path / "loads.py"
    script.write_text(IN_A_LOADER, encoding="utf-8")
    done = subprocess.run([sys.executable, script, folder, *TEXTS[:3]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
