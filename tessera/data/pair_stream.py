"""The dataloader of sentence embeddings: documents and aligned pairs of any window of a phase, computed.

A pair is two documents of a store of its own, one after the other, and is drawn whole. Of a window [t0, t1) of planned
tokens, the share of the pairs is read from their store and the rest from that of documents, each on a clock of its own,
so windows concatenate wherever they are cut. Behind its pairs a window has their hard negatives, where there are any:
second sides of other pairs.
"""

# Shapes: B buckets, D documents, n pairs of a window, N documents of the batch, T tokens, M targets.

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tessera.data.draws import Draws
from tessera.data.hashing import mix
from tessera.data.packing import Batch
from tessera.data.shards import Shards
from tessera.data.stream import Stream
from tessera.plan.corpus import Bucket
from tessera.plan.mixture import MixtureSchedule

Rows = Callable[[NDArray[np.uint64]], NDArray[np.int64]]
Negatives = Callable[[NDArray[np.int64]], NDArray[np.int64]]  # numbers of pairs [n] -> of their negatives' [n, k]


def text_keys(tokens: NDArray[np.int32], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A 64-bit key of each text, the same for the same tokens: uint64 [N] for tokens [T], starts [N + 1]."""
    place = np.arange(len(tokens)) - np.repeat(starts[:-1], np.diff(starts))
    words = mix(tokens.astype(np.uint64) + (place.astype(np.uint64) << np.uint64(32)))
    return mix(np.add.reduceat(words, starts[:-1])) if len(starts) > 1 else np.empty(0, np.uint64)


class PairStream:
    """Draws aligned pairs: document 2i of a store and document 2i + 1 are the sides of pair i."""

    def __init__(
        self, shards: Shards, mixture: MixtureSchedule, *, context: int, seed: int, phase_name: str, negatives: int = 0
    ) -> None:
        """context: the longest side, in tokens; what is longer is cut there. negatives: that are read with each pair,
        as long as the second sides of its bucket. Raises ValueError as Draws."""
        self.shards, self.context = shards, context
        self._first = np.asarray(shards.first_document, np.int64) // 2
        pairs = np.array([bucket.documents // 2 for bucket in shards.buckets], np.int64)
        tokens = _tokens(shards, context, negatives)
        self._draws = Draws(shards.buckets, mixture, pairs, tokens, seed=seed, phase_name=phase_name)

    def pairs(self, t0: int, t1: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(bucket, number of the pair in the store) of the window [t0, t1), all [n], shuffled."""
        bucket, index, keys = self._draws.window(t0, t1)
        order = np.argsort(mix(~keys), kind="stable")
        return bucket[order], (self._first[bucket] + index)[order]

    def read(self, pairs: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(tokens [T], starts [2n + 1]) of both sides of pairs, one after the other."""
        return self.texts(np.stack((2 * pairs, 2 * pairs + 1), axis=1).ravel())

    def texts(self, documents: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(tokens [T], starts [n + 1]) of documents of the store."""
        begins = np.asarray(self.shards.offsets)[documents]
        lengths = np.minimum(np.asarray(self.shards.offsets)[documents + 1] - begins, self.context)
        return self.shards.gather(begins, lengths), np.concatenate(([0], np.cumsum(lengths)))

    def bucket(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """The bucket of each pair."""
        return np.searchsorted(self._first, pairs, side="right") - 1


def with_negatives(shards: Shards, negatives: int) -> tuple[Bucket, ...]:
    """The buckets of a store of pairs, their tokens those that are read where each pair has so many negatives."""
    tokens = _tokens(shards, np.iinfo(np.int64).max, negatives).tolist()
    return tuple(replace(bucket, tokens=found) for bucket, found in zip(shards.buckets, tokens, strict=True))


def _tokens(shards: Shards, context: int, negatives: int) -> NDArray[np.int64]:
    """Of each bucket: tokens of all its pairs, each with negatives that are as long as its second sides."""
    lengths = np.minimum(np.diff(shards.offsets), context)
    lengths[1::2] *= 1 + negatives
    before = np.concatenate(([0], np.cumsum(lengths)))
    first = np.asarray(shards.first_document, np.int64)
    return before[first + [bucket.documents // 2 * 2 for bucket in shards.buckets]] - before[first]


class EmbeddingStream:
    """The batches of a phase of sentence embeddings; `Batch.rows` says what each document is drawn to.

    documents   what is read of documents, where the phase reads any
    pairs       what is read of pairs, where it reads any
    share       of the tokens that is of pairs
    taught      keys of what a teacher read -> rows of its vectors: then `rows` are these, of a pair that of its second
                side. None: `rows` are 2i and 2i + 1 for the sides of pair i of the batch
    negatives   pairs -> those whose second sides are their hard negatives, -1 for none. In a batch each is one document
                after all pairs, with the rows -1, -2 ..., unless it is there as a side
    """

    def __init__(
        self, documents: Stream | None, pairs: PairStream | None, share: float, taught: Rows | None = None,
        negatives: Negatives | None = None,
    ) -> None:  # fmt: skip
        self.documents, self.pairs, self.share, self._taught = documents, pairs, share, taught
        self._negatives = negatives
        self._shift = len(documents.buckets) if documents is not None else 0

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """What `sources` of a batch number: those of the documents, then those of the pairs."""
        parts = (part.shards.buckets for part in (self.documents, self.pairs) if part is not None)
        return tuple(bucket for part in parts for bucket in part)

    def read(self, t0: int, t1: int) -> Batch:
        """The batch of the window [t0, t1) of planned tokens."""
        plain, sides = self._plain(t0, t1), self._sides(t0, t1)
        both = [part for part in (plain, sides) if part is not None]
        starts = np.concatenate([[0], *(np.diff(part.starts) for part in both)]).cumsum()
        return replace(
            both[0],
            tokens=np.concatenate([part.tokens for part in both]),
            starts=starts,
            sources=np.concatenate([part.sources for part in both]),
            rows=np.concatenate([part.rows for part in both if part.rows is not None]),
        )

    def origins(self, t0: int, t1: int) -> list[tuple[int, int, int, int]]:
        """What the batch of the window [t0, t1) is made of, as `Stream.origins`; pairs side by side."""
        found = [] if self.documents is None else self.documents.origins(self._before(t0), self._before(t1))
        if self.pairs is not None:
            bucket, drawn, _ = self._drawn(self.pairs, t0, t1)
            lengths = np.diff(self.pairs.texts(drawn)[1])
            inside = drawn - np.asarray(self.pairs.shards.first_document, np.int64)[bucket]
            begins = np.zeros_like(lengths)
            columns = (part.tolist() for part in (bucket + self._shift, inside, begins, lengths))
            found += zip(*columns, strict=True)
        return found

    def numbers(self, tokens: int) -> NDArray[np.int64]:
        """The pairs that are read in the first `tokens`, by their numbers in the store, rising, each once."""
        assert self.pairs is not None, "a phase without pairs"
        return np.unique(self.pairs.pairs(0, tokens - self._before(tokens))[1])

    def texts(self, tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(first token, length) in their stores of all that a teacher has to read in the first `tokens`: of documents
        [n, 2] and of second sides of pairs [m, 2], each once."""
        found = []
        if self.documents is not None:
            _, starts, lengths, _ = self.documents.documents(0, self._before(tokens))
            found.append(np.unique(np.stack((starts, lengths), axis=1), axis=0))
        else:
            found.append(np.empty((0, 2), np.int64))
        if self.pairs is not None:
            number = 2 * self.numbers(tokens) + 1
            begins = np.asarray(self.pairs.shards.offsets)[number]
            ends = np.asarray(self.pairs.shards.offsets)[number + 1]
            found.append(np.stack((begins, np.minimum(ends - begins, self.pairs.context)), axis=1))
        else:
            found.append(np.empty((0, 2), np.int64))
        return found[0], found[1]

    def _before(self, t: int) -> int:
        """Of the first t planned tokens, those of documents."""
        return t if self.pairs is None else round(t * (1 - self.share))

    def _plain(self, t0: int, t1: int) -> Batch | None:
        if self.documents is None:
            return None
        bucket, begins, lengths, _ = self.documents.documents(self._before(t0), self._before(t1))
        starts = np.concatenate(([0], np.cumsum(lengths)))
        tokens = self.documents.shards.gather(begins, lengths)
        assert self._taught is not None, "documents alone are drawn to nothing without a teacher"
        return _batch(tokens, starts, bucket, self._taught(text_keys(tokens, starts)))

    def _sides(self, t0: int, t1: int) -> Batch | None:
        if self.pairs is None:
            return None
        bucket, drawn, pairs = self._drawn(self.pairs, t0, t1)
        tokens, starts = self.pairs.texts(drawn)
        if self._taught is None:
            rows = np.concatenate((np.arange(2 * pairs), -1 - np.arange(len(drawn) - 2 * pairs)))
        else:
            rows = np.repeat(self._taught(text_keys(tokens, starts)[1::2]), 2)
        return _batch(tokens, starts, bucket + self._shift, rows)

    def _drawn(self, pairs: PairStream, t0: int, t1: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """(bucket, document in the store of pairs, both [N]; n): both sides of the n pairs of a window, then their
        negatives."""
        bucket, number = pairs.pairs(t0 - self._before(t0), t1 - self._before(t1))
        bucket, drawn = np.repeat(bucket, 2), np.stack((2 * number, 2 * number + 1), axis=1).ravel()
        if self._negatives is not None:
            hard = np.setdiff1d(self._negatives(number), number)
            hard = hard[hard >= 0]
            bucket, drawn = np.concatenate((bucket, pairs.bucket(hard))), np.concatenate((drawn, 2 * hard + 1))
        return bucket, drawn, len(number)


def _batch(
    tokens: NDArray[np.int32], starts: NDArray[np.int64], sources: NDArray[np.int64], rows: NDArray[np.int64]
) -> Batch:
    nothing = np.empty(0, np.int64)
    return Batch(
        tokens=tokens, starts=starts, positions=nothing, targets=nothing.astype(np.int32),
        sources=sources.astype(np.int32), rows=rows,
    )  # fmt: skip
