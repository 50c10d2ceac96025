"""The index of duplicates, memory-mapped: which documents are copies, and of what, as three sorted columns.

position.bin   uint64, little-endian, ascending
of.bin         uint64
reason.bin     uint8
"""

# Shapes: C copies, n documents.

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

REASONS = ("same text as another document", "near-duplicate of another document")
EXACT, NEAR = range(2)
NOBODY = np.uint64(2**64 - 1)  # no document has this position

Positions = NDArray[np.uint64]

_COLUMNS = {"position.bin": "<u8", "of.bin": "<u8", "reason.bin": "u1"}
_PIECE = 2**22  # copies of each search that are merged at a time


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Which documents are copies, and of what. Travels to other processes as the name of its folder.

    position  uint64 [C], ascending
    of        uint64 [C], an earlier document, one that is kept
    reason    uint8 [C], into REASONS
    """

    folder: Path
    position: Positions
    of: Positions
    reason: NDArray[np.uint8]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Maps what `dedup.find_duplicates` wrote. Raises ValueError where that is damaged."""
        columns = [_map(folder / name, np.dtype(dtype)) for name, dtype in _COLUMNS.items()]
        if len({len(column) for column in columns}) > 1:
            raise ValueError(f"{folder}: its columns are not equally long; remove the folder, and it is made again")
        if len(columns[2]) and columns[2].max() >= len(REASONS):
            raise ValueError(f"{folder / 'reason.bin'}: holds no reasons; remove {folder}, and it is made again")
        return cls(folder, *columns)

    def __reduce__(self) -> "tuple[Callable[[Path], Copies], tuple[Path]]":
        return type(self).open, (self.folder,)

    def among(self, positions: Positions) -> NDArray[np.bool_]:
        """Which of some documents are copies: bool [n]."""
        return find(positions, self.position)[1]

    def reasons(self, positions: Positions) -> list[str | None]:
        """Why some documents are not wanted, [n]; None for those that are no copies."""
        at, found = find(positions, self.position)
        reasons: list[str | None] = [None] * len(positions)
        for n in np.flatnonzero(found):
            reasons[n] = REASONS[self.reason[at[n]]]
        return reasons

    def originals(self, positions: Positions) -> Positions:
        """What some documents are copies of, uint64 [n]; themselves where they are none."""
        at, found = find(positions, self.position)
        of = np.array(positions, np.uint64)
        of[found] = self.of[at[found]]
        return of

    def between(self, first: int, last: int) -> slice:
        """Where the columns have first <= position < last."""
        start, stop = np.searchsorted(self.position, np.array([first, last], np.uint64))
        return slice(int(start), int(stop))


def find(some: Positions, ordered: Positions) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where among ascending numbers some others would stand, int64 [n], and which of them do, bool [n]."""
    if not len(ordered):
        return np.zeros(len(some), np.int64), np.zeros(len(some), bool)
    at = np.minimum(np.searchsorted(ordered, some), len(ordered) - 1)
    return at, ordered[at] == some


Add = Callable[[Positions, Positions, NDArray[np.uint8]], None]
"""Writes copies (position, of, reason) that come after all that were added before."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Add]:
    """Gives a function that writes into the columns of a folder, a piece at a time."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((folder / name).open("wb")) for name in _COLUMNS]

        def add(*columns: NDArray[Any]) -> None:
            for file, column, dtype in zip(files, columns, _COLUMNS.values(), strict=True):
                file.write(column.astype(dtype).tobytes())

        yield add


def merge(found: Sequence[Copies], add: Add) -> None:
    """What several searches found, one after the other, as one list.

    A copy of a document that a later search drops is then a copy of what is kept instead, for the later reason.
    """
    cuts = sorted({int(cut) for part in found for cut in part.position[::_PIECE]})
    for first, last in itertools.pairwise((*cuts, int(NOBODY))):
        pieces = []
        for number, part in enumerate(found):
            here = part.between(first, last)
            of, reason = np.array(part.of[here]), np.array(part.reason[here])
            for later in found[number + 1 :]:
                at, again = find(of, later.position)
                of[again], reason[again] = later.of[at[again]], later.reason[at[again]]
            pieces.append((part.position[here], of, reason))
        position, of, reason = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
        order = np.argsort(position)
        add(position[order], of[order], reason[order])


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not path.is_file() or path.stat().st_size % dtype.itemsize:
        raise ValueError(f"{path}: missing or cut off; remove {path.parent}, and it is made again")
    if not path.stat().st_size:
        return np.empty(0, dtype)  # nothing is there to be mapped
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)
