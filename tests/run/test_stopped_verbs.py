"""Ctrl-C given to each verb that works long: one line, status 130, nothing half-written, and the next start goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from patience import HANGS

TASK = {
    "topics": {
        "kind": "classify",
        "data": {"path": "{language}/{split}.jsonl", "splits": {"train": "train", "validation": "dev", "test": "test"}},
        "columns": {"id": "id", "text": "text", "label": "label"},
        "metric": "accuracy",
        "train": "own",
    }
}
VARY = "phases.decay-a.mask_ratio=0.3,0.1"


def texts(place: Path) -> Path:
    (place / "texts.txt").write_text("".join(f"house river {n} sees under blue old {n}\n" for n in range(60_000)))
    return place / "texts.txt"


def task(place: Path) -> Path:
    for split, n in (("train", 6_000), ("dev", 200), ("test", 200)):
        rows = [{"id": i, "text": f"{'house' if i % 2 else 'river'} sees {i}", "label": "hr"[i % 2]} for i in range(n)]
        (place / "eng_Latn").mkdir(exist_ok=True)
        (place / "eng_Latn" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "topics.yaml").write_text(yaml.safe_dump(TASK))
    return place / "topics.yaml"


def embed(run: Path, recipe: Path, place: Path) -> tuple[list[object], str]:
    out = place / "vectors.npy"
    return ["embed", run / "pretrain" / "final", texts(place), out], "vectors.npy.parts/*.parquet"


def evaluate(run: Path, recipe: Path, place: Path) -> tuple[list[object], str]:
    words = ["evaluate", run / "pretrain" / "final", "--task", task(place), "--data", place, "--out", place / "out"]
    return words, "out/**/*.seed-*.json"


def ablate(run: Path, recipe: Path, place: Path) -> tuple[list[object], str]:
    words = ["ablate", recipe, "--from", "pretrain", "--run", run, "--vary", VARY, "--out", place / "out"]
    return [*words, "--seeds", 2], "out/reference/*/decay-a/metrics.jsonl"


def prepare(run: Path, recipe: Path, place: Path) -> tuple[list[object], str]:
    told = yaml.safe_load(recipe.read_text())  # of the recipe's own text a signal may come too late: half a second
    told["corpus"]["sources"].append({"name": "much", "path": str(texts(place)), "language": "eng_Latn"})
    (place / "long.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    return ["prepare", place / "long.yaml", "--out", place / "out"], "out/documents"


def export(run: Path, recipe: Path, place: Path) -> tuple[list[object], str]:
    return ["export", run / "pretrain" / "final", place / "out"], ".out.writing"


def started(words: list[object]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tessera", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("verb", [embed, evaluate, ablate, prepare, export], ids=lambda verb: verb.__name__)
def test_a_verb_that_is_interrupted_says_one_line_and_goes_on_when_it_is_started_again(
    finished, recipe_file, tmp_path, verb
):
    words, begun = verb(finished, recipe_file, tmp_path)
    process = started(words)  # the first time
    until = time.monotonic() + HANGS
    while not any(tmp_path.glob(begun)) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    if process.poll() is not None:
        pytest.fail(f"it ended by itself: {process.communicate()[1]}")
    children = {int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()}
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 130, errors
    assert [line[: len("tessera: stop")] for line in errors.splitlines() if line] == ["tessera: stop"] * (
        2 if "stopping:" in errors else 1
    ), errors
    for child in children:
        while Path(f"/proc/{child}").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not Path(f"/proc/{child}").exists()
    assert not list(tmp_path.rglob("*.writing"))
    assert not list(tmp_path.rglob("*.lock"))
    process = started(words)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 0, errors
