"""Damaged files of a run and of its results are read or refused by name, whichever verb reads them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from damage import survives

from tessera.data.shards import Shards, verify
from tessera.plan.loading import load
from tessera.plan.phase import Optimizer
from tessera.plan.token_counts import from_shards
from tessera.report import summarize
from tessera.report.compare import compare, tables
from tessera.report.run_files import open_run
from tessera.results import result
from tessera.results.published import read as read_scores
from tessera.train import checkpoint
from tessera.train.optimizer import build, pack_state

BOTH = [(150, 60), pytest.param(4_000, 60, marks=pytest.mark.slow)]


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def unsealed(path: Path) -> Path:
    """The file without its own checksum, so that what it says is looked at and not only that it changed."""
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({key: value for key, value in data.items() if key != "sha256"}), encoding="utf-8")
    return path


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.optim.Optimizer]:
    """A checkpoint's training state, and the optimizer that it is of."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    optimizer = build(model, Optimizer(name="stableadamw"), 1e-3)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    training = tmp_path / "checkpoint-1" / "training"
    training.mkdir(parents=True)
    tensors, plain = pack_state(optimizer)
    from safetensors.torch import save_file

    save_file(tensors, training / "optimizer.safetensors")
    (training / "optimizer.json").write_text(plain)
    position = {"step": 1, "tokens": 2, "tokens_read": 2, "documents": 1, "total_tokens_before": 0}
    (training / "state.json").write_text(json.dumps({**position, "tokens_by_bucket": [2], "left_out": [[1, 2]]}))
    return training.parent, optimizer


@pytest.mark.parametrize(("inputs", "seconds"), BOTH)
def test_the_training_state_of_a_checkpoint(saved, inputs, seconds):
    folder, optimizer = saved

    def read():
        checkpoint.position(folder)
        checkpoint.load_optimizer(folder, optimizer)

    names = ("state.json", "optimizer.json", "optimizer.json", "optimizer.safetensors")
    found = survives(read, [folder / "training" / name for name in names], inputs=inputs, seconds=seconds)
    assert found["refused"] > 0


@pytest.mark.parametrize(("inputs", "seconds"), BOTH)
def test_a_result_alone_and_in_a_comparison(run, inputs, seconds):
    files = [unsealed(path) for path in sorted((run / "evaluation").glob("*.json"))]

    def read():
        for path in files:
            read_scores(path)
        tables(compare([run / "evaluation"]))
        result.read_all(run / "evaluation")

    found = survives(read, files, inputs=inputs, seconds=seconds)
    assert min(found.values()) > 0


@pytest.mark.parametrize(("inputs", "seconds"), [(60, 60), pytest.param(2_000, 90, marks=pytest.mark.slow)])
def test_a_run_as_the_report_reads_it(run, inputs, seconds):
    files = [*run.glob("*/metrics.jsonl"), *(unsealed(path) for path in run.glob("*/mixture.json"))]
    files += [unsealed(run / "shards" / "report.json")]
    found = survives(lambda: (open_run(run), summarize(run)), files, inputs=inputs, seconds=seconds)
    assert found["read"] > 0


@pytest.mark.parametrize(("inputs", "seconds"), BOTH)
def test_the_index_of_a_token_store(run, inputs, seconds):
    store = run / "shards" / "train"

    def read():
        from_shards(store)
        shards = Shards.open(store)
        for bucket in range(len(shards.buckets)):
            shards.lengths(bucket)
        verify(store)

    files = [store / "index.json", store / "index.json", store / "offsets.bin"]
    assert survives(read, files, inputs=inputs, seconds=seconds)["refused"] > 0


@pytest.mark.parametrize(("inputs", "seconds"), BOTH)
def test_the_buckets_of_a_plan(run, inputs, seconds):
    store = run / "shards" / "train"
    found = survives(lambda: from_shards(store), [unsealed(store / "index.json")], inputs=inputs, seconds=seconds)
    assert min(found.values()) > 0


@pytest.mark.parametrize(("inputs", "seconds"), BOTH)
def test_the_recipe_of_a_run(run, inputs, seconds):
    assert survives(lambda: load(run / "recipe.yaml"), [run / "recipe.yaml"], inputs=inputs, seconds=seconds)
