"""int8 is written where it holds the bounds that were asked for, and nowhere else."""

import random

import numpy as np
import pytest
import torch
from small_encoder import write_model

from tessera.export import quantize as quantizing
from tessera.export.heads import halves as halved
from tessera.export.quantize import quantize
from tessera.export.real_text import read_pairs, read_texts
from tessera.files import write_text
from tessera.inference.encoder import Encoder
from tessera.inference.runtime import ABOUT, Runtime
from tessera.json_files import read_json

pytestmark = pytest.mark.usefixtures("traced_once")

for package in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"):
    pytest.importorskip(package, reason=f"{package} is not installed")

WORDS = ["one", "two", "three", "tveir", "þrír", "fjórir", "ελληνικά", "русский", "text", "longer", "much", "a", "and"]


def texts(count: int, seed: int = 0) -> list[str]:
    drawn = random.Random(seed)
    return [" ".join(drawn.choices(WORDS, k=drawn.randint(2, 30))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), "mmbert")


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    """An int8 folder for OpenVINO, with what was measured."""
    out = tmp_path_factory.mktemp("int8") / "openvino"
    said: list[str] = []
    return out, quantize(folder, out, texts=texts(120), min_cosine=0.9, max_drop=20, say=said.append), said


def test_what_is_written_is_int8_and_was_measured(folder, written):
    out, measured, said = written
    assert measured.texts == 60
    assert "int8, calibrated on 60 texts" in said
    assert measured.queries == 120
    assert 0.9 <= measured.lowest_cosine <= measured.median_cosine < 1.0  # less than 1: something was rounded
    assert 'element_type="i8"' in (out / "openvino_model.xml").read_text(encoding="utf-8")
    assert measured.smaller > 1.0  # of a few thousand weights, most of the graph is its names
    kept = read_json(out / ABOUT)["int8"]
    assert kept["calibrated_on"] == 60
    assert kept["measured"]["lowest_cosine"] == measured.lowest_cosine
    assert f"{measured}" in (out / "README.md").read_text(encoding="utf-8")
    encoder = Encoder.from_pretrained(folder, device="cpu", dtype="float32")
    short = [text[:25] for text in texts(9, seed=3)]
    tokens = encoder.tokenizer.encode_batch(short)
    starts = torch.tensor([0, *map(len, tokens)]).cumsum(0)
    found = Runtime.open(out).vectors(torch.from_numpy(np.concatenate(tokens)).long(), starts).numpy()
    assert (found * encoder.encode(short)).sum(1).min() > 0.9


def test_the_int8_graph_of_onnx_runtime_measures_pairs(folder, tmp_path):
    pairs = [(text, text) for text in texts(40, seed=1)]
    measured = quantize(
        folder, tmp_path / "out", "onnx", texts=texts(64), pairs=pairs, min_cosine=0.9, max_drop=20, max_length=20
    )
    assert measured.queries == 80
    assert measured.before == 100.0  # each is its own other side
    assert "of the other side of a pair 100.00 before" in str(measured)
    assert read_json(tmp_path / "out" / ABOUT)["int8"]["max_length"] == 20
    assert read_json(tmp_path / "out" / ABOUT)["int8"]["calibrated_on"] == 0


@pytest.mark.parametrize(("min_cosine", "max_drop"), [(0.9999999, 100), (0.0, 0.0)], ids=["cosine", "retrieval"])
def test_what_falls_under_a_bound_is_not_written(folder, written, tmp_path, monkeypatch, min_cosine, max_drop):
    def write_known(source, target, to, weights_only, batches):
        for suffix in ("xml", "bin"):
            name = f"openvino_model.{suffix}"
            (target / name).write_bytes((written[0] / name).read_bytes())

    monkeypatch.setattr(quantizing, "write_int8", write_known)
    scores = iter((90.0, 89.9))
    monkeypatch.setattr(quantizing, "_retrieval", lambda queries, answers: next(scores))
    with pytest.raises(ValueError, match=r"nothing was written: .*measured was: lowest cosine 0\.9\d+ .*90.00 before"):
        quantize(folder, tmp_path / "out", texts=texts(120), min_cosine=min_cosine, max_drop=max_drop)
    assert list(tmp_path.iterdir()) == []


def test_weights_alone_lose_less(folder, written, tmp_path):
    measured = quantize(folder, tmp_path / "out", texts=texts(120), weights_only=True, min_cosine=0.9, max_drop=20)
    assert measured.median_cosine > written[1].median_cosine
    assert read_json(tmp_path / "out" / ABOUT)["int8"]["weights_only"] is True


def test_what_cannot_be_asked_is_said(folder, tmp_path):
    with pytest.raises(ValueError, match=r"3 different texts; give 64 or more, to calibrate and to measure on"):
        quantize(folder, tmp_path / "out", texts=["a", "b", "c", "a", " "])
    with pytest.raises(ValueError, match=r"min_cosine is 99; give a cosine|min_cosine is 99, max_drop 0.5"):
        quantize(folder, tmp_path / "out", texts=texts(80), min_cosine=99)
    with pytest.raises(ValueError, match=r"weights_only is for openvino"):
        quantize(folder, tmp_path / "out", "onnx", texts=texts(80), weights_only=True)


def test_retrieval_is_counted_both_ways():
    queries = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    answers = np.array([[2, 0], [0, 3], [0, 1]], np.float32)
    # Queries 0 and 1 find theirs; 2 is as near to 0 as to 1. Answers 0 and 1 find theirs; 2 finds query 1.
    assert quantizing._retrieval(queries, answers) == pytest.approx(100 * 2 / 3)
    assert quantizing._retrieval(queries, queries) == 100.0


@pytest.mark.parametrize(
    ("text", "halves"),
    [("one two three", ("one two", " three")), ("abcd", ("ab", "cd")), ("ab cdefghij", ("ab", " cdefghij"))],
)
def test_a_text_is_cut_at_the_space_nearest_its_middle(text, halves):
    assert halved(text) == halves


def test_texts_and_pairs_are_read_from_files_and_drawn_the_same_way_each_time(tmp_path):
    write_text(tmp_path / "a.jsonl", "".join(f'{{"text": "text {n}"}}\n' for n in range(50)))
    found = read_texts(str(tmp_path / "a.jsonl"), limit=10)
    assert len(set(found)) == 10
    assert found == read_texts(str(tmp_path / "a.jsonl"), limit=10)
    with pytest.raises(ValueError, match=r"no column is called .body., where text was looked for; name it with --text"):
        read_texts(str(tmp_path / "a.jsonl"), column="body")
    row = '{"src": "hús", "tgt": "house", "src_lang": "fao_Latn", "tgt_lang": "eng_Latn"}\n'
    write_text(tmp_path / "pairs" / "b.jsonl", row)
    assert read_pairs(str(tmp_path / "pairs" / "b.jsonl")) == [("hús", "house")]
