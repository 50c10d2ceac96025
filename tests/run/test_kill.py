"""Real processes, ended by signals wherever they are."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from damage import TRIED
from patience import HANGS

KILLS = 8  # of each kind
COMMAND = [sys.executable, "-m", "tessera", "run"]
FILES = [f"{stage}/final/model.safetensors" for stage in ("pretrain", "decay-a", "decay-b", "merged")]


def start(recipe: Path, out: Path, tokens: str | None = "30k") -> subprocess.Popen[bytes]:
    frequent = ["--set", "machine.checkpoint_minutes=1e-9"]
    frequent += ["--set", f"phases.pretrain.tokens={tokens}"] if tokens is not None else []
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
    _, errors = start(recipe_file, whole).communicate(timeout=HANGS)
    assert (whole / "report.html").exists(), errors.decode()
    rng, kills = random.Random(0), 0
    while not (torn / "merged" / "final").exists():
        process, more = start(recipe_file, torn), rng.randint(2, 12)
        before = steps(torn)
        while process.poll() is None and steps(torn) - before < more:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))  # in the middle of a step, or of a checkpoint
        kills += process.poll() is None
        TRIED["kills"] += process.poll() is None
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    assert kills >= 4
    for file in FILES:
        assert (torn / file).read_bytes() == (whole / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_ended_at_random_moments_of_all_its_stages_ends_with_the_same_bytes(
    finished, recipe_file, tmp_path, number
):
    torn, rng = tmp_path / "torn", random.Random(int(number))
    codes = (0, 128 + number) if number != signal.SIGKILL else (0, -number)
    for _ in range(KILLS):
        process = start(recipe_file, torn, tokens=None)
        time.sleep(rng.uniform(1.5, 7.0))  # most of it is the start of Python
        TRIED["kills"] += process.poll() is None
        process.send_signal(number)
        _, errors = process.communicate(timeout=HANGS)
        # before its first line of our own a process dies of the signal itself
        assert process.returncode in (*codes, -number), errors.decode()
        assert b"Traceback" not in errors or process.returncode == -number, errors.decode()
    _, errors = start(recipe_file, torn, tokens=None).communicate(timeout=HANGS)
    assert (torn / "report.html").exists(), errors.decode()
    assert not list(torn.rglob("*.writing"))
    for file in FILES:
        assert (torn / file).read_bytes() == (finished / file).read_bytes(), file
