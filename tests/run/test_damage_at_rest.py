"""One flipped bit in what a finished stage left: the next stage that reads it names the file, and uses none of it."""

import json
import shutil

import pytest

from tessera import lock
from tessera.files import LOCK
from tessera.plan.loading import load
from tessera.progress import Silent
from tessera.report import summarize, write_report
from tessera.report.compare import compare, tables
from tessera.run import run


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def copy(finished, tmp_path):
    """The run, as if it had been stopped before `again`."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)

    def stopped(*again):
        for name in again:
            place = tmp_path / "run" / name
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        return tmp_path / "run"

    return stopped


CASES = [
    ("decay-a/checkpoint-*/model.safetensors", ["merged"]),
    ("pretrain/checkpoint-*/model.safetensors", ["merged"]),
    ("decay-b/checkpoint-*/README.md", ["merged"]),
    ("merged/final/model.safetensors", ["evaluation"]),
    ("merged/final/config.json", ["evaluation"]),
    ("decay-a/checkpoint-*/tokenizer.json", ["evaluation"]),
    ("shards/held_out/tokens-*.bin", ["evaluation"]),
    ("shards/held_out/index.json", ["evaluation"]),
    ("documents/00000.parquet", ["shards"]),
    ("documents/held_out.parquet", ["shards"]),
    ("tokenizer/tokenizer.json", ["shards"]),
    ("recipe.yaml", ["report.html"]),
]


@pytest.mark.parametrize(("pattern", "again"), CASES, ids=[pattern for pattern, _ in CASES])
def test_a_stage_does_not_use_what_was_damaged_since_it_was_written(copy, recipe_file, pattern, again):
    folder = copy(*again)
    damaged = sorted(folder.glob(pattern))[-1]
    flip(damaged)
    with pytest.raises(ValueError, match=damaged.name.replace(".", r"\.")):
        run(load(recipe_file), folder)


class Warned(Silent):
    def __init__(self):
        self.lines = []

    def warn(self, text):
        self.lines.append(text)


def test_a_damaged_result_is_said_kept_aside_and_measured_again(copy, recipe_file):
    folder, watcher = copy(), Warned()
    path = folder / "evaluation" / "merged.pairs.json"
    before = json.loads(path.read_text())["results"]
    path.write_text(path.read_text().replace('"metric": "', '"metric": "x', 1))
    assert any("merged.pairs.json" in line for line in tables(compare([folder / "evaluation"]))[1])
    run(load(recipe_file), folder, watcher=watcher)
    assert any("merged.pairs.json" in line for line in watcher.lines)
    assert (folder / "evaluation" / "merged.pairs.json.damaged").exists()
    assert json.loads(path.read_text())["results"] == before


def test_the_report_says_what_it_leaves_out_and_what_has_changed(copy):
    folder = copy()
    metrics = folder / "pretrain" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes().replace(b'"loss": ', b'"loss": 1', 1))
    flip(folder / "decay-a" / "mixture.json")
    summarize(folder)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "pretrain/metrics.jsonl: its bytes have changed" in page
    assert "decay-a/mixture.json is not" in page


def test_a_second_run_is_refused_while_the_first_is_at_work(copy, recipe_file):
    folder = copy()
    told = f"{folder}: process .* is at work here since"
    with lock.hold(folder / LOCK, str(folder)), pytest.raises(lock.AtWork, match=told):
        run(load(recipe_file), folder)
    (folder / ".checkpoint-9.removing").mkdir()
    run(load(recipe_file), folder)
    assert not [path for path in folder.rglob(".*") if path.suffix in (LOCK, ".removing", ".writing")]
