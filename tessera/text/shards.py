"""The token store: a few large memory-mapped files, one index, a checksum for each file.

    tokens-00000.bin ...   ids of all documents end to end, uint16 or uint32, little-endian
    offsets.bin            int64 [D + 1], where each document starts, counted in tokens over all files
    index.json             buckets, sizes, checksums, the tokenizer; written last

Documents of one bucket (source, language, tier) lie together, buckets are sorted by key. So 1,833 languages are a
handful of open files, and a document is two integers.
"""

# Shapes: D documents, B buckets, n pieces to gather.

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from tessera.plan.mixture import Bucket
from tessera.plan.whole import sync

FORMAT, VERSION = "tessera-shards", 1
INDEX = "index.json"
_FILE_BYTES = 2**30
_MOST_FILES = 256  # every mapped file holds a descriptor, and 1,024 is a common limit: beyond 256 GiB files grow
_COPY_BYTES = 2**24


class _Pending:
    """One bucket while it is written: what waits in memory, and where the rest lies in the spool."""

    __slots__ = ("bytes", "documents", "lengths", "segments", "tokens", "waiting")

    def __init__(self) -> None:
        self.waiting: list[NDArray[Any]] = []
        self.lengths: list[NDArray[np.int64]] = []
        self.segments: list[tuple[int, int, int, int]] = []  # token start, tokens, document start, documents
        self.tokens = self.documents = self.bytes = 0


