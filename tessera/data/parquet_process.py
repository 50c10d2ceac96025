"""The process that decodes parquet: apart, because a damaged file may abort it or ask for all memory there is.

parquet.py starts this file as a program; it knows nothing of the rest. Messages, both ways, are one letter, eight bytes
of length, and that many bytes:

    -> O  path, or nothing: then the bytes are asked for      <- N  names of the columns there are
    -> C  names of the columns wanted, null: all              <- B  rows, as an Arrow stream, again and again
    <- R  [offset, length]                                    -> D  these bytes
    <- E  the end                                             <- X  [what kind of error, its text]
"""

import contextlib
import io
import json
import signal
import sys
from typing import Any

_BATCH_BYTES = 2**23  # of parquet, decoded
_MOST_BYTES = 2**26  # of a message with rows, unless one row is larger


def send(pipe: Any, letter: bytes, content: bytes = b"") -> None:
    """Writes a message."""
    pipe.write(letter + len(content).to_bytes(8, "little"))
    pipe.write(content)
    pipe.flush()


def receive(pipe: Any) -> tuple[bytes, bytes]:
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
        send(self._sink, b"R", json.dumps([self._at, len(buffer)]).encode())
        _, data = receive(self._source)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _serve(where: Any, source: Any, sink: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    # pre_buffer would hold all row groups, no buffer whole columns of one
    with pa.parquet.ParquetFile(where, pre_buffer=False, buffer_size=2**20) as table:
        send(sink, b"N", json.dumps(table.schema_arrow.names).encode())
        wanted = json.loads(receive(source)[1])
        rows = _batch_rows(table.metadata, wanted)
        for batch in table.iter_batches(batch_size=rows, columns=wanted, use_threads=False):
            columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
            batch = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
            some = max(1, batch.num_rows * _MOST_BYTES // max(_MOST_BYTES, batch.nbytes))
            for begin in range(0, batch.num_rows, some):
                part = batch.slice(begin, some)
                stream = pa.BufferOutputStream()
                with pa.ipc.new_stream(stream, part.schema) as writer:
                    writer.write_batch(part)
                send(sink, b"B", stream.getvalue().to_pybytes())


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
            _, content = receive(source)
        except EOFError:
            return
        path, size = json.loads(content)
        try:
            _serve(path or io.BufferedReader(_Asked(size, source, sink), 2**20), source, sink)
            send(sink, b"E")
        except EOFError:
            return
        except MemoryError:  # Arrow's too
            send(sink, b"X", json.dumps(["memory", ""]).encode())
        except Exception as error:  # a damaged file fails in many ways
            send(sink, b"X", json.dumps([type(error).__name__, str(error)]).encode())


if __name__ == "__main__":
    _main()
