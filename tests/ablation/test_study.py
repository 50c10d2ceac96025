"""Ablations of an invented run: what is shared, what is refused, what a kill leaves."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
from patience import HANGS
from safetensors.numpy import load_file
from typer.testing import CliRunner
from whole_run import Dies

import tessera.cli.ablating  # noqa: F401
from tessera.ablation.axes import read
from tessera.ablation.folders import AblationError, Start, find_start, recipe_of
from tessera.ablation.study import ablate, side_by_side
from tessera.cli import app
from tessera.plan.loading import load
from tessera.progress import Silent
from tessera.train.merge_models import merge_folders

MASKS = "phases.decay-a.mask_ratio=0.3,0.1"
QUICK = {"machine.checkpoint_minutes": "1e-9"}


def go(recipe: Path, run: Path, out: Path, vary: list[str] | None = None, **more) -> dict:
    """The ablation of decay-a from the run's pretrain; more: merge, set_, start, and what `ablate` takes."""
    asked = read(recipe, vary or [MASKS], {**QUICK, **more.pop("set_", {})}, more.pop("merge", ()))
    start = find_start(more.pop("start", "pretrain"), run)
    settings = {"seeds": 1, "watcher": Silent(), **more}
    return json.loads(ablate(asked, start, out, **settings).read_text(encoding="utf-8"))


def weights(folder: Path) -> bytes:
    return (folder / "decay-a" / "final" / "model.safetensors").read_bytes()


def steps(folder: Path) -> list[tuple[int, int]]:
    lines = (json.loads(line) for line in (folder / "decay-a" / "metrics.jsonl").read_text().splitlines())
    return [(line["documents"], line["batch_tokens"]) for line in lines if line["kind"] == "step"]


@pytest.fixture(scope="module")
def ablation(finished, recipe_file, tmp_path_factory) -> Path:
    """Two masks, two seeds, merged."""
    out = tmp_path_factory.mktemp("ablation") / "masks"
    go(recipe_file, finished, out, seeds=2, merge=[MASKS.partition("=")[0]])
    return out


@pytest.fixture
def asked(finished, recipe_file, tmp_path) -> Callable[..., dict]:
    return lambda *vary, **more: go(recipe_file, finished, tmp_path / "out", list(vary), **more)


def test_the_baseline_is_the_phase_of_the_run_to_the_last_bit(ablation, finished):
    assert weights(ablation / "reference" / "seed-0") == weights(finished)
    assert weights(ablation / "mask_ratio-0.1" / "seed-0") != weights(finished)


def test_text_and_tokenizer_are_the_runs_and_not_copies(ablation, finished):
    folder = ablation / "mask_ratio-0.1" / "seed-1"
    for name in ("tokenizer", "shards", "pretrain/final"):
        assert (folder / name).is_symlink()
        assert (folder / name).resolve() == (finished / name).resolve()


def test_one_seed_is_one_order_of_the_text_whatever_the_mask(ablation):
    first, second = (ablation / name for name in ("reference", "mask_ratio-0.1"))
    assert steps(first / "seed-0") == steps(second / "seed-0")
    assert steps(first / "seed-1") == steps(second / "seed-1")
    assert steps(first / "seed-0") != steps(first / "seed-1")


def test_all_variants_are_measured_on_the_same_hidden_tokens(ablation):
    files = sorted(ablation.glob("*/seed-*/evaluation/decay-a.held_out.json"))
    assert len(files) == 6
    told = [json.loads(file.read_text()) for file in files]
    assert len({json.dumps([d["protocol"], d["data"], d["examples"]]) for d in told}) == 1


def test_what_came_out_is_there_for_every_value_and_measure(ablation):
    study = json.loads((ablation / "deltas.json").read_text())
    assert {m["name"] for m in study["measures"]} == {"held-out", "pairs"}
    assert [(r["label"], r["seeds"]) for r in study["rows"] if r["measure"] == "pairs"] == [
        ("0.3", [0, 1]), ("0.1", [0, 1]), ("merged", [0, 1])
    ]  # fmt: skip


