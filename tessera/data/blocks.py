"""Documents cut into blocks of at most the context length: which document holds a block, how many come before one.

Only every 128th document's count is kept, 62 MB for a billion documents; between two of them the document offsets are
read again. The counts are made by one pass over the offsets. A store large enough for that to be felt keeps them beside
it, one file for each context, mapped by every process that starts later:

    blocks-1024.bin    a page of JSON (context, stride, documents, the store's own checksum, the checksum of what
                       follows), then int64 [S + 1], little-endian

The file is derived: where it is missing, damaged or of another store it is made again, and whoever comes at the same
time makes the same bytes. Where the folder cannot be written, a warning says so and each process counts for itself.

Shapes: D documents, S = ceil(D / 128) strides, n queries.
"""

import hashlib
import json
import mmap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tessera.files import atomic_file

FORMAT, VERSION = "tessera-blocks", 1
STRIDE = 128
_KEPT_FROM = 1 << 22  # documents; fewer are counted in some 20 ms
_SLICE = 1 << 17  # documents counted at a time, and lengths looked through: what fits the processor's cache
_PAGE = 4096

Integers = NDArray[np.int64]

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class MmapArray:
    """`values`, and a way to say what will be read of them.

    Left alone, the system reads 128 KB around whatever is touched and waits for it, piece after piece. A document is a
    kilobyte: told that reading is random, it fetches only that; told beforehand, all pieces at once.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._advised = hasattr(self._map, "madvise")  # Windows has no such call, and no count of what was read
        if self._advised:
            self._map.madvise(mmap.MADV_RANDOM)
        self.values: NDArray[Any] = np.frombuffer(self._map, dtype)
        self._fetched = -1

    def expect(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Has the system fetch values[begins[0]:ends[0]], values[begins[1]:ends[1]], ... without waiting for them.

        Not while it has them all: where the process has read nothing from a disk since the last call, none is told.
        """
        fetched = _reads()
        if fetched == self._fetched or not self._advised:
            return
        self._fetched = fetched
        width, page = self.values.itemsize, mmap.PAGESIZE
        first = begins * width // page * page
        for start, size in zip(first.tolist(), (ends * width - first).tolist(), strict=True):
            self._map.madvise(mmap.MADV_WILLNEED, start, size)


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """The blocks of all documents of a store in a row, for one context.

    offsets   int64 [D + 1], where each document starts; no document is empty
    context   tokens of a block; the last of a document may be shorter
    strides   int64 [S + 1], blocks before each 128th document; the last is their number
    """

    offsets: MmapArray
    context: int
    strides: Integers

    @classmethod
    def of(cls, folder: Path, identity: str, offsets: MmapArray, context: int) -> Self:
        """Maps the counts that lie in the folder, or counts and leaves them there.

        identity   checksum of the store, so that counts of another are not taken for its own

        Warns where the counts should be kept and the folder cannot be written.
        """
        documents = len(offsets.values) - 1
        if documents < _KEPT_FROM:
            return cls(offsets, context, _count(offsets, context))
        path = folder / f"blocks-{context}.bin"
        about = {"context": context, "stride": STRIDE, "documents": documents, "store": identity}
        header, strides = _read(path)
        if strides is None or {**header, **about} != header:
            strides = _count(offsets, context)
            try:
                _write(path, about, strides)
            except OSError as error:
                warnings.warn(
                    f"{path} cannot be written ({error.strerror}): blocks are counted anew at every start, in every "
                    f"process. Start once where {folder} can be written, and make room on its disk",
                    stacklevel=2,
                )
        return cls(offsets, context, strides)

    def before(self, documents: Integers) -> Integers:
        """Blocks in all documents before each of the given ones, [n]; `documents` in [0, D]."""
        result = np.empty(len(documents), np.int64)
        for begin, stride in _parts(documents // STRIDE):
            here = slice(begin, begin + len(stride))
            inside = np.arange(STRIDE) < (documents[here] % STRIDE)[:, None]
            result[here] = self.strides[stride] + (self._counts(stride) * inside).sum(1)
        return result

    def find(self, blocks: Integers) -> tuple[Integers, Integers]:
        """The document that holds each block, and which of its blocks that is, counted from 0: both [n]."""
        stride = np.searchsorted(self.strides, blocks, side="right") - 1
        document, rest = stride * STRIDE, blocks - self.strides[stride]
        documents = np.minimum(len(self.offsets.values) - 1 - document, STRIDE)  # the last stride has fewer
        plain = self.strides[stride + 1] - self.strides[stride] == documents  # each document is one block
        document[plain] += rest[plain]
        rest[plain] = 0
        todo = np.flatnonzero(~plain)
        for begin, part in _parts(stride[todo]):
            here = todo[begin : begin + len(part)]
            ends = np.cumsum(self._counts(part), axis=1)
            inside = (ends <= rest[here, None]).sum(1)
            document[here] += inside
            rest[here] -= np.where(inside > 0, ends[np.arange(len(part)), inside - 1], 0)
        return document, rest

    def _counts(self, stride: Integers) -> Integers:
        """Blocks of each document of the strides, [n, 128]; 0 beyond the last document."""
        places = (stride * STRIDE)[:, None] + np.arange(STRIDE + 1)
        np.minimum(places, len(self.offsets.values) - 1, out=places)
        self.offsets.expect(places[:, 0], places[:, -1] + 1)
        return _blocks(np.diff(self.offsets.values[places], axis=1), self.context)


def _reads() -> int:
    """How often this process has waited for a disk so far; 0 on Windows, which does not tell."""
    if resource is None:
        return 0
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_inblock + usage.ru_majflt


def damaged(folder: Path) -> list[Path]:
    """The files of counts in a folder whose content is not what was written."""
    return [path for path in sorted(folder.glob("blocks-*.bin")) if _read(path)[1] is None]


def _count(offsets: MmapArray, context: int) -> Integers:
    """One pass over the offsets, a slice at a time: int64 [S + 1]. Read, not mapped: it goes from front to back."""
    documents = len(offsets.values) - 1
    strides = np.zeros(-(-documents // STRIDE) + 1, np.int64)
    with offsets.path.open("rb") as file:
        last = np.fromfile(file, "<i8", 1)
        for begin in range(0, documents, _SLICE):
            ends = np.fromfile(file, "<i8", min(_SLICE, documents - begin))
            counts = _blocks(np.diff(ends, prepend=last), context)
            sums = np.add.reduceat(counts, np.arange(0, len(counts), STRIDE))
            first = begin // STRIDE + 1
            strides[first : first + len(sums)] = sums
            last = ends[-1:]
    return np.cumsum(strides, out=strides)


def _blocks(lengths: Integers, context: int) -> Integers:
    """ceil(length / context), in place."""
    lengths += context - 1
    lengths //= context
    return lengths


def _parts(stride: Integers) -> list[tuple[int, Integers]]:
    """Queries a few at a time, each with where it begins: the lengths that they look through stay in the cache."""
    size = _SLICE // STRIDE
    return [(begin, stride[begin : begin + size]) for begin in range(0, len(stride), size)]


def _read(path: Path) -> tuple[dict[str, Any], Integers | None]:
    """The header and the counts of a file, or None where it is missing or not whole."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(_PAGE))
        strides = np.memmap(path, dtype="<i8", mode="r", offset=_PAGE).view(np.ndarray)
        known = isinstance(header, dict) and (header["format"], header["version"]) == (FORMAT, VERSION)
        whole = known and header["sha256"] == _hash(strides)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}, None
    return header, strides if whole else None


def _write(path: Path, about: dict[str, Any], strides: Integers) -> None:
    """Under a name of its own first, since many may write at once; then it takes its name, whole."""
    header = {"format": FORMAT, "version": VERSION, **about, "sha256": _hash(strides.astype("<i8", copy=False))}
    with atomic_file(path, many=True) as draft, draft.open("xb") as file:
        file.write(json.dumps(header).encode().ljust(_PAGE))
        file.write(strides.astype("<i8", copy=False).data)


def _hash(strides: Integers) -> str:
    return hashlib.sha256(strides.data).hexdigest()
