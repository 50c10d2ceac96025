"""Engines of a model with a head are held against its answers; Predictor, predict and serve take what was chosen."""

import json
import shutil
from pathlib import Path

import learnable
import numpy as np
import pytest
import task_folders
import torch
from small_encoder import write_model

from tessera.batching.models import How, open_models
from tessera.evaluation.frozen import Embedder
from tessera.export import tune as tuning
from tessera.export.quantize_head import calls
from tessera.export.tune import tune
from tessera.export.tune_head import HeadJudge
from tessera.files import fingerprint, read_json, write_json
from tessera.inference import tuned
from tessera.inference.encoder import Encoder
from tessera.model.precision import compute_dtype
from tessera.packed.int8 import can_int8
from tessera.packed.products import can_pack
from tessera.plan.recipe import Machine
from tessera.prediction.predict_file import about_of, predict_file
from tessera.prediction.predictor import Predictor

pytestmark = pytest.mark.skipif(not can_pack(), reason="this PyTorch is built without oneDNN")
in_int8 = pytest.mark.skipif(not can_int8(), reason="this processor has no AVX512_VNNI")

TEXTS = [(one.text, ("eng_Latn", "isl_Latn")[n % 2]) for n, one in enumerate(learnable.examples("classify", 150, 3))]
ROWS = [text for text, _ in TEXTS[:8]]
SMALL = {"num_hidden_layers": 1, "max_position_embeddings": 64, "local_attention": 16}


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Of our families, and of BERT."""
    place = tmp_path_factory.mktemp("heads")
    ours = learnable.model(place / "model", **SMALL)
    theirs = task_folders.bert(place / "bert")
    return {
        "ours": task_folders.with_head(ours, "classify", place / "ours"),
        "bert": task_folders.with_head(theirs, "classify", place / "theirs"),
    }


@pytest.fixture
def folder(classifiers, tmp_path):
    return Path(shutil.copytree(classifiers["ours"], tmp_path / "model"))


def chosen(folder, **fields):
    """Writes a choice as tune does."""
    said = {
        "engine": "packed", "name": "packed weights, float32", "dtype": "float32", "threads": 1, "max_tokens": 512,
        "goal": "throughput", "model": fingerprint(folder), "processor": tuned.processor(), "head": "classify",
    }  # fmt: skip
    write_json(folder / tuned.FOLDER / tuned.CHOICE, said | fields, sealed=True)
    return folder


@pytest.fixture
def only_ours(monkeypatch):
    """No graphs, which take their time; int8 is said to be the fastest."""

    def need(to, *more):
        raise ImportError(f"{to} is not installed")

    def measured(engines, some, tokens):
        for found, _ in engines:
            found.tokens_per_second = 1.0 + ("int8" in found.name) - found.threads / 100

    monkeypatch.setattr("tessera.export.candidates.need", need)
    monkeypatch.setattr(tuning, "_time", measured)


# ------------------------------------------------------------------------------------------------------------- tuning


@in_int8
@pytest.mark.usefixtures("only_ours")
def test_the_fastest_that_keeps_its_answers_is_written_and_predictor_takes_it(folder):
    before = Predictor.from_pretrained(folder, dtype="float32").predict(ROWS)
    found = tune(folder, TEXTS, min_agreement=60)
    assert found.chosen.name.startswith("packed weights, int8")
    assert found.table()[0][4:7] == ["agreement", "worst language", "points lost"]
    assert set(found.chosen.by_language) == {"eng_Latn", "isl_Latn"}
    taken = Predictor.from_pretrained(folder)
    assert f"tuned for throughput: {found.chosen.name}" in str(taken)
    after = taken.predict(ROWS)
    assert [one["label"] for one in after] != [one["score"] for one in before]
    np.testing.assert_allclose([one["score"] for one in after], [one["score"] for one in before], atol=0.2)
    assert "keep 60 of 100 answers on" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("only_ours")
def test_rows_with_what_is_right_are_the_bound_where_they_are_given(folder):
    right = Predictor.from_pretrained(folder, dtype="float32").predict([text for text, _ in TEXTS])
    rows = [{"text": text, "label": one["label"]} for (text, _), one in zip(TEXTS, right, strict=True)]
    found = tune(folder, TEXTS, rows=rows, max_drop=40)
    assert found.chosen.by_language["und"].before == 100.0
    assert read_json(folder / tuned.FOLDER / tuned.CHOICE)["rows"] == len(rows)
    assert tune(folder, rows=rows, max_drop=40).chosen.by_language["und"].rows == len(rows) - len(rows) // 2
    with pytest.raises(ValueError, match="3 rows; give 32 or more to measure on"):
        tune(folder, TEXTS, rows=rows[:3])


@pytest.mark.usefixtures("only_ours")
def test_a_head_of_another_family_is_tuned_in_the_formats_of_the_processor(classifiers):
    found = tune(classifiers["bert"], TEXTS, min_agreement=60)
    formats = {"float32", str(compute_dtype("auto", torch.device("cpu"))).removeprefix("torch.")}
    assert {one.name for one in found.tried if one.threads} == {f"packed weights, {number}" for number in formats}
    assert Predictor.from_pretrained(classifiers["bert"]).tuned.head == "classify"
    shutil.rmtree(classifiers["bert"] / tuned.FOLDER)


def test_a_graph_that_reads_token_types_is_calibrated_with_those_of_single_texts(classifiers):
    inputs = calls(Predictor.from_pretrained(classifiers["bert"], dtype="float32"), ROWS)
    assert inputs
    for one in inputs:
        assert one["token_type_ids"].shape == one["input_ids"].shape
        assert not one["token_type_ids"].any()


class Says:
    """A predictor that says what it is told to."""

    kind, labels = "classify", ("a", "b")

    def __init__(self, answers):
        self.answers = answers

    def predict(self, rows):
        return [{"label": label} for label in self.answers]


def test_what_changes_too_many_answers_of_a_language_is_never_chosen():
    rows = [({"text": str(n), "label": "a"}, ("x", "y")[n >= 40]) for n in range(60)]
    judge = HeadJudge(Says("a" * 60), rows, 98.0, 0.5, labelled=False)
    by_language, why = judge.judged(Says("a" * 40 + "b" * 5 + "a" * 15))
    assert (by_language["x"].agreement, by_language["y"].agreement) == (100.0, 75.0)
    assert why == "agreement 75.0 in y"
    assert judge.judged(Says("a" * 59 + "b"))[1] == ""  # one row more or less is no loss


def test_what_is_lost_is_of_the_score_where_rows_say_what_is_right():
    rows = [({"text": str(n), "label": "a"}, "x") for n in range(40)]
    judge = HeadJudge(Says("b" * 10 + "a" * 30), rows, 100.0, 5.0, labelled=True)
    by_language, why = judge.judged(Says("b" * 10 + "a" * 20 + "b" * 10))
    assert (by_language["x"].before, by_language["x"].after) == (75.0, 50.0)
    assert why == "25.0 points of the score lost in x"
    assert judge.judged(Says("a" * 40))[1] == ""  # other answers, and better ones


def test_rows_without_a_head_and_a_bound_that_is_none_are_refused(folder, tmp_path):
    bare = write_model(tmp_path / "bare")
    with pytest.raises(ValueError, match="rows are for the head of a task, and there is none"):
        tune(bare, TEXTS, rows=[{"text": "a", "label": "river"}])
    with pytest.raises(ValueError, match=r"min_agreement is 101; it is of a hundred answers, so give 0 to 100"):
        tune(folder, TEXTS, min_agreement=101)


# -------------------------------------------------------------------------------------------------------------- taking


def test_a_choice_of_a_head_is_not_taken_for_vectors_nor_the_other_way(folder):
    chosen(folder)
    assert Encoder.from_pretrained(folder, drop_head=True).tuned is None
    assert Predictor.from_pretrained(folder).tuned is not None
    chosen(folder, head="")
    assert Predictor.from_pretrained(folder).tuned is None


def test_whoever_asks_for_a_number_format_gets_it(folder):
    chosen(folder)
    assert Predictor.from_pretrained(folder, dtype="bfloat16").tuned is None


def test_an_evaluation_measures_the_model_and_not_the_engine_that_was_tuned(tmp_path):
    folder = chosen(write_model(tmp_path / "model"), head="")
    assert Encoder.from_pretrained(folder).tuned is not None
    embedder = Embedder.of(folder, Machine(device="cpu"), lambda *_: None)
    embedder.read(ROWS)
    assert embedder.encoder.tuned is None
    assert f"torch.{str(embedder.encoder.dtype).removeprefix('torch.')}" == embedder.protocol["dtype"]


def test_threads_that_are_asked_for_go_before_those_that_were_tuned(folder):
    before = torch.get_num_threads()
    try:
        assert Predictor.from_pretrained(chosen(folder, threads=2), threads=1).tuned.threads == 1
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_predict_names_the_engine_and_does_not_go_on_in_another(folder, tmp_path):
    (tmp_path / "rows.txt").write_text("\n".join(ROWS), encoding="utf-8")
    said = []
    out = predict_file(chosen(folder), tmp_path / "rows.txt", tmp_path / "out.jsonl", say=said.append)
    assert any("tuned for throughput: packed weights, float32" in line for line in said)
    assert read_json(about_of(out))["compute"] == "packed weights, float32"
    with pytest.raises(FileExistsError, match="another compute"):
        predict_file(folder, tmp_path / "rows.txt", tmp_path / "out.jsonl", dtype="bfloat16")


def test_serve_takes_what_was_chosen_and_says_why(folder, tmp_path):
    vectors = write_model(tmp_path / "vectors")
    chosen(vectors, head="", threads=1)
    threads = torch.get_num_threads()
    head, encoder = open_models([str(chosen(folder, max_tokens=64)), str(vectors)], How())
    why = "packed weights, float32, 1 threads: tessera tune found it fastest here for throughput"
    assert head.engine == encoder.engine == why
    assert head.trunk.dtype is torch.float32
    assert "fill" in encoder.answers
    assert torch.get_num_threads() == threads
    (asked,) = open_models([str(folder)], How(dtype="bfloat16"))
    assert "tune" not in asked.engine


def test_serve_runs_an_engine_of_one_folder_alone(folder, monkeypatch):
    opened = []
    made = Predictor.of_choice
    monkeypatch.setattr(Predictor, "of_choice", lambda *given, **more: opened.append(given) or made(*given, **more))
    steps = tuned.in_int8
    monkeypatch.setattr(tuned, "in_int8", lambda encoder, place, dtype: encoder)
    chosen(folder, engine="int8", name="packed weights, int8 (4 of 4 products)", dtype="bfloat16")
    first, second = open_models([str(folder), f"other={folder}"], How())
    assert first.engine.startswith("packed weights, int8 (4 of 4 products)")
    assert first.trunk is not second.trunk
    assert len(opened) == 2
    assert steps is not tuned.in_int8


@pytest.mark.slow
def test_a_tuned_graph_of_a_head_answers_and_one_of_vectors_still_fills_masks(folder, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from tessera.export.graph import export

    due = Predictor.from_pretrained(folder, dtype="float32").logits(ROWS)
    export(folder, tmp_path / "graph", "onnx")
    shutil.copytree(tmp_path / "graph", folder / tuned.FOLDER / tuned.GRAPH)
    chosen(folder, engine="graph", name="ONNX Runtime, float32")
    np.testing.assert_allclose(Predictor.from_pretrained(folder).logits(ROWS), due, atol=1e-3)
    assert open_models([str(folder)], How())[0].engine.startswith("ONNX Runtime, float32, 1 threads: tessera tune")

    vectors = write_model(tmp_path / "vectors")
    guesses = Encoder.from_pretrained(vectors, dtype="float32").fill_mask("one<|mask|>")
    export(vectors, tmp_path / "other", "onnx")
    shutil.copytree(tmp_path / "other", vectors / tuned.FOLDER / tuned.GRAPH)
    chosen(vectors, engine="graph", name="ONNX Runtime, float32", head="")
    found = Encoder.from_pretrained(vectors)
    assert found.tuned is not None
    assert [one.id for one in found.fill_mask("one<|mask|>")[0]] == [one.id for one in guesses[0]]
    assert open_models([str(vectors)], How())[0].answers == ("embeddings", "fill")


def test_the_choice_of_an_older_version_is_of_vectors(folder):
    chosen(folder)
    place = folder / tuned.FOLDER / tuned.CHOICE
    said = json.loads(place.read_text(encoding="utf-8"))
    place.write_text(json.dumps({key: value for key, value in said.items() if key not in ("head", "sha256")}))
    assert Predictor.from_pretrained(folder).tuned is None
    assert tuned.choice(folder) is not None
