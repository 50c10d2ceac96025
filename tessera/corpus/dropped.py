"""Report of dropped documents: what of a corpus is not trained on, counted by reason, with examples to look at."""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from tessera.corpus.ingest import DocumentFile
from tessera.corpus.prepare import IngestedCorpus

_COLUMNS = ["position", "language", "text", "second"]


@dataclass(frozen=True, slots=True)
class Example:
    """A document that is not wanted, and the one it is a copy of."""

    origin: str  # the file it came from
    language: str
    text: str
    copy_of: str | None = None


@dataclass(slots=True)
class Dropped:
    """Documents of one source that are not wanted for one reason."""

    source: str
    reason: str
    languages: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Of all languages."""
        return self.languages.total()


def dropped(read: IngestedCorpus, examples: int = 3) -> list[Dropped]:
    """Everything that a corpus loses, the commonest reason first, each with a few documents drawn by hash.

    Reads all documents, one batch at a time.
    """
    found: dict[tuple[str, str], Dropped] = {}
    drawn: dict[tuple[str, str], list[tuple[int, int, int]]] = {}  # negated hash, number of the file, position
    for file in read.files:
        for position, language, key, reason in _of(file, read):
            name = (file.source.name, reason)
            found.setdefault(name, Dropped(*name)).languages[language] += 1
            heap = drawn.setdefault(name, [])
            heapq.heappush(heap, (-key, file.number, position))
            if len(heap) > examples:
                heapq.heappop(heap)
    texts = _texts(read, {position for heap in drawn.values() for _, _, position in heap})
    for name, heap in drawn.items():
        found[name].examples = [texts[position] for _, _, position in sorted(heap, reverse=True)]
    return sorted(found.values(), key=lambda entry: -entry.count)


def _of(file: DocumentFile, read: IngestedCorpus) -> Iterator[tuple[int, str, int, str]]:
    """position, language, key and reason of each document that is not wanted."""
    with pa.parquet.ParquetFile(file.path) as table_file:
        for group in range(table_file.num_row_groups):
            table = table_file.read_row_group(group, columns=["position", "language", "key", "reason"])
            table = table.filter(pc.is_valid(table["reason"]))
            yield from zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    for table, reasons in read.split.judged(file):
        for row, reason in zip(table.select(["position", "language", "key"]).to_pylist(), reasons, strict=True):
            if reason is not None:
                yield row["position"], row["language"], row["key"], reason


def _texts(read: IngestedCorpus, positions: set[int]) -> dict[int, Example]:
    """Documents by their positions, and what they are copies of."""
    wanted = np.array(sorted(positions), np.uint64)
    original = dict(zip(wanted.tolist(), read.split.copies.originals(wanted).tolist(), strict=True))
    rows = {row["position"]: row for row in _rows(read, {*original, *original.values()})}
    origins = {file.number: file.origin for file in read.files}

    def text(position: int) -> str:
        if position not in rows:
            folder = read.files[0].path.parent
            raise ValueError(f"{folder}: its files are not those that were compared; remove the folder and read again")
        row = rows[position]
        return row["text"] if row["second"] is None else f"{row['text']} | {row['second']}"

    return {
        position: Example(
            origin=f"{origins[position >> 32]}, row {position & 0xFFFFFFFF}",
            language=rows[position]["language"],
            text=text(position),
            copy_of=text(of) if of != position else None,
        )
        for position, of in original.items()
    }


def _rows(read: IngestedCorpus, positions: set[int]) -> Iterator[dict[str, Any]]:
    for file in read.files:
        here = [position for position in positions if position >> 32 == file.number]
        if here:
            wanted = pc.field("position").isin(pa.array(here, pa.uint64()))
            yield from pa.parquet.read_table(file.path, columns=_COLUMNS, filters=wanted).to_pylist()
