"""A run in two processes, as torchrun starts them: one of them speaks, and the other only when something is wrong."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from patience import HANGS
from typer.testing import CliRunner

from tessera import lock, run
from tessera.cli import app
from tessera.files import LOCK

SUMMARY = {
    "tables": [{"title": "scores", "columns": ["model", "score"], "rows": [["mid", 0.5]], "digits": 3}],
    "paths": {"report": "report.html"},
}


def both(*words: str | Path) -> list[tuple[int, str, str]]:
    """(exit status, output, errors) of `tessera ...` in each of two processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tessera", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env={**os.environ, **world, "RANK": rank}, **pipes) for rank in "01"]
    try:
        said = [process.communicate(timeout=HANGS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


@pytest.mark.parametrize("verb", ["run", "train", "prepare"])
def test_only_the_first_process_prints_progress_tables_and_results(recipe_file, tmp_path, monkeypatch, verb):
    def walk(recipe, folder, *, watcher, **_):
        watcher.say("first: resuming")
        watcher.progress("first")(1, 1, "loss 3.1")
        return folder

    monkeypatch.setattr(run, "run", walk)
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    said = {}
    for rank in ("1", "0"):
        said[rank] = CliRunner().invoke(app, [verb, str(recipe_file), "--out", str(tmp_path)], env={"RANK": rank})
        assert said[rank].exit_code == 0, said[rank].output
    assert said["1"].output == ""
    last = {"run": "report:  report.html", "train": f"checkpoints: {tmp_path}", "prepare": f"shards: {tmp_path}/shards"}
    for words in ("first: resuming", "loss 3.1", last[verb]):
        assert "".join(words.split()) in "".join(said["0"].output.split()), words  # a long path is folded


@pytest.mark.slow
def test_one_process_of_two_says_how_the_run_goes_and_what_came_out(recipe_file, tmp_path):
    leader, other = both("run", recipe_file, "--out", tmp_path / "run")
    assert leader[0] == other[0] == 0, leader[2] + other[2]
    for words in ("tokenizer ", "decay-b ", "evaluate merged", "report: ", str(tmp_path / "run" / "report.html")):
        assert words in leader[1], words
    assert other[1:] == ("", "")
    assert (tmp_path / "run" / "merged" / "final" / "model.safetensors").exists()

    leader, other = both("train", recipe_file, "--out", tmp_path / "run", "--set", "seed=7")
    assert leader[:2] == other[:2] == (2, "")
    assert "error: " in leader[2]
    assert "seed: 0 -> 7" in leader[2]
    assert "error: process 1 of 2: another process has ended" in other[2]
    assert "seed: 0 -> 7" not in other[2]


@pytest.mark.slow
def test_two_processes_of_a_second_start_end_while_another_is_at_work(recipe_file, tmp_path):
    with lock.hold(tmp_path / "run" / LOCK, "the first"):
        leader, other = both("run", recipe_file, "--out", tmp_path / "run")
    assert leader[:2] == other[:2] == (2, "")
    assert f"process {os.getpid()} on" in leader[2]
    assert "is at work here since" in leader[2]
    assert "error: process 1 of 2: another process has ended" in other[2]
    assert not (tmp_path / "run").exists()
