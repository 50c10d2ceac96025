"""Ctrl-C and SIGTERM: the first ends a command in good order, the second at once, and its processes end with it."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import slow_work
from patience import HANGS

from tessera import signals
from tessera.ablation.study import side_by_side
from tessera.corpus import daft_runner
from tessera.plan.loading import load
from tessera.progress import Silent
from tessera.run import run


class Interrupts(Silent):
    """Sends a signal to this process at the n-th step of a phase, and keeps what it is told."""

    def __init__(self, phase: str, at: int, number: int) -> None:
        self.phase, self.left, self.number = phase, at, number
        self.told: list[str] = []

    def say(self, text: str) -> None:
        self.told.append(text)

    warn = say

    def progress(self, stage: str):
        def count(done: int, total: int, what: str) -> None:
            self.left -= stage == self.phase
            if self.left == 0 and stage == self.phase:
                os.kill(os.getpid(), self.number)

        return count


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_in_training_writes_a_checkpoint_and_the_next_start_goes_on_there(
    finished, recipe_file, tmp_path, number, code
):
    with pytest.raises(signals.Stopped) as stopped, signals.listening():
        run(load(recipe_file), tmp_path / "run", watcher=Interrupts("decay-a", 2, number))
    assert stopped.value.code == code
    assert "decay-a: stopped at step 2 of 4, and its checkpoint is written; run the same command" in str(stopped.value)
    assert [path.name for path in (tmp_path / "run" / "decay-a").glob("checkpoint-*")] == ["checkpoint-2"]
    assert signals.asked() == 0  # the next command in this process is a new one
    watcher = Interrupts("", -1, number)
    run(load(recipe_file), tmp_path / "run", watcher=watcher, until="train")
    assert "decay-a: resuming at checkpoint-2 of 4 steps" in watcher.told
    for name in ("pretrain", "decay-a", "decay-b"):
        file = f"{name}/final/model.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (finished / file).read_bytes()


def test_a_phase_that_was_killed_before_its_first_checkpoint_says_that_it_begins_anew(recipe_file, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(load(recipe_file), tmp_path / "run", watcher=Dies("pretrain", 3))
    watcher = Interrupts("", -1, signal.SIGINT)
    run(load(recipe_file), tmp_path / "run", watcher=watcher, until="train")
    assert "pretrain: begins anew: it was stopped after 3 steps, before its first checkpoint" in watcher.told


class Dies(Silent):
    def __init__(self, phase: str, at: int) -> None:
        self.phase, self.left = phase, at

    def progress(self, stage: str):
        def count(*_: object) -> None:
            self.left -= stage == self.phase
            if self.left == 0:
                raise KeyboardInterrupt

        return count


@pytest.mark.parametrize("stage", ["documents", "tokenizer", "shards", "evaluate pretrain"])
def test_a_signal_in_any_other_stage_ends_it_with_nothing_half_written(finished, recipe_file, tmp_path, stage):
    with pytest.raises(signals.Stopped, match="stopped by SIGINT: what was finished is kept"), signals.listening():
        run(load(recipe_file), tmp_path / "run", watcher=Interrupts(stage, 1, signal.SIGINT))
    assert not list((tmp_path / "run").rglob("*.writing"))
    run(load(recipe_file), tmp_path / "run")
    file = "merged/final/model.safetensors"
    assert (tmp_path / "run" / file).read_bytes() == (finished / file).read_bytes()


SCRIPT = """
import sys, time
from tessera import signals
from tessera.cli import main

def work():
    {work}

