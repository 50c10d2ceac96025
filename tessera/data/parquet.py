"""Reads parquet that nobody vouches for: decoded in a process of its own, whose end is an error that names the file.

Arrow aborts on some damaged files, and a few kilobytes can decode to more than there is memory. The process is kept for
the next file: it costs about 0.2 seconds once, and a copy of the rows.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from tessera.data import parquet_process
from tessera.data.parquet_process import receive, send
from tessera.data.storage import File

MEMORY = 2**32  # bytes that decoding may take

Choose = Callable[[list[str]], list[str] | None]
"""The columns to read, given those there are; None: all. May raise ValueError."""

_idle: list["_Process"] = []


class _Process:
    """One process that decodes, and the pipes to it."""

    def __init__(self) -> None:
        program = [sys.executable, "-P", parquet_process.__file__, str(MEMORY)]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        self.popen = subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=nothing)
        self.owner = os.getpid()

    def send(self, letter: bytes, content: bytes) -> None:
        send(self.popen.stdin, letter, content)

    def receive(self) -> tuple[bytes, bytes]:
        return receive(self.popen.stdout)

    def end(self) -> None:
        """Ends it, whatever it does."""
        self.popen.kill()
        with contextlib.suppress(OSError):  # what it did not take
            self.popen.communicate()


def record_batches(file: File, choose: Choose) -> Iterator[pa.RecordBatch]:
    """The rows of a parquet file, some at a time; columns of dictionaries are spelled out.

    Raises OSError where the file is damaged or needs more than MEMORY to decode, whatever `choose` raises, and
    ConnectionError where its place cannot be reached.
    """
    process = _take()
    try:
        with contextlib.nullcontext() if file.local else file.open() as opened:
            yield from _converse(process, file, opened, choose)
    except (EOFError, BrokenPipeError) as error:
        status = process.popen.wait()
        process.end()
        died = signal.Signals(-status).name if status < 0 else f"status {status}"
        raise OSError(f"the process that decoded it ended with {died}, so it is damaged or made to do harm") from error
    except _Refused as refused:  # the process is well
        _idle.append(process)
        raise OSError(str(refused)) from None
    except BaseException:  # also where the reader stops early
        process.end()
        raise
    _idle.append(process)


class _Refused(Exception):
    """What the process says of a file."""


def _converse(process: _Process, file: File, opened: Any, choose: Choose) -> Iterator[pa.RecordBatch]:
    path = str(file.local.absolute()) if file.local else None
    size = 0 if opened is None else opened.seek(0, os.SEEK_END)
    process.send(b"O", json.dumps([path, size]).encode())
    while True:
        letter, content = process.receive()
        match letter:
            case b"N":
                process.send(b"C", json.dumps(choose(json.loads(content))).encode())
            case b"R":
                offset, length = json.loads(content)
                opened.seek(offset)
                process.send(b"D", opened.read(length))
            case b"B":
                yield from pa.ipc.open_stream(content)
            case b"X":
                kind, text = json.loads(content)
                needs = f"it needs more than {MEMORY >> 30} GB of memory to be decoded"
                raise _Refused(needs if kind == "memory" else text or kind)
            case _:
                return


def _take() -> _Process:
    while _idle:
        process = _idle.pop()
        if process.owner == os.getpid() and process.popen.poll() is None:  # not one of the process this is a fork of
            return process
    return _Process()


@atexit.register
def _end() -> None:
    while _idle:
        process = _idle.pop()
        if process.owner == os.getpid():
            process.end()
