"""The whole journey on an invented corpus: from raw text to a report, through interruptions."""

import shutil

import pytest
from typer.testing import CliRunner
from whole_run import Dies

from tessera.cli import app
from tessera.evaluation.evaluate import evaluate_recipe
from tessera.plan.evaluation import Evaluation
from tessera.plan.loading import load
from tessera.progress import Silent
from tessera.run import RunError, run
from tessera.train.merge_models import merge_folders


def test_a_run_leaves_what_the_contract_promises(finished):
    for name in (
        "recipe.yaml", "tokenizer/tokenizer.json", "shards/train/index.json", "shards/held_out/index.json",
        "pretrain/metrics.jsonl", "pretrain/final/config.json", "pretrain/final/model.safetensors",
        "pretrain/final/tokenizer.json", "pretrain/final/README.md", "pretrain/final/training/state.json",
        "merged/final/model.safetensors", "merged/merge.json", "report.html", "summary.json",
    ):  # fmt: skip
        assert (finished / name).exists(), name
    results = {path.name for path in (finished / "evaluation").glob("*.json")}
    models = ("pretrain", "decay-a", "decay-b", "merged")
    assert results == {f"{model}.{task}.json" for model in models for task in ("held_out", "pairs")}


def test_transformers_loads_every_model_of_a_run(finished):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    for name in ("pretrain", "merged"):
        model = AutoModelForMaskedLM.from_pretrained(finished / name / "final")
        tokenizer = AutoTokenizer.from_pretrained(finished / name / "final")
        encoded = tokenizer("the old house", return_tensors="pt")
        assert encoded["input_ids"][0, 0] == tokenizer.bos_token_id
        assert model(**encoded).logits.shape[-1] == len(tokenizer)


def test_a_finished_run_is_not_touched_again(finished, recipe_file):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")}
    run(load(recipe_file), finished)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")} == before


def test_other_science_is_refused_by_name_and_another_machine_is_not(finished, recipe_file):
    with pytest.raises(RunError, match=r"phases\.decay-a\.mask_ratio: 0\.3 -> 0\.1"):
        run(load(recipe_file, {"phases.decay-a.mask_ratio": "0.1"}), finished)
    run(load(recipe_file, {"machine.micro_batch_tokens": "500"}), finished)
    run(load(recipe_file, {"phases.decay-a.mask_ratio": "0.1"}), finished, accept_changes=True)
    run(load(recipe_file), finished, accept_changes=True)


@pytest.mark.parametrize(
    ("key", "value"), [("batch_tokens", "4k"), ("batch_tokens", "500"), ("tokens", "900")],
)  # fmt: skip
def test_steps_that_would_be_counted_otherwise_are_refused_and_a_longer_phase_goes_on(
    recipe_file, finished, tmp_path, key, value
):
    often = {"machine.checkpoint_minutes": "1e-9"}
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    shutil.rmtree(tmp_path / "run" / "decay-b")
    for name in ("merged", "report.html"):
        place = tmp_path / "run" / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(KeyboardInterrupt):  # after its second step of four
        run(load(recipe_file, often), tmp_path / "run", watcher=Dies(at=2))
    kept = sorted(path.name for path in (tmp_path / "run" / "decay-b").glob("checkpoint-*"))
    changed = load(recipe_file, {f"phases.decay-b.{key}": value})
    with pytest.raises(ValueError, match=r"decay-b: the checkpoint stands at .* tokens after .* put these back, or st"):
        run(changed, tmp_path / "run", accept_changes=True)
    assert sorted(path.name for path in (tmp_path / "run" / "decay-b").glob("checkpoint-*")) == kept
    run(load(recipe_file, {"phases.decay-b.tokens": "6k"}), tmp_path / "run", accept_changes=True)


