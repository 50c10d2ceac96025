"""Held-out split: what is trained on and what is kept for validation, decided for the whole corpus by hashes of texts.

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

from tessera import checksums
from tessera.corpus.copies import Copies, find
from tessera.corpus.daft_runner import read_parquet
from tessera.corpus.ingest import DocumentCounts, DocumentFile, text_key
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

    def kept(
        self, file: DocumentFile, batches: Sequence[int] | None = None
    ) -> Iterator[tuple[pa.Table, DocumentCounts]]:
        """The documents of a file that are used, batch by batch, and what of each batch is not, and why.

        batches  row groups of the file; None: all

        The column `store` says train or held_out for each; copies, and texts that are held out elsewhere, are dropped.
        """
        for table, reasons in self.judged(file, batches):
            counts = DocumentCounts()
            for n, reason in enumerate(reasons):
                if reason is not None:
                    counts.drop(reason, table["language"][n].as_py(), repr(table["text"][n].as_py()[:80]))
            yield table.filter(pa.array([reason is None for reason in reasons], pa.bool_())), counts

    def judged(
        self, file: DocumentFile, batches: Sequence[int] | None = None
    ) -> Iterator[tuple[pa.Table, list[str | None]]]:
        """Documents that nothing spoke against when they were read, batch by batch, and what does now."""
        with pa.parquet.ParquetFile(file.path) as table_file:
            for group in range(table_file.num_row_groups) if batches is None else batches:
                table = table_file.read_row_group(group)
                yield self._judge(table.filter(pc.is_null(table["reason"])))

    def _judge(self, table: pa.Table) -> tuple[pa.Table, list[str | None]]:
        positions = table["position"].to_numpy()
        reasons = self.copies.reasons(positions)
        unseen = np.array([reason is None for reason in reasons], bool)
        training = ~find(positions, self.held)[1] & (np.array(table["store"].to_pylist(), object) != "held_out")
        single = pc.is_null(table["second"]).to_numpy()
        for n in np.flatnonzero(unseen & training & single & find(table["key"].to_numpy(), self.keys)[1]):
            reasons[n] = SAME_TEXT
        for n in np.flatnonzero(unseen & training & ~single):
            sides = [text_key(table[name][n].as_py()) for name in ("text", "second")]
            if find(np.array(sides, np.uint64), self.keys)[1].any():
                reasons[n] = SAME_SIDE
        stores = pa.array(np.where(training, "train", "held_out"))
        return table.set_column(table.schema.get_field_index("store"), "store", stores), reasons


def choose_held_out(corpus: Corpus, files: Sequence[DocumentFile], folder: Path, copies: Copies) -> Split:
    """Draws what is held out, or reads what was drawn before from the same documents."""
    path = folder / "held_out.parquet"
    what = [corpus.held_out.model_dump(), corpus.duplicates.model_dump(), [file.fingerprint for file in files]]
    made_of = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    checksums.check(path)
    written = pa.parquet.read_table(path) if path.exists() else None
    if written is None or (written.schema.metadata or {}).get(_META) != made_of.encode():
        written = _draw(corpus, files, copies)
        with atomic_file(path, sealed=True) as draft:
            pa.parquet.write_table(written.replace_schema_metadata({_META: made_of.encode()}), draft)
    drawn = written["drawn"].to_numpy(zero_copy_only=False)
    positions, keys = written["position"].to_numpy(), written["key"].to_numpy()
    return Split(fingerprint=made_of, held=np.sort(positions[drawn]), keys=np.unique(keys), copies=copies)


def _draw(corpus: Corpus, files: Sequence[DocumentFile], copies: Copies) -> pa.Table:
    """position, key, drawn: of texts that are held out for certain (not drawn), and of those that were drawn."""
    import daft
    from daft import col

    rows: list[tuple[int, int, bool]] = []
    drawn_from = [file for file in files if file.source.split is None and file.source.kind == "documents"]
    limits = _limits(corpus.held_out, drawn_from)
    if limits:
        table = pa.table({"language": list(limits), "limit": pa.array(limits.values(), pa.uint64())})
        candidates = (
            read_parquet([file.path for file in drawn_from])
            .where(col("reason").is_null())
            .select(col("language").cast(daft.DataType.string()), col("key"), col("position"), col("bytes"))
            .join(daft.from_arrow(table), on="language")
            .where(col("key") < col("limit"))
            .to_arrow()
        )
        rows += _smallest(candidates, corpus.held_out.max_bytes, copies)
    certain = [file for file in files if file.source.split == "held_out"]
    if certain:
        documents = read_parquet([file.path for file in certain]).where(col("reason").is_null())
        for row in documents.select("position", "key", "text", "second").to_arrow().to_pylist():  # of a pair, each side
            sides = [row["key"]] if row["second"] is None else [text_key(row["text"]), text_key(row["second"])]
            rows += [(row["position"], key, False) for key in sides]
    return pa.Table.from_pylist([dict(zip(_HELD.names, row, strict=True)) for row in sorted(rows)], schema=_HELD)


def _limits(rules: HeldOut, files: Sequence[DocumentFile]) -> dict[str, int]:
    """{language: hashes below this are candidates}, of languages with enough documents."""
    counts = DocumentCounts()
    for file in files:
        counts.add(file.counts)
    return {
        language: min(2**64 - 1, int(min(rules.share, _AMPLE * rules.max_bytes / n_bytes) * 2**64))
        for language, (documents, n_bytes) in counts.wanted.items()
        if documents >= rules.min_documents
    }


def _smallest(candidates: pa.Table, max_bytes: int, copies: Copies) -> Iterator[tuple[int, int, bool]]:
    """Of each language the candidates with the smallest hashes, as many as fit."""
    candidates = candidates.sort_by([(name, "ascending") for name in ("language", "key", "position")])
    kept = ~copies.among(candidates["position"].to_numpy())
    rows = zip(*(candidates[name].to_pylist() for name in ("language", "key", "position", "bytes")), strict=True)
    room: dict[str, int] = {}
    last = None
    for (language, key, position, n_bytes), keep in zip(rows, kept, strict=True):
        if keep and key != last and n_bytes <= room.setdefault(language, max_bytes):
            room[language] -= n_bytes
            yield position, key, True
            last = key
