"""Decompression of text files (zstd, gzip, bz2, xz) as a stream of UTF-8 in bounded memory, whatever the file says.

UTF-16 and UTF-32 are read where the file begins with their byte order mark. A file that grows beyond all measure is
refused: real text becomes some ten times smaller, a bomb a thousand times.
"""

import codecs
import contextlib
import io
import lzma
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tessera.sources.storage import File

CHUNK = 2**18  # bytes read at a time
SHOWN_BYTES = 400  # what is kept of a row that is too long
NOT_UTF8 = "not UTF-8"
NUL = "NUL characters, as in UTF-16 without its mark"
AS_UTF8 = dict.fromkeys(
    (NOT_UTF8, NUL), "; write it as UTF-8 (iconv -f latin1 -t utf-8; a table program calls that the encoding of a CSV)"
)

_LARGE, _GROWTH = 2**30, 200  # a file that becomes larger than both, in bytes and in times its own size, is a bomb
_ARROW_WINDOW = 2**27  # bytes; `zstd --long` asks for more
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_FEED = 2**12  # bytes of zstd that are decoded at a time: they become at most some 100 MB
_MARKS = (  # that of UTF-32 first, which begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)


class Plain(io.RawIOBase):
    """The decompressed bytes of a file, counted.

    packed  what is decompressed, where it lies elsewhere: a web server may not say how large it is
    """

    def __init__(self, stream: Any, file: File, packed: Any = None) -> None:
        super().__init__()
        self._stream, self._file, self._packed, self._read = stream, file, packed, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = CHUNK) -> bytes:
        """At most `size` bytes, none at the end. Raises ValueError for a bomb."""
        data = bytes(self._stream.read(size))
        self._read += len(data)
        if self._read > _LARGE and self._file.compression and 0 < self._size() * _GROWTH < self._read:
            raise ValueError(
                f"{self._file}: {self._size():,} bytes that become more than {self._read >> 30} GB, so this is made "
                "to fill a memory, not text; leave it out, or decompress it yourself"
            )
        return data

    def _size(self) -> int:
        """Bytes of the file; where nobody says, those that were read of it so far."""
        return self._file.size or getattr(getattr(self._packed, "raw", None), "taken", 0)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Text:
    """The UTF-8 of a text file, without a byte order mark."""

    def __init__(self, stream: Plain, file: File) -> None:
        self._stream, self._file = stream, file
        start = stream.read(4)
        while 0 < len(start) < 4 and (more := stream.read(4 - len(start))):
            start += more
        mark, self.encoding = next((found for found in _MARKS if start.startswith(found[0])), (b"", "utf-8"))
        self._decoder = None if self.encoding == "utf-8" else codecs.getincrementaldecoder(self.encoding)()
        self._start = start[len(mark) :]

    def read(self) -> bytes:
        """The next bytes; none at the end. Raises ValueError where the file is not what its mark says."""
        data = self._start + self._stream.read(CHUNK)
        self._start = b""
        if self._decoder is None:
            return data
        try:
            text = self._decoder.decode(data, final=not data)
            while data and not text:  # half a character
                data = self._stream.read(CHUNK)
                text = self._decoder.decode(data, final=not data)
            return text.encode()
        except UnicodeError as error:
            raise ValueError(
                f"{self._file}: begins as {self.encoding}, but is not: {error}; write it as UTF-8"
            ) from None


@contextlib.contextmanager
def text(file: File) -> Iterator[Text]:
    """The text of a file as UTF-8."""
    with plain(file) as stream:
        yield Text(stream, file)


def lines(file: File, max_bytes: int) -> Iterator[tuple[int, str | None, str, bytes]]:
    """(number, text, or None and why, bytes) of every line that is not blank; of too long ones the beginning."""
    number, head, too_long = 1, b"", f"longer than {max_bytes} bytes"
    pieces: list[bytes] = []  # of a line that goes on
    with text(file) as stream:
        while True:
            chunk = stream.read()
            *lines, rest = chunk.split(b"\n")
            if lines or not chunk:
                lines[:1] = [b"".join((*pieces, *lines[:1]))]
                pieces = []
            for line in lines:
                if head:
                    yield number, None, too_long, head
                    head = b""
                elif len(line) > max_bytes:
                    yield number, None, too_long, line[:SHOWN_BYTES]
                elif line and not line.isspace():
                    line = line.removesuffix(b"\r")
                    try:
                        found, reason = line.decode(), NUL if b"\0" in line else ""
                    except UnicodeDecodeError:
                        found, reason = "", NOT_UTF8
                    yield number, None if reason else found, reason, line
                number += 1
            if not chunk:
                return
            pieces.append(rest)
            if sum(map(len, pieces)) > max_bytes:
                head, pieces = head or b"".join(pieces)[:SHOWN_BYTES], []


@contextlib.contextmanager
def plain(file: File) -> Iterator[Plain]:
    """The decompressed bytes of a file. Raises ValueError where its zstd window is larger than there is memory for."""
    if file.compression == "xz":  # which Arrow does not know
        with file.open() as packed, lzma.open(packed) as stream:
            yield Plain(stream, file, packed)
    elif file.compression == "zstd" and (window := _window(file)) > _ARROW_WINDOW:
        with file.open() as packed:
            yield Plain(io.BufferedReader(_LongZstd(packed, file, window), CHUNK), file, packed)
    elif file.local:
        with pa.input_stream(str(file.local), compression=file.compression) as stream:
            yield Plain(stream, file)
    else:
        with file.open() as packed, pa.input_stream(packed, compression=file.compression, buffer_size=CHUNK) as stream:
            yield Plain(stream, file, packed)


def _window(file: File) -> int:
    """Bytes that decoding must remember; 0 where the file does not begin as zstd does."""
    import zstandard

    with file.open() as packed:
        start = packed.read(18)
    if not start.startswith(_ZSTD_MAGIC):
        return 0
    with contextlib.suppress(zstandard.ZstdError):
        return int(zstandard.get_frame_parameters(start).window_size)
    return 0


class _LongZstd(io.RawIOBase):
    """Frames whose window is larger than Arrow decodes, as `zstd --long` makes them."""

    def __init__(self, packed: Any, file: File, window: int) -> None:
        super().__init__()
        import zstandard

        limit = min(2**31, _memory() // 4)
        if window > limit:
            raise ValueError(
                f"{file}: its zstd window is {window >> 20:,} MB, {limit >> 20:,} MB are taken on this machine; "
                "compress it again without --long or --ultra"
            )
        self._packed, self._error = packed, zstandard.ZstdError
        self._start = lambda: zstandard.ZstdDecompressor(max_window_size=limit).decompressobj()
        self._frame = self._start()
        self._rest, self._ready, self._within = b"", memoryview(b""), False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._rest or self._packed.read(_ZSTD_FEED)
            self._rest = b""
            if not data and self._within:
                raise OSError("it ends within a zstd frame")
            if not data:
                return 0
            try:
                self._ready = memoryview(self._frame.decompress(data))
            except self._error as error:
                raise OSError(str(error)) from None
            self._within = not self._frame.eof
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, self._start()
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def _memory() -> int:
    """Bytes of memory that this machine has; a guess where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**33
