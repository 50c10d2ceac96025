"""What a changed vocabulary does to languages, on held-out text: tokens a word, ids that moved, vectors that turned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.inference.encoder import Encoder
from tessera.inference.sentence_folder import ends_in_vectors, read
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary.entries import Ids

Encoded = tuple[NDArray[np.int32], NDArray[np.int64]]  # ids [T], and the characters of each [T, 2]

_DOCUMENTS = 300  # of each language whose ids are compared
_LONGEST = 512  # tokens of a document that go through both
_VECTORS = 20  # of each language that go through both models


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageChange:
    """Held-out documents of one language, before and after.

    words    that stand between white space: no measure for Chinese, Japanese, Thai ...
    changed  share of the old tokens that no longer stand for the same characters
    same     documents all of whose ids are what they were; where any were compared, their vectors are too, to the bit
    cosine   the mean, of vectors before and after, over some documents; None: there was nothing to compare
    """

    language: str
    new: bool  # whether pieces were learnt on it
    documents: int
    words: int
    tokens: tuple[int, int]
    unknown: tuple[int, int]
    changed: float
    same: int
    cosine: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    languages: tuple[LanguageChange, ...]


def measure(old: Path, new: Path, ids: Ids | None, texts: Mapping[str, Sequence[str]], learnt: set[str]) -> Change:
    """Holds one folder against the other.

    ids     old -> new; None where all of it is another vocabulary
    learnt  languages that pieces were learnt on

    Raises ValueError for a text that the old tokenizer gave back and the new one does not, or whose ids are the same
    and its vector is not.
    """
    inside = [read(folder)[1] if ends_in_vectors(folder) else folder for folder in (old, new)]
    before, after = (Tokenizer.load(place) for place in inside)
    models = [Encoder.from_pretrained(folder, device="cpu", dtype="float32", drop_head=True) for folder in (old, new)]
    moved = np.full(before.vocab_size, -1, np.int64)
    if ids is not None:
        moved[list(ids)] = list(ids.values())
    found = []
    for language in sorted(texts):
        some = texts[language][:_DOCUMENTS]
        whole = [tokenizer.encode_offsets(some) for tokenizer in (before, after)]
        a, b = ([ids for ids, _ in rows] for rows in whole)
        if ids is not None:
            for text, was, now in zip(some, a, b, strict=True):
                _refuse_lost(before, after, text, was, now)
        same = [n for n, (was, now) in enumerate(zip(a, b, strict=True)) if np.array_equal(moved[was], now)]
        unknown = [
            0 if tokenizer.unknown_id is None else sum(int((row == tokenizer.unknown_id).sum()) for row in rows)
            for tokenizer, rows in ((before, a), (after, b))
        ]
        found.append(
            LanguageChange(
                language=language,
                new=language in learnt,
                documents=len(some),
                words=sum(len(text.split()) for text in some),
                tokens=(sum(map(len, a)), sum(map(len, b))),
                unknown=(unknown[0], unknown[1]),
                changed=sum(_changed(moved, *pair) for pair in zip(*whole, strict=True)) / max(1, sum(map(len, a))),
                same=len(same),
                cosine=_cosine(models, some, same),
            )
        )
    return Change(languages=tuple(found))


def _refuse_lost(
    before: Tokenizer, after: Tokenizer, text: str, was: NDArray[np.int32], now: NDArray[np.int32]
) -> None:
    """Raises ValueError where a text came back whole and does so no longer."""
    if before.unknown_id is not None and before.unknown_id in was:
        return
    if before.decode(was) != after.decode(now):
        raise ValueError(f"nothing was written: a text would not come back as it did: {text[:200]!r}")


def _changed(moved: NDArray[np.int64], was: Encoded, now: Encoded) -> int:
    """Old tokens of a text that no longer stand for the same characters."""
    there = set(zip(now[0].tolist(), map(tuple, now[1].tolist()), strict=True))
    before = zip(moved[was[0]].tolist(), map(tuple, was[1].tolist()), strict=True)
    return sum(token not in there for token in before)


def _cosine(models: Sequence[Encoder], texts: Sequence[str], same: Sequence[int]) -> float | None:
    """The mean cosine of vectors before and after. Raises ValueError where ids are the same and the vector is not."""
    some = list(range(min(_VECTORS, len(texts))))
    if not some:
        return None
    a, b = (_vectors(model, [texts[n] for n in some]) for model in models)
    for n in set(some) & set(same):
        if not np.array_equal(a[n], b[n]):
            raise ValueError(
                f"nothing was written: the vector of a text whose ids are the same differs: {texts[n]!r:.200}"
            )
    cosines = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    return float(cosines.mean())


def _vectors(model: Encoder, texts: Sequence[str]) -> NDArray[np.float64]:
    """[n, h], each text by itself, so that its vector does not depend on the lengths of others."""
    longest = min(_LONGEST, model.max_seq_length)
    return np.stack([model.encode([text], max_length=longest)[0] for text in texts]).astype(np.float64)
