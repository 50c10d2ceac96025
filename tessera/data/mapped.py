"""A file of numbers as an array in memory that is read here and there: the system pages in what is touched."""

import mmap
import resource
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class MmapArray:
    """`values`, and a way to say what will be read of them.

    Left alone, the system reads 128 KB around whatever is touched and waits for it, piece after piece. A document is a
    kilobyte: told that reading is random, it fetches only that; told beforehand, all pieces at once.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_RANDOM)
        self.values: NDArray[Any] = np.frombuffer(self._map, dtype)
        self._fetched = -1

    def expect(self, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Has the system fetch values[begins[0]:ends[0]], values[begins[1]:ends[1]], ... without waiting for them.

        Not while it has them all: where the process has read nothing from a disk since the last call, none is told.
        """
        usage = resource.getrusage(resource.RUSAGE_SELF)
        fetched = usage.ru_inblock + usage.ru_majflt
        if fetched == self._fetched:
            return
        self._fetched = fetched
        width, page = self.values.itemsize, mmap.PAGESIZE
        first = begins * width // page * page
        for start, size in zip(first.tolist(), (ends * width - first).tolist(), strict=True):
            self._map.madvise(mmap.MADV_WILLNEED, start, size)
