"""Counter-based randomness: chance is a hash of a key and a counter, so nothing is drawn in order, nothing remembered.

Keys come from a seed and a number (`keys`) or from names (`named_keys`); the i-th random word of a key is
mix(key + i * GOLDEN); a shuffle is a bijection that is computed where it is asked (`permute`).
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2 ** 64 / the golden ratio, odd: multiples of it are spread evenly
_ROUNDS = 10  # with fewer, or on fewer bits, shuffles of less than ten blocks are visibly unfair
_FEWEST_BITS = 4


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit words whose every output bit depends on every input bit, in place: `values` is returned.

    Source: the finaliser of splitmix64, Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
    """
    shifted = values >> np.uint64(30)
    values ^= shifted
    values *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(values, np.uint64(27), out=shifted)
    values ^= shifted
    values *= np.uint64(0x94D049BB133111EB)
    np.right_shift(values, np.uint64(31), out=shifted)
    values ^= shifted
    return values


def keys(seed: int, documents: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One key for each document number: uint64 [N] for int64 [N]. Another seed, other keys."""
    start = mix(np.array([seed % 2**64], np.uint64))
    return mix(start + (documents.astype(np.uint64) + np.uint64(1)) * GOLDEN)


def named_keys(names: Sequence[Sequence[int | str]]) -> NDArray[np.uint64]:
    """A key for each name, a sequence of numbers and texts: uint64 [n], the same on every machine."""
    digests = (hashlib.blake2b(json.dumps([*name]).encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def permute(index: NDArray[np.int64], n: NDArray[np.int64], key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where `index` stands in a shuffle of 0 .. n-1 that is never written down: for each (n, key) a bijection.

    index, n, key   [N], with 0 <= index < n; each has its own n and key

    A Feistel network on the smallest power of two that holds n, at least 16, walked until it comes back below n (for n
    above 8 fewer than two steps on average). Cost: O(N), no memory beside it.
    Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains" (cycle walking).
    """
    bits = np.maximum(np.ceil(np.log2(np.maximum(n, 1))), _FEWEST_BITS).astype(np.uint64)
    bits += n > (np.int64(1) << bits.astype(np.int64))  # log2 is rounded for huge n
    result = index.astype(np.uint64)
    limit = n.astype(np.uint64)
    todo = np.flatnonzero(n > 1)
    while len(todo):
        walked = _feistel(result[todo], bits[todo], key[todo])
        result[todo] = walked
        todo = todo[walked >= limit[todo]]
    return result.astype(np.int64)


def _feistel(value: NDArray[np.uint64], bits: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 0 .. 2 ** bits - 1: halves take turns at hiding under a hash of the other."""
    low_bits = bits >> np.uint64(1)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << (bits - low_bits)) - np.uint64(1)
    low, high = value & low_mask, value >> low_bits
    turns = np.arange(_ROUNDS, dtype=np.uint64) << np.uint64(56)
    for turn in range(0, _ROUNDS, 2):
        high ^= mix(key + (low + turns[turn])) & high_mask
        low ^= mix(key + (high + turns[turn + 1])) & low_mask
    return (high << low_bits) | low
