"""Signal handling: the first SIGINT (Ctrl-C) or SIGTERM (Slurm, kill) ends a command in good order, the second at once.

    with listening():          around a command
        with deferred():       where the work itself asks `asked()`, once a step, and leaves with `Stopped`
            ...

Elsewhere the first signal raises `Stopped` wherever the command is. Files appear whole or not at all, so nothing is
half-written either way, not even by an end at once.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 3.0  # seconds for a call into a library, which lets no signal in, to come back
_ECHO = 2.0  # seconds in which torchrun passes on what Slurm has sent to all processes already: one signal, not two
KEPT = "what was finished is kept and nothing is half-written; run the same command again, it goes on from there"
_STEP = "stopping: this step is finished and a checkpoint written first; once more stops at once"
_NO_STACK = 2  # SS_DISABLE
_SHOW_CURSOR = "\x1b[?25h"


class Stopped(SystemExit):
    """The end of a command that a signal asked for; its exit status is 128 + the number of the signal.

    said      what people are told
    together  whether all processes of a world leave at the same place
    """

    def __init__(self, number: int, said: str = KEPT, together: bool = False) -> None:
        super().__init__(number, said, together)
        self.code, self.number, self.said, self.together = 128 + number, number, said, together

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}: {self.said}"


class _State:
    """What this process has been asked; there is one, as there is one handler of each signal."""

    def __init__(self) -> None:
        self.asked = 0  # number of the first signal
        self.deferred, self.said = False, _STEP
        self.seen = threading.Event()  # the main thread knows, or listens no more


_state = _State()


def asked() -> int:
    """The number of the signal that asked this process to stop; 0 as long as none did."""
    return _state.asked


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Within, signals stop the command as above; a signal that is ignored (as by nohup) stays so."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    near, far = socket.socketpair()
    near.setblocking(False)
    _state.seen = seen = threading.Event()
    threading.Thread(target=_watch, args=(far, seen), daemon=True, name="signals").start()
    wakeup = signal.set_wakeup_fd(near.fileno(), warn_on_full_buffer=False)
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _first)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        near.close()
        _state.asked = 0
        seen.set()


@contextlib.contextmanager
def deferred(said: str = _STEP) -> Iterator[None]:
    """Within, a first signal is only noted, for whoever asks `asked()`; raises Stopped at the end if nobody did.

    said  what people are told at the first
    """
    _state.deferred, _state.said = True, said
    try:
        yield
    finally:
        _state.deferred = False
    if _state.asked:
        raise Stopped(_state.asked)


def listen_in_child() -> None:
    """In a process of a pool: its parent says when to stop, by SIGTERM; Ctrl-C reaches both and is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _in_child)


def on_own_stack() -> None:
    """Takes away the alternate signal stack that a library has set up for this thread, on Linux.

    OpenVINO's, on processors with AMX, is as large as what the kernel lays there and no larger. A handler of Python
    needs more, so the next signal (Ctrl-C, the end of a child) would end the process by a segmentation fault.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, _NO_STACK, 0)), None)


class _Stack(ctypes.Structure):
    """stack_t of signal.h."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


def end(code: int) -> None:
    """Ends this process and those of its pools, without waiting for threads or libraries."""
    for child in multiprocessing.active_children():
        child.kill()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _first(number: int, _: FrameType | None) -> None:
    _state.seen.set()
    if _state.asked:
        return
    _state.asked = number
    if not _state.deferred:
        raise Stopped(number)
    _tell(_state.said)


def _in_child(number: int, _: FrameType | None) -> None:
    _state.asked = number
    if not _state.deferred:
        os._exit(128 + number)  # an exception could be lost in whatever is interrupted, and the parent wait for ever


def _watch(far: socket.socket, seen: threading.Event) -> None:
    """Sees every signal at once, also while the main thread is in a library that lets none in."""
    first, began = 0, 0.0
    while data := far.recv(1):
        number = data[0]
        if number not in SIGNALS:
            continue
        if first and "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - began < _ECHO:
            continue
        if first:
            _tell(f"stopped at once by {signal.Signals(number).name}: {KEPT}")
            end(128 + number)
        first, began = number, time.monotonic()
        threading.Thread(target=_impatient, args=(number, seen), daemon=True, name="signals").start()
    far.close()


def _impatient(number: int, seen: threading.Event) -> None:
    if not seen.wait(PATIENCE) and not _state.deferred:
        _tell(str(Stopped(number)))
        end(128 + number)


def _tell(line: str) -> None:
    """One line past all buffers and locks, which the interrupted code may hold."""
    if os.environ.get("RANK", "0") != "0":
        return
    with contextlib.suppress(OSError):
        terminal = _SHOW_CURSOR if os.isatty(2) else ""
        os.write(2, f"{terminal}\ntessera: {line}\n".encode())
