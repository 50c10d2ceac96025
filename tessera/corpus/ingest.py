"""Ingest: a corpus read once into parquet, each document scored, filtered, hashed, with what speaks against it.

    documents/00000.parquet ...  one for each file of the sources, rows in its order; see SCHEMA
    documents/copies/            which of them are copies of others; see dedup.py
    documents/held_out.parquet   which of them are held out; see split.py

Nothing is thrown away here: a document that is not wanted keeps its row and gets a reason. A file of documents is
written whole or not at all and knows what it was made from, so a run that was killed reads only what is not finished.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tessera.checksums import BESIDE
from tessera.corpus import daft_runner, losses, quality
from tessera.corpus.documents import CorpusRow, Document, Pair, read_file
from tessera.corpus.filters import Filter
from tessera.corpus.pairs import why_not_pair
from tessera.corpus.quality import Scorer
from tessera.files import atomic_file
from tessera.plan.corpus import Corpus, Filters, Source
from tessera.progress import Progress, Say, silent
from tessera.sources.storage import File, listing

_VERSION = 1
_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("position", pa.uint64()),  # number of the file << 32 | number of the row in it
        ("source", _NAME),
        ("language", _NAME),
        ("tier", pa.int8()),
        ("store", _NAME),  # train or held_out where the source says so
        ("text", pa.string()),  # of a line that cannot be used: its beginning
        ("second", pa.string()),  # the other side of a pair
        ("second_language", _NAME),
        ("id", pa.string()),
        ("score", pa.float32()),
        ("key", pa.uint64()),  # hash of the text, or of both texts of a pair
        ("bytes", pa.int64()),
        ("reason", _NAME),  # why it is not wanted
    ]
)
"""One row: a document, a pair, or a line that cannot be used (its language is what it says, or its file does)."""


_META = b"tessera"
_VARYING = tuple(name for name in SCHEMA.names if name not in ("source", "store"))
_BATCH_BYTES, _BATCH_ROWS = 2**22, 8_192


@dataclass(slots=True)
class DocumentCounts:
    """How many documents a file gave, by language, and how many were dropped, by reason."""

    wanted: dict[str, list[int]] = field(default_factory=dict)  # {language: [documents, bytes]}
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)  # {reason: {language: documents}}
    examples: dict[str, str] = field(default_factory=dict)  # {reason: the first of its kind}
    notes: dict[str, int] = field(default_factory=dict)  # {what was found: how often}, of documents that are kept
    readable: int = 0
    unreadable: int = 0

    def want(self, language: str, n_bytes: int, n: int = 1) -> None:
        entry = self.wanted.setdefault(language, [0, 0])
        entry[0] += n
        entry[1] += n_bytes

    def drop(self, reason: str, language: str, example: str, n: int = 1) -> None:
        if n:
            by_language = self.dropped.setdefault(reason, {})
            by_language[language] = by_language.get(language, 0) + n
            self.examples.setdefault(reason, example)

    def note(self, what: str, n: int) -> None:
        if n:
            self.notes[what] = self.notes.get(what, 0) + n

    def add(self, other: "DocumentCounts") -> None:
        for language, (n, n_bytes) in other.wanted.items():
            self.want(language, n_bytes, n)
        for reason, by_language in other.dropped.items():
            for language, n in by_language.items():
                self.drop(reason, language, other.examples[reason], n)
        for note, n in other.notes.items():
            self.note(note, n)
        self.readable += other.readable
        self.unreadable += other.unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFile:
    """One parquet file of documents, written or yet to be, of one file of a source."""

    number: int
    path: Path
    source: Source
    origin: File  # it is read from
    fingerprint: str  # of the origin, and of all that decides what is made of it
    counts: DocumentCounts = field(default_factory=DocumentCounts)


def ingest(
    corpus: Corpus,
    folder: str | Path,
    *,
    workers: int,
    scorers: Mapping[str, Scorer] | None = None,
    on_progress: Progress | None = None,
    say: Say = silent,
) -> tuple[DocumentFile, ...]:
    """Reads every file of the sources into `folder`; what is there already and still fits is left as it is.

    workers      how many files at a time
    scorers      what scores the sources, by Source.score; what is not in it is taken for `package.module:function`
    on_progress  hears bytes of the files read so far, and of all
    say          hears what is not read, and what is odd about languages

    The caller has chosen the engine. Raises ValueError for sources that cannot be read or give nothing.
    """
    folder, report = Path(folder), on_progress or silent
    folder.mkdir(parents=True, exist_ok=True)
    names = {source.score for source in corpus.sources if source.score is not None}
    scores = {name: (scorers or {}).get(name) or quality.scorer(name) for name in names}
    jobs = _files(corpus, folder, scores, say)
    known = {job.number: counts for job in jobs if (counts := _finished(job)) is not None}
    todo = [job for job in jobs if job.number not in known]
    sizes = {job.number: job.origin.size for job in jobs}
    total = sum(sizes.values())
    done = sum(sizes[number] for number in known)
    report(done, total, f"{len(known)} of {len(jobs)} files")
    heavy = any(job.source.score for job in todo) or total - done > daft_runner.PROCESS_BYTES
    groups = daft_runner.grouped(todo, [job.origin.size for job in todo], daft_runner.TASK_BYTES)
    task = _Ingest(corpus.filters, scores)
    for finished in daft_runner.spread(task, groups, workers=workers, processes=heavy and workers > 1):
        for number, counts in finished:
            known[number] = DocumentCounts(**counts)
            done += sizes[number]
        report(done, total, f"{len(known)} of {len(jobs)} files")
    written = tuple(replace(job, counts=known[job.number]) for job in jobs)
    losses.check(corpus, written)
    for line in losses.odd_languages(written):
        say(line)
    wanted = {file.path.name for file in written}
    for path in folder.glob("*.parquet"):
        if path.name not in wanted and path.stem.isdigit():
            for left in (path, path.with_name(path.name + BESIDE)):
                left.unlink(missing_ok=True)  # of files that are no longer asked for
    return written


def sources_in_order(corpus: Corpus) -> list[Source]:
    """What is held out for certain first, then what is drawn from, then what is trained on for certain.

    Of equal texts the first is kept, so none that is held out for certain is trained on.
    """

    def rank(source: Source) -> int:
        if source.split == "held_out":
            return 0
        return 1 if source.split is None and source.kind == "documents" else 2

    return sorted(corpus.sources, key=rank)


def text_key(text: str | bytes) -> int:
    """64-bit hash of a text (or its UTF-8), whatever spaces and line ends are around it: equal texts are duplicates."""
    data = text.encode() if isinstance(text, str) else text
    # Exact deduplication goes by this key first, the held-out split by it too. `person` names only the latter:
    # another word would be another key for every text, and so other documents held out.
    return int.from_bytes(hashlib.blake2b(data.strip(), digest_size=8, person=b"held_out").digest(), "big")


def pair_key(first: str, second: str) -> int:
    """64-bit hash of the two texts of a pair, in whatever order."""
    low, high = sorted((text_key(first), text_key(second)))
    return int.from_bytes(hashlib.blake2b(b"%d %d" % (low, high), digest_size=8).digest(), "big")


# ---------------------------------------------------------------------------------------------------- one file, a task


class _Ingest:
    """Reads groups of files; what judges them is made once in each worker."""

    def __init__(self, filters: Filters, scorers: Mapping[str, Scorer]) -> None:
        self._filter = Filter(filters)
        bare = Filters(language=filters.language, contamination=filters.contamination)
        self._pair_filter = Filter(bare)  # sentences are short and repeat nothing
        self._scorers = scorers

    def __call__(self, jobs: Sequence[DocumentFile]) -> list[tuple[int, dict[str, Any]]]:
        return [(job.number, asdict(self._write(job))) for job in jobs]

    def _write(self, job: DocumentFile) -> DocumentCounts:
        counts = DocumentCounts()
        with (
            atomic_file(job.path, sealed=True) as draft,
            pa.parquet.ParquetWriter(draft, SCHEMA, compression="lz4") as out,
        ):
            for rows in _batches(read_file(job.origin, job.source)):
                out.write_batch(self._judge(rows, job, counts))
            out.add_key_value_metadata({_META: json.dumps({"made_of": job.fingerprint, "counts": asdict(counts)})})
        return counts

    def _judge(self, rows: Sequence[CorpusRow], job: DocumentFile, counts: DocumentCounts) -> pa.RecordBatch:
        """Rows with all that is known of them."""
        source, first = job.source, job.number << 32
        made: list[tuple[Any, ...]] = []  # in the order of _VARYING
        for row, score in zip(rows, self._scores(rows, source), strict=True):
            item, position = row.item, first | row.number
            if isinstance(item, Document):
                text, language = item.text, item.language
                reason = self._filter.why_not(text, language) if source.filtered else None
                tier = None if source.tiers is None or score is None else quality.tier(score, source.tiers)
                data = text.encode()
                size, hashed = len(data), text_key(data)
                made.append((position, language, tier, text, None, None, item.id, score, hashed, size, reason))
            elif isinstance(item, Pair):
                text, second = item.source_text, item.target_text
                language, other = item.source_language, item.target_language
                reason = self._why_not(item, source)
                size, hashed = len(text.encode()) + len(second.encode()), pair_key(text, second)
                made.append((position, language, None, text, second, other, None, None, hashed, size, reason))
            else:
                text, language, reason, size = row.shown, row.language, row.reason, 0
                made.append((position, language, None, text, None, None, None, None, 0, 0, reason))
                counts.unreadable += 1
            if reason is None:
                counts.want(language, size)
            else:
                counts.drop(reason, language, f"{job.origin}, {row.place}: {text[:80]!r}")
        counts.readable += sum(row.item is not None for row in rows)
        columns: dict[str, Sequence[Any]] = dict(zip(_VARYING, zip(*made, strict=True), strict=True))
        columns |= {"source": [source.name] * len(made), "store": [source.split] * len(made)}
        return pa.RecordBatch.from_arrays([_array(columns[f.name], f.type) for f in SCHEMA], schema=SCHEMA)

    def _why_not(self, pair: Pair, source: Source) -> str | None:
        reason = why_not_pair(pair)
        if reason is None and source.filtered:
            sides = ((pair.source_text, pair.source_language), (pair.target_text, pair.target_language))
            return next((why for text, language in sides if (why := self._pair_filter.why_not(text, language))), None)
        return reason

    def _scores(self, rows: Sequence[CorpusRow], source: Source) -> list[float | None]:
        """The score of each row, from its column or from what scores the source."""
        if source.score is None:
            return [row.item.quality if isinstance(row.item, Document) else None for row in rows]
        places = [n for n, row in enumerate(rows) if isinstance(row.item, Document)]
        texts = [row.item.text for row in rows if isinstance(row.item, Document)]
        given = quality.checked(self._scorers[source.score](texts), texts, source.score)
        scores: list[float | None] = [None] * len(rows)
        for place, score in zip(places, given, strict=True):
            scores[place] = score
        return scores


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """A column; most of them have few different values, and Arrow looks at each as if it were the first."""
    if not pa.types.is_dictionary(kind):
        return pa.nulls(len(values), kind) if values.count(None) == len(values) else pa.array(values, kind)
    place = {name: number for number, name in enumerate(name for name in dict.fromkeys(values) if name is not None)}
    numbers = pa.array(list(map(place.get, values)), kind.index_type)
    return pa.DictionaryArray.from_arrays(numbers, pa.array(list(place), kind.value_type))


def _batches(rows: Iterator[CorpusRow]) -> Iterator[list[CorpusRow]]:
    batch: list[CorpusRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row.size
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# ----------------------------------------------------------------------------------------------------- what is finished


def _files(corpus: Corpus, folder: Path, scorers: Mapping[str, Scorer], say: Say) -> list[DocumentFile]:
    """One for each file of each source, in the order in which texts are kept."""
    found = []
    for source in sources_in_order(corpus):
        if source.kind != "tokens":
            listed = listing(source)
            found += [(source, file) for file in listed.files]
            if listed.left_out:
                say(f"{source.name}: not read: {listed}")
    rules = Filter(corpus.filters).fingerprint
    # A model may be another one tomorrow under the same name; a function is taken to be what its name says.
    models = {name: s.fingerprint() for name, s in scorers.items() if hasattr(s, "fingerprint")}
    jobs = []
    for number, (source, file) in enumerate(found):
        made_of = [_VERSION, number, file.stamp, _of_source(source), rules, models.get(source.score or "")]
        fingerprint = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        path = folder / f"{number:05d}.parquet"
        jobs.append(DocumentFile(number=number, path=path, source=source, origin=file, fingerprint=fingerprint))
    return jobs


def _of_source(source: Source) -> dict[str, Any]:
    """What decides what is made of a file; a key that only says what is an error does not."""
    return source.model_dump(mode="json", exclude={"allow_empty"})


def _finished(job: DocumentFile) -> DocumentCounts | None:
    """What a finished file of documents says of itself; None where there is none, or one of other things."""
    try:
        written = pa.parquet.read_metadata(job.path).metadata or {}
        found = json.loads(written.get(_META, b"{}"))
    except (OSError, ValueError, pa.ArrowException):
        return None
    try:
        return DocumentCounts(**found["counts"]) if found["made_of"] == job.fingerprint else None
    except (KeyError, TypeError):  # damaged, so it is made again
        return None
