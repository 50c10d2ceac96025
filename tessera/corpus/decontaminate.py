"""Decontamination: passages (n-grams) of evaluation sets, and the training documents that hold one.

A passage is n words in a row (13, as in arXiv:2005.14165, appendix C) of any text of the set, where words are runs of
letters and digits, whatever their case and what stands between them. In scripts without spaces it is 4 x n characters.
An evaluation text that is shorter counts as a whole, where it has at least 8 words (32 characters). Passages with few
different words ("0 0 0 0 ...", tags) are no one's.

Passages are kept as 64-bit hashes: 10 bytes each, and 8 to 16 more to look them up fast.
"""

import functools
import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tessera.data.hashing import GOLDEN, mix
from tessera.data.languages import CHARACTERS_A_WORD, code_points, spaceless_letters
from tessera.plan.corpus import Contamination, Source
from tessera.sources.readers import BROKEN, rows
from tessera.sources.storage import File, files

SHORTEST = 8  # words of an evaluation text that counts as a whole

_DIFFERENT = 4  # at least one in so many words of a passage is another one
_PIECE, _OVERLAP = 2**17, 2**11  # characters of a long document looked at together
_MAX_BYTES = 2**26  # of a row of an evaluation set
_BITS_A_PASSAGE = 64  # of the table asked first: one in so many foreign passages gets past it

Hashes = NDArray[np.uint64]
_NONE = np.empty(0, dtype=np.uint64)
Sets = tuple[tuple[str, tuple[File, ...]], ...]  # name, files


class _Shape(NamedTuple):
    """A text as letters and digits end to end, and where its words begin and end among them."""

    sums: Hashes  # [letters + 1] of the letters so far, each times the power of its place
    begins: NDArray[np.intp]
    ends: NDArray[np.intp]
    places: NDArray[np.intp]  # of each word's beginning in the text
    spaceless: bool


class _Short(NamedTuple):
    """An evaluation text that is shorter than a passage."""

    length: int  # words, or characters
    hash: int
    number: int  # of its set


