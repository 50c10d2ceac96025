"""Word segmentation of plain text for token classification: words with the characters they come from.

Taggers are trained on words that somebody split. Plain text is split here: runs of letters, marks and digits are words,
any other character but a space is one by itself. Scripts without spaces between words have no such runs; there each
token of the tokenizer is taken for a word, which is as fine as the tagger can see.
"""

import itertools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from tessera.data.languages import code_points, spaceless_letters
from tessera.tokenizer.tokenizer import Tokenizer

_INSIDE = "'’·‧-‐"  # of a word where letters stand on both sides: l'eau, paral·lel, Tórs-havn
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text."""

    texts: tuple[str, ...]
    places: tuple[tuple[int, int], ...]  # characters from and to
    spaced: tuple[bool, ...]  # whether there is a space before each


def split(text: str, tokenizer: Tokenizer) -> Words:
    """The words of a text, in order; white space is in none."""
    places = [place for run in _runs(text) for place in _inside(text, run, tokenizer)]
    ends = [0, *(end for _, end in places)]
    return Words(
        texts=tuple(text[begin:end] for begin, end in places),
        places=tuple(places),
        spaced=tuple(begin > before for (begin, _), before in zip(places, ends, strict=False)),
    )


def _runs(text: str) -> Iterator[tuple[int, int]]:
    """(from, to) of each word by its characters."""
    at = 0
    while at < len(text):
        begin = at
        if text[at].isspace():
            at += 1
            continue
        at += 1
        if _is_letter(text[begin]):
            while at < len(text) and (_is_letter(text[at]) or _joins(text, at)):
                at += 1
        else:  # a mark that follows a sign, as in an emoji, stays with it
            while at < len(text) and (unicodedata.category(text[at])[0] == "M" or text[at] in _JOINERS):
                at += 1
        yield begin, at


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or character == "_"


def _joins(text: str, at: int) -> bool:
    """Whether a character between two letters leaves them one word."""
    if text[at] in _JOINERS:
        return True
    return text[at] in _INSIDE and at + 1 < len(text) and _is_letter(text[at + 1])


def _inside(text: str, run: tuple[int, int], tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """The run itself; its tokens where it is written in a script without spaces."""
    begin, end = run
    letters = [character for character in text[begin:end] if character.isalpha()]
    if not letters or 2 * sum(bool(spaceless_letters()[code_points(one)].any()) for one in letters) <= len(letters):
        return [run]
    (_, offsets), *_ = tokenizer.encode_offsets([text[begin:end]])
    cuts = sorted({0, *(int(stop) for _, stop in offsets), end - begin})
    # Several tokens may share one character; none of them is a word of its own.
    return [(begin + a, begin + b) for a, b in itertools.pairwise(cuts) if b > a]
