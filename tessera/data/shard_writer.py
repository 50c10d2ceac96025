"""The writer of token shards; shards.py, which reads them, says what lies in a store."""

# Shapes: D documents, B buckets.

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from tessera.files import sync
from tessera.plan.corpus import Bucket

FORMAT, VERSION = "tessera-shards", 1
INDEX = "index.json"
FILE_BYTES = 2**30
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
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._store = StoreFiles(Path(folder), tokenizer_fingerprint, vocab_size, file_bytes)
        self.folder, self.vocab_size = self._store.folder, vocab_size
        self._memory_bytes = memory_bytes
        self._buckets: dict[tuple[str, str, int | None], _Pending] = {}
        self._waiting_bytes = self._spooled_tokens = self._spooled_documents = 0
        self._spool, self._spool_lengths = self._store.file("tokens.spool"), self._store.file("lengths.spool")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
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
        bucket.waiting.append(tokens.astype(self._store.dtype))
        bucket.lengths.append(lengths)
        bucket.tokens += len(tokens)
        bucket.documents += len(ids)
        bucket.bytes += n_bytes
        self._waiting_bytes += len(tokens) * self._store.dtype.itemsize + lengths.nbytes
        if self._waiting_bytes > self._memory_bytes:
            self._flush()

    def close(self) -> Path:
        """Makes the store and returns its folder. Whatever fails on the way leaves nothing behind."""
        try:
            self._flush()
            self._copy_spool()
            return self._store.close()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Removes what was written so far."""
        self._store.abort()

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

    def _copy_spool(self) -> None:
        self._store.begin(self._spooled_tokens)
        width = self._store.dtype.itemsize
        spools = (self._spool.close().path, self._spool_lengths.close().path)
        with spools[0].open("rb") as tokens_in, spools[1].open("rb") as lengths_in:
            whole = [
                (Bucket(source=name, language=code, tier=t, tokens=p.tokens, documents=p.documents, bytes=p.bytes), p)
                for (name, code, t), p in self._buckets.items()
            ]
            for bucket, pending in sorted(whole, key=lambda pair: pair[0].key):
                for token_start, n_tokens, document_start, n_documents in pending.segments:
                    for data in _read(tokens_in, token_start * width, n_tokens * width):
                        self._store.tokens(data)
                    lengths_in.seek(document_start * 8)
                    self._store.lengths(np.frombuffer(lengths_in.read(n_documents * 8), dtype=np.int64))
                self._store.end_bucket(bucket)
        for spool in spools:
            spool.unlink()


class StoreFiles:
    """The files of a store while they are written, one bucket after the other in the order of their keys.

    begin(tokens of all), then for each bucket tokens(...) and lengths(...) in pieces and end_bucket(...), then close().
    """

    def __init__(self, folder: Path, tokenizer_fingerprint: str, vocab_size: int, file_bytes: int) -> None:
        self.folder = folder
        if folder.exists():
            raise FileExistsError(f"{folder}: there already; remove it, or write the shards to another folder")
        self.dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        self._fingerprint, self._vocab_size, self._file_bytes = tokenizer_fingerprint, vocab_size, file_bytes
        self._draft = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(self._draft, ignore_errors=True)  # left by a run that was killed
        self._draft.mkdir(parents=True)
        self._files: list[_File] = []
        self._rows: list[dict[str, Any]] = []
        self._tokens = self._documents = 0

    def file(self, name: str) -> "_File":
        """A new file in the folder."""
        self._files.append(_File(self._draft / name))
        return self._files[-1]

    def begin(self, tokens: int) -> None:
        """Settles how many tokens go to a file: files are large rather than many."""
        width = self.dtype.itemsize
        file_bytes = max(self._file_bytes, -(-tokens * width // _MOST_FILES))
        self._per_file = max(1, -(-file_bytes // width) if file_bytes > self._file_bytes else file_bytes // width)
        self._target: list[_File] = []
        self._offsets = self.file("offsets.bin")
        self._offsets.write(np.zeros(1, dtype="<i8"))

    def tokens(self, data: bytes) -> None:
        """Tokens of the bucket at hand, in the type of the store, over files of equal size."""
        size = self._per_file * self.dtype.itemsize
        while data:
            if not self._target or self._target[-1].bytes == size:
                self._close_last()
                self._target.append(self.file(f"tokens-{len(self._target):05d}.bin"))
            room = size - self._target[-1].bytes
            self._target[-1].write(data[:room])
            data = data[room:]

    def _close_last(self) -> None:
        if self._target:
            self._target[-1].close()

    def lengths(self, lengths: NDArray[np.int64]) -> None:
        """Tokens of each of the next documents of the bucket at hand."""
        ends = self._tokens + np.cumsum(lengths)
        self._offsets.write(ends.astype("<i8"))
        self._tokens = int(ends[-1])

    def end_bucket(self, bucket: Bucket) -> None:
        """The bucket at hand is whole."""
        first_token = self._tokens - bucket.tokens
        self._rows.append({**asdict(bucket), "first_document": self._documents, "first_token": first_token})
        self._documents += bucket.documents

    def close(self) -> Path:
        """Makes the store and returns its folder."""
        self._close_last()
        files = [*self._target, self._offsets.close()]
        index = {
            "format": FORMAT,
            "version": VERSION,
            "tokenizer": self._fingerprint,
            "vocab_size": self._vocab_size,
            "dtype": self.dtype.name,
            "tokens_per_file": self._per_file,
            "tokens": self._tokens,
            "documents": self._documents,
            "files": {f.path.name: {"bytes": f.bytes, "sha256": f.hash.hexdigest()} for f in files},
            "buckets": self._rows,
        }
        last = self.file(INDEX)
        last.write(json.dumps({**index, "sha256": index_hash(index)}, indent=1).encode())
        last.close()
        sync(self._draft)
        os.rename(self._draft, self.folder)
        sync(self.folder.parent)
        return self.folder

    def abort(self) -> None:
        """Removes what was written so far."""
        for file in self._files:
            file.abandon()
        shutil.rmtree(self._draft, ignore_errors=True)


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


def _read(source: BinaryIO, start: int, size: int) -> Iterator[bytes]:
    source.seek(start)
    while size:
        data = source.read(min(size, _COPY_BYTES))
        assert data, "the spool is shorter than what was written"
        yield data
        size -= len(data)


def _explained(error: OSError, path: Path, written: int) -> OSError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    message = f"the disk is full after {written:,} bytes; free space or write elsewhere, nothing was kept"
    return OSError(error.errno, message, str(path))


def index_hash(index: dict[str, Any]) -> str:
    """The checksum of an index, which names all others: two stores with the same one hold the same."""
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
