"""A run, or one of its phases, given where the folder of a model is wanted."""

import os
from pathlib import Path

import pytest
import torch
from small_encoder import write_model

from tessera.huggingface import hf_files, hub
from tessera.huggingface.hf_files import find_model
from tessera.inference.encoder import Encoder
from tessera.inference.parity import parity
from tessera.inference.sentence_folder import local
from tessera.train.merge_models import merge_folders


def run_of(folder: Path, *stages: str, last: str = "checkpoint-40") -> Path:
    """A run folder with stages; a stage in brackets is not finished."""
    for number, stage in enumerate(stages):
        saved = folder / stage.strip("()") / last
        saved.mkdir(parents=True)
        (saved / "config.json").write_text("{}")
        os.utime(saved / "config.json", (number, number))
        if "(" not in stage:
            (saved.parent / "final").symlink_to(last)
    (folder / "recipe.yaml").write_text("name: mine\n")
    (folder / "evaluation").mkdir()
    return folder


def test_a_model_is_itself_and_what_is_none_is_left_to_its_reader(tmp_path):
    run = run_of(tmp_path / "mine", "pretrain")
    for folder in (run / "pretrain" / "final", run / "pretrain" / "checkpoint-40", tmp_path / "nothing", tmp_path):
        assert find_model(folder) == folder


def test_the_only_model_of_a_run_or_of_a_stage_is_taken_and_said_once(tmp_path, logged):
    run = run_of(tmp_path / "mine", "pretrain")
    assert find_model(run) == find_model(run / "pretrain") == run / "pretrain" / "final"
    assert logged == [
        f"{place} holds one model, which is taken: {run / 'pretrain' / 'final'}" for place in (run, run / "pretrain")
    ]


def test_several_models_are_named_in_the_order_in_which_they_were_made(tmp_path):
    run = run_of(tmp_path / "mine", "pretrain", "decay-b", "decay-a")
    ends = ", ".join(str(run / stage / "final") for stage in ("pretrain", "decay-b", "decay-a"))
    with pytest.raises(ValueError, match="holds several models") as error:
        find_model(run)
    assert str(error.value) == f"{run} holds several models; give one of: {ends}"


@pytest.mark.parametrize("given", ["final", "merged/final", "mid/final", "decay/checkpoint-7/training"])
def test_a_folder_that_is_not_there_names_those_beside_it(tmp_path, given):
    run = run_of(tmp_path / "mine", "decay")
    with pytest.raises(ValueError, match="is not there; give one of") as error:
        find_model(run / given)
    assert str(run / "decay" / "final") in str(error.value)


def test_a_phase_without_an_end_names_its_checkpoints(tmp_path):
    run = run_of(tmp_path / "mine", "(pretrain)")
    assert find_model(run / "pretrain") == run / "pretrain" / "checkpoint-40"
    (run / "pretrain" / "checkpoint-5").mkdir()
    (run / "pretrain" / "checkpoint-5" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"checkpoint-5, .*checkpoint-40$"):
        find_model(run / "pretrain")


def test_a_run_in_the_working_folder_is_named_by_its_dot_and_nothing_else_there_is_looked_at(tmp_path, monkeypatch):
    run = run_of(tmp_path / "mine", "pretrain")
    monkeypatch.chdir(run)
    assert find_model(".") == Path("pretrain/final")
    monkeypatch.setattr(hf_files, "fetched", lambda model, revision=None: Path("fetched") / model)
    assert find_model("some/model") == Path("fetched/some/model")  # a name on the Hub


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one finished phase, which is a model."""
    model = write_model(tmp_path_factory.mktemp("model"))
    run = model.parent / "run"
    (run / "pretrain").mkdir(parents=True)
    (run / "pretrain" / "final").symlink_to(model)
    return run


def test_encoder_merge_and_parity_take_the_run(real, tmp_path, logged):
    end = real / "pretrain" / "final"
    assert local(real) == local(str(real)) == end
    assert torch.equal(*(torch.from_numpy(Encoder.from_pretrained(p).encode(["one"])) for p in (real, end)))
    merged = merge_folders([real, end], tmp_path / "merged", method="linear", base=None)
    assert hub.read_config(merged) == hub.read_config(end)
    assert all(row.ok for row in parity(real / "pretrain"))
    assert any("which is taken" in line for line in logged)


def test_what_reads_a_folder_without_asking_names_the_model_in_it(real):
    for read in (hub.load, hub.load_any, hub.load_encoder, hub.load_task, hub.read_config, hub.is_ours):
        with pytest.raises(ValueError, match=r"holds no model itself; give the one in it, .*final"):
            read(real)