class Passages:
    """The passages of all sets, ready to be looked for."""

    def __init__(self, sets: Mapping[str, Iterable[str]], n_gram: int) -> None:
        """sets: the texts of each. Raises ValueError for a set without a passage."""
        self._names = list(sets)
        self._n_gram = n_gram
        self._short: dict[int, list[_Short]] = {}  # by the hash of their first words
        found: list[Hashes] = []
        for number, (name, texts_of) in enumerate(sets.items()):
            noted = self._noted()
            blocks = _blocks(texts_of, 2 * min(SHORTEST, n_gram) - 1)  # fewer characters are fewer words
            hashes = [_NONE, *(self._learn(block, number) for block in blocks)]
            found.append(_once(np.concatenate(hashes)))
            if not len(found[-1]) and noted == self._noted():
                raise ValueError(
                    f"contamination set {name!r}: no text of {min(SHORTEST, n_gram)} words in it, so nothing would be "
                    "found; give the files that hold its sentences, or leave it out"
                )
        hashes_of_all = np.concatenate(found)
        order = np.argsort(hashes_of_all, kind="stable")  # of equal ones that of the first set
        self._hashes = hashes_of_all[order]
        self._sets = np.repeat(np.arange(len(found), dtype=np.uint16), [len(h) for h in found])[order]
        self._table = _Table(self._hashes)
        self._short_table = _Table(np.array(sorted(self._short), dtype=np.uint64))

    def __len__(self) -> int:
        return len(self._hashes) + self._noted()

    def why_not(self, text: str) -> str | None:
        """Which passage of which set the text holds; None for none. The set that was named first is named."""
        for start in range(0, max(1, len(text) - _OVERLAP), _PIECE - _OVERLAP):
            reason = self._find(text[start : start + _PIECE])
            if reason is not None:
                return reason
        return None

    def _noted(self) -> int:
        return sum(map(len, self._short.values()))

    def _find(self, text: str) -> str | None:
        codes = code_points(_plain(text))
        some = not text.isascii() and spaceless_letters()[codes].any()
        spaceless = bool(some) and bool(_is_spaceless(codes, np.zeros(len(codes), dtype=np.intp), 1)[0])
        shape = _shape(codes, spaceless)
        size, short_size, unit = self._sizes(spaceless)
        hashes = _windows(shape, size)
        hits = hashes[self._table.may_hold(hashes)]
        if len(hits):
            places = np.searchsorted(self._hashes, hits)
            places = places[self._hashes[np.minimum(places, len(self._hashes) - 1)] == hits]
            if len(places):
                return f"shares {size} {unit} in a row with {self._names[self._sets[places].min()]}"
        heads = _windows(shape, short_size) if self._short else _NONE
        numbers = []
        for first in np.flatnonzero(self._short_table.may_hold(heads)).tolist():
            for short in self._short.get(int(heads[first]), ()):
                last = first + short.length
                if last > len(shape.ends):
                    continue
                whole = _hash(shape, shape.begins[first : first + 1], shape.ends[last - 1 : last])
                if int(whole[0]) == short.hash:
                    numbers.append(short.number)
        return f"holds a short text of {self._names[min(numbers)]}" if numbers else None

    def _learn(self, block: list[str], number: int) -> Hashes:
        """The passages of texts of a set. Texts that are shorter than one are noted."""
        lengths = np.array([len(text) + 1 for text in block])
        codes = code_points("\n".join(block) + "\n")
        text_of = np.repeat(np.arange(len(block)), lengths)
        spaceless = _is_spaceless(codes, text_of, len(block))
        found = [_NONE]
        for kind in (False, True):
            here = spaceless[text_of] == kind
            shape = _shape(np.where(here, codes, 10), kind)  # 10: a new line, which is in no word
            if len(shape.begins):
                found.append(self._learn_kind(shape, text_of[shape.places], number))
        return np.concatenate(found)

    def _learn_kind(self, shape: _Shape, text_of: NDArray[np.intp], number: int) -> Hashes:
        """text_of: of each word"""
        size, short_size, _ = self._sizes(shape.spaceless)
        words = _windows(shape, 1)
        firsts = np.flatnonzero(np.diff(text_of, prepend=-1))
        counts = np.diff(firsts, append=len(words))
        short = np.flatnonzero((counts >= short_size) & (counts < size))
        begins, lengths = firsts[short], counts[short]
        heads = _hash(shape, shape.begins[begins], shape.ends[begins + short_size - 1]).tolist()
        wholes = _hash(shape, shape.begins[begins], shape.ends[begins + lengths - 1]).tolist()
        for first, length, head, whole in zip(begins.tolist(), lengths.tolist(), heads, wholes, strict=True):
            if len(set(words[first : first + length].tolist())) * _DIFFERENT >= length:
                known, found = self._short.setdefault(head, []), _Short(length, whole, number)
                if found not in known:
                    known.append(found)
        if len(words) < size:
            return _NONE
        inside = text_of[: len(words) - size + 1] == text_of[size - 1 :]
        return _windows(shape, size)[inside & _varied(words, size)]

    def _sizes(self, spaceless: bool) -> tuple[int, int, str]:
        """How long a passage is, how long at least a short text, and what is counted."""
        short = min(SHORTEST, self._n_gram)
        if spaceless:
            return self._n_gram * CHARACTERS_A_WORD, short * CHARACTERS_A_WORD, "characters"
        return self._n_gram, short, "words"


