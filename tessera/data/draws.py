"""The n-th draw of a mixture, computed: which items of which bucket any window of planned tokens holds.

The clock counts planned tokens t of the phase. Bucket b with share s and mean item length m has drawn

    D(t) = floor(t * s / m + phi)        phi in [0, 1), from (seed, phase, bucket)

items by then, so the window [t0, t1) holds its draws D(t0) to D(t1) - 1, and windows concatenate wherever they are
cut. With n items in the bucket, draw d is item permute(d mod n) of epoch d // n: every epoch reads each item
exactly once, in an order of its own. The state of a run is one integer, and nothing depends on the number of processes.
Where shares move, t * s becomes the integral of s: a polygon over the stretches of plan/mixture.py.

Shapes: B buckets, K stretches, n draws of a window.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tessera.data.hashing import mix, named_keys, permute
from tessera.data.packing import ranges
from tessera.plan.corpus import Bucket
from tessera.plan.mixture import MixtureSchedule


class Draws:
    """What each bucket gives in a window; an item is whatever is drawn whole: a block, a pair."""

    def __init__(
        self,
        buckets: Sequence[Bucket],
        mixture: MixtureSchedule,
        items: NDArray[np.int64],
        tokens: NDArray[np.int64],
        *,
        seed: int,
        phase_name: str,
    ) -> None:
        """items, tokens   [B], of each bucket

        seed, phase_name   where chance comes from; another phase reads in another order

        Raises ValueError where the shares do not fit the store.
        """
        for row in mixture.shares:
            if len(row) != len(buckets):
                raise ValueError(f"{len(row)} shares for {len(buckets)} buckets; give one share for each")
            if abs(sum(row) - 1.0) > 1e-6 or min(row) < 0:
                raise ValueError(
                    f"shares add up to {sum(row):.6f}, the smallest is {min(row)}; they must be parts of 1"
                )
        self.items = items
        share = np.asarray(mixture.shares, np.float64)
        for bucket in np.flatnonzero(share.any(0) & (items == 0)).tolist():
            most = share[:, bucket].max()
            raise ValueError(f"bucket {buckets[bucket].key} has a share of {most:.3g} but no tokens")
        # a bucket gives items at a rate: its share over the mean length of its items
        self._rate = share * items / np.maximum(tokens, 1)  # [K, B] draws for each planned token
        self._knots = np.asarray(mixture.knots, np.int64)
        drawn = np.cumsum(self._rate * np.diff(self._knots)[:, None], axis=0)
        self._before = np.concatenate((np.zeros((1, len(items))), drawn[:-1]))  # [K, B] draws before each stretch

        def keys(what: str) -> NDArray[np.uint64]:
            return named_keys([(seed, phase_name, bucket.key, what) for bucket in buckets])

        self._order_key, self._draw_key = keys("order"), keys("draw")
        self._phase = (keys("phase") >> np.uint64(11)).astype(np.float64) / 2.0**53

    def before(self, t: int) -> NDArray[np.int64]:
        """Items that each bucket has given by planned token t: int64 [B]. Divided by `items`: epochs."""
        k = int(np.searchsorted(self._knots[1:-1], t, side="right"))
        drawn = self._before[k] + self._rate[k] * (t - self._knots[k])
        if k + 1 < len(self._before):  # rounding may not carry it past where the next stretch begins
            drawn = np.minimum(drawn, self._before[k + 1])
        return np.floor(drawn + self._phase).astype(np.int64)

    def window(self, t0: int, t1: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
        """Bucket, number of the item within it, and key of each draw in [t0, t1), all [n], bucket by bucket."""
        # how many items each bucket gives: its draws by t1 without those by t0
        before = self.before(t0)
        count = self.before(t1) - before
        active = np.flatnonzero(count)
        bucket = np.repeat(active, count[active])
        draw = ranges(before[active], count[active])
        # which item a draw is: the epoch it falls into has a shuffle of its own
        epoch, index = np.divmod(draw, self.items[bucket])
        order_key = mix(self._order_key[bucket] + mix(epoch.astype(np.uint64)))
        item = permute(index, self.items[bucket], order_key)
        return bucket, item, mix(self._draw_key[bucket] + mix(draw.astype(np.uint64)))