sys.modules["tessera.cli"].app = work
main()
"""


def started(work: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(work=work)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if (line := process.stdout.readline()) != "ready\n":
        process.kill()
        raise AssertionError(line, *process.communicate())  # which closes the pipes too
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "work",
    [
        f"print('ready', flush=True); time.sleep({HANGS})",
        f"import threading; threading.Thread(target=time.sleep, args=({HANGS},)).start(); "
        f"print('ready', flush=True); time.sleep({HANGS})",
        # in C, where no handler is called
        "import re; signals.PATIENCE = 0.1; print('ready', flush=True); re.match(r'(a+)+b', 'a' * 40)",
    ],
    ids=["sleeps", "has a thread", "is in a library"],
)
def test_a_command_ends_with_one_line_and_the_status_of_the_signal(work, number, code):
    process = started(work)
    process.send_signal(number)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == code
    assert errors.strip().splitlines() == [f"tessera: stopped by {signal.Signals(number).name}: {signals.KEPT}"]


def test_a_second_signal_ends_a_command_at_once_that_still_finishes_its_step():
    process = started(f"exec('with signals.deferred(): print(\"ready\", flush=True); time.sleep({HANGS})')")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == "\n"
    assert "once more stops at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert "stopped at once by SIGINT" in errors
    assert "Traceback" not in errors


def test_what_falls_over_because_of_a_signal_is_the_signal_and_no_traceback():
    slept = f'print("ready", flush=True); time.sleep({HANGS})'
    process = started(f"exec('try: {slept}\\nexcept BaseException: raise RuntimeError(1)')")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 143
    assert "Traceback" not in errors


def test_processes_of_an_ablation_are_told_to_stop_and_write_their_checkpoints_first(tmp_path):
    todo = [SimpleNamespace(folder=tmp_path / name, name=name) for name in ("one", "two", "never")]

    def interrupt(*_: object) -> None:
        raise AssertionError("no job ends by itself")

    def send() -> None:
        while not all((tmp_path / f"{name}.begun").exists() for name in ("one", "two")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    import threading

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(signals.Stopped), signals.listening():
        side_by_side(todo, 2, interrupt, interrupt, slow_work.until_asked)
    assert (tmp_path / "one").read_text() == (tmp_path / "two").read_text() == "checkpoint"
    assert not (tmp_path / "never.begun").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="workers look at their parent as POSIX has it")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_of_daft_end_with_the_process_that_started_them(tmp_path, number):
    process = subprocess.Popen([sys.executable, slow_work.__file__, str(tmp_path)], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + HANGS
    while len(pids := list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=HANGS)  # before anything fails: it closes the pipe
    assert len(pids) == 2, errors
    assert "Traceback" not in errors
    while alive := [path for path in pids if is_alive(int(path.stem))]:
        assert time.monotonic() < until, alive
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def closed_pipes():
    """Daft never closes the pipe of a worker that died, and its threads let go of it at any time: what Python says of
    an unclosed pipe would else be said in the midst of another test."""
    yield
    for handle in (one for one in gc.get_objects() if type(one).__name__ == "UdfHandle"):
        handle.process.wait(HANGS)
        handle.process.stdout.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed file:ResourceWarning")
@pytest.mark.usefixtures("closed_pipes")
def test_a_killed_worker_of_daft_is_one_error_that_says_what_to_do():
    daft_runner.choose("native")
    with pytest.raises(ChildProcessError, match=r"a worker process of Daft was ended from outside.*machine\.threads"):
        list(daft_runner.spread(slow_work.killed, [0, 1], workers=1))


@pytest.mark.skipif(sys.platform != "linux", reason="only there libraries set up such stacks")
def test_a_signal_is_handled_on_the_stack_of_the_thread_whatever_a_library_set_up():
    class Stack(ctypes.Structure):
        _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    libc, before, now = ctypes.CDLL(None), Stack(), Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    memory = ctypes.create_string_buffer(1 << 16)
    assert libc.sigaltstack(ctypes.byref(Stack(ctypes.addressof(memory), 0, len(memory))), None) == 0
    signals.on_own_stack()
    libc.sigaltstack(None, ctypes.byref(now))
    libc.sigaltstack(ctypes.byref(before), None)
    assert now.flags == 2  # SS_DISABLE
