"""Pre-tokenized sources: token ids that were made elsewhere (MDS shards), as documents of our tokenizer.

A sample becomes what `tokenizer.encode_batch` would have made of its text: it is cut at begin, end and padding tokens,
and each piece gets the tokens that the tokenizer puts around a document. So one sample of several documents becomes
several, and the piece of a document that lacks a begin or end token is given one. In mmBERT's data a sample is one
document, or a piece of at most 1,024 or 8,192 tokens of one, mostly with both tokens; its trainer lets no sample see
another, and neither does ours.
Source: the data scripts of JHU-CLSP/ettin-encoder-vs-decoder and the loader of JHU-CLSP/ModernBERT.
"""

# Shapes: n samples, T tokens of them end to end, R documents.

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.corpus import quality
from tessera.data.languages import language_code, language_of_path
from tessera.plan.corpus import Source
from tessera.sources import mds
from tessera.sources.mds import Shard
from tessera.tokenizer.tokenizer import Tokenizer

_LANGUAGE = re.compile(r"(?<![A-Za-z0-9])[a-z]{3}_[A-Z][a-z]{3}(?![A-Za-z0-9])")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedDocuments:
    """Some documents of one language and tier, and what their samples were."""

    language: str
    tier: int | None
    ids: list[NDArray[np.int32]]
    bytes: int  # of the text that they stand for
    completed: int = 0  # samples that lacked a begin or end token, or were padded
    split: int = 0  # samples that held several documents
    empty: int = 0  # samples of no text at all


def shards_of(source: Source) -> list[Shard]:
    """All shards of a source, without the folders and files of its `exclude`. Raises ValueError where none are left."""

    def wanted(path: Path) -> bool:
        return not any(fnmatch.fnmatch(part, pattern) for part in path.parts for pattern in source.exclude)

    found = [s for folder in mds.folders(source.path) if wanted(folder) for s in mds.shards(folder) if wanted(s.path)]
    if not found:
        raise ValueError(f"source {source.name!r}: `exclude` leaves no shard of {source.path!r}")
    return found


def language_of(shard: Shard, source: Source) -> str:
    """What the path says (`fao_Latn/`, `fineweb2-fao_Latn-train/`), else the source. ValueError where neither does."""
    inside = [code for part in shard.path.parts[:-1] for code in _LANGUAGE.findall(part)]
    found = language_of_path(shard.path) or (inside[-1] if inside else source.language)
    if found is None:
        raise ValueError(
            f"{shard.path}: source {source.name!r} does not say its language, and no folder is called like one "
            "(fao_Latn); give the source a `language`, `mul` where many are mixed, or make a source of each folder"
        )
    return language_code(found)