def test_a_merge_of_variants_is_the_merge_of_their_folders(ablation, finished, tmp_path):
    parents = [ablation / name / "seed-1" / "decay-a" / "final" for name in ("reference", "mask_ratio-0.1")]
    merge_folders(parents, tmp_path / "m", method="ties", base=finished / "pretrain" / "final")
    (merged,) = ablation.glob("mask_ratio-merged-*/seed-1")
    ours, theirs = load_file(merged / "decay-a/final/model.safetensors"), load_file(tmp_path / "m/model.safetensors")
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_what_is_finished_is_never_run_again_and_a_new_axis_takes_only_its_own_runs(finished, recipe_file, tmp_path):
    go(recipe_file, finished, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.suffix in (".safetensors", ".jsonl")}
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("evaluation/*.json")}
    study = go(recipe_file, finished, tmp_path, [MASKS, "phases.decay-a.crop={how: complementary}"])
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.suffix in (".safetensors", ".jsonl")}
    assert {p: after[p] for p in before} == before
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert {p.relative_to(tmp_path).parts[0][:4] for p in set(after) - set(before)} == {"crop"}
    assert {row["axis"] for row in study["rows"]} == {"mask_ratio", "crop"}


def test_an_ablation_killed_again_and_again_ends_with_the_same_bytes(ablation, finished, recipe_file, tmp_path):
    kills = 0
    for _ in range(200):
        try:
            go(recipe_file, finished, tmp_path, seeds=2, merge=[MASKS.partition("=")[0]], watcher=Dies(at=9))
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 4
    for whole in ablation.glob("*/seed-*"):
        assert weights(tmp_path / whole.relative_to(ablation)) == weights(whole), whole
    ours, theirs = (json.loads((folder / "deltas.json").read_text()) for folder in (tmp_path, ablation))
    assert ours["rows"] == theirs["rows"]


@pytest.mark.slow
def test_processes_side_by_side_give_the_same_bytes(ablation, finished, recipe_file, tmp_path):
    go(recipe_file, finished, tmp_path, jobs=2, seeds=2)
    for name in ("reference", "mask_ratio-0.1"):
        for seed in ("seed-0", "seed-1"):
            assert weights(tmp_path / name / seed) == weights(ablation / name / seed)