def test_phases_may_be_changed_between_preparing_and_training(recipe_file, tmp_path):
    run(load(recipe_file), tmp_path, until="shards")
    changed = load(recipe_file, {"phases.decay-a.mask_ratio": "0.1"})
    run(changed, tmp_path, until="shards")
    assert load(tmp_path / "recipe.yaml").phases == changed.phases
    for key, value in (("tokenizer.vocab_size", "300"), ("phases.decay-a.context", "16")):
        with pytest.raises(RunError, match=key.replace(".", r"\.")):
            run(load(recipe_file, {key: value}), tmp_path, until="shards")


def test_a_folder_that_is_no_run_is_not_written_into(recipe_file, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(RunError, match=r"holds no recipe\.yaml"):
        run(load(recipe_file), tmp_path)


def test_a_run_killed_again_and_again_ends_with_the_same_weights(finished, recipe_file, tmp_path):
    kills = 0
    for _ in range(100):
        try:
            run(load(recipe_file, {"machine.checkpoint_minutes": "1e-9"}), tmp_path / "run", watcher=Dies(at=12))
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 3
    for name in ("pretrain", "decay-a", "decay-b", "merged"):
        file = f"{name}/final/model.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (finished / file).read_bytes()


def test_every_file_of_a_run_may_be_read_by_whoever_may_read_its_neighbours(finished):
    (finished / "new").touch()
    mode = (finished / "new").stat().st_mode
    (finished / "new").unlink()
    files = [path for path in finished.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {str(path.relative_to(finished)) for path in files if path.stat().st_mode != mode} == set()


def test_merging_folders_by_hand_equals_the_stage(finished, tmp_path):
    models = [finished / "decay-a" / "final", finished / "decay-b" / "final"]
    merge_folders(models, tmp_path / "m", method="ties", base=finished / "pretrain" / "final")
    stage = (finished / "merged" / "final" / "model.safetensors").read_bytes()
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == stage


def test_a_run_without_held_out_text_says_so_and_ends(recipe_file, tmp_path):
    sets = {"corpus.held_out.share": "1e-9", "phases.decay-a.tokens": "1k", "phases.decay-b.tokens": "1k"}
    watcher = Told()
    folder = run(load(recipe_file, sets), tmp_path / "run", watcher=watcher)
    assert any("held_out holds no text, so bits per byte are not measured" in line for line in watcher.lines)
    assert sorted(path.name for path in (folder / "evaluation").glob("merged.*")) == ["merged.pairs.json"]
    held_out = folder / "shards" / "held_out"
    with pytest.raises(ValueError, match=r"held_out: holds no text to measure on; see `corpus\.held_out`"):
        list(evaluate_recipe(folder / "merged" / "final", Evaluation(), tmp_path / "out", held_out=held_out))


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def test_the_command_line_runs_it_all_and_prints_the_table(finished, recipe_file):
    shown = CliRunner().invoke(app, ["run", str(recipe_file), "--out", str(finished)])
    assert shown.exit_code == 0, shown.output
    assert "report.html" in shown.output
    assert "merged" in shown.output


def test_plan_shows_the_graph_and_after_prepare_the_languages(finished, recipe_file):
    shown = CliRunner().invoke(app, ["plan", str(recipe_file), "--out", str(finished)])
    assert shown.exit_code == 0, shown.output
    assert "fao_Latn" in shown.output
    assert "decay-b" in shown.output


def test_help_names_every_verb():
    shown = CliRunner().invoke(app, ["--help"])
    for verb in ("run", "plan", "prepare", "tokenizer", "train", "merge", "evaluate", "report", "verify", "demo-text"):
        assert verb in shown.output


def test_a_flipped_byte_in_the_shards_is_found_before_training(finished, recipe_file, tmp_path):
    for name in ("recipe.yaml", "tokenizer", "shards"):
        copy = shutil.copytree if (finished / name).is_dir() else shutil.copy
        copy(finished / name, tmp_path / name)
    file = tmp_path / "shards" / "train" / "tokens-00000.bin"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"tokens-00000\.bin"):
        run(load(recipe_file), tmp_path)
    assert not (tmp_path / "pretrain").exists()