class Importer:
    """Samples of a source as documents of a tokenizer: `for documents in importer(shard)`. It can be pickled."""

    def __init__(self, source: Source, tokenizer: Tokenizer) -> None:
        self.source, self.vocab_size = source, tokenizer.vocab_size
        self._prefix, self._suffix = tokenizer.template
        self._marks = np.zeros(tokenizer.vocab_size, dtype=np.bool_)  # what stands around documents, never in them
        self._marks[[tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, *self._prefix, *self._suffix]] = True
        self._bytes = np.where(self._marks, 0, tokenizer.token_bytes())
        self._tokenizer = str(tokenizer.path)

    def __call__(self, shard: Shard) -> Iterator[TokenizedDocuments]:
        """The documents of a shard, some at a time. Raises ValueError for ids that the tokenizer does not have."""
        columns, tiers = self.source.columns, self.source.tiers
        labelled = columns.language in [column.name for column in shard.columns]
        wanted = [columns.tokens]
        wanted += [columns.language] if labelled else []
        wanted += [columns.quality] if tiers is not None and columns.quality is not None else []
        language = "" if labelled else language_of(shard, self.source)
        first = 0
        for values in mds.read_shard(shard, wanted):
            samples = [_ids(value, shard, first + i, columns.tokens) for i, value in enumerate(values[0])]
            labels = [_label(label, shard, first + i) for i, label in enumerate(values[1])] if labelled else None
            groups: dict[tuple[str, int | None], list[int]] = {}
            for i in range(len(samples)):
                tier = quality.tier(values[-1][i], tiers) if len(wanted) > 1 + labelled and tiers else None
                groups.setdefault((labels[i] if labels else language, tier), []).append(i)
            for (name, tier), numbers in groups.items():
                flat, lengths = self._end_to_end([samples[i] for i in numbers], shard, first, numbers)
                yield TokenizedDocuments(language=name, tier=tier, **self._fit(flat, lengths))
            first += len(samples)

    def _end_to_end(
        self, samples: Sequence[NDArray[Any]], shard: Shard, first: int, numbers: Sequence[int]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Samples [T] and the length of each [n]. Raises ValueError for the first id outside the vocabulary."""
        lengths = np.fromiter(map(len, samples), dtype=np.int64, count=len(samples))
        if len({sample.dtype for sample in samples}) > 1:  # uint64 beside int64 would become floats
            samples = [sample.astype(np.int64) for sample in samples]
        flat = np.concatenate(samples)
        if len(flat) and (flat.min() < 0 or flat.max() >= self.vocab_size):
            at = int(np.flatnonzero((flat < 0) | (flat >= self.vocab_size))[0])
            number = first + numbers[int(np.searchsorted(np.cumsum(lengths), at, side="right"))]
            raise ValueError(
                f"{shard.path}, sample {number}: token id {flat[at]} is outside the vocabulary of {self.vocab_size} of "
                f"{self._tokenizer}; source {self.source.name!r} was made with another tokenizer, name that one under "
                "tokenizer.path"
            )
        return flat.astype(np.int32), lengths

    def _fit(self, flat: NDArray[np.int32], lengths: NDArray[np.int64]) -> dict[str, Any]:
        """Documents (runs of ids that are no marks, each with the template around it) and counts, by their names.

        flat     [T], of the samples end to end
        lengths  [n], of each
        """
        ends = np.cumsum(lengths)
        begins = ends - lengths
        marks = self._marks[flat]
        marks_at = np.flatnonzero(marks)
        whole = self._whole(flat, begins, ends, marks_at)
        n_bytes = int(self._bytes[flat].sum(dtype=np.int64))
        if whole.all():  # as it mostly is: nothing has to be moved
            return {"ids": _cut(flat, begins, ends), "bytes": n_bytes}
        first = np.sort(np.concatenate((begins, marks_at + 1)))
        last = np.sort(np.concatenate((ends, marks_at)))
        first, last = first[last > first], last[last > first]  # [R], runs in order
        sizes = last - first + len(self._prefix) + len(self._suffix)
        stops = np.cumsum(sizes)
        starts = stops - sizes
        out = np.empty(int(stops[-1]) if len(stops) else 0, dtype=np.int32)
        free = np.ones(len(out), dtype=np.bool_)
        for i, mark in enumerate(self._prefix):
            out[starts + i], free[starts + i] = mark, False
        for i, mark in enumerate(reversed(self._suffix)):
            out[stops - 1 - i], free[stops - 1 - i] = mark, False
        out[free] = flat[~marks]
        held = np.bincount(np.searchsorted(ends, first, side="right"), minlength=len(lengths))  # documents of a sample
        return {
            "ids": _cut(out, starts, stops),
            "bytes": n_bytes,
            "completed": int(((held == 1) & ~whole).sum()),
            "split": int((held > 1).sum()),
            "empty": int((held == 0).sum()),
        }

    def _whole(
        self, flat: NDArray[np.int32], begins: NDArray[np.int64], ends: NDArray[np.int64], marks_at: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which samples are one document with the template around it and nothing else: bool [n]."""
        around = len(self._prefix) + len(self._suffix)
        whole = np.searchsorted(marks_at, ends) - np.searchsorted(marks_at, begins) == around
        whole &= ends - begins > around
        places = [(begins + i, mark) for i, mark in enumerate(self._prefix)]
        places += [(ends - 1 - i, mark) for i, mark in enumerate(reversed(self._suffix))]
        for place, mark in places:
            whole[whole] = flat[place[whole]] == mark
        return whole


def _cut(flat: NDArray[np.int32], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> list[NDArray[np.int32]]:
    return [flat[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]


def _ids(value: Any, shard: Shard, sample: int, column: str) -> NDArray[Any]:
    """A sample's token ids, [tokens]."""
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu":
        return value
    where = f"{shard.path}, sample {sample}: column {column!r}"
    if isinstance(value, bytes):  # llm-foundry stores int64 as bytes and says so nowhere
        if len(value) % 8:
            raise ValueError(f"{where} has {len(value)} bytes, no array of int64; write it again as ndarray:uint32")
        return np.frombuffer(value, dtype="<i8")
    try:
        ids = np.asarray(value) if isinstance(value, np.ndarray | list) else None
    except ValueError:  # lists of lists of other lengths
        ids = None
    if ids is not None and ids.size == 0:
        return np.zeros(0, dtype=np.int64)
    if ids is None or ids.dtype.kind not in "iu" or ids.size != max(ids.shape):
        shown = f"{value!r:.40}" if ids is None else f"an array of {ids.dtype} {ids.shape}"
        raise ValueError(f"{where} holds {shown}, not a row of token ids; name their column as columns.tokens")
    return ids.reshape(-1)


def _label(label: Any, shard: Shard, sample: int) -> str:
    if not isinstance(label, str):
        raise ValueError(f"{shard.path}, sample {sample}: the language is {label!r}; name its column, a string")
    try:
        return language_code(label)
    except ValueError as error:
        raise ValueError(f"{shard.path}, sample {sample}: {error}") from None
