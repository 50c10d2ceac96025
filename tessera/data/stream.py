"""The dataloader, without a state: the batch of any window of a phase is computed, at the same cost wherever it lies.

The n-th reading of a mixture is not remembered, so there is nothing to save and nothing to wind forward on resuming.
The clock counts planned tokens t of the phase. Bucket b with share s and mean block length m has drawn

    D(t) = floor(t * s / m + phi)        phi in [0, 1), from (seed, phase, bucket)

blocks by then, so the window [t0, t1) holds its draws D(t0) to D(t1) - 1, and windows concatenate wherever they are
cut. With n blocks in the bucket, draw d is block permute(d mod n) of epoch d // n: every epoch reads each block
exactly once, in an order of its own. The state of a run is one integer, and nothing depends on the number of processes.
Where shares move, t * s becomes the integral of s: a polygon over the stretches of plan/mixture.py.

A block is a document, or a piece of at most `context` tokens of a longer one.

Shapes: B buckets, K stretches, D documents of the store, n draws of a window, N documents of the batch, T tokens.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tessera.data.hashing import mix, named_keys, permute
from tessera.data.masking import mask
from tessera.data.packing import Batch, ranges
from tessera.data.shards import Shards
from tessera.plan.mixture import MixtureSchedule
from tessera.plan.recipe import Crop

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
        for row in mixture.shares:
            if len(row) != len(shards.buckets):
                raise ValueError(f"{len(row)} shares for {len(shards.buckets)} buckets; give one share for each")
            if abs(sum(row) - 1.0) > 1e-6 or min(row) < 0:
                raise ValueError(
                    f"shares add up to {sum(row):.6f}, the smallest is {min(row)}; they must be parts of 1"
                )
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
        share = np.asarray(mixture.shares, np.float64)
        for bucket in np.flatnonzero(share.any(0) & (self.blocks == 0)):
            most = share[:, bucket].max()
            raise ValueError(f"bucket {shards.buckets[bucket].key} has a share of {most:.3g} but no tokens")
        # a bucket gives blocks at a rate: its share over the mean length of its blocks
        self._rate = share * self.blocks / np.maximum(tokens, 1)  # [K, B] draws for each planned token
        self._knots = np.asarray(mixture.knots, np.int64)
        drawn = np.cumsum(self._rate * np.diff(self._knots)[:, None], axis=0)
        self._before = np.concatenate((np.zeros((1, len(self.blocks))), drawn[:-1]))  # [K, B] draws before each stretch

        def keys(what: str) -> NDArray[np.uint64]:
            return named_keys([(seed, phase_name, bucket.key, what) for bucket in shards.buckets])

        self._order_key, self._draw_key = keys("order"), keys("draw")
        self._phase = (keys("phase") >> np.uint64(11)).astype(np.float64) / 2.0**53

    def draws(self, t: int) -> NDArray[np.int64]:
        """Blocks that each bucket has given by planned token t: int64 [B]. Divided by `blocks`: epochs."""
        k = int(np.searchsorted(self._knots[1:-1], t, side="right"))
        drawn = self._before[k] + self._rate[k] * (t - self._knots[k])
        if k + 1 < len(self._before):  # rounding may not carry it past where the next stretch begins
            drawn = np.minimum(drawn, self._before[k + 1])
        return np.floor(drawn + self._phase).astype(np.int64)

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

    def _drawn(self, t0: int, t1: int) -> tuple[Integers, Integers, Integers, Keys]:
        """Bucket, first token, length and key of each block drawn in the window, all [n], bucket by bucket."""
        # how many blocks each bucket gives: its draws by t1 without those by t0
        before = self.draws(t0)
        count = self.draws(t1) - before
        active = np.flatnonzero(count)
        bucket = np.repeat(active, count[active])
        draw = ranges(before[active], count[active])
        # which block a draw is: the epoch it falls into has a shuffle of its own
        epoch, index = np.divmod(draw, self.blocks[bucket])
        order_key = mix(self._order_key[bucket] + mix(epoch.astype(np.uint64)))
        block = self._first_block[bucket] + permute(index, self.blocks[bucket], order_key)
        # where that block lies in the store
        document, inside = self._index.find(block)
        starts = self.shards.offsets[document] + inside * self.context
        lengths = np.minimum(self.shards.offsets[document + 1] - starts, self.context)
        return bucket, starts, lengths, mix(self._draw_key[bucket] + mix(draw.astype(np.uint64)))


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
