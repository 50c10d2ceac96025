"""What is held out, and what is trained on: decided for the whole corpus at once, by the hash of each text.

Of every language the texts with the smallest hashes are held out, below `share` of all hashes and up to `max_bytes`.
So neither the order of the files nor their number matters, and the same text never stands on both sides: what is
held out is dropped wherever else it comes, alone or as a side of a pair.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from numpy.typing import NDArray

from tessera.corpus.daft_runner import read_parquet
from tessera.corpus.dedup import Copies
from tessera.corpus.ingest import Counts, Part, key
from tessera.files import atomic_file
from tessera.plan.corpus import Corpus, HeldOut

SAME_TEXT = "same text as a held-out document"
SAME_SIDE = "a side is the text of a held-out document"

_META = b"tessera"
_AMPLE = 4  # candidates for each byte held out: some are copies of others


_HELD = pa.schema([("position", pa.uint64()), ("key", pa.uint64()), ("drawn", pa.bool_())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which documents go where.

    held    uint64, sorted: positions of what was drawn from sources that do not say themselves
    keys    uint64, sorted: hashes of all texts that are held out
    copies  documents that are copies of others
    fingerprint  of all that decides
    """

    fingerprint: str
    held: NDArray[np.uint64]
    keys: NDArray[np.uint64]
    copies: Copies

    def of(self, part: Part, batches: Sequence[int] | None = None) -> Iterator[tuple[pa.Table, Counts]]:
        """The documents of a part that are used, batch by batch, and what of each batch is not, and why.

        batches  row groups of the file; None: all

        The column `store` says train or held_out for each; copies, and texts that are held out elsewhere, are dropped.
        """
        for table, reasons in self._judged(part, batches):
            counts = Counts()
            for n, reason in enumerate(reasons):
                if reason is not None:
                    counts.drop(reason, table["language"][n].as_py(), repr(table["text"][n].as_py()[:80]))
            yield table.filter(pa.array([reason is None for reason in reasons], pa.bool_())), counts

    def unwanted(self, part: Part) -> Iterator[tuple[pa.Table, list[str]]]:
        """The documents of a part that `of` leaves out, batch by batch, and the reason for each."""
        for table, reasons in self._judged(part, None):
            left_out = [reason for reason in reasons if reason is not None]
            yield table.filter(pa.array([reason is not None for reason in reasons], pa.bool_())), left_out

    def _judged(self, part: Part, batches: Sequence[int] | None) -> Iterator[tuple[pa.Table, list[str | None]]]:
        """Documents that nothing spoke against when they were read, and what does now."""
        with pa.parquet.ParquetFile(part.path) as file:
            for group in range(file.num_row_groups) if batches is None else batches:
                table = file.read_row_group(group)
                yield self._judge(table.filter(pc.is_null(table["reason"])))

    def _judge(self, table: pa.Table) -> tuple[pa.Table, list[str | None]]:
        positions = table["position"].to_numpy()
        reasons = self.copies.reasons(positions)
        unseen = np.array([reason is None for reason in reasons], bool)
        training = ~_among(positions, self.held) & (np.array(table["store"].to_pylist(), object) != "held_out")
        single = pc.is_null(table["second"]).to_numpy()
        for n in np.flatnonzero(unseen & training & single & _among(table["key"].to_numpy(), self.keys)):
            reasons[n] = SAME_TEXT
        for n in np.flatnonzero(unseen & training & ~single):
            sides = [key(table[name][n].as_py()) for name in ("text", "second")]
            if _among(np.array(sides, np.uint64), self.keys).any():
                reasons[n] = SAME_SIDE
        stores = pa.array(np.where(training, "train", "held_out"))
        return table.set_column(table.schema.get_field_index("store"), "store", stores), reasons


def choose(corpus: Corpus, parts: Sequence[Part], folder: Path, copies: Copies) -> Split:
    """Draws what is held out, or reads what was drawn before from the same documents."""
    path = folder / "held_out.parquet"
    made_of = _made_of(corpus, parts)
    written = _read(path, made_of)
    if written is None:
        written = _draw(corpus, parts, copies)
        with atomic_file(path) as draft:
            pa.parquet.write_table(written.replace_schema_metadata({_META: made_of.encode()}), draft)
    drawn = written["drawn"].to_numpy(zero_copy_only=False)
    positions, keys = written["position"].to_numpy(), written["key"].to_numpy()
    return Split(fingerprint=made_of, held=np.sort(positions[drawn]), keys=np.unique(keys), copies=copies)


