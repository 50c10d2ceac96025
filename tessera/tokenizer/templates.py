"""A text, a pair of texts, or words that are split already, as token ids by the tokenizer's own template.

[CLS] a [SEP] b [SEP], <s> a </s></s> b </s>, <bos> a <eos> b <eos>: which of them is read off the tokenizer, never
guessed from the family, so the ids are those that transformers gives for the pair.
"""

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tessera.tokenizer.special_tokens import PlainText, retold
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.tokenizer.tokenizer_json import SPACES, probing, without_prefix

Ids = NDArray[np.int32]
Frame = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # ids before the first text, between, and after
Parts = tuple[tuple[int, ...], ...]


def frame(tokenizer: Tokenizer) -> Frame:
    """Ids before, between and after the two texts of a pair."""
    before, _, between, _, after = _pair(tokenizer)[0]
    return before, between, after


def segments(tokenizer: Tokenizer, first: int, second: int, max_length: int) -> Ids:
    """The segment of each token of what `join` makes of two texts of so many tokens, as the template has it.

    In BERT's 0 for [CLS] a [SEP] and 1 for b [SEP]; in many others 0 for all.
    """
    before, one, between, other, after = _pair(tokenizer)[1]
    kept, kept_second = _kept(tokenizer, first, second, max_length)
    parts = (before, one[:1] * kept, between, other[:1] * kept_second, after)
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


@functools.lru_cache(maxsize=8)
def _pair(tokenizer: Tokenizer) -> tuple[Parts, Parts]:
    """Ids and segments of a pair of two words: before the first, its own, between, that of the second, after."""
    probe, first, second = probing(tokenizer.path, tokenizer.definition)
    with retold(tokenizer.path, "its post_processor cannot be used"):
        pair = probe.encode("a", "b")
    whole = pair.ids
    if whole.count(first) != 1 or whole.count(second) != 1 or whole.index(first) > whole.index(second):
        raise ValueError(f"{tokenizer.path}: the template of the tokenizer has no place for the second text of a pair")
    start, again = whole.index(first), whole.index(second)
    edges = (0, start, start + 1, again, again + 1, len(whole))
    ids, types = ([tuple(row[i:j]) for i, j in itertools.pairwise(edges)] for row in (whole, pair.type_ids))
    return tuple(ids), tuple(types)


def join(tokenizer: Tokenizer, first: Ids, second: Ids, max_length: int) -> Ids:
    """One document of two texts without special tokens, at most `max_length` tokens of it.

    Where that is too little the longer text gives way first, then both to half, as transformers' "longest_first" cuts.
    Raises ValueError where the special tokens alone take it all.
    """
    before, between, after = frame(tokenizer)
    kept, kept_second = _kept(tokenizer, len(first), len(second), max_length)
    parts = (before, first[:kept], between, second[:kept_second], after)
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def _kept(tokenizer: Tokenizer, first: int, second: int, max_length: int) -> tuple[int, int]:
    """How many tokens of the two texts of a pair stay."""
    room = max_length - sum(map(len, frame(tokenizer)))
    if room < 2:
        raise ValueError(
            f"max_length is {max_length}; the special tokens of a pair take {max_length - room}, "
            f"so give at least {max_length - room + 2}"
        )
    return shares(first, second, room)


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


def encode_words(
    tokenizer: Tokenizer, words: Sequence[str], spaced: bool | Sequence[bool] = True
) -> tuple[Ids, NDArray[np.int64]]:
    """The ids of a sentence and the word that each token belongs to, int32 and int64 [tokens]; no special tokens.

    For words that were split already (named entities, parts of speech), as the pieces they are inside running text.
    Byte-level vocabularies know a word with its space and a word without: `Ġcat` and `cat`. A word encoded by itself is
    the second, which the model met only at the start of texts and inside words, and tagging suffers: mmBERT names it
    among its limitations, users of ModernBERT gained a point of F1 by adding the space.

    The ids are those of the words with a space between them. Never does one token hold pieces of two words, nor a
    word no token: one that the tokenizer drops, such as a lone control character, becomes the unknown token.

    spaced   False joins the words of a script without spaces; or one for each word, whether a space stands before it
             (`SpaceAfter=No` of the word before, in Universal Dependencies). That of the first word has no effect.

    WordPiece has no word-initial pieces, only continuations: there `spaced` changes nothing.
    Raises ValueError for an empty word, and for one that the tokenizer drops where it has no unknown token.
    """
    if isinstance(spaced, bool):
        spaced = [spaced] * len(words)
    if len(spaced) != len(words):
        raise ValueError(
            f"{len(spaced)} values of `spaced` for {len(words)} words; give one for each word, or one bool"
        )
    if "" in words:
        raise ValueError(
            f"word {list(words).index('')} of {' '.join(words)[:80]!r} is empty; leave it out with its label"
        )
    initial = [i for i in range(len(words)) if i == 0 or spaced[i]]
    space = _space(tokenizer)
    pieces: list[Ids] = [np.zeros(0, np.int32)] * len(words)
    given = [words[i] if i == 0 else space + words[i] for i in initial]
    for i, ids in zip(initial, tokenizer.encode_plain(given), strict=True):
        pieces[i] = ids
    inside = [i for i in range(len(words)) if i and not spaced[i]]
    if inside:
        for i, ids in zip(inside, _bare(tokenizer).ids([words[i] for i in inside]), strict=True):
            pieces[i] = ids
    for i, ids in enumerate(pieces):
        if not len(ids):
            if tokenizer.unknown_id is None:
                raise ValueError(
                    f"word {i}, {words[i]!r}, has no token, and the tokenizer no unknown token; leave it out"
                )
            pieces[i] = np.array([tokenizer.unknown_id], np.int32)
    counts = [len(ids) for ids in pieces]
    return np.concatenate([np.zeros(0, np.int32), *pieces]), np.repeat(np.arange(len(words)), counts)


@functools.lru_cache(maxsize=8)
def _space(tokenizer: Tokenizer) -> str:
    """What is to be put before a word: nothing where the tokenizer begins every text as if a space stood there."""
    (first,) = tokenizer.encode_plain(["a"])
    return "" if len(first) and tokenizer.token(int(first[0])).startswith(SPACES) else " "


@functools.lru_cache(maxsize=8)
def _bare(tokenizer: Tokenizer) -> PlainText:
    """The tokenizer without a space of its own making."""
    definition = without_prefix(tokenizer.definition)
    return PlainText(tokenizer.path, definition, tokenizer.special_ids, tokenizer.unknown_id)