class _Table:
    """Says of hashes fast and without a miss which may be among the given ones."""

    def __init__(self, hashes: Hashes) -> None:
        bits = max(6, (len(hashes) * _BITS_A_PASSAGE).bit_length())
        self._shift = np.uint64(64 - bits)
        self._bytes = np.zeros(2**bits // 8, dtype=np.uint8)
        place = hashes >> self._shift
        np.bitwise_or.at(self._bytes, place >> np.uint64(3), _bit(place))

    def may_hold(self, hashes: Hashes) -> NDArray[np.bool_]:
        place = hashes >> self._shift
        return (self._bytes[place >> np.uint64(3)] & _bit(place)) != 0


def found_files(contamination: Contamination) -> Sets:
    """The files of each set. Raises ValueError for a place without any."""
    return tuple(
        (name, tuple(dict.fromkeys(file for place in places for file in _files(name, place))))
        for name, places in contamination.sets.items()
    )


@functools.lru_cache(maxsize=2)
def load(sets: Sets, n_gram: int) -> Passages:
    """Reads the sets, once in each process. Raises ValueError for files that cannot be read or hold nothing."""
    return Passages(
        {name: itertools.chain.from_iterable(texts(file, name) for file in found) for name, found in sets}, n_gram
    )


def texts(file: File, name: str) -> Iterator[str]:
    """Every string in a file of an evaluation set, whatever its column; lists of strings are words of one text."""
    try:
        source = Source(name=name, path=file.url) if file.kind in (".warc", ".wet") else None
        for number, values, reason, _ in rows(file, source, _MAX_BYTES):
            if values is None:
                raise OSError(f"row {number} is {reason}")
            yield from _strings(values)
    except BROKEN as error:
        raise ValueError(
            f"contamination set {name!r}: {file} cannot be read ({str(error).strip()}); what is in it would be trained "
            "on. Copy it again, or name only files with one JSON object or one text a line"
        ) from error


def _files(name: str, place: str) -> list[File]:
    try:
        return files(Source(name=name, path=place))
    except ValueError as error:
        raise ValueError(f"contamination set {str(error).removeprefix('source ')}") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        yield " ".join(value)
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            if isinstance(part, (str, dict, list)):
                yield from _strings(part)


# ------------------------------------------------------------------------------------------------------------- hashing


def _blocks(given: Iterable[str], least: int) -> Iterator[list[str]]:
    """Texts of at least so many characters, plain, each once in its block; as many as are best looked at together."""
    block: dict[str, None] = {}
    size = 0
    for text in given:
        if len(text) >= least and (plain := _plain(text)) not in block:
            block[plain] = None
            size += len(text)
            if size >= _PIECE:
                yield list(block)
                block, size = {}, 0
    if block:
        yield list(block)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _is_spaceless(codes: NDArray[np.uint32], text_of: NDArray[np.intp], n: int) -> NDArray[np.bool_]:
    """bool [n]: whether most letters of each text are of scripts without spaces."""
    votes = spaceless_letters()[codes] - 0.5 * (_values()[codes] != 0)
    spaceless: NDArray[np.bool_] = np.bincount(text_of, weights=votes, minlength=n) > 0
    return spaceless


def _shape(codes: NDArray[np.uint32], spaceless: bool) -> _Shape:
    values = _values()[codes]
    places = np.flatnonzero(values)
    power, _ = _powers(max(12, len(places).bit_length()))
    sums = np.zeros(len(places) + 1, dtype=np.uint64)
    np.cumsum(values[places] * power[: len(places)], out=sums[1:])
    if spaceless:
        begins = np.arange(len(places))
        return _Shape(sums, begins, begins + 1, places, True)
    begins = np.flatnonzero(np.diff(places, prepend=-2) > 1)
    ends = np.append(begins[1:], len(places)) if len(begins) else begins
    return _Shape(sums, begins, ends, places[begins], False)


def _windows(shape: _Shape, size: int) -> Hashes:
    """The hash of every `size` words in a row, or characters where there are no words."""
    n = len(shape.begins) - size + 1
    return _hash(shape, shape.begins[:n], shape.ends[size - 1 :]) if n > 0 else _NONE


def _once(hashes: Hashes) -> Hashes:
    """Sorted, each once; much faster here than np.unique."""
    hashes = np.sort(hashes)
    return hashes[np.concatenate([[True], hashes[1:] != hashes[:-1]])] if len(hashes) else hashes


def _hash(shape: _Shape, begins: NDArray[np.intp], ends: NDArray[np.intp]) -> Hashes:
    """Of the letters from `begins` to before `ends`, end to end, wherever in the text they stand."""
    _, inverse = _powers(max(12, len(shape.sums).bit_length()))
    return mix((shape.sums[ends] - shape.sums[begins]) * inverse[begins])


def _varied(words: Hashes, size: int) -> NDArray[np.bool_]:
    """bool [windows]: whether enough of the words are different."""
    rows_of = np.sort(np.lib.stride_tricks.sliding_window_view(words, size), axis=1)
    different: NDArray[np.bool_] = (np.diff(rows_of, axis=1) != 0).sum(axis=1) + 1 >= size / _DIFFERENT
    return different


def _bit(place: Hashes) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (place & np.uint64(7)).astype(np.uint8))


@functools.cache
def _values() -> Hashes:
    """uint64 [code points]: a number for each letter, mark and digit; 0 for all that stands between words."""
    points = np.arange(0x110000, dtype=np.uint64)
    values = mix((points + np.uint64(1)) * GOLDEN) | np.uint64(1)
    kept = [unicodedata.category(chr(point))[0] in "LMN" for point in range(0x110000)]
    return np.where(kept, values, np.uint64(0))


@functools.lru_cache(maxsize=8)
def _powers(bits: int) -> tuple[Hashes, Hashes]:
    """2 ** bits powers of an odd number modulo 2 ** 64, and what they are undone by."""
    odd, inverse = (np.full(2**bits, base, np.uint64) for base in (int(GOLDEN), pow(int(GOLDEN), -1, 2**64)))
    return np.cumprod(odd, dtype=np.uint64), np.cumprod(inverse, dtype=np.uint64)
