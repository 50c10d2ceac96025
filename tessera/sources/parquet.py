"""Reads parquet that nobody vouches for: decoded in a process of its own, whose end is an error that names the file.

Arrow aborts on some damaged files, and a few kilobytes can decode to more than there is memory. The process runs this
file as a program, without the rest of the house, and is kept for the next file: about 0.2 seconds once, and a copy of
the rows. Messages, both ways, are one letter, eight bytes of length, and that many bytes:

    -> O  [path, or null where the bytes are asked for; size]    <- N  names of the columns there are
    -> C  names of the columns wanted, null: all                 <- B  rows, as an Arrow stream, again and again
    <- R  [offset, length]                                       -> D  these bytes
    <- E  the end                                                <- X  [what kind of error, its text]
"""

import atexit
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet

if TYPE_CHECKING:
    from tessera.sources.storage import File

MEMORY = 2**32  # bytes that decoding may take

_BATCH_BYTES = 2**23  # of parquet, decoded
_MOST_BYTES = 2**26  # of a message with rows, unless one row is larger

Choose = Callable[[list[str]], list[str] | None]
"""The columns to read, given those there are; None: all. May raise ValueError."""

_idle: list["_Process"] = []


class _Process:
    """One process that decodes, and the pipes to it."""

    def __init__(self) -> None:
        program = [sys.executable, "-P", __file__, str(MEMORY)]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        self.popen = subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=nothing)
        self.owner = os.getpid()

    def send(self, letter: bytes, content: bytes) -> None:
        _send(self.popen.stdin, letter, content)

    def receive(self) -> tuple[bytes, bytes]:
        return _receive(self.popen.stdout)

    def end(self) -> None:
        """Ends it, whatever it does."""
        self.popen.kill()
        with contextlib.suppress(OSError):  # what it did not take
            self.popen.communicate()


def record_batches(file: "File", choose: Choose) -> Iterator[pa.RecordBatch]:
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


def _converse(process: _Process, file: "File", opened: Any, choose: Choose) -> Iterator[pa.RecordBatch]:
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


def values(column: pa.Array) -> list[Any]:
    """A column as Python values; bytes that are UTF-8 become text, others stay, and so do strings that are not."""
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.string())
    try:
        found = column.to_pylist()
    except UnicodeDecodeError:
        found = [_value(scalar) for scalar in column]
    if found and any(isinstance(value, bytes) for value in found):
        padded = pa.types.is_fixed_size_binary(column.type)
        return [_decoded(value.rstrip(b"\0") if padded and value else value) for value in found]
    return found


def class_names(batch: pa.RecordBatch) -> dict[str, list[str]]:
    """{column: names} of the class labels that `datasets` writes as numbers, with their names beside them."""
    try:
        features = json.loads((batch.schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        whole = {column: feature for column, feature in features.items() if isinstance(feature, dict)}
        inner = {column: feature.get("feature", feature) for column, feature in whole.items()}
        found = {column: f.get("names") for column, f in inner.items() if f.get("_type") == "ClassLabel"}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # not written by `datasets`
    return {column: names for column, names in found.items() if isinstance(names, list) and all(map(_is_text, names))}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def named(names: list[str] | None, value: Any) -> Any:
    """The name of a class, or those of a list; a number that is none, as -1 of hidden labels, stays."""
    if names is None:
        return value
    if isinstance(value, list):
        return [named(names, item) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else b"\xff"


def _decoded(value: Any) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


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


# -------------------------------------------------------------------------------------------------------- the process


def _send(pipe: Any, letter: bytes, content: bytes = b"") -> None:
    """Writes a message."""
    pipe.write(letter + len(content).to_bytes(8, "little"))
    pipe.write(content)
    pipe.flush()


def _receive(pipe: Any) -> tuple[bytes, bytes]:
    """The next message, letter and content. Raises EOFError where the other side is gone."""
    head = pipe.read(9)
    content = pipe.read(int.from_bytes(head[1:], "little"))
    if len(head) < 9 or len(content) < int.from_bytes(head[1:], "little"):
        raise EOFError
    return head[:1], content


class _Asked(io.RawIOBase):
    """A file whose bytes the other side reads, wherever it lies."""

    def __init__(self, size: int, source: Any, sink: Any) -> None:
        super().__init__()
        self._size, self._at, self._source, self._sink = size, 0, source, sink

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        _send(self._sink, b"R", json.dumps([self._at, len(buffer)]).encode())
        _, data = _receive(self._source)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _serve(where: Any, source: Any, sink: Any) -> None:
    # pre_buffer would hold all row groups, no buffer whole columns of one
    with pa.parquet.ParquetFile(where, pre_buffer=False, buffer_size=2**20) as table:
        _send(sink, b"N", json.dumps(table.schema_arrow.names).encode())
        wanted = json.loads(_receive(source)[1])
        rows = _batch_rows(table.metadata, wanted)
        for batch in table.iter_batches(batch_size=rows, columns=wanted, use_threads=False):
            columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
            batch = pa.RecordBatch.from_arrays(columns, names=batch.schema.names, metadata=batch.schema.metadata)
            some = max(1, batch.num_rows * _MOST_BYTES // max(_MOST_BYTES, batch.nbytes))
            for begin in range(0, batch.num_rows, some):
                part = batch.slice(begin, some)
                stream = pa.BufferOutputStream()
                with pa.ipc.new_stream(stream, part.schema) as writer:
                    writer.write_batch(part)
                _send(sink, b"B", stream.getvalue().to_pybytes())


def _batch_rows(metadata: Any, wanted: list[str] | None) -> int:
    """Rows that fill a batch, by the row group with the longest."""
    longest = 1.0
    for n in range(metadata.num_row_groups):
        group = metadata.row_group(n)
        columns = (group.column(c) for c in range(group.num_columns))
        named = (c for c in columns if wanted is None or c.path_in_schema.split(".")[0] in wanted)
        longest = max(longest, sum(c.total_uncompressed_size for c in named) / max(1, group.num_rows))
    return max(1, min(4_096, int(_BATCH_BYTES / longest)))


def _limit(memory: int) -> None:
    """What a file can make this process use, where the system knows such a limit; and no picture of it is left."""
    try:
        import resource
    except ImportError:
        return
    for what, size in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (size, resource.getrlimit(what)[1]))


def _main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when the other side does
    _limit(int(sys.argv[1]))
    while True:
        try:
            _, content = _receive(source)
        except EOFError:
            return
        path, size = json.loads(content)
        try:
            _serve(path or io.BufferedReader(_Asked(size, source, sink), 2**20), source, sink)
            _send(sink, b"E")
        except EOFError:
            return
        except MemoryError:  # Arrow's too
            _send(sink, b"X", json.dumps(["memory", ""]).encode())
        except Exception as error:  # a damaged file fails in many ways
            _send(sink, b"X", json.dumps([type(error).__name__, str(error)]).encode())


if __name__ == "__main__":
    _main()