class Pool:
    """Jobs that only look like some; what they do is in processes.py."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.todo = [SimpleNamespace(folder=folder / name, name=name) for name in names]
        self.told: list[str] = []
        self.steps: list[tuple[int, int, str]] = []

    def run(self, work: Callable[..., tuple[float, str | None]], at_once: int = 2) -> None:
        side_by_side(self.todo, at_once, lambda *step: self.steps.append(step), self.told.append, work)


def test_each_job_has_a_process_of_its_own_and_is_told_of_when_it_ends(tmp_path):
    pool = Pool(tmp_path, [f"job-{n}" for n in range(6)])
    pool.run(processes.writes)
    assert len({(tmp_path / job.name).read_text() for job in pool.todo}) == 6
    assert sorted(pool.told) == [f"job-{n}: 1 s" for n in range(6)]
    assert [step[:2] for step in pool.steps] == [(n, 6) for n in range(1, 7)]


def test_a_job_that_goes_wrong_is_named_and_the_others_are_ended(tmp_path):
    pool = Pool(tmp_path, ["sleeps", "fails", "never"])
    began = time.monotonic()
    with pytest.raises(AblationError, match=r"^fails: there is no room$"):
        pool.run(processes.by_name)
    assert time.monotonic() - began < HANGS  # the one beside it would sleep for an hour
    assert not (tmp_path / "never").exists()


def test_a_process_that_dies_says_so_and_what_to_do(tmp_path):
    pool = Pool(tmp_path, ["dies", "sleeps", "never"])
    with pytest.raises(
        AblationError, match=r"^dies or sleeps: its process ended before its work did; what was finished stays, so run"
    ):
        pool.run(processes.by_name)
    assert not (tmp_path / "never").exists()


def test_a_checkpoint_is_named_by_its_phase_its_folder_or_the_folder_of_its_phase(finished):
    there = (finished / "pretrain" / "final").resolve()
    for given in ("pretrain", str(finished / "pretrain"), str(finished / "pretrain" / "final"), str(there)):
        start = find_start(given, finished if "/" not in given else Path("elsewhere"))
        assert (start.run, start.phase, start.folder.resolve()) == (finished, "pretrain", there)


def test_any_model_with_that_tokenizer_is_a_start_and_brings_no_optimizer_state(asked, finished, tmp_path):
    shutil.copytree(finished / "pretrain" / "final", tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "training")
    asked(MASKS, start=str(tmp_path / "model"))
    assert weights(tmp_path / "out" / "reference" / "seed-0") != weights(finished)


def nothing_was_trained(tmp_path: Path) -> bool:
    return not list((tmp_path / "out").rglob("*.jsonl"))


def test_what_cannot_be_done_is_refused_before_anything_is_trained(asked, tmp_path):
    with pytest.raises(AblationError, match=r"--evaluate pair: the recipe has no such task; did you mean 'pairs'\?"):
        asked(MASKS, tasks=["pair"])
    with pytest.raises(AblationError, match=r"--from pretrian: there is no model at .*; did you mean 'pretrain'\?"):
        asked(MASKS, start="pretrian")
    with pytest.raises(AblationError, match="decay-a itself went into it; vary a phase that comes after"):
        asked(MASKS, start="decay-a")
    with pytest.raises(AblationError, match=r"shares\.math=0\.1: the text of .* does not have it: shares: 'math'"):
        asked(MASKS, "phases.decay-a.mixture.shares.math=0.1")
    with pytest.raises(ValueError, match=r"pairs: no rows of split 'test' below \.\n  they belong at elsewhere/bitext"):
        asked(MASKS, set_={"evaluation.tasks.pairs.path": "elsewhere/bitext"})
    with pytest.raises(AblationError, match="at least one of each"):
        asked(MASKS, seeds=0)
    contrast = {"phases.decay-a.mask_ratio": "null", "phases.decay-a.contrast": "{}"}
    with pytest.raises(AblationError, match=r"phases\.decay-a is contrast: what its teacher says, or its hard"):
        asked("phases.decay-a.learning_rate.peak=1e-3", set_=contrast)
    assert nothing_was_trained(tmp_path)


def test_a_folder_of_something_else_is_refused_by_name(asked, finished, tmp_path):
    asked(MASKS)
    with pytest.raises(AblationError, match=r"phases\.decay-a\.context: 64 -> 32\nGive another folder"):
        asked(MASKS, set_={"phases.decay-a.context": "32"})
    shutil.copytree(finished, tmp_path / "other")
    shutil.copy(finished / "merged" / "final" / "model.safetensors", tmp_path / "other" / "merged" / "final")
    with pytest.raises(AblationError, match="start: other bytes than before"):
        asked(MASKS, start=str(tmp_path / "other" / "merged"))
    strange = tmp_path / "out" / "crop-how-complementary-720628" / "seed-0"
    strange.mkdir(parents=True)
    (strange / "thesis.tex").write_text("do not lose me")
    with pytest.raises(AblationError, match=r"holds no variant, but thesis\.tex"):
        asked("phases.decay-a.crop={how: complementary}")


def test_another_evaluation_measures_again_and_trains_nothing(asked, tmp_path):
    asked(MASKS, tasks=["held_out"])
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    study = asked(MASKS, tasks=["pairs"], set_={"evaluation.mask_ratio": "0.3"})
    assert {m["name"] for m in study["measures"]} == {"held-out", "pairs"}
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == before


def test_the_command_prints_a_table_for_each_measure_and_draws_them(ablation, finished, recipe_file):
    words = ["ablate", str(recipe_file), "--from", "pretrain", "--run", str(finished), "--out", str(ablation)]
    words += ["--vary", MASKS, "--seeds", "2", "--evaluate", "pairs", "--set", "machine.checkpoint_minutes=1e-9"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "held-out, bits per byte (lower is better)" in shown.output
    assert "chance alone would take about 0 beyond each" in shown.output
    assert (ablation / "deltas.png").stat().st_size > 10_000
    assert (ablation / "deltas.html").exists()


def test_tokens_auto_are_settled_by_the_text_and_a_negative_seed_is_a_seed(asked):
    auto = {"phases.decay-a.tokens": "auto", "phases.decay-a.mixture.max_epochs": "0.5", "seed": "-3"}
    study = asked(MASKS, set_=auto)
    assert {tuple(row["seeds"]) for row in study["rows"]} == {(-3,)}


def test_a_start_that_comes_from_a_merge_brings_all_that_went_into_it(finished, recipe_file):
    recipe = load(recipe_file)
    after = recipe.phase("decay-b").model_copy(update={"name": "after", "from_": "merged"})
    recipe = recipe.model_copy(update={"phases": (*recipe.phases, after)})
    start = Start(run=finished, folder=finished / "after" / "final", phase="after", recipe=recipe)
    made = recipe_of(recipe, recipe.phase("decay-a").model_copy(update={"name": "more"}), start, 0, [])
    assert [phase.name for phase in made.phases] == ["pretrain", "decay-a", "decay-b", "after", "more"]
    assert [merge.name for merge in made.merges] == ["merged"]
    assert made.chain("more") == ["pretrain", "decay-a", "after", "more"]
