"""Documents into token stores: the tasks that prepare.py spreads, and what each leaves."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet

from tessera.corpus import parallel, token_sources
from tessera.corpus.documents import Pair
from tessera.corpus.ingest import Counts, Part, grouped, in_order
from tessera.corpus.mds import Shard
from tessera.corpus.split import Split
from tessera.data.shards import ShardWriter
from tessera.data.tokenizer import Engine, Tokenizer
from tessera.files import atomic_folder, write_json
from tessera.plan.corpus import Corpus, Source

_SHARD_TASK = 2**28  # bytes of token ids that a task takes over
_LEAST_TASK, _MOST_TASKS = 2**23, 512  # bytes of documents that a task encodes; more where there are many


class Batches(NamedTuple):
    """Some row groups of a file of documents."""

    part: Part
    numbers: tuple[int, ...]
    size: int  # in bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Files of documents, or shards of token ids, that become one small pair of stores."""

    number: int
    size: int  # in bytes
    documents: tuple[Batches, ...] = ()
    shards: tuple[Shard, ...] = ()
    source: Source | None = None  # of the shards
    target: Path
    made_of: str

    def finished(self) -> dict[str, Counts] | None:
        """What of each source was dropped; None where it was not made, or of other documents."""
        try:
            found = json.loads((self.target / "done.json").read_bytes())
        except (OSError, ValueError):
            return None
        if found["made_of"] != self.made_of:
            return None
        return {source: Counts(**counts) for source, counts in found["counts"].items()}


def jobs(corpus: Corpus, parts: Sequence[Part], split: Split, tokenizer: Tokenizer, folder: Path) -> list[Job]:
    """Tasks of a size: neither thousands of them for small files nor a single one for a large file."""
    batches = [Batches(part, (n,), size) for part in parts for n, size in enumerate(_sizes(part.path))]
    sizes = [batch.size for batch in batches]
    made: list[Job] = []

    def add(size: int, made_of: Any, **what: Any) -> None:
        fingerprint = hashlib.sha256(json.dumps([tokenizer.fingerprint, made_of]).encode()).hexdigest()
        target = folder / f"{len(made):05d}"
        made.append(Job(number=len(made), size=size, target=target, made_of=fingerprint, **what))

    for group in grouped(batches, sizes, max(_LEAST_TASK, sum(sizes) // _MOST_TASKS)):
        whole = tuple(_joined(group))
        of_parts = [(part.fingerprint, numbers) for part, numbers, _ in whole]
        add(sum(batch.size for batch in group), [split.fingerprint, of_parts], documents=whole)
    for source in in_order(corpus):
        shards = token_sources.shards_of(source) if source.kind == "tokens" else []
        for some in grouped(shards, [shard.bytes for shard in shards], _SHARD_TASK):
            states = [(str(s.path), s.path.stat().st_size, s.path.stat().st_mtime_ns) for s in some]
            of_source = [source.model_dump(mode="json"), states]
            add(sum(shard.bytes for shard in some), of_source, shards=tuple(some), source=source)
    return made


def _sizes(path: Path) -> list[int]:
    """Bytes of each row group of a file."""
    footer = pa.parquet.read_metadata(path)
    return [footer.row_group(number).total_byte_size for number in range(footer.num_row_groups)]


def _joined(group: Sequence[Batches]) -> Iterator[Batches]:
    """Batches of one part as one."""
    for _, of_part in itertools.groupby(group, key=lambda batch: batch.part.number):
        found = list(of_part)
        yield Batches(found[0].part, tuple(n for b in found for n in b.numbers), sum(b.size for b in found))


class Encode:
    """Encodes the documents of a job; the tokenizer is loaded once in each worker."""

    def __init__(self, tokenizer: Path, how: Engine, split: Split, threads: int | None) -> None:
        self._folder, self._how, self._split, self._threads = tokenizer, how, split, threads
        self._tokenizer: Tokenizer | None = None

    def __call__(self, job: Job) -> tuple[int, dict[str, Any]]:
        if self._tokenizer is None:
            if self._threads is not None:
                os.environ["RAYON_NUM_THREADS"] = str(self._threads)  # read when the library first encodes a batch
            self._tokenizer = Tokenizer.load(self._folder, self._how)
        tokenizer, counts = self._tokenizer, dict[str, Counts]()
        with atomic_folder(job.target, replace=True) as draft:
            with _Stores(draft, tokenizer) as stores:
                for shard in job.shards:
                    assert job.source is not None, "shards are of a source"
                    counts.setdefault(job.source.name, Counts()).add(stores.take(shard, job.source))
                for part, numbers, _ in job.documents:
                    of = counts.setdefault(part.source.name, Counts())
                    for table, dropped in self._split.of(part, numbers):
                        of.add(dropped)
                        stores.add(table, of)
            plain = {source: asdict(c) for source, c in counts.items()}
            write_json(draft / "done.json", {"made_of": job.made_of, "counts": plain})
        return job.number, plain


class _Stores:
    """Documents on their way into the two stores of a job."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self._folder, self._tokenizer = folder, tokenizer
        self._writers: dict[str, ShardWriter] = {}
        self._importer: token_sources.Importer | None = None  # a job has shards of one source

    def add(self, table: pa.Table, counts: Counts) -> None:
        """Encodes and stores a batch; a pair becomes two documents, one in each direction."""
        rows = table.to_pylist()
        whole = iter(self._tokenizer.encode_batch([row["text"] for row in rows if row["second"] is None]))
        sides = list({row[side]: None for row in rows if row["second"] is not None for side in ("text", "second")})
        side = dict(zip(sides, self._tokenizer.encode_plain(sides), strict=True))
        groups: dict[tuple[str, str, str, int | None], tuple[list[Any], list[int]]] = {}
        for row in rows:
            if row["second"] is None:
                made = [(row["language"], next(whole))]
            else:
                pair = Pair(row["text"], row["second"], row["language"], row["second_language"])
                made = [
                    (joined.language, parallel.join(side[joined.first], side[joined.second], self._tokenizer))
                    for joined in parallel.directions(pair)
                ]
            for language, ids in made:
                if not len(ids):
                    counts.drop("no tokens", language, repr(row["text"][:80]))
                    continue
                group = groups.setdefault((row["store"], row["source"], language, row["tier"]), ([], []))
                group[0].append(ids)
                group[1].append(row["bytes"])
        for (store, source, language, tier), (encoded, sizes) in groups.items():
            self._writer(store).add(source, language, tier, encoded, sum(sizes))

    def take(self, shard: Shard, source: Source) -> Counts:
        """Stores the documents of a shard of token ids."""
        self._importer = self._importer or token_sources.Importer(source, self._tokenizer)
        counts = Counts()
        for found in self._importer(shard):
            writer = self._writer(source.split or "train")
            writer.add(source.name, found.language, found.tier, found.ids, found.counts.bytes)
            for _ in range(found.counts.empty):
                counts.drop("sample without text", found.language, str(shard.path))
            counts.note("samples that lacked a begin or end token, or were padded", found.counts.completed)
            counts.note("samples of several documents", found.counts.split)
        return counts

    def _writer(self, store: str) -> ShardWriter:
        if store not in self._writers:
            tokenizer = self._tokenizer
            self._writers[store] = ShardWriter(self._folder / store, tokenizer.fingerprint, tokenizer.vocab_size)
        return self._writers[store]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            for writer in self._writers.values() if kind is None else ():
                writer.close()
        finally:
            for writer in self._writers.values():
                writer.abort()  # those that are not closed
