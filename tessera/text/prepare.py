"""A corpus into two token stores: one to train on, one held out, and a report of what was used and what was not.

    out/train/  out/held_out/   see shards.py
    out/report.json             documents, bytes and tokens of each language and source, skipped lines by reason

`out` appears whole or not at all. Reading and encoding overlap: one thread reads, the tokenizer uses all cores.
"""

import hashlib
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tessera.plan.corpus import Corpus, HeldOut, Source, TokenizerTraining
from tessera.plan.whole import new_folder, write_json
from tessera.text import parallel, quality
from tessera.text.corpus import Document, Pair, Skipped, files, read
from tessera.text.shards import Shards, ShardWriter
from tessera.text.tokenizer import Progress, Tokenizer, sample

_BATCH_BYTES, _BATCH_DOCUMENTS = 2**20, 4_096
_IN_FLIGHT = 3  # batches between the reader and the writer

Store = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a corpus; also in report.json.

    languages  {language: {"train" | "held_out": {"documents", "bytes", "tokens"}}}
    sources    {source: {"documents", "bytes", "tokens"}} of both stores
    skipped    {source: {reason: {"count", "files", "example"}}}
    """

    tokenizer: str  # fingerprint
    vocab_size: int
    separator: str  # between the two sides of a pair
    languages: dict[str, dict[str, dict[str, int]]]
    sources: dict[str, dict[str, int]]
    skipped: dict[str, dict[str, dict[str, Any]]]
    seconds: float

    def total(self, store: Store) -> dict[str, int]:
        """Documents, bytes and tokens of one store."""
        return {
            unit: sum(stores[store][unit] for stores in self.languages.values() if store in stores)
            for unit in ("documents", "bytes", "tokens")
        }


@dataclass(frozen=True, slots=True)
class _Item:
    """A text on its way into a store; with `second`, two that are joined."""

    store: Store
    source: str
    language: str
    tier: int | None
    text: str
    second: str | None
    bytes: int


def prepare(corpus: Corpus, tokenizer: Tokenizer, out: str | Path, on_progress: Progress | None = None) -> Report:
    """Reads, splits, encodes and stores a corpus. `on_progress` hears bytes of the files read so far, and of all.

    Raises ValueError for sources that cannot be read (see corpus.read) or hold nothing to train on, FileExistsError
    where `out` is there, and OSError where the disk is full; then nothing is left behind.
    """
    out, started = Path(out), time.monotonic()
    if out.exists():
        raise FileExistsError(f"{out}: there already; remove it, or prepare into another folder")
    reading = _Reading(corpus, on_progress or (lambda done, total, what: None))
    with new_folder(out) as draft:
        stores: tuple[Store, Store] = ("train", "held_out")
        writers = {name: ShardWriter(draft / name, tokenizer.fingerprint, tokenizer.vocab_size) for name in stores}
        try:
            _encode_all(_items(corpus, reading), tokenizer, writers, reading)
            for writer in writers.values():
                writer.close()
        except BaseException:
            for writer in writers.values():
                writer.abort()
            raise
        report = _report(draft, tokenizer, reading, time.monotonic() - started)
        write_json(draft / "report.json", asdict(report))
    return report


def tokenizer_sample(
    corpus: Corpus, training: TokenizerTraining, on_progress: Progress | None = None
) -> dict[str, list[str]]:
    """A temperature-balanced sample of the corpus for `tokenizer.train`, without what is or may be held out."""
    reading = _Reading(corpus, on_progress or (lambda done, total, what: None))

    def texts() -> Iterator[tuple[str, str]]:
        held: set[bytes] = set()
        for source in _in_order(corpus):
            for item in reading.of(source):
                if isinstance(item, Pair):
                    yield item.source_language, item.source_text
                    yield item.target_language, item.target_text
                    continue
                key = _key(item.text)
                if source.split == "held_out":
                    held.add(key)
                elif key not in held and (source.split == "train" or not _drawn(key, corpus.held_out)):
                    yield item.language, item.text

    return sample(texts(), training)


# ----------------------------------------------------------------------------------------------- reading and splitting


class _Reading:
    """Reads the sources, keeps what was skipped and where we are."""

    def __init__(self, corpus: Corpus, on_progress: Progress) -> None:
        sizes = {file: file.stat().st_size for source in corpus.sources for file in files(source)}
        self.skipped: dict[str, Skipped] = {source.name: Skipped() for source in corpus.sources}
        self._sizes, self._done, self._total = sizes, 0, sum(sizes.values())
        self._file = Path()
        self._report = on_progress

    def of(self, source: Source) -> Iterator[Document | Pair]:
        yield from read(source, self.skipped[source.name], on_file=self._next)
        self._done += self._sizes.pop(self._file, 0)

    def progress(self, documents: int) -> None:
        self._report(self._done, self._total, f"{self._file.name}: {documents:,} documents")

    def _next(self, file: Path) -> None:
        self._done += self._sizes.pop(self._file, 0)
        self._file = file


class _Split:
    """Which documents are held out: by the hash of the text, up to a size for each language.

    The same text never stands on both sides: texts held out are remembered and dropped where they come again; texts
    that were drawn but found their language full are remembered as trained on (8 bytes each, a share of the corpus).
    """

    def __init__(self, rules: HeldOut) -> None:
        self._rules = rules
        self.held: set[bytes] = set()
        self._passed: set[bytes] = set()
        self._bytes: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._waiting: dict[str, list[_Item]] = {}

    def hold(self, key: bytes) -> bool:
        """Holds a text out for certain; False where it is held out already."""
        new = key not in self.held
        self.held.add(key)
        return new

    def draw(self, key: bytes, language: str, n_bytes: int) -> bool:
        """Whether a text that is not held out yet is now."""
        self._seen[language] += 1
        if not _drawn(key, self._rules) or key in self._passed:
            return False
        if self._bytes[language] + n_bytes > self._rules.max_bytes:
            self._passed.add(key)
            return False
        self._bytes[language] += n_bytes
        self.held.add(key)
        return True

    def release(self, item: _Item) -> Iterator[_Item]:
        """Passes items on; those held out of a language wait until it has enough documents."""
        enough = self._seen[item.language] >= self._rules.min_documents
        if enough and item.language in self._waiting:
            yield from self._waiting.pop(item.language)
        if enough or item.store == "train":
            yield item
        else:
            self._waiting.setdefault(item.language, []).append(item)

    def rest(self) -> Iterator[_Item]:
        """At the end: languages with too few documents train on all of them."""
        for items in self._waiting.values():
            for item in items:
                yield _Item("train", item.source, item.language, item.tier, item.text, item.second, item.bytes)


def _items(corpus: Corpus, reading: _Reading) -> Iterator[_Item]:
    split = _Split(corpus.held_out)
    for source in _in_order(corpus):
        skipped = reading.skipped[source.name]
        for found in reading.of(source):
            if isinstance(found, Pair):
                yield from _pair_items(found, source, split, skipped)
                continue
            key, n_bytes = _key(found.text), len(found.text.encode())
            drop = not split.hold(key) if source.split == "held_out" else key in split.held
            if drop:
                skipped.add("same text as a held-out document", source.path, repr(found.text[:80]))
                continue
            drawn = source.split is None and split.draw(key, found.language, n_bytes)
            tier = None if source.tiers is None else quality.tier(found.quality or 0.0, source.tiers)
            store: Store = "held_out" if drawn or source.split == "held_out" else "train"
            item = _Item(store, source.name, found.language, tier, found.text, None, n_bytes)
            yield from split.release(item) if source.split is None else (item,)
    yield from split.rest()


def _pair_items(pair: Pair, source: Source, split: _Split, skipped: Skipped) -> Iterator[_Item]:
    reason = parallel.why_not(pair)
    keys = {_key(pair.source_text), _key(pair.target_text)}
    if source.split == "held_out":
        split.held.update(keys)
    elif keys & split.held:
        reason = "a side is the text of a held-out document"
    if reason:
        skipped.add(reason, source.path, repr((pair.source_text[:80], pair.target_text[:80])))
        return
    store: Store = "held_out" if source.split == "held_out" else "train"
    n_bytes = len(pair.source_text.encode()) + len(pair.target_text.encode())
    for joined in parallel.directions(pair):
        yield _Item(store, source.name, joined.language, None, joined.first, joined.second, n_bytes)


def _in_order(corpus: Corpus) -> list[Source]:
    """What is held out for certain first, then what is drawn, then what is trained on for certain: no text escapes."""

    def rank(source: Source) -> int:
        if source.split == "held_out":
            return 0
        return 1 if source.split is None and source.kind == "documents" else 2

    return sorted(corpus.sources, key=rank)


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.strip().encode(), digest_size=8, person=b"held_out").digest()


def _drawn(key: bytes, rules: HeldOut) -> bool:
    return int.from_bytes(key, "big") < rules.share * 2**64


# ------------------------------------------------------------------------------------------------ encoding and writing


def _encode_all(
    items: Iterator[_Item], tokenizer: Tokenizer, writers: dict[Store, ShardWriter], reading: _Reading
) -> None:
    """Batches of items through the tokenizer into the writers; one thread encodes and writes while this one reads."""
    pending: deque[Future[int]] = deque()
    documents = 0
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            for batch in _batches(items):
                pending.append(pool.submit(_encode, batch, tokenizer, writers, reading))
                while len(pending) >= _IN_FLIGHT:
                    documents += pending.popleft().result()
                    reading.progress(documents)
            while pending:
                documents += pending.popleft().result()
            reading.progress(documents)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if not documents:
        raise ValueError("the corpus has no document to train on; see `sources` of the recipe")


def _batches(items: Iterator[_Item]) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += item.bytes
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(batch: list[_Item], tokenizer: Tokenizer, writers: dict[Store, ShardWriter], reading: _Reading) -> int:
    """Encodes and stores one batch; returns its documents."""
    whole = iter(tokenizer.encode_batch([item.text for item in batch if item.second is None]))
    joined = [item for item in batch if item.second is not None]
    sides = list({text: None for item in joined for text in (item.text, item.second or "")})  # a pair comes both ways
    side = dict(zip(sides, tokenizer.encode_plain(sides), strict=True))
    pairs = (parallel.join(side[item.text], side[item.second or ""], tokenizer) for item in joined)
    groups: dict[tuple[Store, str, str, int | None], tuple[list[Any], list[int]]] = {}
    for item in batch:
        ids = next(whole) if item.second is None else next(pairs)
        if not len(ids):
            reading.skipped[item.source].add("no tokens", item.language, repr(item.text[:80]))
            continue
        group = groups.setdefault((item.store, item.source, item.language, item.tier), ([], []))
        group[0].append(ids)
        group[1].append(item.bytes)
    for (store, source, language, tier), (documents, sizes) in groups.items():
        writers[store].add(source, language, tier, documents, sum(sizes))
    return sum(len(documents) for (store, *_), (documents, _) in groups.items() if store == "train")


def _report(folder: Path, tokenizer: Tokenizer, reading: _Reading, seconds: float) -> Report:
    languages: dict[str, dict[str, dict[str, int]]] = {}
    sources: dict[str, dict[str, int]] = {}
    for store in ("train", "held_out"):
        for bucket in Shards.open(folder / store).buckets:
            place = languages.setdefault(bucket.language, {}).setdefault(store, {})
            for counts in (place, sources.setdefault(bucket.source, {})):
                for unit in ("documents", "bytes", "tokens"):
                    counts[unit] = counts.get(unit, 0) + getattr(bucket, unit)
    separator = tokenizer.eos_id if tokenizer.separator_id is None else tokenizer.separator_id
    return Report(
        tokenizer=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        separator=tokenizer.token(separator),
        languages=dict(sorted(languages.items())),
        sources=sources,
        skipped={name: found for name, s in reading.skipped.items() if (found := s.by_reason())},
        seconds=round(seconds, 1),
    )
