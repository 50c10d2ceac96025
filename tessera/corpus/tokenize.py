"""Tokenization of a corpus: the tasks that encode documents into small token stores, and what each leaves.

prepare.py spreads them over cores or machines.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tessera.corpus import token_sources
from tessera.corpus.daft_runner import grouped
from tessera.corpus.documents import Pair
from tessera.corpus.ingest import DocumentCounts, DocumentFile, sources_in_order
from tessera.corpus.pairs import directions, join_pair
from tessera.corpus.split import Split
from tessera.data.shard_writer import ShardWriter
from tessera.files import atomic_folder, write_json
from tessera.plan.corpus import Corpus, Source
from tessera.sources.mds import Shard
from tessera.tokenizer.tokenizer import Engine, Tokenizer

PAIRS = "pairs"  # the store of sides
_SHARD_TASK = 2**28  # bytes of token ids that a task takes over
_LEAST_TASK, _MOST_TASKS = 2**23, 512  # bytes of documents that a task encodes; more where there are many


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeJob:
    """Files of documents, or shards of token ids, that become one small pair of stores."""

    number: int
    size: int  # in bytes
    documents: tuple[tuple[DocumentFile, tuple[int, ...]], ...] = ()  # files, and which row groups of each
    shards: tuple[Shard, ...] = ()
    source: Source | None = None  # of the shards
    target: Path
    made_of: str

    def finished(self) -> dict[str, DocumentCounts] | None:
        """What of each source was dropped; None where it was not made, or of other documents."""
        try:
            found = json.loads((self.target / "done.json").read_bytes())
            if found["made_of"] != self.made_of:
                return None
            return {source: DocumentCounts(**counts) for source, counts in found["counts"].items()}
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):  # damaged: made again
            return None


def encode_jobs(
    corpus: Corpus, files: Sequence[DocumentFile], split: Split, tokenizer: Tokenizer, folder: Path, sides: bool = False
) -> list[EncodeJob]:
    """Tasks of a size: neither thousands of them for small files nor a single one for a large file.

    sides   whether the sides of pairs are stored by themselves, too
    """
    sizes: dict[tuple[int, int], int] = {}  # {(number of the file, of a row group in it): bytes}
    for number, file in enumerate(files):
        footer = pa.parquet.read_metadata(file.path)
        for row_group in range(footer.num_row_groups):
            sizes[number, row_group] = footer.row_group(row_group).total_byte_size
    made: list[EncodeJob] = []

    def add(size: int, made_of: Any, **what: Any) -> None:
        whole = [tokenizer.fingerprint, made_of, *(["sides"] if sides else [])]
        fingerprint = hashlib.sha256(json.dumps(whole).encode()).hexdigest()
        target = folder / f"{len(made):05d}"
        made.append(EncodeJob(number=len(made), size=size, target=target, made_of=fingerprint, **what))

    least = max(_LEAST_TASK, sum(sizes.values()) // _MOST_TASKS)
    for some in grouped(list(sizes), list(sizes.values()), least):
        groups_of: dict[int, list[int]] = {}
        for number, row_group in some:
            groups_of.setdefault(number, []).append(row_group)
        documents = tuple((files[number], tuple(groups)) for number, groups in groups_of.items())
        of_files = [(file.fingerprint, groups) for file, groups in documents]
        add(sum(sizes[one] for one in some), [split.fingerprint, of_files], documents=documents)
    for source in sources_in_order(corpus):
        shards = token_sources.shards_of(source) if source.kind == "tokens" else []
        for group in grouped(shards, [shard.bytes for shard in shards], _SHARD_TASK):
            states = [(str(s.path), s.path.stat().st_size, s.path.stat().st_mtime_ns) for s in group]
            of_source = [source.model_dump(mode="json", exclude={"allow_empty"}), states]
            add(sum(shard.bytes for shard in group), of_source, shards=tuple(group), source=source)
    return made


class Encode:
    """Encodes the documents of a job; the tokenizer is loaded once in each worker."""

    def __init__(self, tokenizer: Path, how: Engine, split: Split, threads: int | None, sides: bool = False) -> None:
        self._folder, self._how, self._split, self._threads, self._sides = tokenizer, how, split, threads, sides
        self._tokenizer: Tokenizer | None = None

    def __call__(self, job: EncodeJob) -> tuple[int, dict[str, Any]]:
        if self._tokenizer is None:
            if self._threads is not None:
                os.environ["RAYON_NUM_THREADS"] = str(self._threads)  # read when the library first encodes a batch
            self._tokenizer = Tokenizer.load(self._folder, self._how)
        tokenizer, counts = self._tokenizer, dict[str, DocumentCounts]()
        with atomic_folder(job.target, replace=True) as draft:
            with contextlib.ExitStack() as open_stores:
                stores = _Stores(draft, tokenizer, open_stores, self._sides)
                for shard in job.shards:
                    assert job.source is not None, "shards are of a source"
                    stores.take(shard, job.source, counts.setdefault(job.source.name, DocumentCounts()))
                for file, groups in job.documents:
                    of = counts.setdefault(file.source.name, DocumentCounts())
                    for table, dropped in self._split.kept(file, groups):
                        of.add(dropped)
                        stores.add(table, of)
            plain = {source: asdict(c) for source, c in counts.items()}
            write_json(draft / "done.json", {"made_of": job.made_of, "counts": plain})
        return job.number, plain


class _Stores:
    """Documents on their way into the two stores of a job."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, stack: contextlib.ExitStack, sides: bool) -> None:
        """stack: closes the stores, or aborts them; sides: whether those of pairs are stored by themselves, too"""
        self._folder, self._tokenizer, self._stack, self._sides = folder, tokenizer, stack, sides
        self._writers: dict[str, ShardWriter] = {}
        self._importer: token_sources.Importer | None = None  # a job has shards of one source

    def add(self, table: pa.Table, counts: DocumentCounts) -> None:
        """Encodes and stores a batch; a pair becomes two documents, one in each direction."""
        rows = table.to_pylist()
        whole = iter(self._tokenizer.encode_batch([row["text"] for row in rows if row["second"] is None]))
        sides = list({row[side]: None for row in rows if row["second"] is not None for side in ("text", "second")})
        side = dict(zip(sides, self._tokenizer.encode_plain(sides), strict=True))
        template = sum(map(len, self._tokenizer.template))
        groups: dict[tuple[str, str, str, int | None], tuple[list[Any], list[int]]] = {}
        for row in rows:
            if row["second"] is None:
                ids = next(whole)
                made, tokens = [(row["language"], ids)], len(ids) - template
            else:
                pair = Pair(row["text"], row["second"], row["language"], row["second_language"])
                made = [
                    (joined.language, join_pair(side[joined.first], side[joined.second], self._tokenizer))
                    for joined in directions(pair)
                ]
                tokens = min(len(side[row["text"]]), len(side[row["second"]]))
            for language, ids in made:
                if not tokens:  # special tokens alone teach nothing
                    counts.drop("no tokens", language, repr(row["text"][:80]))
                    continue
                group = groups.setdefault((row["store"], row["source"], language, row["tier"]), ([], []))
                group[0].append(ids)
                group[1].append(row["bytes"])
        for (store, source, language, tier), (encoded, sizes) in groups.items():
            self._writer(store).add(source, language, tier, encoded, sum(sizes))
        if self._sides:
            self._add_sides([row for row in rows if row["second"] is not None and row["store"] == "train"], side)

    def _add_sides(self, rows: Sequence[dict[str, Any]], side: dict[str, Any]) -> None:
        """Stores the sides of pairs as two documents in a row, for the language of the first; see pair_stream.py."""
        start, end = (np.array(part, np.int32) for part in self._tokenizer.template)
        for row in rows:
            both = [np.concatenate((start, side[row[name]], end)) for name in ("text", "second")]
            if len(side[row["text"]]) and len(side[row["second"]]):
                self._writer(PAIRS).add(row["source"], row["language"], row["tier"], both, row["bytes"])

    def take(self, shard: Shard, source: Source, counts: DocumentCounts) -> None:
        """Stores the documents of a shard of token ids."""
        self._importer = self._importer or token_sources.Importer(source, self._tokenizer)
        for found in self._importer(shard):
            writer = self._writer(source.split or "train")
            writer.add(source.name, found.language, found.tier, found.ids, found.bytes)
            counts.drop("sample without text", found.language, str(shard.path), found.empty)
            counts.note("samples that lacked a begin or end token, or were padded", found.completed)
            counts.note("samples of several documents", found.split)

    def _writer(self, store: str) -> ShardWriter:
        if store not in self._writers:
            tokenizer = self._tokenizer
            writer = ShardWriter(self._folder / store, tokenizer.fingerprint, tokenizer.vocab_size)
            self._writers[store] = self._stack.enter_context(writer)
        return self._writers[store]
