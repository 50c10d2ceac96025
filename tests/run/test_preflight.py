"""What a run needs last is looked for first: nothing is written where something is missing."""

import errno
import importlib.util
import json
import os
import shutil

import pytest
from typer.testing import CliRunner

from tessera import cli, files
from tessera.plan.loading import load
from tessera.run import RunError, run

MISSING = {
    "corpus.sources.web.path=nowhere": r"source 'web': no file at 'nowhere'; give a file, a folder or a glob",
    "corpus.sources.web.score=nowhere:score": r"score 'nowhere:score': cannot import 'nowhere'",
    "corpus.sources.web.score=./nowhere": r"corpus\.sources\.web\.score: there is no model at './nowhere'",
    "corpus.filters.language.model=./lid.bin": r"corpus\.filters\.language\.model: no file at './lid\.bin'",
    "corpus.filters.contamination={sets: {xnli: [nowhere]}}": r"contamination set 'xnli': no file at 'nowhere'",
    "tokenizer.path=nowhere": r"nowhere: no such file; give a tokenizer\.json or a folder",
    "phases.pretrain.from=./nowhere": r"phases\.pretrain\.from: there is no model at './nowhere'",
    "model.resize={from: ./nowhere, how: tile}": r"model\.resize\.from: there is no model at './nowhere'",
    "evaluation.tasks.pairs.path=nowhere": r"task pairs: no rows of split 'test'",
}


@pytest.mark.parametrize("set_", MISSING)
def test_what_is_missing_is_named_before_anything_is_written(recipe_file, tmp_path, monkeypatch, set_):
    monkeypatch.chdir(tmp_path)
    key, _, value = set_.partition("=")
    with pytest.raises(ValueError, match=MISSING[set_]):
        run(load(recipe_file, {key: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("library", "says"),
    [("altair", r"\[report\]"), ("jinja2", r"\[report\]"), ("vl_convert", r"\[report\]"), ("daft", r"\[prepare\]")],
)
def test_the_libraries_of_every_stage_are_looked_for_first(recipe_file, tmp_path, monkeypatch, library, says):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *at: None if name == library else find(name, *at))
    with pytest.raises(ValueError, match=says):
        run(load(recipe_file), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_that_is_missing_is_said_at_once_and_only_for_the_stages_to_come(recipe_file, tmp_path):
    broken = load(recipe_file, {"corpus.sources.web.path": "nowhere", "evaluation.tasks.pairs.path": "nowhere"})
    with pytest.raises(ValueError, match=r"(?s)source 'web': no file.*task pairs: no rows"):
        run(broken, tmp_path / "run")
    run(load(recipe_file, {"evaluation.tasks.pairs.path": "nowhere"}), tmp_path / "run", until="tokenizer")
    assert (tmp_path / "run" / "tokenizer").exists()


def test_a_recipe_of_which_nothing_was_made_yet_may_be_corrected(recipe_file, tmp_path, finished):
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "recipe.yaml", tmp_path / "run")
    corrected = load(recipe_file, {"tokenizer.vocab_size": "401"})
    run(corrected, tmp_path / "run", until="documents")
    with pytest.raises(RunError, match=r"tokenizer\.vocab_size: 401 -> 400"):
        run(load(recipe_file), tmp_path / "run", until="documents")


def test_a_plan_names_paths_that_are_not_there_and_the_hours_of_this_machine(recipe_file, tmp_path):
    shown = CliRunner().invoke(
        cli.app, ["plan", str(recipe_file), "--out", str(tmp_path), "--set", "corpus.sources.web.path=nowhere"]
    )
    assert "warning: corpus.sources.web.path: there is nothing at 'nowhere'" in shown.output
    assert "On this machine (" in shown.output


def test_a_vocabulary_smaller_than_asked_and_languages_without_held_out_text_are_said(recipe_file, tmp_path):
    from test_signals import Interrupts

    watcher = Interrupts("", -1, 0)
    asked = {"tokenizer.vocab_size": "40000", "corpus.held_out.min_documents": "80"}
    run(load(recipe_file, asked), tmp_path / "run", until="shards", watcher=watcher)
    said = "\n".join(watcher.told)
    assert "fewer than the 40,000 of tokenizer.vocab_size" in said
    assert "held_out: nothing of ell_Grek" in said


def test_a_preset_that_keeps_more_rows_than_the_tokenizer_has_says_so(recipe_file, tmp_path, finished):
    from test_signals import Interrupts

    watcher = Interrupts("", -1, 0)
    set_ = {"tokenizer.path": str(finished / "tokenizer"), "model.preset": "eurobert-210m"}
    run(load(recipe_file, set_), tmp_path / "run", until="tokenizer", watcher=watcher)
    assert "keeps 128,256 rows of embeddings: 127,856 are never used" in "\n".join(watcher.told)


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
]


@pytest.mark.parametrize("error", FULL, ids=["plain", "quota", "safetensors", "arrow"])
def test_a_full_disk_is_said_with_the_file_and_what_to_do(tmp_path, monkeypatch, capsys, error):
    def app() -> None:
        with files.atomic_file(tmp_path / "deltas.json"):
            raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'deltas.json'}: the disk is full")
    assert "free some space, or write elsewhere, and run the same command again" in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_folder_that_may_not_be_written_is_said_with_what_to_do(monkeypatch, capsys, number):
    def app() -> None:
        raise OSError(number, os.strerror(number), "/archive/run")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit):
        cli.main()
    said = "give a folder in which you may read and write, or change who may"
    assert capsys.readouterr().err == f"error: /archive/run: {os.strerror(number)}; {said}\n"


def test_a_mistake_of_ours_still_shows_where_it_is(monkeypatch):
    def app() -> None:
        raise KeyError("a slip")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(KeyError):
        cli.main()


def test_auto_is_settled_when_the_text_is_there_and_written_down(recipe_file, tmp_path):
    asked = {f"phases.{name}.{key}": value for name in ("pretrain", "decay-a") for key, value in
             {"tokens": "auto", "mixture.max_epochs": "0.5"}.items()}  # fmt: skip
    recipe, folder = load(recipe_file, asked), tmp_path / "run"
    words = ["plan", str(recipe_file), *(f"--set={key}={value}" for key, value in asked.items())]
    assert "tokens is auto, which needs text to count" in str(CliRunner().invoke(cli.app, words).exception)
    (tmp_path / "counts.csv").write_text("language,tokens\neng_Latn,10000\n")
    shown = CliRunner().invoke(cli.app, [*words, "--json", f"--counts={tmp_path / 'counts.csv'}"])
    assert next(phase["tokens"] for phase in json.loads(shown.output)["phases"]) == 5_000  # half an epoch
    run(recipe, folder, until="shards")
    assert load(folder / "recipe.yaml") == recipe
    words = ["plan", str(recipe_file), "--out", str(folder), "--json"]
    shown = CliRunner().invoke(cli.app, [*words, *(f"--set={key}={value}" for key, value in asked.items())])
    planned = {phase["name"]: phase["tokens"] for phase in json.loads(shown.output)["phases"]}
    run(recipe, folder, until="train")
    found = load(folder / "recipe.yaml")
    assert {phase.name: phase.tokens for phase in found.phases} == planned
    assert planned["pretrain"] > planned["pretrain"] % found.phase("pretrain").batch_tokens == 0
    assert planned["decay-b"] == 4_000
    run(recipe, folder, until="train")  # the same run, whether it says auto or the number
    run(found, folder, until="train")
    with pytest.raises(RunError, match=r"phases\.decay-a\.tokens: \d+ -> 4000"):
        run(load(recipe_file), folder, until="train")
