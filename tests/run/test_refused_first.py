"""What a verb needs last is looked at first: its target before its model is read."""

import os

import pytest
from typer.testing import CliRunner

from tessera import cli
from tessera.files import refuse_taken
from tessera.plan.loading import load
from tessera.preflight import problems

TEXTS = "".join(f"text number {n} of many\n" for n in range(300))
VERBS = {
    "merge": ["merge", "MODEL", "MODEL", "--method", "linear", "--out", "TAKEN"],
    "export": ["export", "MODEL", "TAKEN"],
    "quantize": ["quantize", "MODEL", "TAKEN", "--texts", "TEXTS"],
    "embed": ["embed", "MODEL", "TEXTS", "TAKEN/there.parquet"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_target_that_is_taken_is_refused_before_the_model_is_read(verb, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "there.parquet").write_text("of another")
    (tmp_path / "texts.txt").write_text(TEXTS)
    places = {"MODEL": tmp_path / "no-model", "TAKEN": tmp_path / "taken", "TEXTS": tmp_path / "texts.txt"}
    words = VERBS[verb]
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    shown = CliRunner().invoke(cli.app, words)
    assert isinstance(shown.exception, FileExistsError), shown.exception
    assert "there already" in str(shown.exception)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere, Windows has other rights")
def test_a_target_where_nobody_may_write_is_refused_too(tmp_path):
    (tmp_path / "kept").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="may not be written to"):
        refuse_taken(tmp_path / "kept" / "new")


def test_a_target_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="is a file"):
        refuse_taken(tmp_path / "file" / "new")
    refuse_taken(tmp_path / "new" / "deeper")
    assert not (tmp_path / "new").exists()


def test_sources_elsewhere_are_listed_before_anything_is_written(recipe_file, tmp_path):
    recipe = load(recipe_file, {"corpus.sources.web.path": "memory://nowhere/*.jsonl"})
    (said,) = problems(recipe, tmp_path / "run", ["documents"])
    assert said.startswith("source 'web': no file at 'memory://nowhere/*.jsonl'")


@pytest.mark.parametrize("key", ["preset", "override", "resize"])
def test_a_model_that_is_described_but_made_by_no_phase_is_refused(key, finished, recipe_file, tmp_path):
    model = str(finished / "pretrain" / "final")
    value = {"preset": "mmbert-base", "override": {"num_hidden_layers": 7}, "resize": {"from": model, "how": "tile"}}
    recipe = load(recipe_file)
    first = recipe.phases[0].model_copy(update={"from_": model})
    data = {"phases": (first,), "merges": (), "model": type(recipe.model).model_validate({key: value[key]})}
    (said,) = problems(recipe.model_copy(update=data), tmp_path / "run", ["train"])
    assert f"model.{key} says what phases from scratch make, and there is none: pretrain starts from" in said
