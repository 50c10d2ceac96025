"""Packing: documents collated into a `Batch` end to end, never padded; micro-batches, the share of each process.

A `Batch` is the only thing that crosses from text to model.

Shapes: T tokens of all documents end to end, N documents, M masked positions.
"""

import bisect
import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.plan.cost import SIZES, passes_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Masked documents in a row; document i is tokens[starts[i]:starts[i + 1]]."""

    tokens: NDArray[np.int32]  # [T], what the model reads
    starts: NDArray[np.int64]  # [N + 1], from 0 to T
    positions: NDArray[np.int64]  # [M], rising: where something is to be predicted
    targets: NDArray[np.int32]  # [M], what stood there
    sources: NDArray[np.int32]  # [N], the bucket each document comes from
    rows: NDArray[np.int64] | None = None  # [N], of sentence embeddings: what each document is drawn to


def select(batch: Batch, documents: NDArray[np.int64]) -> Batch:
    """The named documents, in the order given, as a batch of their own."""
    begins, ends = batch.starts[documents], batch.starts[documents + 1]
    starts = np.concatenate(([0], np.cumsum(ends - begins)))
    first, last = np.searchsorted(batch.positions, begins), np.searchsorted(batch.positions, ends)
    positions = _slices(batch.positions, first, last)
    positions += np.repeat(starts[:-1] - begins, last - first)
    return Batch(
        tokens=_slices(batch.tokens, begins, ends),
        starts=starts,
        positions=positions,
        targets=_slices(batch.targets, first, last),
        sources=batch.sources[documents],
        rows=None if batch.rows is None else batch.rows[documents],
    )


def micro_batches(batch: Batch, max_tokens: int) -> list[Batch]:
    """Micro-batches, for gradient accumulation: parts of at most `max_tokens` tokens.

    A document is never split, one that is longer stands alone.

    Best fit, longest first: as few parts as there can be, each of documents of any length, in the order of the batch.
    `by_length` makes more parts of documents that are alike, which are computed faster one by one.
    """
    lengths = np.diff(batch.starts)
    parts: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # free tokens and number of each part, rising
    for document in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[document])
        fit = bisect.bisect_left(rooms, (length, -1))
        if fit == len(rooms):
            room, part = max_tokens, len(parts)
            parts.append([])
        else:
            room, part = rooms.pop(fit)
        parts[part].append(document)
        bisect.insort(rooms, (room - length, part))
    ordered = select(batch, np.array([document for part in parts for document in sorted(part)], np.int64))
    edges = np.concatenate(([0], np.cumsum([len(part) for part in parts], dtype=np.int64)))
    return [_cut(ordered, first, last) for first, last in itertools.pairwise(edges.tolist())]


def even_batches(batch: Batch, max_tokens: int) -> list[Batch]:
    """As few parts as can be, about equal in tokens, for a GPU: none is left small at the end.

    A part may be a little larger than `max_tokens` (plan/cost.py: `passes_of`): documents are whole, so a batch of just
    two times as many tokens would hardly ever divide in two. Where they do not divide that way either, as many parts as
    `micro_batches` makes, or its parts.
    """
    few, most = passes_of(len(batch.tokens), max_tokens), max_tokens + max_tokens // SIZES
    even = [share(batch, number, few) for number in range(few)]
    if all(len(part.tokens) <= most for part in even):
        return even
    parts = micro_batches(batch, max_tokens)
    even = [share(batch, number, len(parts)) for number in range(len(parts))]
    return parts if any(len(part.tokens) > max_tokens for part in even) else even


def filled(batch: Batch, multiple: int, longest: int, pad_id: int) -> Batch:
    """The batch with documents of padding at its end, up to a multiple of so many tokens; nothing in them is masked.

    longest   of such a document
    Sizes that recur let a GPU reuse its memory, and rows in multiples of its tiles are multiplied fastest.
    """
    lack = -len(batch.tokens) % multiple
    if not lack:
        return batch
    ends = np.minimum(np.arange(1, -(-lack // longest) + 1) * longest, lack)
    return Batch(
        tokens=np.concatenate((batch.tokens, np.full(lack, pad_id, batch.tokens.dtype))),
        starts=np.concatenate((batch.starts, batch.starts[-1] + ends)),
        positions=batch.positions,
        targets=batch.targets,
        sources=np.concatenate((batch.sources, np.zeros(len(ends), batch.sources.dtype))),
    )


def by_length(lengths: Sequence[int] | NDArray[np.int64], max_tokens: int) -> Iterator[list[int]]:
    """Length-sorted batching: numbers of the documents, the longest first, at most `max_tokens` a batch unless alone.

    Of equals the first comes first.
    """
    sizes = np.asarray(lengths, np.int64)
    batch: list[int] = []
    tokens = 0
    for number in np.argsort(-sizes, kind="stable").tolist():
        length = int(sizes[number])
        if batch and tokens + length > max_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += length
    if batch:
        yield batch


def _cut(batch: Batch, first: int, last: int) -> Batch:
    """Documents first to last - 1; a view wherever it can be."""
    begin, end = batch.starts[first], batch.starts[last]
    masked = slice(*np.searchsorted(batch.positions, (begin, end)))
    return Batch(
        tokens=batch.tokens[begin:end],
        starts=batch.starts[first : last + 1] - begin,
        positions=batch.positions[masked] - begin,
        targets=batch.targets[masked],
        sources=batch.sources[first:last],
        rows=None if batch.rows is None else batch.rows[first:last],
    )


def share(batch: Batch, rank: int, world: int) -> Batch:
    """What process `rank` of `world` reads: disjoint, complete, about equal in tokens, the same on every machine.

    Longest first, each to the process with the fewest tokens; the whole batch where `world` is 1.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank} of {world} processes; ranks are counted from 0")
    if world == 1:
        return batch
    lengths = np.diff(batch.starts)
    loads = [(0, number) for number in range(world)]
    mine = []
    for document in np.argsort(-lengths, kind="stable").tolist():
        load, number = loads[0]
        heapq.heapreplace(loads, (load + int(lengths[document]), number))
        if number == rank:
            mine.append(document)
    return select(batch, np.sort(np.array(mine, np.int64)))


def _slices(values: NDArray[Any], begins: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[Any]:
    """values[begins[0]:ends[0]], values[begins[1]:ends[1]], ... end to end, without an index for every value."""
    if len(begins) == 0:
        return values[:0].copy()
    return np.concatenate([values[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)])


def ranges(begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """begins[0], begins[0] + 1, ... lengths[0] numbers, then those of begins[1], and so on."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(begins - (ends - lengths), lengths) + np.arange(total, dtype=np.int64)