class ShardWriter:
    """Writes a store at `folder`, which appears whole at `close()` or not at all.

    Documents may come in any order of buckets. They wait in memory up to `memory_bytes`, then go to one spool file;
    `close()` copies the spool bucket by bucket, so until then the disk holds the tokens twice.

        with ShardWriter(folder, tokenizer.fingerprint, tokenizer.vocab_size) as writer:
            writer.add("web", "fao_Latn", None, ids, n_bytes)

    Leaving the block by an exception removes everything. Raises FileExistsError where `folder` is there already, and
    OSError (ENOSPC) naming the file where the disk is full.
    """

    def __init__(
        self,
        folder: str | Path,
        tokenizer_fingerprint: str,
        vocab_size: int,
        *,
        memory_bytes: int = 2**26,
        file_bytes: int = _FILE_BYTES,
    ) -> None:
        self.folder = Path(folder)
        if self.folder.exists():
            raise FileExistsError(f"{self.folder}: there already; remove it, or write the shards to another folder")
        self.vocab_size = vocab_size
        self.tokenizer_fingerprint = tokenizer_fingerprint
        self._dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        self._memory_bytes, self._file_bytes = memory_bytes, file_bytes
        self._buckets: dict[tuple[str, str, int | None], _Pending] = {}
        self._waiting_bytes = self._spooled_tokens = self._spooled_documents = 0
        self._tmp = self.folder.with_name(self.folder.name + ".tmp")
        shutil.rmtree(self._tmp, ignore_errors=True)  # left by a run that was killed
        self._tmp.mkdir(parents=True)
        self._files: list[_File] = []
        self._spool, self._spool_lengths = self._file("tokens.spool"), self._file("lengths.spool")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def add(self, source: str, language: str, tier: int | None, ids: Sequence[NDArray[Any]], n_bytes: int) -> None:
        """Appends documents to one bucket.

        ids      one array of token ids a document, none of them empty, all in [0, vocab_size)
        n_bytes  UTF-8 bytes of the text of all of them together
        """
        if not ids:
            return
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        tokens = np.concatenate(ids)
        assert lengths.min() > 0, "a document without tokens"
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            raise ValueError(f"token id {low if low < 0 else high} is outside the vocabulary of {self.vocab_size}")
        bucket = self._buckets.setdefault((source, language, tier), _Pending())
        bucket.waiting.append(tokens.astype(self._dtype))
        bucket.lengths.append(lengths)
        bucket.tokens += len(tokens)
        bucket.documents += len(ids)
        bucket.bytes += n_bytes
        self._waiting_bytes += len(tokens) * self._dtype.itemsize + lengths.nbytes
        if self._waiting_bytes > self._memory_bytes:
            self._flush()

    def close(self) -> Path:
        """Makes the store and returns its folder. Whatever fails on the way leaves nothing behind."""
        try:
            self._flush()
            self._write_store()
        except BaseException:
            self.abort()
            raise
        os.rename(self._tmp, self.folder)
        sync(self.folder.parent)
        return self.folder

    def abort(self) -> None:
        """Removes what was written so far."""
        for file in self._files:
            file.abandon()
        shutil.rmtree(self._tmp, ignore_errors=True)

    def _file(self, name: str) -> "_File":
        self._files.append(_File(self._tmp / name))
        return self._files[-1]

    def _flush(self) -> None:
        for bucket in self._buckets.values():
            if not bucket.waiting:
                continue
            tokens, lengths = np.concatenate(bucket.waiting), np.concatenate(bucket.lengths)
            self._spool.write(tokens)
            self._spool_lengths.write(lengths)
            bucket.segments.append((self._spooled_tokens, len(tokens), self._spooled_documents, len(lengths)))
            self._spooled_tokens += len(tokens)
            self._spooled_documents += len(lengths)
            bucket.waiting, bucket.lengths = [], []
        self._waiting_bytes = 0

    def _write_store(self) -> None:
        self._spool.close()
        self._spool_lengths.close()
        width = self._dtype.itemsize
        total_bytes = self._spooled_tokens * width
        file_bytes = max(self._file_bytes, -(-total_bytes // _MOST_FILES))
        tokens_per_file = max(1, -(-file_bytes // width) if file_bytes > self._file_bytes else file_bytes // width)
        target = _Split(self._file, tokens_per_file * width)
        offsets = self._file("offsets.bin")
        offsets.write(np.zeros(1, dtype="<i8"))
        rows, first_token, first_document = [], 0, 0
        with self._spool.path.open("rb") as tokens_in, self._spool_lengths.path.open("rb") as lengths_in:
            for row in sorted(self._rows(), key=lambda bucket: bucket.key):
                end = first_token
                segments = self._buckets[row.source, row.language, row.tier].segments
                for token_start, n_tokens, document_start, n_documents in segments:
                    _copy(tokens_in, token_start * width, n_tokens * width, target)
                    lengths_in.seek(document_start * 8)
                    ends = end + np.cumsum(np.frombuffer(lengths_in.read(n_documents * 8), dtype=np.int64))
                    offsets.write(ends.astype("<i8"))
                    end = int(ends[-1])
                assert end == first_token + row.tokens
                rows.append({**asdict(row), "first_document": first_document, "first_token": first_token})
                first_token, first_document = end, first_document + row.documents
        files = [*target.close(), offsets.close()]
        for spool in (self._spool, self._spool_lengths):
            spool.path.unlink()
        self._write_index(rows, files, tokens_per_file, first_token, first_document)

    def _rows(self) -> list[Bucket]:
        return [
            Bucket(source=source, language=language, tier=tier, tokens=b.tokens, documents=b.documents, bytes=b.bytes)
            for (source, language, tier), b in self._buckets.items()
        ]

    def _write_index(
        self, rows: list[dict[str, Any]], files: list["_File"], tokens_per_file: int, tokens: int, documents: int
    ) -> None:
        index = {
            "format": FORMAT,
            "version": VERSION,
            "tokenizer": self.tokenizer_fingerprint,
            "vocab_size": self.vocab_size,
            "dtype": self._dtype.name,
            "tokens_per_file": tokens_per_file,
            "tokens": tokens,
            "documents": documents,
            "files": {f.path.name: {"bytes": f.bytes, "sha256": f.hash.hexdigest()} for f in files},
            "buckets": rows,
        }
        last = self._file(INDEX)
        last.write(json.dumps({**index, "sha256": _index_hash(index)}, indent=1).encode())
        last.close()
        sync(self._tmp)


@dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """A store that can be read: `Shards.open(folder)`. Nothing is loaded; the system pages in what is gathered.

    buckets              sorted by key
    first_document       int64 [B], the first document of each bucket
    first_token          int64 [B], where it starts
    offsets              int64 [D + 1] memory map, where each document starts; the last is the number of tokens
    """

    folder: Path
    buckets: tuple[Bucket, ...]
    first_document: NDArray[np.int64]
    first_token: NDArray[np.int64]
    offsets: NDArray[np.int64]
    tokenizer_fingerprint: str
    vocab_size: int
    _files: tuple[NDArray[Any], ...]
    _tokens_per_file: int

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Maps the store. Raises ValueError naming the file that is missing, cut short or of another format."""
        folder = Path(folder)
        index = _read_index(folder)
        names = sorted(name for name in index["files"] if name.startswith("tokens-"))
        for name, entry in index["files"].items():
            _check_size(folder / name, entry["bytes"])
        dtype = np.dtype(index["dtype"]).newbyteorder("<")
        offsets = _map(folder / "offsets.bin", np.dtype("<i8"))
        if len(offsets) != index["documents"] + 1 or int(offsets[-1]) != index["tokens"]:
            raise ValueError(f"{folder / 'offsets.bin'}: does not fit index.json; prepare the corpus again")
        rows = index["buckets"]
        fields = ("source", "language", "tier", "tokens", "documents", "bytes")
        return cls(
            folder=folder,
            buckets=tuple(Bucket(**{field: row[field] for field in fields}) for row in rows),
            first_document=np.array([row["first_document"] for row in rows], dtype=np.int64),
            first_token=np.array([row["first_token"] for row in rows], dtype=np.int64),
            offsets=offsets,
            tokenizer_fingerprint=index["tokenizer"],
            vocab_size=index["vocab_size"],
            _files=tuple(_map(folder / name, dtype) for name in names),
            _tokens_per_file=index["tokens_per_file"],
        )

    @property
    def tokens(self) -> int:
        return int(self.offsets[-1])

    @property
    def documents(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, bucket: int) -> NDArray[np.int64]:
        """Tokens of each document of one bucket, int64 [documents]."""
        first = int(self.first_document[bucket])
        return np.diff(self.offsets[first : first + self.buckets[bucket].documents + 1])

    def gather(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int32]:
        """The tokens of n pieces end to end.

        starts, lengths  int64 [n]; positions over all files, pieces within the store
        returns          int32 [sum(lengths)]
        """
        starts, lengths = np.asarray(starts, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
        if len(starts) == 0:
            return np.empty(0, dtype=np.int32)
        assert starts.min() >= 0, "a piece before the store"
        assert lengths.min() >= 0, "a piece of negative length"
        assert (starts + lengths).max() <= self.tokens, "a piece beyond the store"
        ends = np.cumsum(lengths)
        places = np.repeat(starts - (ends - lengths), lengths)
        places += np.arange(len(places), dtype=np.int64)
        if len(self._files) <= 1:
            return self._files[0][places].astype(np.int32) if len(places) else np.empty(0, dtype=np.int32)
        out = np.empty(len(places), dtype=np.int32)
        file, inside = np.divmod(places, self._tokens_per_file)
        for number in np.unique(file):
            here = file == number
            out[here] = self._files[number][inside[here]]
        return out


def verify(folder: str | Path) -> None:
    """Reads every byte of a store. Raises ValueError naming the files whose content is not what was written."""
    folder = Path(folder)
    wrong = []
    for name, entry in _read_index(folder)["files"].items():
        _check_size(folder / name, entry["bytes"])
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                wrong.append(str(folder / name))
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not the bytes that were written (checksum differs); copy it again")


class _File:
    """A file being written: hashed on the way, synced at the end, errors name it."""

    def __init__(self, path: Path) -> None:
        self.path, self.bytes, self.hash = path, 0, hashlib.sha256()
        self._out: BinaryIO = path.open("wb")

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B") if len(data) else b""
        try:
            self._out.write(view)
        except OSError as error:
            raise _explained(error, self.path, self.bytes) from error
        self.hash.update(view)
        self.bytes += len(view)

    def close(self) -> "_File":
        try:
            self._out.flush()
            os.fsync(self._out.fileno())
            self._out.close()
        except OSError as error:
            raise _explained(error, self.path, self.bytes) from error
        return self

    def abandon(self) -> None:
        """Lets go of the file without a word: its buffer may hold what no longer fits on the disk."""
        with contextlib.suppress(OSError):
            self._out.close()


class _Split:
    """Bytes over files of equal size, `tokens-00000.bin` and on."""

    def __init__(self, new_file: Callable[[str], _File], file_bytes: int) -> None:
        self._new_file, self._file_bytes = new_file, file_bytes
        self._files: list[_File] = []

    def write(self, data: bytes) -> None:
        while data:
            if not self._files or self._files[-1].bytes == self._file_bytes:
                if self._files:
                    self._files[-1].close()
                self._files.append(self._new_file(f"tokens-{len(self._files):05d}.bin"))
            room = self._file_bytes - self._files[-1].bytes
            self._files[-1].write(data[:room])
            data = data[room:]

    def close(self) -> list[_File]:
        if self._files:
            self._files[-1].close()
        return self._files


def _copy(source: BinaryIO, start: int, size: int, target: _Split) -> None:
    source.seek(start)
    while size:
        data = source.read(min(size, _COPY_BYTES))
        assert data, "the spool is shorter than what was written"
        target.write(data)
        size -= len(data)


def _explained(error: OSError, path: Path, written: int) -> OSError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    message = f"the disk is full after {written:,} bytes; free space or write elsewhere, nothing was kept"
    return OSError(error.errno, message, str(path))


def _index_hash(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"{folder}: no token store here ({INDEX} is missing); run `tessera prepare` first")
    try:
        index = json.loads(path.read_bytes())
        known = index.get("format"), index.get("version")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not an index of a token store: {error}") from None
    if known != (FORMAT, VERSION):
        raise ValueError(f"{path}: format {known[0]!r} version {known[1]!r}, this reads {FORMAT!r} version {VERSION}")
    if index.pop("sha256", None) != _index_hash(index):
        raise ValueError(f"{path}: was changed after it was written (checksum differs); copy it again")
    return index


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: is missing; copy the whole folder or prepare the corpus again")
    if path.stat().st_size != size:
        raise ValueError(f"{path}: has {path.stat().st_size} bytes, {size} were written; copy or prepare it again")


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)  # plain arrays index faster than memmaps
