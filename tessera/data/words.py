"""Words that were split already (named entities, parts of speech) as the pieces they are inside running text.

Byte-level vocabularies know a word with its space and a word without: `Ġcat` and `cat`. A word encoded by itself is the
second, which the model met only at the start of texts and inside words, and tagging suffers: mmBERT names it among its
limitations, users of ModernBERT gained a point of F1 by adding the space.
"""

import functools
import json
from collections.abc import Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray

from tessera.data.tokenizer import Tokenizer
from tessera.data.tokenizer_json import SPACES, without_prefix

Ids = NDArray[np.int32]


def encode_words(
    tokenizer: Tokenizer, words: Sequence[str], spaced: bool | Sequence[bool] = True
) -> tuple[Ids, NDArray[np.int64]]:
    """The ids of a sentence and the word that each token belongs to, int32 and int64 [tokens]; no special tokens.

    The ids are those of the words with a space between them, and never does one token hold pieces of two words, nor a
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
        for i, encoded in zip(inside, _bare(tokenizer).encode_batch_fast([words[i] for i in inside]), strict=True):
            pieces[i] = np.array(encoded.ids, np.int32)
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
def _bare(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer without a space of its own making and without template."""
    definition = {**without_prefix(tokenizer.definition), "post_processor": None, "truncation": None, "padding": None}
    inner = tokenizers.Tokenizer.from_str(json.dumps(definition))
    inner.encode_special_tokens = True
    return inner
