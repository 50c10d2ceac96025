"""int8 of a model with the head of a task is gated on what the head says, and Predictor opens what is written."""

import json
from types import SimpleNamespace

import learnable
import pytest
import task_folders
from learnable import THINGS

from tessera.export.head_scores import read_rows, right_answer, score
from tessera.export.quantize import quantize
from tessera.files import write_text
from tessera.inference.runtime import ABOUT, Runtime
from tessera.json_files import read_json
from tessera.prediction.predictor import Predictor

for package in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"):
    pytest.importorskip(package, reason=f"{package} is not installed")

TEXTS = [one.text for one in learnable.examples("classify", 200, 3)]
SMALL = {"num_hidden_layers": 1, "max_position_embeddings": 64, "local_attention": 16}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"), **SMALL)


@pytest.mark.parametrize("engine", [pytest.param("openvino", marks=pytest.mark.slow), "onnx"])
def test_int8_answers_as_the_model_within_the_bound_and_is_opened_by_predictor(source, tmp_path, engine):
    folder = task_folders.with_head(source, "classify", tmp_path / "model")
    right = Predictor.from_pretrained(folder, dtype="float32").predict(TEXTS)
    rows = [{"text": text, "label": one["label"]} for text, one in zip(TEXTS, right, strict=True)]
    measured = quantize(folder, tmp_path / "out", engine, texts=TEXTS, rows=rows, max_drop=20)
    assert (measured.before, measured.rows) == (100.0, 200)
    assert measured.after == measured.agreement >= 80
    found = Predictor.from_pretrained(tmp_path / "out").predict(TEXTS)
    assert score("classify", found, right) == measured.after
    assert read_json(tmp_path / "out" / ABOUT)["int8"]["measured"]["agreement"] == measured.agreement
    assert f"{measured}" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"nothing was written: the bound is an agreement of 100.1 of 100, measured"):
        quantize(folder, tmp_path / "none", engine, texts=TEXTS, min_agreement=100.1)
    assert not (tmp_path / "none").exists()


def test_rows_alone_calibrate_and_are_measured_on(source, tmp_path):
    folder = task_folders.with_head(source, "pair", tmp_path / "model")
    pairs = learnable.examples("pair", 100, 5)
    lines = [{"premise": one.text, "hypothesis": one.second, "label": one.label} for one in pairs]
    write_text(tmp_path / "rows.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    rows = read_rows(folder, str(tmp_path / "rows.jsonl"))
    lines = []
    measured = quantize(folder, tmp_path / "out", "onnx", rows=rows, max_drop=50, say=lines.append)
    assert measured.rows == 50
    assert measured.before is not None
    assert "measuring on 50 rows that were not calibrated on" in lines
    with pytest.raises(ValueError, match="63 rows; give 64 or more, to calibrate and measure on, or texts besides"):
        quantize(folder, tmp_path / "none", "onnx", rows=rows[:63])
    with pytest.raises(ValueError, match="rows are for the head of a task, and there is none"):
        read_rows(source, str(tmp_path / "rows.jsonl"))


def test_answers_of_squad_are_texts_and_what_is_no_answer_is_refused():
    model = SimpleNamespace(kind="span", labels=())
    row = {"question": "who", "context": "a cat", "answers": {"text": ["a cat", "cat"], "answer_start": [0, 2]}}
    assert right_answer(model, row, 0) == {"answers": ["a cat", "cat"]}
    with pytest.raises(ValueError, match=r"rows\[3\]: answers is \{'a': 1\}; give a text, or a list of texts"):
        right_answer(model, {**row, "answers": {"a": 1}}, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multilabel", "pair", "regress", "rerank", "choose", "tag", "span"])
def test_every_kind_is_measured_on_plain_texts(source, tmp_path, kind):
    folder = task_folders.with_head(source, kind, tmp_path / "model")
    measured = quantize(folder, tmp_path / "out", texts=TEXTS, min_agreement=50)
    assert measured.before is None
    asked = task_folders.rows(kind, learnable.examples(kind, 8, 1))
    assert len(Predictor.from_pretrained(tmp_path / "out").predict(asked)) == 8


@pytest.mark.parametrize("engine", [pytest.param("openvino", marks=pytest.mark.slow), "onnx"])
def test_the_head_of_a_bert_is_measured_with_its_segments(tmp_path, engine):
    bert = task_folders.bert(tmp_path / "bert", num_hidden_layers=1)
    folder = task_folders.with_head(bert, "pair", tmp_path / "model")
    measured = quantize(folder, tmp_path / "out", engine, texts=TEXTS, min_agreement=80)
    assert (measured.kind, measured.before) == ("classify", None)
    asked = task_folders.rows("pair", learnable.examples("pair", 24, 1))
    found, right = (Predictor.from_pretrained(place).predict(asked) for place in (tmp_path / "out", folder))
    assert score("classify", found, right) >= 80
    assert Runtime.open(tmp_path / "out").inputs == ("input_ids", "attention_mask", "token_type_ids")


def test_rows_that_do_not_say_what_is_right_are_named(source, tmp_path):
    folder = task_folders.with_head(source, "classify", tmp_path / "model")
    for row, text in (
        ({"text": "a"}, r"rows\[0\]: does not say what is right; give label"),
        ({"text": "a", "label": "hat"}, r"rows\[0\]: label 'hat' is none of the model's labels: river, bread"),
        ({"text": "a", "label": 4}, r"rows\[0\]: label 4 is none of the model's labels"),
    ):
        with pytest.raises(ValueError, match=text):
            quantize(folder, tmp_path / "out", texts=TEXTS, rows=[row])
    with pytest.raises(ValueError, match=r"rows are for the head of a task, and there is none"):
        quantize(source, tmp_path / "out", texts=TEXTS, rows=[{"text": "a", "label": 1}])
    with pytest.raises(ValueError, match=r"1 rows; give 32 or more to measure on"):
        quantize(folder, tmp_path / "out", texts=TEXTS, rows=[{"text": "a", "label": THINGS[1]}])


@pytest.mark.parametrize(
    ("kind", "found", "right", "value"),
    [
        ("classify", [{"label": "a"}, {"label": "b"}], [{"label": "a"}, {"label": "a"}], 50.0),
        ("choose", [{"choice": 1}, {"choice": 0}], [{"choice": 1}, {"choice": 0}], 100.0),
        ("multilabel", [{"labels": ["a"], "scores": {"a": 1, "b": 0}}], [{"labels": ["a", "b"]}], 50.0),
        ("tag", [{"tags": [{"label": x} for x in "abc"]}], [{"tags": [{"label": x} for x in "abb"]}], 100 * 2 / 3),
        ("span", [{"answer": "x"}, {"answer": ""}], [{"answers": ["y", "x"]}, {"answer": ""}], 100.0),
        ("regress", [{"score": x} for x in (1.0, 2.0, 3.0)], [{"score": x} for x in (2.0, 4.0, 6.0)], 100.0),
        ("rerank", [{"score": x} for x in (0.1, 0.2, 0.9)], [{"score": x} for x in (0.1, 0.3, 0.2)], 50.0),
        ("rerank", [{"score": 0.5}] * 3, [{"score": x} for x in (0.1, 0.3, 0.2)], 0.0),
    ],
)
def test_what_a_head_says_is_scored_by_hand(kind, found, right, value):
    assert score(kind, found, right) == pytest.approx(value)
