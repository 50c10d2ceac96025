"""One process at a time: real processes that hold, refuse, and die."""

import os
import signal
import subprocess
import sys

import pytest

from tessera import lock
from tessera.files import atomic_folder, remove_leftovers

HOLDS = """
import sys, time
from pathlib import Path
from tessera import lock
with lock.hold(Path(sys.argv[1]), "the run"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path / "run" / ".lock"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_told_who_is_at_work_and_a_killed_one_holds_nothing(tmp_path, holder):
    path = tmp_path / "run" / ".lock"
    told = rf"the run: process {holder.pid} on .* is at work here since 20"
    with pytest.raises(lock.AtWork, match=told), lock.hold(path, "the run"):
        pass
    assert lock.is_held(path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.exists()
    with lock.hold(path, "the run"):
        assert str(os.getpid()) in path.read_text()
    assert not path.exists()


def test_a_folder_made_for_the_lock_goes_with_it_and_one_with_something_in_it_stays(tmp_path):
    with lock.hold(tmp_path / "a" / ".lock", "a"):
        pass
    assert list(tmp_path.iterdir()) == []
    with lock.hold(tmp_path / "a" / ".lock", "a"):
        (tmp_path / "a" / "recipe.yaml").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 4000, '{"process": [1], "host": {}, "since": null}', "\0\xff"])
def test_a_lock_file_that_says_nonsense_is_nobodys(tmp_path, text):
    (tmp_path / ".lock").write_text(text)
    with lock.hold(tmp_path / ".lock", "a", watched=0.0):
        pass
    assert not (tmp_path / ".lock").exists()


def test_an_owner_on_another_machine_is_known_to_live_by_the_time_of_its_file(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    path.write_text('{"process": 7, "host": "elsewhere", "since": "then"}')
    monkeypatch.setattr(lock.time, "sleep", lambda _: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1)))
    with pytest.raises(lock.AtWork, match="process 7 on elsewhere is at work here since then"):
        lock._open(path, "a", 2.0)
    monkeypatch.setattr(lock.time, "sleep", lambda _: None)
    with lock.hold(path, "a"):
        pass


def test_two_writers_of_one_folder_do_not_meet(tmp_path):
    with atomic_folder(tmp_path / "model") as draft:
        (draft / "a").write_text("1")
        with pytest.raises(lock.AtWork, match="model: process"), atomic_folder(tmp_path / "model"):
            pass
    assert (tmp_path / "model" / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_kills_left_is_cleared_and_nothing_else(tmp_path):
    young = f".blocks.bin.{'0' * 16}.writing"
    ours = [".checkpoint-3.removing", ".final.writing", ".a.json.writing", "deep/.x.removing", ".a.writing.mode"]
    for name in (*ours, young, ".hidden", "a.writing", ".writing", "deep/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).mkdir() if "removing" in name else (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert left == sorted([young, ".hidden", "a.writing", ".writing", "deep", "deep/b"])
