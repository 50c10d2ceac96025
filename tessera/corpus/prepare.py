"""Data preparation: raw text into token shards to train on and held-out ones, with a report of what was used.

    documents/    what was read, with what speaks against each document; see ingest.py, dedup.py, split.py
    shards/train/  shards/held_out/   see data/shards.py
    shards/report.json                documents, bytes and tokens of each language and source, dropped ones by reason

Every step is one task a group of files, spread by Daft's runner over cores or machines, and leaves files that are
whole: a run that was killed goes on with the first that is missing. The shards are the same bytes whatever the engine,
the number of workers or the interruptions. They appear whole or not at all.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet

from tessera import checksums
from tessera.corpus import daft_runner, dedup, ingest, split, tokenize
from tessera.corpus.ingest import DocumentCounts, DocumentFile
from tessera.corpus.quality import Scorer
from tessera.corpus.split import Split
from tessera.data.shards import Shards, concatenate, verify
from tessera.files import atomic_folder, remove_folder, write_json
from tessera.plan.corpus import Corpus
from tessera.progress import Progress, Say, silent
from tessera.tokenizer.tokenizer import Engine, Tokenizer

Store = Literal["train", "held_out"]
STORES: tuple[Store, ...] = ("train", "held_out")
_COMPARING = 4  # reading takes so many times longer than looking for copies, for the progress bar
_PROOF = 32  # documents of each file that gigatoken is tried on


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a corpus; also in report.json.

    languages  {language: {"train" | "held_out": {"documents", "bytes", "tokens"}}}
    sources    {source: {"documents", "bytes", "tokens"}} of both stores
    skipped    {source: {reason: {"count", "example", "languages": {language: count}}}}
    notes      {source: {what was found in documents that are kept: how often}}
    """

    tokenizer: str  # fingerprint
    vocab_size: int
    separator: str  # between the two sides of a pair
    languages: dict[str, dict[str, dict[str, int]]]
    sources: dict[str, dict[str, int]]
    skipped: dict[str, dict[str, dict[str, Any]]]
    notes: dict[str, dict[str, int]]
    seconds: float

    def total(self, store: Store) -> dict[str, int]:
        """Documents, bytes and tokens of one store."""
        return {
            unit: sum(stores[store][unit] for stores in self.languages.values() if store in stores)
            for unit in ("documents", "bytes", "tokens")
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestedCorpus:
    """A corpus after ingest: files of documents, and which of these are copies, held out, trained on."""

    corpus: Corpus
    files: tuple[DocumentFile, ...]
    split: Split

    def texts(self, store: Store = "train") -> Iterator[tuple[str, str]]:
        """(language, text) of all that is trained on, or held out; the sides of a pair one by one."""
        for file in self.files:
            for table, _ in self.split.kept(file):
                for row in table.select(["store", "language", "text", "second", "second_language"]).to_pylist():
                    if row["store"] == store:
                        yield row["language"], row["text"]
                        if row["second"] is not None:
                            yield row["second_language"], row["second"]


def prepare(corpus: Corpus, tokenizer: Tokenizer, out: str | Path, on_progress: Progress | None = None) -> Report:
    """Text to token stores in one call, on this machine; the documents stay in `documents` beside `out`."""
    found = read(corpus, Path(out).with_name("documents"), on_progress=on_progress)
    return encode(found, tokenizer, out, on_progress=on_progress)


def read(
    corpus: Corpus,
    folder: str | Path,
    *,
    engine: daft_runner.Engine = "native",
    workers: int | None = None,
    scorers: Mapping[str, Scorer] | None = None,
    on_progress: Progress | None = None,
    say: Say = silent,
) -> IngestedCorpus:
    """Reads, filters, compares and splits a corpus; what is in `folder` already and still fits is not done again.

    engine   that Daft runs on
    workers  files at a time; None: the cores of this machine
    scorers  what scores sources with `score: ./folder`, by that name; see ingest.ingest
    say      hears what is not read, and what is odd about languages

    Raises ValueError for sources that cannot be read (see documents.py) or hold nothing to train on.
    """
    folder, report = Path(folder), on_progress or silent
    daft_runner.choose(engine)

    def reading(done: int, total: int, what: str) -> None:
        report(done, total + total // _COMPARING, what)

    def comparing(done: int, total: int, what: str) -> None:
        report(size + size // _COMPARING * done // max(1, total), size + size // _COMPARING, what)

    files = ingest.ingest(corpus, folder, workers=workers or cores(), scorers=scorers, on_progress=reading, say=say)
    with ThreadPoolExecutor(cores()) as threads:  # hashing leaves Python's lock to others
        list(threads.map(checksums.check, [file.path for file in files]))
    size = sum(file.origin.size for file in files)
    copies = dedup.find_duplicates([file.path for file in files], corpus.duplicates, folder / "copies", comparing)
    chosen = split.choose_held_out(corpus, files, folder, copies)
    report(size + size // _COMPARING, size + size // _COMPARING, f"{len(files)} files, {len(copies.position):,} copies")
    if not len(chosen.keys) and not any(
        source.kind == "tokens" and source.split == "held_out" for source in corpus.sources
    ):
        say("no text is held out, so nothing can be measured on it; see `corpus.held_out`")
    return IngestedCorpus(corpus=corpus, files=files, split=chosen)


def encode(
    read: IngestedCorpus,
    tokenizer: Tokenizer,
    out: str | Path,
    *,
    library: Engine = "tokenizers",
    workers: int | None = None,
    sides: bool = False,
    on_progress: Progress | None = None,
) -> Report:
    """Encodes documents into `out`/train and `out`/held_out. `on_progress` hears bytes of documents done, and of all.

    sides    also writes `out`/pairs: the sides of the pairs that are trained on, for sentence embeddings
    library  encodes; gigatoken is first held against `tokenizers` on documents of every file

    Raises FileExistsError where `out` is there, ValueError where nothing remains to train on or gigatoken gives other
    ids, and OSError where the disk is full; what was finished stays beside `out` and is not done again.
    """
    out, started = Path(out), time.monotonic()
    if out.exists():
        raise FileExistsError(f"{out}: there already; remove it, or prepare into another folder")
    workers, report = workers or cores(), on_progress or silent
    drafts = out.with_name(f".{out.name}.parts")
    jobs = tokenize.encode_jobs(read.corpus, read.files, read.split, tokenizer, drafts, sides)
    stores = (*STORES, tokenize.PAIRS) if sides else STORES
    total = sum(job.size for job in jobs)
    counted = {job.number: counts for job in jobs if (counts := job.finished()) is not None}
    for place in (job.target / store for job in jobs if job.number in counted for store in stores):
        if place.exists():
            verify(place)  # what an earlier start left
    todo = [job for job in jobs if job.number not in counted]
    done = total - sum(job.size for job in todo)
    report(done, total, f"{len(counted)} of {len(jobs)} tasks")
    apart = workers > 1 and len(todo) > 1 and total - done > daft_runner.PROCESS_BYTES
    threads = max(1, cores() // min(workers, max(1, len(todo)))) if apart else None
    if library != "tokenizers":
        _prove(read, Tokenizer.load(tokenizer.path, library))
    task = tokenize.Encode(tokenizer.path, library, read.split, threads, sides)
    sizes = {job.number: job.size for job in jobs}
    for number, counts in daft_runner.spread(task, todo, workers=workers, processes=apart):
        counted[number] = {source: DocumentCounts(**of_source) for source, of_source in counts.items()}
        done += sizes[number]
        report(done, total, f"{len(counted)} of {len(jobs)} tasks")
    with atomic_folder(out) as draft:
        for store in stores:
            concatenate(
                [Shards.open(folder) for job in jobs if (folder := job.target / store).exists()],
                draft / store,
                tokenizer.fingerprint,
                tokenizer.vocab_size,
            )
        if not Shards.open(draft / "train").documents:
            raise ValueError(
                "the corpus has no document to train on; see `sources` of the recipe, and what was dropped"
            )
        result = _report(draft, tokenizer, read, [counted[job.number] for job in jobs], time.monotonic() - started)
        write_json(draft / "report.json", asdict(result), sealed=True)
    remove_folder(drafts)
    return result


def _prove(read: IngestedCorpus, tokenizer: Tokenizer) -> None:
    for file in read.files:
        with pa.parquet.ParquetFile(file.path) as table_file:
            table = next(table_file.iter_batches(_PROOF, columns=["text", "second"]), None)
        if table is not None:
            tokenizer.prove([text for name in ("text", "second") for text in table[name].to_pylist() if text])


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _report(
    folder: Path,
    tokenizer: Tokenizer,
    read: IngestedCorpus,
    counted: Sequence[dict[str, DocumentCounts]],
    seconds: float,
) -> Report:
    languages: dict[str, dict[str, dict[str, int]]] = {}
    sources: dict[str, dict[str, int]] = {}
    for store in STORES:
        for bucket in Shards.open(folder / store).buckets:
            place = languages.setdefault(bucket.language, {}).setdefault(store, {})
            for counts in (place, sources.setdefault(bucket.source, {})):
                for unit in ("documents", "bytes", "tokens"):
                    counts[unit] = counts.get(unit, 0) + getattr(bucket, unit)
    dropped: dict[str, DocumentCounts] = {}
    for file in read.files:
        dropped.setdefault(file.source.name, DocumentCounts()).add(file.counts)
    for by_source in counted:
        for source, found in by_source.items():
            dropped.setdefault(source, DocumentCounts()).add(found)
    separator = tokenizer.eos_id if tokenizer.separator_id is None else tokenizer.separator_id
    return Report(
        tokenizer=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        separator=tokenizer.token(separator),
        languages=dict(sorted(languages.items())),
        sources=sources,
        skipped={source: skipped for source, counts in dropped.items() if (skipped := _skipped(counts))},
        notes={source: counts.notes for source, counts in dropped.items() if counts.notes},
        seconds=round(seconds, 1),
    )


def _skipped(counts: DocumentCounts) -> dict[str, dict[str, Any]]:
    """{reason: count, example, languages}, the commonest first."""
    reasons: dict[str, dict[str, Any]] = {
        reason: {
            "count": sum(by_language.values()),
            "example": counts.examples[reason],
            "languages": dict(sorted(by_language.items(), key=lambda item: -item[1])),
        }
        for reason, by_language in counts.dropped.items()
    }
    return dict(sorted(reasons.items(), key=lambda item: -item[1]["count"]))
