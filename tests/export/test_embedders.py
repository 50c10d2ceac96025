"""BERT-shaped embedders (MiniLM, e5), ELECTRA and XLM-R as graphs and in int8 give the vectors of their folders."""

import json
import random
import shutil
from functools import cache

import numpy as np
import pytest
import task_models
import torch
import transformers

from tessera.batching.models import How, open_models
from tessera.export import tracing
from tessera.export.graph import export
from tessera.export.quantize import quantize
from tessera.export.tune import tune
from tessera.huggingface import transformers_model
from tessera.inference.encoder import Encoder
from tessera.inference.runtime import ABOUT, Runtime
from tessera.json_files import read_json

pytestmark = pytest.mark.usefixtures("traced_once")

for package in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"):
    pytest.importorskip(package, reason=f"{package} is not installed")

ENGINES = ("onnx", "openvino")
WORDS = ["the", "river", "bread", "cloud", "night", "clouds", "of", ",", "."]
TEXTS = [*task_models.TEXTS, "the river " * 30]
PROMPTS = {"query": "the night of ", "passage": "bread , "}


def texts(count):
    drawn = random.Random(0)
    return [" ".join(drawn.choices(WORDS, k=drawn.randint(2, 25))) for _ in range(count)]


def write(place, family):
    """A folder of sentence-transformers with prompts, whose vectors are its first tokens' (BERT) or means (XLM-R)."""
    task_models.bert(place / "bare", "BertModel")
    if family == "xlm-roberta":
        torch.manual_seed(0)
        config = transformers.XLMRobertaConfig(**task_models.SHAPE, initializer_range=0.3)
        with transformers_model.quietly():
            transformers.XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(place / "bare")
    if family == "electra":
        torch.manual_seed(0)
        config = transformers.ElectraConfig(**task_models.SHAPE, embedding_size=12, initializer_range=0.3)
        with transformers_model.quietly():
            transformers.ElectraModel(config).save_pretrained(place / "bare")
    folder, pooling = place / family, "cls" if family == "bert" else "mean"
    Encoder.from_pretrained(place / "bare").save(folder, pooling=pooling, normalize=True)
    said = read_json(folder / "config_sentence_transformers.json")
    (folder / "config_sentence_transformers.json").write_text(json.dumps({**said, "prompts": PROMPTS}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cache(lambda family: write(tmp_path_factory.mktemp(family), family))


@pytest.fixture(scope="module")
def in_int8(folder, tmp_path_factory):
    """The int8 folder of an engine, with what was measured."""

    def make(engine):
        out = tmp_path_factory.mktemp("int8") / engine
        return out, quantize(folder("bert"), out, engine, texts=texts(120), min_cosine=0.8, max_drop=100)

    return cache(make)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["bert", "electra", "xlm-roberta"])
def test_a_graph_gives_the_vectors_of_the_folder_with_its_prompts_and_pooling(folder, tmp_path, family, engine):
    checks = export(folder(family), tmp_path / "out", engine, texts=["bread"])
    assert all(check.ok for check in checks)
    assert {check.output for check in checks} == {"last_hidden_state", "sentence_embedding"}
    ours = Encoder.from_pretrained(folder(family), device="cpu", dtype="float32")
    graph = Encoder.from_pretrained(tmp_path / "out", dtype="float32")
    for how in ({}, {"prompt_name": "query"}, {"pooling": "max"}, {"prompt": "", "normalize": False}):
        np.testing.assert_allclose(graph.encode(TEXTS, **how), ours.encode(TEXTS, **how), atol=2e-4, rtol=1e-3)
    assert dict(graph.pipeline.prompts) == PROMPTS
    assert graph.pipeline.pooling == ours.pipeline.pooling
    assert not graph.engine.model.int8
    with pytest.raises(ValueError, match=r"has 41 tokens, more than the model's"):
        graph.engine.model(torch.ones(41, dtype=torch.long), torch.tensor([0, 41]))


@pytest.mark.parametrize("engine", ENGINES)
def test_int8_is_measured_against_the_model_and_keeps_its_prompts(folder, in_int8, engine):
    out, measured = in_int8(engine)
    assert measured.texts == 60
    assert 0.8 <= measured.lowest_cosine <= measured.median_cosine < 1.0
    assert read_json(out / ABOUT)["int8"]["measured"]["lowest_cosine"] == measured.lowest_cosine
    ours, fast = Encoder.from_pretrained(folder("bert"), dtype="float32"), Encoder.from_pretrained(out)
    assert fast.engine.model.int8
    (served,) = open_models([str(out)], How(device="cpu"))
    called = {"openvino": "OpenVINO", "onnx": "ONNX Runtime"}[engine]
    assert served.engine == f"{called} in int8: the folder holds its graph"
    assert (fast.pipeline.pooling, dict(fast.pipeline.prompts)) == (("cls",), PROMPTS)
    found, due = (one.encode(texts(9), prompt_name="query") for one in (fast, ours))
    assert (found * due).sum(1).min() > 0.7
    assert not np.allclose(found, due, atol=1e-4)


def test_rows_of_the_embedding_are_in_int8_each_with_a_step_of_its_own(folder, in_int8):
    import openvino

    rows = task_models.SHAPE["vocab_size"]
    graph = openvino.Core().read_model(in_int8("openvino")[0] / "openvino_model.xml")
    held = [(str(one.get_element_type().to_string()), list(one.get_output_shape(0))) for one in graph.get_ops()
            if one.get_type_name() == "Constant"]  # fmt: skip
    width = task_models.SHAPE["hidden_size"]
    assert ("i8", [rows, width]) in held
    assert not any(kind.startswith("f") and shape == [rows, width] for kind, shape in held)
    assert any(kind.startswith("f") and shape == [rows, 1] for kind, shape in held)


def test_tuning_has_graphs_among_what_it_tries(folder, tmp_path, monkeypatch):
    model = shutil.copytree(folder("bert"), tmp_path / "model")
    monkeypatch.setattr("tessera.export.tune._time", fastest("OpenVINO, float32"))
    found = tune(model, [(text, "eng_Latn") for text in texts(70)], min_cosine=0.5, max_drop=100)
    assert {one.name for one in found.tried} >= {"OpenVINO, float32", "OpenVINO, int8", "ONNX Runtime, int8"}
    assert found.chosen.name == "OpenVINO, float32"
    taken, ours = Encoder.from_pretrained(model), Encoder.from_pretrained(folder("bert"), dtype="float32")
    assert isinstance(taken.engine.model, Runtime)
    np.testing.assert_allclose(taken.encode(TEXTS), ours.encode(TEXTS), atol=2e-4)


def fastest(name):
    """Stands for the measuring of time: the engine of that name wins."""

    def measured(engines, some, tokens):
        for found, _ in engines:
            found.tokens_per_second = 2.0 if found.name == name else 1.0
            found.milliseconds = 1.0

    return measured


def test_a_class_that_cannot_be_traced_is_named_and_nothing_is_written(folder, tmp_path, monkeypatch):
    def program(padded):
        raise RuntimeError("Data-dependent control flow")

    monkeypatch.setattr(tracing, "_program", program)
    monkeypatch.setattr(tracing, "trace", TRACE)
    with pytest.raises(ValueError, match=r"transformers' bert cannot be traced as a graph \(RuntimeError: Data-dep"):
        export(folder("bert"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


TRACE = tracing.trace


def test_the_logits_of_another_masked_language_model_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"export takes the logits of masked language models that are EuroBERT or"):
        export(folder("bert"), tmp_path / "out", output="logits")