def _draw(corpus: Corpus, parts: Sequence[Part], copies: Copies) -> pa.Table:
    """position, key, drawn: of texts that are held out for certain (not drawn), and of those that were drawn."""
    import daft
    from daft import col

    tables = [pa.table({"position": [], "key": [], "drawn": []}, schema=_HELD)]
    drawn_from = [part for part in parts if part.source.split is None and part.source.kind == "documents"]
    limits = _limits(corpus.held_out, drawn_from)
    if limits:
        table = pa.table({"language": list(limits), "limit": pa.array(limits.values(), pa.uint64())})
        candidates = (
            read_parquet([part.path for part in drawn_from])
            .where(col("reason").is_null())
            .select(col("language").cast(daft.DataType.string()), col("key"), col("position"), col("bytes"))
            .join(daft.from_arrow(table), on="language")
            .where(col("key") < col("limit"))
            .to_arrow()
        )
        tables.append(_smallest(candidates, corpus.held_out.max_bytes, copies))
    certain = [part for part in parts if part.source.split == "held_out"]
    if certain:
        documents = read_parquet([part.path for part in certain]).where(col("reason").is_null())
        tables.append(_certain(documents.select("position", "key", "text", "second").to_arrow()))
    return pa.concat_tables(tables).sort_by([("position", "ascending"), ("key", "ascending")])


def _limits(rules: HeldOut, parts: Sequence[Part]) -> dict[str, int]:
    """{language: hashes below this are candidates}, of languages with enough documents."""
    sizes: dict[str, list[int]] = {}
    for part in parts:
        for language, (documents, n_bytes) in part.counts.wanted.items():
            entry = sizes.setdefault(language, [0, 0])
            entry[0] += documents
            entry[1] += n_bytes
    return {
        language: min(2**64 - 1, int(min(rules.share, _AMPLE * rules.max_bytes / n_bytes) * 2**64))
        for language, (documents, n_bytes) in sizes.items()
        if documents >= rules.min_documents
    }


def _smallest(candidates: pa.Table, max_bytes: int, copies: Copies) -> pa.Table:
    """Of each language the candidates with the smallest hashes, as many as fit."""
    order = [("language", "ascending"), ("key", "ascending"), ("position", "ascending")]
    candidates = candidates.sort_by(order)
    kept = ~copies.among(candidates["position"].to_numpy())
    rows = zip(*(candidates[name].to_pylist() for name in ("language", "key", "position", "bytes")), strict=True)
    positions, keys, room, last = [], [], {}, None  # type: list[int], list[int], dict[str, int], int | None
    for (language, key_, position, n_bytes), keep in zip(rows, kept, strict=True):
        if keep and key_ != last and n_bytes <= room.setdefault(language, max_bytes):
            room[language] -= n_bytes
            positions.append(position)
            keys.append(key_)
            last = key_
    return pa.table({"position": positions, "key": keys, "drawn": [True] * len(keys)}, schema=_HELD)


def _certain(found: pa.Table) -> pa.Table:
    """What sources hold out themselves; of a pair, each side."""
    positions, keys = [], []
    for row in found.to_pylist():
        sides = [row["key"]] if row["second"] is None else [key(row["text"]), key(row["second"])]
        positions += [row["position"]] * len(sides)
        keys += sides
    return pa.table({"position": positions, "key": keys, "drawn": [False] * len(keys)}, schema=_HELD)


def _read(path: Path, made_of: str) -> pa.Table | None:
    """What was drawn before, if it was from the same documents by the same rules."""
    if not path.exists():
        return None
    table = pa.parquet.read_table(path)
    return table if (table.schema.metadata or {}).get(_META) == made_of.encode() else None


def _made_of(corpus: Corpus, parts: Sequence[Part]) -> str:
    what = [corpus.held_out.model_dump(), corpus.duplicates.model_dump(), [part.fingerprint for part in parts]]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _among(some: NDArray[np.uint64], ordered: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of some numbers are among sorted ones."""
    if not len(ordered):
        return np.zeros(len(some), bool)
    places = np.minimum(np.searchsorted(ordered, some), len(ordered) - 1)
    return ordered[places] == some
