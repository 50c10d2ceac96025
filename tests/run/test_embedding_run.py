"""A run whose phases distil a teacher and contrast translations: from text to a folder for sentence-transformers."""

import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_encoder import write_model
from task_models import bert
from test_torchrun import both
from whole_run import Dies

from tessera.data.shards import Shards
from tessera.files import read_json
from tessera.inference.encoder import Encoder
from tessera.plan.loading import RecipeError, load
from tessera.preflight import PreflightError
from tessera.report import results
from tessera.report.overview import overview
from tessera.report.plan_tables import said
from tessera.report.run_files import open_run
from tessera.run import run
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.train.start import TrainingError

EMBEDDING = {"tokens": "3k", "context": 32, "batch_tokens": "1k", "learning_rate": {"peak": 1e-2}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def embedding_file(recipe_file, teacher):
    """The recipe of the whole run with three phases after its merge."""
    data = yaml.safe_load(recipe_file.read_text(encoding="utf-8"))
    data["phases"] += [
        {"name": "distil", "from": "merged", **EMBEDDING,
         "distil": {"teacher": str(teacher), "pairs": 0.4, "pair_mixture": {"temperature": 0.5}}},
        {"name": "contrast", "from": "distil", **EMBEDDING, "contrast": {"temperature": 0.1}},
        {"name": "harder", "from": "contrast", **EMBEDDING, "contrast": {"negatives": 2, "among": 30, "below": 1.0}},
    ]  # fmt: skip
    path = recipe_file.with_name("embedding.yaml")
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def embedded(embedding_file, tmp_path_factory):
    return run(load(embedding_file), tmp_path_factory.mktemp("embedded") / "run")


def test_it_leaves_a_folder_whose_vectors_are_those_of_sentence_transformers(embedded):
    from sentence_transformers import SentenceTransformer

    folder = embedded / "contrast" / "embedder"
    texts = ["the old house", "hon sær hús", "ναι"]
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(texts)
    np.testing.assert_allclose(Encoder.from_pretrained(folder, dtype="float32").encode(texts), theirs, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-5)
    assert not (embedded / "merged" / "embedder").exists(), "masked language modelling trains no sentence embeddings"


def test_sides_of_pairs_lie_beside_each_other_in_a_store_of_their_own(embedded):
    shards, tokenizer = Shards.open(embedded / "shards" / "pairs"), Tokenizer.load(embedded / "tokenizer")
    assert {bucket.language for bucket in shards.buckets} == {"ell_Grek", "fao_Latn"}
    assert shards.documents % 2 == 0
    for first in range(0, shards.documents, 2):
        sides = [
            tokenizer.decode(shards.gather(shards.offsets[n : n + 1], np.diff(shards.offsets[n : n + 2])))
            for n in (first, first + 1)
        ]
        assert sides[1].isascii(), "the second side is English"
        assert not sides[0].isascii()


def test_held_out_text_is_not_measured_where_no_token_is_predicted(embedded):
    found = {path.name for path in (embedded / "evaluation").glob("*.json")}
    assert {"contrast.pairs.json", "distil.pairs.json", "merged.held_out.json"} <= found
    assert not {"contrast.held_out.json", "distil.held_out.json"} & found


def test_a_run_killed_again_and_again_ends_with_the_same_embedder(embedded, embedding_file, tmp_path):
    kills = 0
    for _ in range(100):
        try:
            run(load(embedding_file, {"machine.checkpoint_minutes": "1e-9"}), tmp_path / "run", watcher=Dies(at=15))
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 3
    for name in ("distil", "contrast", "harder"):
        file = f"{name}/final/model.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (embedded / file).read_bytes()


def test_the_loss_goes_down(embedded):
    import json

    lines = [json.loads(line) for line in (embedded / "distil" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    assert losses[-1] < losses[0]


def test_the_report_draws_each_objective_by_itself(embedded):
    from tessera.report.charts import figures

    drawn = figures(open_run(embedded))
    assert {figure.stages for figure in drawn["loss"]} == {
        ("pretrain", "decay-a", "decay-b"), ("distil",), ("contrast", "harder"), ("decay-a", "decay-b"),
    }  # fmt: skip
    assert "distil" not in next(figure.stages for figure in drawn["schedules"] if "mask" in str(figure.chart.to_dict()))


def test_the_report_says_what_was_mined(embedded):
    (stages,) = results.stages(open_run(embedded))
    pairs = int(read_json(embedded / "harder" / "negatives" / "mined.json")["pairs"])
    assert 20 < pairs <= 80
    assert re.fullmatch(rf"harder: \d+ hard negatives of {pairs} pairs, \d+ of which have fewer than 2", stages.note)
    assert stages.note in (embedded / "report.html").read_text(encoding="utf-8")
    assert "harder: before it begins" in " ".join(said(overview(load(embedded / "recipe.yaml"))))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"phases.distil.mask_ratio": "0.3"}, RecipeError, "mask_ratio is of masked language modelling"),
        ({"phases.distil.contrast": "{}"}, RecipeError, "two objectives"),
        ({"phases.distil.tokens": "auto"}, RecipeError, "tokens: auto"),
        ({"phases.distil.distil.teacher": "./nowhere"}, PreflightError, r"phases\.distil\.distil\.teacher"),
        ({"phases.harder.contrast.negatives": "0"}, RecipeError, "below is of hard negatives, and there are none"),
        ({"phases.harder.from": "scratch"}, RecipeError, "from scratch there is none; leave them out here"),
        ({"phases.harder.contrast.below": "1.5"}, RecipeError, r"below: Input should be less than or equal to 1"),
        ({"phases.pretrain.from": "merged"}, RecipeError, "stands after it"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(embedding_file, tmp_path, change, error, says):
    with pytest.raises(error, match=says):
        run(load(embedding_file, change), tmp_path / "run")
    assert not (tmp_path / "run" / "documents").exists()


def test_a_model_that_cannot_be_trained_so_is_refused_before_anything_is_computed(embedding_file, tmp_path):
    bert(tmp_path / "bert", "BertForMaskedLM")
    with pytest.raises(PreflightError, match=r"phases\.harder\.from: .*run by transformers, and contrast trains"):
        run(load(embedding_file, {"phases.harder.from": str(tmp_path / "bert")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_another_width_is_refused_with_what_to_set(embedding_file, embedded, tmp_path):
    narrow = {"model.override.head_dim": "8", "model.override.hidden_size": "16"}
    with pytest.raises(TrainingError, match=r"32 dimensions, those of the model 16; set model\.override\.hidden_size"):
        run(load(embedding_file, narrow), tmp_path / "run")


@pytest.mark.slow
def test_of_two_processes_one_mines_and_both_train_as_one_does(embedded, embedding_file, tmp_path):
    shutil.copytree(embedded, tmp_path / "run", symlinks=True)
    shutil.rmtree(tmp_path / "run" / "harder")
    leader, other = both("train", embedding_file, "--out", tmp_path / "run")
    assert leader[0] == other[0] == 0, leader[2] + other[2]
    of = [folder / "harder" / "negatives" for folder in (embedded, tmp_path / "run")]
    assert [path.read_bytes() for path in sorted(of[0].iterdir())] == [
        path.read_bytes() for path in sorted(of[1].iterdir())
    ]
    one, two = (load_file(folder / "harder" / "final" / "model.safetensors") for folder in (embedded, tmp_path / "run"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-2, atol=2e-4)
