"""The vectors of a teacher for distillation: embedded once, kept in parts on disk, each with its checksum.

A part is named by the teacher, how it reads, and the texts: an interrupted run goes on after its last whole part, and
texts that are added at the end cost only themselves.
"""

# Shapes: n texts, or pairs, h width of a vector.

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tessera import checksums
from tessera.files import atomic_file, digest, fingerprint
from tessera.inference.encoder import Encoder
from tessera.inference.engine import Vectors
from tessera.progress import Progress, silent
from tessera.retrieval.pairs import Sentence

PART = 8_192  # texts
UNREAD = -1  # a place where there is none


def opened(folder: str | Path, *, device: str, dtype: Literal["auto", "float32", "bfloat16"]) -> Encoder:
    """A teacher that says all of its vectors, also where its folder keeps the first dimensions alone (truncate_dim)."""
    found = Encoder.from_pretrained(folder, device=device, dtype=dtype)
    found.pipeline = replace(found.pipeline, dimensions=None)
    found.dimensions = found.pipeline.width(found.config.hidden_size)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class TeacherVectors:
    """[n, h] in parts of `size` rows, which may lie on disk and are read as they are asked for."""

    parts: tuple[Vectors, ...]
    size: int

    @property
    def width(self) -> int:
        return int(self.parts[0].shape[1])

    def rows(self, numbers: NDArray[np.int64]) -> Vectors:
        """[len(numbers), h] float32, in their order."""
        found = np.empty((len(numbers), self.width), np.float32)
        owner = numbers // self.size
        for part in np.unique(owner).tolist():
            mine = owner == part
            found[mine] = self.parts[part][numbers[mine] % self.size]
        return found


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lesson:
    """Sentences, and where the teacher's vector of each is."""

    pairs: list[Sentence]
    vectors: TeacherVectors
    places: NDArray[np.int64]  # [n], the row of each pair; UNREAD: the teacher has not read it

    def some(self, most: int, seed: int) -> NDArray[np.float32]:
        """[at most `most`, h], vectors of different sentences, drawn by a seed."""
        read = np.unique(self.places[self.places != UNREAD])
        drawn = np.random.default_rng([seed, 3]).permutation(read)[:most]
        return self.vectors.rows(np.sort(drawn))


def lesson(
    teacher: Encoder,
    pairs: Sequence[Sentence],
    cache: Path | None = None,
    *,
    only: Sequence[int] | None = None,
    prompt: str = "",
    on_progress: Progress | None = None,
) -> Lesson:
    """The teacher reads each sentence once, however many translations it has; see `embed`.

    only  pairs that it reads, in this order; None: all
    """
    row: dict[str, int] = {}
    places = np.full(len(pairs), UNREAD, np.int64)
    for number in range(len(pairs)) if only is None else only:
        places[number] = row.setdefault(pairs[number].text, len(row))
    vectors = embed(teacher, list(row), cache, prompt=prompt, on_progress=on_progress)
    return Lesson(pairs=list(pairs), vectors=vectors, places=places)


def embed(
    teacher: Encoder,
    texts: Sequence[str],
    cache: Path | None = None,
    *,
    prompt: str = "",
    size: int = PART,
    on_progress: Progress | None = None,
) -> TeacherVectors:
    """The teacher's vectors of texts, as its folder pools, projects and normalizes them.

    cache   a folder for them, shared by any teachers and texts; None: they are held in memory
    prompt  stands before every text
    size    texts of a part

    A part that is damaged is computed again, and the log says so. Raises ValueError as Encoder.encode.
    """
    if not texts:
        raise ValueError("there are no texts for the teacher to read")
    how, of = teacher.how(prompt=prompt), ""
    if cache is not None:
        model = fingerprint(teacher.source) if teacher.source else ""
        of = digest([model, teacher.pipeline.fingerprint(), prompt, how.reading.max_length, str(teacher.dtype)])
    parts = []
    for first in range(0, len(texts), size):
        some = list(texts[first : first + size])

        def report(done: int, total: int, what: str, first: int = first) -> None:
            (on_progress or silent)(first + done, len(texts), "embedding by the teacher")

        if cache is None:
            parts.append(teacher.encode(some, prompt=prompt, on_progress=report))
            continue
        place = cache / f"teacher-{digest([of, some])}.npy"
        if not whole(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            found = teacher.encode(some, prompt=prompt, on_progress=report)
            with atomic_file(place, many=True, sealed=True) as draft, draft.open("wb") as file:
                np.save(file, found, allow_pickle=False)
        parts.append(np.load(place, mmap_mode="r", allow_pickle=False))
    return TeacherVectors(tuple(parts), size)


def whole(place: Path) -> bool:
    if not place.is_file():
        return False
    try:
        return checksums.check(place)
    except checksums.Damaged as error:
        logging.getLogger("tessera").warning("%s; it is computed again", error)
        return False
