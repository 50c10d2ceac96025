"""A text, or two, as one document, with the special tokens that the tokenizer's own template puts around and between.

[CLS] a [SEP] b [SEP], <s> a </s></s> b </s>, <bos> a <eos> b <eos>: which of them is read off the tokenizer, never
guessed from the family, so the ids are those that transformers gives for the pair.
"""

import functools
import json

import numpy as np
import tokenizers
from numpy.typing import NDArray

from tessera.text.tokenizer import Tokenizer

Ids = NDArray[np.int32]
Frame = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # ids before the first text, between, and after


@functools.lru_cache(maxsize=8)
def frame(tokenizer: Tokenizer) -> Frame:
    """Ids before, between and after the two texts of a pair."""
    inner = tokenizers.Tokenizer.from_str(json.dumps({**tokenizer.definition, "truncation": None, "padding": None}))
    whole = inner.encode("a", "a").ids
    first, second = (inner.encode("a", add_special_tokens=False).ids,) * 2
    for start in range(len(whole) - len(first) - len(second) + 1):
        if whole[start : start + len(first)] != first:
            continue
        for again in range(start + len(first), len(whole) - len(second) + 1):
            if whole[again : again + len(second)] == second:
                end = again + len(second)
                return tuple(whole[:start]), tuple(whole[start + len(first) : again]), tuple(whole[end:])
    raise ValueError(f"{tokenizer.folder}: the template of the tokenizer has no place for the second text of a pair")


def join(tokenizer: Tokenizer, first: Ids, second: Ids, max_length: int) -> Ids:
    """One document of two texts without special tokens, at most `max_length` tokens of it.

    Where that is too little the longer text gives way first, then both to half, as transformers' "longest_first" cuts.
    Raises ValueError where the special tokens alone take it all.
    """
    before, between, after = frame(tokenizer)
    room = max_length - len(before) - len(between) - len(after)
    if room < 2:
        raise ValueError(
            f"max_length is {max_length}; the special tokens of a pair take {max_length - room}, "
            f"so give at least {max_length - room + 2}"
        )
    kept, kept_second = shares(len(first), len(second), room)
    parts = (before, first[:kept], between, second[:kept_second], after)
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def alone(tokenizer: Tokenizer, ids: Ids, max_length: int) -> Ids:
    """One document of one text without special tokens, at most `max_length` tokens of it; never none.

    Raises ValueError where the special tokens alone take it all.
    """
    before, after = tokenizer.template
    room = max_length - len(before) - len(after)
    if room < 1:
        raise ValueError(f"max_length is {max_length}; special tokens alone take {max_length - room}")
    document = np.concatenate([np.asarray(part, np.int32) for part in (before, ids[:room], after)])
    return document if len(document) else np.array([tokenizer.bos_id], np.int32)


def shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts fit into `room`: all of the shorter if it takes at most half, else half of each.

    An odd token goes to the longer.
    """
    if first + second <= room:
        return first, second
    small = min(first, second, room // 2)
    return (small, room - small) if first <= second else (room - small, small)
