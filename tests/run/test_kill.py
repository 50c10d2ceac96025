"""Real processes, killed with SIGKILL wherever they are."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "tessera", "run"]
FILES = [f"{stage}/final/model.safetensors" for stage in ("pretrain", "decay-a", "decay-b", "merged")]


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    frequent = ["--set", "machine.checkpoint_minutes=1e-9", "--set", "phases.pretrain.tokens=30k"]
    return subprocess.Popen(
        [*COMMAND, str(recipe), "--out", str(out), *frequent],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def steps(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("*/metrics.jsonl"))


@pytest.mark.slow
def test_a_process_killed_anywhere_and_started_again_ends_with_the_same_bytes(recipe_file, tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    _, errors = start(recipe_file, whole).communicate(timeout=300)
    assert (whole / "report.html").exists(), errors.decode()
    rng, kills = random.Random(0), 0
    while not (torn / "merged" / "final").exists():
        process, more = start(recipe_file, torn), rng.randint(2, 12)
        before = steps(torn)
        while process.poll() is None and steps(torn) - before < more:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))  # in the middle of a step, or of a checkpoint
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    assert kills >= 4
    for file in FILES:
        assert (torn / file).read_bytes() == (whole / file).read_bytes(), file
