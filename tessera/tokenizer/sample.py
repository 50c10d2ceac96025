"""The text that a tokenizer is trained on: a temperature-balanced sample, and whether the trainer can count it."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tessera.plan.corpus import TokenizerTraining

# tokenizers counts pairs in signed 32 bits: one pair more often than this, and it silently learns something else.
_MOST_PAIRS = 2**31 - 1
_LONGEST = 2**14  # bytes of a passage
_ENTRY = 200  # bytes that Python needs for a sampled text beside the text itself


def sample(texts: Iterable[tuple[str, str]], training: TokenizerTraining) -> dict[str, list[str]]:
    """A temperature-balanced sample of (language, text), in one reading and twice the memory that the sample takes.

    Language i gives bytes in proportion to n_i ** temperature, or all it has where that is less, and one text at least.
    Texts are chosen by a hash, so neither their order nor that of the languages matters; long ones in passages, or a
    language whose text is one book would be there whole or not at all. A language's chance to be kept only falls as
    more text is read, hence one reading is enough.
    """
    sizes: dict[str, int] = {}
    kept: dict[str, list[tuple[float, bytes]]] = {}  # as UTF-8: one emoji makes a str four times as large
    held, room = 0, 2 * training.sample_bytes
    for language, data in ((language, passage) for language, text in texts for passage in _passages(text.encode())):
        sizes[language] = sizes.get(language, 0) + len(data)
        key = int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"tokenizer").digest(), "big") / 2**64
        kept.setdefault(language, []).append((key, data))
        held += len(data) + _ENTRY
        if held > room:
            held = _thin(kept, sizes, training)
            room = 2 * max(training.sample_bytes, held)
    _thin(kept, sizes, training)
    return {language: [data.decode() for _, data in sorted(kept.pop(language))] for language in sorted(kept)}


def _passages(data: bytes) -> Iterator[bytes]:
    """A text in parts of at most _LONGEST bytes, cut behind a line, else a space, else a character."""
    begin = 0
    while len(data) - begin > _LONGEST:
        middle, end = begin + _LONGEST // 2, begin + _LONGEST
        cut = next((1 + at for mark in (b"\n", b" ") if (at := data.rfind(mark, middle, end)) >= 0), end)
        while data[cut] & 0xC0 == 0x80:  # within a character
            cut -= 1
        yield data[begin:cut]
        begin = cut
    yield data[begin:]


def check_counts(texts_by_language: Mapping[str, Iterable[str]], training: TokenizerTraining) -> None:
    """Raises ValueError where some pair stands in the text more often than the trainer can count.

    A pair of tokens is at most as frequent as the pair of bytes where they meet, so the most frequent pair of bytes
    bounds all counts of the training.
    """
    size = sum(len(text.encode()) for texts in texts_by_language.values() for text in texts)
    if size <= _MOST_PAIRS:
        return
    counts = np.zeros((256, 256), np.int64)
    for texts in texts_by_language.values():
        remaining = iter(texts)
        while batch := b"\xff".join(t.encode() for t in itertools.islice(remaining, 100)):
            data = np.frombuffer(batch, np.uint8).astype(np.uint16)
            counts += np.bincount(data[:-1] << 8 | data[1:], minlength=2**16).reshape(256, 256)
    counts[0xFF], counts[:, 0xFF] = 0, 0  # never in UTF-8: where one text ends
    if (most := int(counts.max())) > _MOST_PAIRS:
        pair = bytes(divmod(int(counts.argmax()), 256))
        raise ValueError(
            f"the bytes {pair!r} stand side by side {most:,} times in {size:,} bytes of text, and the trainer counts "
            f"no further than {_MOST_PAIRS:,}; set tokenizer.sample_bytes (now {training.sample_bytes:,}) to "
            f"{int(size * _MOST_PAIRS / most * 0.95):,} or less"
        )


def _thin(kept: dict[str, list[tuple[float, bytes]]], sizes: Mapping[str, int], training: TokenizerTraining) -> int:
    """Drops what no longer belongs to the sample; returns the bytes of memory that remain."""
    scale = _scale(sizes, training)
    held = 0
    for language, texts in kept.items():
        chance = scale * sizes[language] ** (training.temperature - 1) if sizes[language] else 1.0
        texts[:] = [entry for entry in texts if entry[0] < chance] or [min(texts)]
        held += sum(len(data) + _ENTRY for _, data in texts)
    return held


def _scale(sizes: Mapping[str, int], training: TokenizerTraining) -> float:
    """The s for which sum of min(n_i, s * n_i ** temperature) is `sample_bytes`; infinite where there is less text."""
    if sum(sizes.values()) <= training.sample_bytes:
        return float("inf")
    room = float(training.sample_bytes)
    weights = {n: n**training.temperature for n in sizes.values() if n}
    rising = sorted((n for n in sizes.values() if n), key=lambda n: n / weights[n])
    rest = sum(weights[n] for n in rising)
    for n in rising:  # those that give all they have come first
        if n / weights[n] >= room / rest:
            return room / rest
        room -= n
        rest -= weights[n]
    return float("inf")
