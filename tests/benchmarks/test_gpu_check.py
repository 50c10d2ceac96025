"""The check of a GPU: every part of it runs on a CPU, and whatever a part does, what was found before is kept."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CHILD = """
import json, os, sys, time
part, out = sys.argv[1:3]
print("ROW " + json.dumps({"row": f"{part} begins"}), flush=True)
print("a line of a library that is no row", flush=True)
if part == "parity":  # hangs, with a child of its own that holds the pipe
    os.fork()
    time.sleep(1000)
if part == "kernels":
    sys.exit("the driver said no")
if part == "loss":
    print("ROW " + json.dumps({"row": "an answer", "right": False, "off": 0.5}), flush=True)
print("ROW " + json.dumps({"row": f"{part} ends", "ms": 12345.678, "table": [["gemm", 3, 1.5]]}), flush=True)
"""


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_check")


@pytest.fixture
def faked(program, tmp_path, monkeypatch):
    """The program with parts that hang, fail or find something wrong."""
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    monkeypatch.setattr(program, "CHILD", child)
    monkeypatch.setattr(program, "LEAST", 0.5)
    monkeypatch.setitem(program.PARTS, "parity", 1.5)
    monkeypatch.setattr(program.signal, "signal", lambda *_: None)  # pytest's own stays
    return program


def checked(program, out, *words):
    """(exit status, what stands in the JSON file)"""
    status = program.main(program.arguments(["--out", str(out), *words]))
    return status, json.loads((out / "gpu_check.json").read_text())


def test_a_part_that_hangs_is_cut_and_keeps_its_rows_and_the_next_one_runs(faked, tmp_path, capsys):
    status, found = checked(faked, tmp_path / "out", "--parts", "parity", "ceilings")
    assert status == 1
    assert found["parts"]["parity"]["rows"] == [{"row": "parity begins"}]
    assert found["parts"]["parity"]["error"] == "cut after 2 s"
    assert [row["row"] for row in found["parts"]["ceilings"]["rows"]] == ["ceilings begins", "ceilings ends"]
    assert "error" not in found["parts"]["ceilings"]
    said = capsys.readouterr().out
    assert "ms 12,346" in said
    assert "1.500 ms      3 x gemm" in said
    assert "no row" not in said


def test_a_part_that_fails_says_what_it_died_of_and_a_wrong_answer_is_a_failure(faked, tmp_path, capsys):
    status, found = checked(faked, tmp_path / "out", "--parts", "kernels", "loss")
    assert status == 1
    assert found["parts"]["kernels"]["error"] == "ended with 1: the driver said no"
    assert found["parts"]["loss"]["rows"][1] == {"row": "an answer", "right": False, "off": 0.5}
    assert "WRONG" in capsys.readouterr().out
    assert checked(faked, tmp_path / "right", "--parts", "ceilings")[0] == 0


def test_where_no_time_is_left_a_part_is_not_begun(faked, tmp_path):
    _, found = checked(faked, tmp_path / "out", "--parts", "ceilings", "loss", "--seconds", "0.4")
    assert [part.get("error") for part in found["parts"].values()] == ["no time was left"] * 2


def test_a_program_that_is_ended_leaves_no_child_and_what_it_found(tmp_path):
    """As a machine's time limit ends it."""
    child = tmp_path / "child.py"
    child.write_text(CHILD.replace("os.fork()", f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"))
    run = f"import gpu_check as g; g.CHILD = g.Path({str(child)!r}); g.main(g.arguments())"
    words = [sys.executable, "-c", run, "--out", str(tmp_path / "out"), "--parts", "parity"]
    parent = subprocess.Popen(words, cwd=BENCHMARKS, stdout=subprocess.DEVNULL)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert parent.poll() is None
        time.sleep(0.02)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert json.loads((tmp_path / "out" / "gpu_check.json").read_text())["parts"]["parity"]["rows"]


def test_what_a_bare_machine_lacks_is_named_where_there_are_no_wheels(program, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "NEEDED", ("torch", "no_such_package_here"))
    with pytest.raises(SystemExit, match=r"error: no_such_package_here missing, and no wheels in .*make gpu-wheels"):
        checked(program, tmp_path, "--wheels", str(tmp_path))


def test_wheels_are_installed_for_the_parts_alone(program, tmp_path, monkeypatch):
    wheels, place, asked = tmp_path / "wheels", tmp_path / "site", []
    wheels.mkdir()
    (wheels / "some-1.0-py3-none-any.whl").touch()
    monkeypatch.setattr(program.subprocess, "run", lambda words, check: asked.append((words, check)))
    monkeypatch.setattr(program, "NEEDED", ("no_such_package_here",))
    assert program.site_of(wheels, place, rivals=False) == [str(place)]
    words, check = asked[0]
    assert words[-1].endswith("some-1.0-py3-none-any.whl")
    assert {"--no-index", "--no-deps"} <= set(words)
    assert check
    monkeypatch.setattr(program, "NEEDED", ("torch",))
    monkeypatch.setattr(program, "RIVALS", ("no_such_rival_here",))
    assert program.site_of(wheels, place, rivals=False) == []
    assert program.site_of(wheels, place, rivals=True) == [str(place)]
    assert [check for _, check in asked] == [True, False]  # what is only compared with may be of another system


# ------------------------------------------------------------------------------------------------------------ the parts


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # PyTorch's own tracing looks at it
@pytest.mark.parametrize("part", ["ceilings", "parity", "kernels", "loss", "steps", "profile", "encode", "peers"])
def test_every_part_runs_on_a_cpu_and_finds_its_answers_right(program, part, tmp_path, monkeypatch):
    """With few of the ways and kinds, which the slow test below goes through to the last."""
    parts, whole = importlib.import_module("gpu_check_parts"), importlib.import_module("gpu_check_steps")
    beside = importlib.import_module("gpu_check_peers")
    plain, compiled, last = (whole.WAYS[n] for n in (0, 4, -1))
    monkeypatch.setattr(whole, "WAYS", (plain, compiled, last))
    monkeypatch.setattr(whole, "CASES", ((1024, "mixed", 3), (8192, "full", 1)))
    monkeypatch.setattr(beside, "KINDS", {kind: beside.KINDS[kind] for kind in ("512 variable", "8192 variable")})
    rows: list[dict[str, object]] = []
    threads = torch.get_num_threads()
    parts.main(part, tmp_path, rehearse=True, say=rows.append)
    torch.set_num_threads(threads)
    assert len(rows) > 1
    assert not [row for row in rows if "error" in row or row.get("right") is False]
    for row in json.loads(json.dumps(rows)):
        assert program.told(row)
    if part == "steps":
        assert [row["row"].partition(": ")[2] for row in rows] == [plain.name, compiled.name, last.name, last.name]
        assert all(row["MFU"] > 0 and row["of_plan"] == 0 for row in rows)


def test_without_a_gpu_nothing_is_measured(program, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    parts = importlib.import_module("gpu_check_parts")
    with pytest.raises(SystemExit, match="PyTorch sees no GPU, and nothing else is measured here; --rehearse"):
        parts.main("ceilings", tmp_path, rehearse=False, say=print)


@pytest.mark.slow
def test_a_rehearsal_runs_from_end_to_end(program, tmp_path):
    words = [sys.executable, BENCHMARKS / "gpu_check.py", "--rehearse", "--out", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + (tmp_path / "gpu_check.log").read_text()
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert list(found["parts"]) == list(program.PARTS)
    whole = importlib.import_module("gpu_check_steps")
    ways = [way.name for _, _, last in whole.CASES for way in whole.WAYS[-last:]]
    assert [row["row"].partition(": ")[2] for row in found["parts"]["steps"]["rows"]] == ways
    assert all(part["rows"] and "error" not in part for part in found["parts"].values())
