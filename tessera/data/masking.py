"""Which tokens a model has to predict: a function of a document's tokens and its key, whatever else is in the batch.

Shapes: T tokens of all documents end to end, N documents, M masked positions.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tessera.data.hashing import GOLDEN, mix

_CHUNK = 1 << 16  # tokens hashed at a time, so that the passes over them stay in the processor's cache


def mask(
    tokens: NDArray[np.int32],
    document_keys: NDArray[np.uint64],
    starts: NDArray[np.int64],
    ratio: float,
    replacement: Literal["mask", "80-10-10"],
    mask_id: int,
    special_ids: Sequence[int],
    vocab_size: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """Chooses each token with probability `ratio` and hides it.

    tokens          [T]
    document_keys   [N], the source of chance: same tokens and key, same mask
    starts          [N + 1], where each document begins; the last is T
    replacement     "mask": every chosen token becomes `mask_id`; "80-10-10": 80% do, 10% become any token that is not
                    special, 10% stay as they are
    special_ids     never chosen, and never put in at random
    returns         inputs [T], positions [M] of the chosen tokens, rising, and targets [M], what stood there

    Raises ValueError for a ratio outside (0, 1).
    Source: Devlin et al. 2019, arXiv:1810.04805, 3.1 (80/10/10).
    """
    if not 0.0 < ratio < 1.0:
        raise ValueError(f"mask_ratio is {ratio}; it is a share, so give a value above 0 and below 1")
    chosen = _chosen(document_keys, starts, ratio)
    special = np.zeros(vocab_size, bool)
    special[[*special_ids, mask_id]] = True
    chosen = chosen[~special[tokens[chosen]]]
    targets = tokens[chosen]
    inputs = tokens.copy()
    if replacement == "mask":
        inputs[chosen] = mask_id
    else:
        document = np.searchsorted(starts, chosen, side="right") - 1
        inside = (chosen - starts[document]).astype(np.uint64)
        chance = mix(~document_keys[document] + inside * GOLDEN)
        tenth, chance = chance % np.uint64(10), chance // np.uint64(10)
        ordinary = np.flatnonzero(~special).astype(np.int32)
        drawn = ordinary[(chance % np.uint64(len(ordinary))).astype(np.int64)]
        inputs[chosen] = np.where(tenth < 8, np.int32(mask_id), np.where(tenth == 8, drawn, targets))
    return inputs, chosen, targets


def _chosen(document_keys: NDArray[np.uint64], starts: NDArray[np.int64], ratio: float) -> NDArray[np.int64]:
    """Positions whose own 64 random bits fall below the ratio, rising."""
    total = int(starts[-1])
    threshold = np.uint64(int(ratio * 2.0**64))
    # The bits of token i of a document are mix(key + i * golden). With i = position - start the start can be taken off
    # once for each document; the words wrap around 2 ** 64, as they should.
    origin = document_keys - starts[:-1].astype(np.uint64) * GOLDEN
    steps = np.arange(min(_CHUNK, total), dtype=np.uint64) * GOLDEN
    found = []
    for begin in range(0, total, _CHUNK):
        end = min(begin + _CHUNK, total)
        first = int(np.searchsorted(starts, begin, side="right")) - 1
        last = int(np.searchsorted(starts, end, side="left"))
        inside = np.clip(starts[first : last + 1], begin, end)
        words = np.repeat(origin[first:last] + np.array([begin], np.uint64) * GOLDEN, np.diff(inside))
        words += steps[: end - begin]
        found.append(np.flatnonzero(mix(words) < threshold) + begin)
    return np.concatenate(found) if found else np.empty(0, np.int64)
