"""The dataloader, without a state: the batch of any window of a phase is computed, at the same cost wherever it lies.

The n-th reading of a mixture is not remembered, so there is nothing to save and nothing to wind forward on resuming:
see draws.py.

A block is a document, or a piece of at most `context` tokens of a longer one.

Shapes: B buckets, D documents of the store, n draws of a window, N documents of the batch, T tokens.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tessera.data.draws import Draws
from tessera.data.hashing import mix
from tessera.data.masking import mask
from tessera.data.packing import Batch
from tessera.data.shards import Shards
from tessera.plan.corpus import Bucket
from tessera.plan.mixture import MixtureSchedule
from tessera.plan.phase import Crop

Integers = NDArray[np.int64]
Keys = NDArray[np.uint64]


class Stream:
    """The dataloader of a phase: `read(t0, t1, mask_ratio)` gives the batch of any window of planned tokens."""

    def __init__(
        self,
        shards: Shards,
        mixture: MixtureSchedule,
        *,
        context: int,
        seed: int,
        phase_name: str,
        replacement: Literal["mask", "80-10-10"],
        crop: Crop | None,
        mask_id: int,
        special_ids: Sequence[int],
        vocab_size: int,
    ) -> None:
        """Starts at once where the store's blocks are counted already, see blocks.py; nothing else is read.

        mixture       shares of the buckets over the phase, see plan/mixture.py
        context       longest piece of a document, in tokens
        seed, phase_name   where chance comes from; another phase reads in another order

        Raises ValueError where the shares do not fit the store.
        """
        self.shards = shards
        self.context = context
        self._crop = crop
        self._masking = (replacement, mask_id, tuple(special_ids), vocab_size)

        # the blocks of a bucket lie in a row: the first of them, and how many
        self._index = shards.blocks(context)
        first = np.asarray(shards.first_document, np.int64)
        last = first + np.array([bucket.documents for bucket in shards.buckets], np.int64)
        self._first_block = self._index.before(first)
        self.blocks: NDArray[np.int64] = self._index.before(last) - self._first_block  # [B]
        tokens = np.asarray(shards.offsets[last]) - np.asarray(shards.offsets[first])
        self._draws = Draws(shards.buckets, mixture, self.blocks, tokens, seed=seed, phase_name=phase_name)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """What `sources` of a batch number."""
        return self.shards.buckets

    def draws(self, t: int) -> NDArray[np.int64]:
        """Blocks that each bucket has given by planned token t: int64 [B]. Divided by `blocks`: epochs."""
        return self._draws.before(t)

    def read(self, t0: int, t1: int, mask_ratio: float) -> Batch:
        """The batch of the window [t0, t1) of planned tokens: t1 - t0 tokens, give or take a few blocks.

        Masks belong to the draw, not to the window: read(a, b) and read(b, c) hold the documents of read(a, c).
        Raises ValueError where t1 < t0 or mask_ratio is outside (0, 1).
        """
        if not 0 <= t0 <= t1:
            raise ValueError(f"the window [{t0}, {t1}) is none; give 0 <= t0 <= t1")
        bucket, starts, lengths, keys = self.documents(t0, t1)
        # fetch their tokens out of the memory-mapped shards, packed end to end
        ends = np.concatenate(([0], np.cumsum(lengths)))
        tokens = self.shards.gather(starts, lengths)
        # hide some, by the key of each document
        inputs, positions, targets = mask(tokens, keys, ends, mask_ratio, *self._masking)
        sources = bucket.astype(np.int32)
        return Batch(tokens=inputs, starts=ends, positions=positions, targets=targets, sources=sources)

    def documents(self, t0: int, t1: int) -> tuple[Integers, Integers, Integers, Keys]:
        """Bucket, first token in the store, length and key of each document of the batch of a window, all [N]."""
        bucket, starts, lengths, keys = self._drawn(t0, t1)
        # cut blocks to random lengths, where the phase asks for it
        if self._crop is not None:
            piece, starts, lengths, keys = cut(starts, lengths, keys, self._crop, self.context)
            bucket = bucket[piece]
        # shuffle within the batch, or buckets would follow one another
        order = np.argsort(mix(~keys), kind="stable")
        return bucket[order], starts[order], lengths[order], keys[order]

    def origins(self, t0: int, t1: int) -> list[tuple[int, int, int, int]]:
        """What the batch of the window [t0, t1) is made of, in its order.

        returns  (bucket, number of the document within it, first token within the document, tokens)
        """
        bucket, starts, lengths, _ = self.documents(t0, t1)
        offsets = self.shards.offsets
        place = np.searchsorted(offsets, starts, side="right") - 1
        first = np.asarray(self.shards.first_document, np.int64)[bucket]
        found = np.stack((bucket, place - first, starts - np.asarray(offsets[place]), lengths), axis=1)
        return [tuple(row) for row in found.tolist()]

    def _drawn(self, t0: int, t1: int) -> tuple[Integers, Integers, Integers, Keys]:
        """Bucket, first token, length and key of each block drawn in the window, all [n], bucket by bucket."""
        bucket, index, keys = self._draws.window(t0, t1)
        block = self._first_block[bucket] + index
        # where that block lies in the store
        document, inside = self._index.find(block)
        starts = self.shards.offsets[document] + inside * self.context
        lengths = np.minimum(self.shards.offsets[document + 1] - starts, self.context)
        return bucket, starts, lengths, keys


def cut(
    starts: Integers, lengths: Integers, keys: Keys, crop: Crop, context: int
) -> tuple[Integers, Integers, Integers, Keys]:
    """Blocks in random pieces that together hold every token.

    starts, lengths, keys   [n], of the blocks
    returns                 for each piece the block it is of, its start, its length and a key of its own

    "complementary": a block of L tokens becomes r and L - r, r uniform in [min_length, L - min_length]; shorter than
    2 * min_length it stays whole. "uniform": fresh lengths, uniform in [min_length, context], one after the other; the
    last piece is what remains, and joins the one before where it is shorter than min_length.
    Source: EuroBERT, arXiv:2503.05500, 2.3 (random lengths) and its released code (complementary pieces).
    """
    block, begin, rest = np.arange(len(starts)), starts.copy(), lengths.copy()
    pieces: list[tuple[Integers, Integers, Integers, Keys]] = []
    number = 0
    while len(block):
        number += 1
        key = mix(keys[block] + np.uint64(number))
        if crop.how == "uniform":
            length = _uniform(key, crop.min_length, np.full(len(block), max(context, crop.min_length)))
        elif number == 1:
            length = _uniform(key, crop.min_length, np.maximum(rest - crop.min_length, crop.min_length))
        else:
            length = rest
        length = np.where(rest - length < crop.min_length, rest, length)
        pieces.append((block, begin, length, key))
        more = length < rest
        block, begin, rest = block[more], (begin + length)[more], (rest - length)[more]
    columns = zip(*pieces, strict=True) if pieces else iter([(block,), (begin,), (rest,), (keys,)])
    of, first, size, own = (np.concatenate(column) for column in columns)
    return of, first, size, own


def _uniform(key: Keys, low: int, high: Integers) -> Integers:
    """Whole numbers in [low, high]."""
    return low + (mix(~key) % (high - low + 1).astype(np.uint64)).astype(np.int64)
