"""A model with the head of a task answers as a graph as it does out of its own folder: every kind and engine."""

from functools import cache

import learnable
import numpy as np
import pytest
import task_folders
import torch
from task_folders import rows

from tessera.export import tracing
from tessera.export.graph import export
from tessera.files import fingerprint
from tessera.inference.encoder import Encoder
from tessera.inference.runtime import ABOUT, Runtime
from tessera.json_files import read_json
from tessera.prediction.predictor import Predictor

for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package, reason=f"{package} is not installed")

TOLERANCE = 1e-4  # of a logit in float32, and of a probability
ENGINES = ("onnx", "openvino")
KINDS = ("classify", "multilabel", "pair", "regress", "rerank", "choose", "tag", "span")
SMALL = {"num_hidden_layers": 1, "max_position_embeddings": 64}
WINDOW = {"mmbert-small": {"local_attention": 16}}  # every layer of EuroBERT is global
QUICK = [("mmbert-small", "classify"), ("mmbert-small", "tag"), ("bert", "pair"), ("bert", "span")]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("heads")
    make = {"bert": lambda: task_folders.bert(place / "bert", num_hidden_layers=1)}
    source = cache(
        lambda family: make.get(family, lambda: learnable.model(place, family, **SMALL, **WINDOW.get(family, {})))()
    )
    return cache(lambda family, kind: task_folders.with_head(source(family), kind, place / f"{family}-{kind}"))


@pytest.fixture(scope="session")
def exported(folder, tmp_path_factory):
    """The graph of each folder, traced once for both engines."""
    place, traced = tmp_path_factory.mktemp("exported"), {}

    def make(family, kind, engine):
        def trace(padded, path):
            if (family, kind) not in traced:
                really(padded, path)
                traced[family, kind] = path.read_bytes()
            path.write_bytes(traced[family, kind])

        really = tracing.trace
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tracing, "trace", trace)
            return place / f"{family}-{kind}-{engine}", export(
                folder(family, kind), place / f"{family}-{kind}-{engine}", engine, texts=["the river and the cloud"]
            )

    return cache(make)


def alike(found, due):
    """Whether two predictions say the same, numbers within the tolerance."""
    if isinstance(due, dict):
        return found.keys() == due.keys() and all(alike(found[key], due[key]) for key in due)
    if isinstance(due, list):
        return len(found) == len(due) and all(map(alike, found, due))
    return found == pytest.approx(due, abs=TOLERANCE) if isinstance(due, float) else found == due


def check(folder, out, kind):
    asked = rows(kind, learnable.examples(kind, 24, 1))
    ours = Predictor.from_pretrained(folder, device="cpu", dtype="float32")
    graph = Predictor.from_pretrained(out, dtype="float32")
    assert (graph.kind, graph.labels) == (ours.kind, ours.labels)
    for a, b in zip(graph.logits(asked), ours.logits(asked), strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE, rtol=TOLERANCE)
    for found, due in zip(graph.predict(asked), ours.predict(asked), strict=True):
        assert alike(found, due)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("family", "kind"), QUICK)
def test_a_graph_answers_as_the_folder_it_was_made_of(folder, exported, family, kind, engine):
    out, checks = exported(family, kind, engine)
    assert all(one.ok and one.head for one in checks)
    assert {one.batch for one in checks} >= {1, 3}
    check(folder(family, kind), out, kind)
    assert read_json(out / ABOUT)["kind"] == Predictor.from_pretrained(out).kind
    assert read_json(out / "config.json") == read_json(folder(family, kind) / "config.json")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["mmbert-small", "bert", "eurobert-210m"])
def test_so_does_every_kind_of_every_family(folder, exported, family, kind, engine):
    check(folder(family, kind), exported(family, kind, engine)[0], kind)


def test_segments_of_a_pair_reach_the_graph(folder, exported):
    out, _ = exported("bert", "pair", "onnx")
    assert Runtime.open(out).inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert '"token_type_ids": types' in (out / "README.md").read_text(encoding="utf-8")


def test_a_head_is_never_dropped_without_a_word(folder, exported, tmp_path):
    place = folder("mmbert-small", "classify")
    with pytest.raises(ValueError, match=r"would lose its head .*--drop-head"):
        export(place, tmp_path / "out", output="embeddings")
    with pytest.raises(ValueError, match=r"has the head of a task, but pooling and normalize are of embeddings"):
        export(place, tmp_path / "out", pooling="mean")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"has the head of a task\) and no embeddings"):
        Encoder.from_pretrained(exported("mmbert-small", "classify", "onnx")[0]).encode(["a"])
    export(place, tmp_path / "out", drop_head=True)
    assert Runtime.open(tmp_path / "out").outputs == ("last_hidden_state", "sentence_embedding")
    with pytest.raises(ValueError, match=r"has no head; export the model without --drop-head"):
        Predictor.from_pretrained(tmp_path / "out")


def test_a_graph_with_another_answer_is_refused_and_leaves_nothing(folder, exported, tmp_path, monkeypatch):
    known = exported("mmbert-small", "classify", "onnx")[0] / "model.onnx"
    monkeypatch.setattr(tracing, "trace", lambda padded, path: path.write_bytes(known.read_bytes()))
    source = folder("mmbert-small", "classify").parent / "mmbert-small"
    other = task_folders.with_head(source, "classify", tmp_path / "other", loud=33.0)
    with pytest.raises(ValueError, match=r"nothing was written: in float32 the graph differs from our model"):
        export(other, tmp_path / "out", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_the_lines_of_the_card_run_without_tessera(folder, exported):
    out, _ = exported("mmbert-small", "classify", "onnx")
    code = (out / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert "tessera" not in code
    names = {}
    exec(code.replace('"."', repr(str(out))), names)
    ours = Predictor.from_pretrained(folder("mmbert-small", "classify"), device="cpu", dtype="float32")
    np.testing.assert_allclose(names["found"], np.stack(ours.logits(names["texts"])), atol=TOLERANCE)


def test_a_graph_runs_on_the_cpu_and_says_so(exported):
    with pytest.raises(ValueError, match=r"holds a graph that runs on the CPU, but device is 'cuda'; give cpu"):
        Predictor.from_pretrained(exported("mmbert-small", "classify", "onnx")[0], device="cuda")


def test_calls_change_nothing(folder, exported):
    before = fingerprint(folder("mmbert-small", "classify"))
    exported("mmbert-small", "classify", "onnx")
    assert fingerprint(folder("mmbert-small", "classify")) == before
    assert torch.is_grad_enabled()
