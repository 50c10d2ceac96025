"""Token shards: a store of a few large memory-mapped files, one index, a checksum for each file.

    tokens-00000.bin ...   ids of all documents end to end, uint16 or uint32, little-endian
    offsets.bin            int64 [D + 1], where each document starts, counted in tokens over all files
    index.json             buckets, sizes, checksums, the tokenizer; written last

Documents of one bucket (source, language, tier) lie together, buckets are sorted by key. So 1,833 languages are a
handful of open files, and a document is two integers. shard_writer.py writes one; blocks.py may later put counts
beside it that are derived from the offsets.
"""

# Shapes: D documents, B buckets, n pieces to gather.

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tessera.checksums import Damaged, sha256
from tessera.data.blocks import Blocks, MmapArray, damaged
from tessera.data.shard_writer import FILE_BYTES, FORMAT, INDEX, VERSION, StoreFiles, index_hash
from tessera.plan.corpus import Bucket
from tessera.plan.errors import one_line

_COPY_TOKENS = 2**22


@dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """A store that can be read: `Shards.open(folder)`. Nothing is loaded; the system pages in what is gathered.

    buckets              sorted by key
    first_document       int64 [B], the first document of each bucket
    first_token          int64 [B], where it starts
    offsets              int64 [D + 1] memory map, where each document starts; the last is the number of tokens
    identity             checksum of the index, which names those of all files
    """

    folder: Path
    buckets: tuple[Bucket, ...]
    first_document: NDArray[np.int64]
    first_token: NDArray[np.int64]
    _offsets: MmapArray
    tokenizer_fingerprint: str
    vocab_size: int
    identity: str
    _files: tuple[MmapArray, ...]
    _tokens_per_file: int

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Maps the store. Raises ValueError naming the file that is missing, cut short or of another format."""
        folder = Path(folder)
        index, identity = _read_index(folder)
        for name, entry in index.files.items():
            _check_size(folder / name, entry.bytes)
        names = sorted(name for name in index.files if name.startswith("tokens-"))
        dtype = np.dtype(index.dtype).newbyteorder("<")
        offsets = MmapArray(folder / "offsets.bin", np.dtype("<i8"))
        if len(offsets.values) != index.documents + 1 or int(offsets.values[-1]) != index.tokens:
            raise ValueError(f"{folder / 'offsets.bin'}: does not fit index.json; prepare the corpus again")
        rows = index.buckets
        fields = {"source", "language", "tier", "tokens", "documents", "bytes"}
        return cls(
            folder=folder,
            buckets=tuple(Bucket(**row.model_dump(include=fields)) for row in rows),
            first_document=np.array([row.first_document for row in rows], dtype=np.int64),
            first_token=np.array([row.first_token for row in rows], dtype=np.int64),
            _offsets=offsets,
            tokenizer_fingerprint=index.tokenizer,
            vocab_size=index.vocab_size,
            identity=identity,
            _files=tuple(MmapArray(folder / name, dtype) for name in names),
            _tokens_per_file=index.tokens_per_file,
        )

    @property
    def offsets(self) -> NDArray[np.int64]:
        return self._offsets.values

    @property
    def tokens(self) -> int:
        return int(self.offsets[-1])

    @property
    def documents(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, bucket: int) -> NDArray[np.int64]:
        """Tokens of each document of one bucket, int64 [documents]."""
        first = int(self.first_document[bucket])
        self._offsets.expect(np.array([first]), np.array([first + self.buckets[bucket].documents + 1]))
        return np.diff(self.offsets[first : first + self.buckets[bucket].documents + 1])

    def blocks(self, context: int) -> Blocks:
        """The documents in blocks of at most `context` tokens; large stores keep the counts, see blocks.py."""
        return Blocks.of(self.folder, self.identity, self._offsets, context)

    def gather(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int32]:
        """The tokens of n pieces end to end.

        starts, lengths  int64 [n]; positions over all files, pieces within the store
        returns          int32 [sum(lengths)]
        """
        starts, lengths = np.asarray(starts, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
        if len(starts) == 0:
            return np.empty(0, dtype=np.int32)
        assert starts.min() >= 0, "a piece before the store"
        assert lengths.min() >= 0, "a piece of negative length"
        assert (starts + lengths).max() <= self.tokens, "a piece beyond the store"
        ends = np.cumsum(lengths)
        out = np.empty(int(ends[-1]), dtype=np.int32)
        filled = lengths > 0  # an empty piece may lie where no file is
        starts, lengths, into = starts[filled], lengths[filled], (ends - lengths)[filled]
        while len(starts):
            file, inside = np.divmod(starts, self._tokens_per_file)
            here = np.minimum(lengths, self._tokens_per_file - inside)
            self._expect(file, inside, inside + here)
            columns = (file, inside, inside + here, into, into + here)
            # A slice for each piece: index arrays of the tokens would take eight times the memory of what they gather.
            for number, first, last, target, end in zip(*(column.tolist() for column in columns), strict=True):
                out[target:end] = self._files[number].values[first:last]
            more = here < lengths  # what lies on in the next file
            starts, lengths, into = (starts + here)[more], (lengths - here)[more], (into + here)[more]
        return out

    def _expect(self, file: NDArray[np.int64], begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        order = np.argsort(file, kind="stable")
        numbers, first = np.unique(file[order], return_index=True)
        for number, of_file in zip(numbers.tolist(), np.split(order, first[1:]), strict=True):
            self._files[number].expect(begins[of_file], ends[of_file])


def concatenate(stores: Sequence[Shards], folder: Path, tokenizer_fingerprint: str, vocab_size: int) -> Path:
    """The store that one writer had made of all documents of `stores`, one store after the other.

    Tokens are copied in pieces, so memory does not grow with the stores. Raises what `ShardWriter` raises; `folder`
    appears whole or not at all.
    """
    places: dict[str, list[tuple[Shards, int]]] = {}
    for shards in stores:
        assert shards.tokenizer_fingerprint == tokenizer_fingerprint, "stores of another tokenizer"
        for number, bucket in enumerate(shards.buckets):
            places.setdefault(bucket.key, []).append((shards, number))
    store = StoreFiles(Path(folder), tokenizer_fingerprint, vocab_size, FILE_BYTES)
    try:
        store.begin(sum(shards.tokens for shards in stores))
        for key in sorted(places):
            found = [shards.buckets[number] for shards, number in places[key]]
            for (shards, number), bucket in zip(places[key], found, strict=True):
                first = int(shards.first_token[number])
                for start in range(first, first + bucket.tokens, _COPY_TOKENS):
                    n = min(_COPY_TOKENS, first + bucket.tokens - start)
                    store.tokens(shards.gather(np.array([start]), np.array([n])).astype(store.dtype).tobytes())
                store.lengths(shards.lengths(number))
            tokens, documents, n_bytes = (
                sum(getattr(b, unit) for b in found) for unit in ("tokens", "documents", "bytes")
            )
            store.end_bucket(replace(found[0], tokens=tokens, documents=documents, bytes=n_bytes))
        return store.close()
    except BaseException:
        store.abort()
        raise


def verify(folder: str | Path) -> None:
    """Reads every byte of a store. Raises ValueError naming the files whose content is not what was written."""
    folder = Path(folder)
    wrong = []
    for name, entry in _read_index(folder)[0].files.items():
        _check_size(folder / name, entry.bytes)
        if sha256(folder / name) != entry.sha256:
            wrong.append(str(folder / name))
    if wrong:
        raise Damaged(f"{', '.join(wrong)}: not the bytes that were written (checksum differs); copy it again")
    if derived := damaged(folder):
        names = ", ".join(map(str, derived))
        raise Damaged(f"{names}: not the bytes that were written (checksum differs); delete it, it is made again")


# ----------------------------------------------------------------------------------------------------------- the index

_Count = Annotated[int, Field(ge=0, lt=2**62)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _FileEntry(_Strict):
    bytes: _Count
    sha256: str


class _BucketEntry(_Strict):
    source: str
    language: str
    tier: int | None
    tokens: _Count
    documents: _Count
    bytes: _Count
    first_document: _Count
    first_token: _Count


class _Index(_Strict):
    """index.json as `StoreFiles.close` writes it, without its own checksum."""

    format: Literal["tessera-shards"]
    version: int
    tokenizer: str
    vocab_size: _Count
    dtype: Literal["uint16", "uint32"]
    tokens_per_file: Annotated[int, Field(gt=0, lt=2**62)]
    tokens: _Count
    documents: _Count
    files: dict[Annotated[str, Field(pattern=r"^(tokens-\d{5,9}|offsets)\.bin$")], _FileEntry]
    buckets: list[_BucketEntry]

    def problem(self) -> str | None:
        """What of it does not fit together."""
        width = np.dtype(self.dtype).itemsize
        sizes = [entry.bytes for name, entry in sorted(self.files.items()) if name.startswith("tokens-")]
        if sum(sizes) != self.tokens * width or any(size != self.tokens_per_file * width for size in sizes[:-1]):
            return f"its files do not hold {self.tokens} tokens of {width} bytes"
        if self.files.get("offsets.bin", _FileEntry(bytes=0, sha256="")).bytes != 8 * (self.documents + 1):
            return f"offsets.bin does not hold {self.documents} documents"
        documents = tokens = 0
        for row in self.buckets:
            if (row.first_document, row.first_token) != (documents, tokens):
                return f"bucket {row.source!r} {row.language!r} does not begin where the one before ends"
            documents, tokens = documents + row.documents, tokens + row.tokens
        if (documents, tokens) != (self.documents, self.tokens):
            return "its buckets do not add up to the store"
        return None


def _read_index(folder: Path) -> tuple[_Index, str]:
    """The index, and its checksum. Raises ValueError naming the file and what is wrong in it."""
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"{folder}: no token store here ({INDEX} is missing); run `tessera prepare` first")
    try:
        index = json.loads(path.read_bytes())
        known = index.get("format"), index.get("version")
    except (ValueError, AttributeError, RecursionError) as error:
        why = "too deep" if isinstance(error, RecursionError) else f"{error!s:.200}"
        raise ValueError(f"{path}: not an index of a token store: {why}") from None
    if known != (FORMAT, VERSION):
        given = f"format {known[0]!r:.100} version {known[1]!r:.100}"
        raise ValueError(f"{path}: {given}, this reads {FORMAT!r} version {VERSION}")
    if index.pop("sha256", None) != (found := index_hash(index)):
        raise Damaged(f"{path}: was changed after it was written (checksum differs); copy it again")
    try:
        read = _Index.model_validate(index)
    except ValidationError as error:
        raise ValueError(f"{path}: {one_line(error)[:400]}") from None
    if (problem := read.problem()) is not None:
        raise ValueError(f"{path}: {problem}; copy it again or prepare the corpus again")
    return read, found


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: is missing; copy the whole folder or prepare the corpus again")
    if path.stat().st_size != size:
        raise ValueError(f"{path}: has {path.stat().st_size} bytes, {size} were written; copy or prepare it again")
