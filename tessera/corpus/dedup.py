"""Deduplication, exact and near (MinHash with bands): which documents are copies of an earlier one, as Daft queries.

    made_from.json   the documents and the rules that all of it belongs to
    exact/ near/     what a run that was killed goes on from; gone when it is finished
    copies/          the result; see copies.py

Documents are looked at in the order of their positions, and one that shares a hash with an earlier document that is
kept is dropped. For exact copies the hash is the key of the text; for near ones there is a hash for each band. So who
is kept depends on the order of the documents and on nothing else, and who is dropped looks like a document that is
there to be seen. The connected components that are usual have to be held in memory as a whole, and drop both B and C
of a chain A~B~C though C has nothing in common with A; here B goes and C stays.

Memory does not grow with the corpus, because each of three steps passes over it in pieces:

    hashes   Daft reads the texts once, a wave of files at a time; their hashes are written in order
    groups   Daft finds the hashes that several documents share, a slice of all hashes at a time
    found    positions in ascending order, a range at a time: a group belongs to the first document that is kept
"""

# Shapes: n documents, R rows (a document in a group), D documents among them, G groups.

import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from tessera import checksums
from tessera.corpus.copies import EXACT, NEAR, NOBODY, Copies, Positions, merge, writing
from tessera.corpus.daft_runner import read_parquet
from tessera.data.hashing import mix
from tessera.files import atomic_file, atomic_folder, remove_folder, write_json
from tessera.plan.corpus import Duplicates, NearDuplicates
from tessera.progress import Progress, silent

if TYPE_CHECKING:
    import daft

VERSION = 1

_SEED = 1  # of MinHash; another one finds other pairs
_WAVE_BYTES = 2**28  # of files of documents; what a kill costs
_PART_ROWS = 2**22  # hashes that are sorted at a time
_SLICE_ROWS = 2**23  # hashes that are grouped at a time: about 1 GB with Daft's tables
_RANGE_ROWS = 2**22
_ROW_GROUP = (2**14, 2**18)  # hashes: a slice reads whole ones
_STRIDE = 2**8

# Scripts that put no spaces between words: each of their letters is a word here, with the marks it bears. Tibetan ends
# each syllable with a tsheg, so these are its words.
_LETTER = (
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Javanese}\p{Balinese}\p{Tai_Tham}\x{F0B}]"
    r"\p{M}*"
)


def find_duplicates(
    documents: Sequence[Path], rules: Duplicates, out: Path, on_progress: Progress | None = None
) -> Copies:
    """Finds the copies among the documents that nothing else speaks against, and writes them to `out`.

    documents   parquet files with the columns position, text, second, key, reason; positions differ
    out         what a run that was killed left there is finished; what belongs to other documents is removed

    Pairs (`second`) are compared by their keys only. A text shorter than an n-gram has exact copies only. Near copies
    are alike in their words: case, ASCII punctuation and white space do not count. The caller has chosen Daft's engine,
    and the result is the same on each.
    Source: MinHash with bands, Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4.
    """
    files = [file for file in map(_File.of, documents) if file.rows]
    _claim(out, files, rules)
    if (out / "copies").is_dir():
        checksums.check_folder(out / "copies")
        return Copies.open(out / "copies")
    searches: list[_Search] = []
    if rules.exact:
        searches.append(_Search(files, out / "exact", None, None))
    if rules.near is not None:
        searches.append(_Search(files, out / "near", rules.near, searches[0].found if searches else None))
    report, total = on_progress or silent, sum(search.steps for search in searches)
    for done, what in enumerate(itertools.chain.from_iterable(search.run() for search in searches)):
        report(done, total, what)
    with atomic_folder(out / "copies", sealed=True) as folder, writing(folder) as add:
        merge([Copies.open(search.found) for search in searches], add)
    for search in searches:
        remove_folder(search.folder)
    report(total, total, "duplicates: done")
    return Copies.open(out / "copies")


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file of documents, as its footer tells."""

    path: Path
    rows: int
    bytes: int
    first: int  # positions of its first and last document
    last: int
    fingerprint: str  # of the footer, which knows the sizes of all columns and from what the file was made

    @classmethod
    def of(cls, path: Path) -> Self:
        footer = pa.parquet.read_metadata(path)
        column = footer.schema.names.index("position")
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        positions = [group.column(column).statistics for group in groups if group.num_rows]
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(size - 8 - footer.serialized_size)
            fingerprint = hashlib.sha256(file.read()).hexdigest()
        return cls(
            path=path,
            rows=footer.num_rows,
            bytes=size,
            first=min((some.min for some in positions), default=0),
            last=max((some.max for some in positions), default=0),
            fingerprint=fingerprint,
        )


def _claim(out: Path, files: Sequence[_File], rules: Duplicates) -> None:
    """Leaves in `out` only what belongs to these documents and rules."""
    import daft

    made_from = {
        "version": VERSION,
        "daft": daft.__version__,  # hashes of two versions may not be mixed
        "rules": rules.model_dump(mode="json"),
        "documents": hashlib.sha256("\n".join(file.fingerprint for file in files).encode()).hexdigest(),
    }
    path = out / "made_from.json"
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if found != made_from:
        remove_folder(out)
        write_json(path, made_from)


@dataclass(frozen=True, slots=True)
class _Search:
    """One kind of copies: the three steps from documents to those that are found."""

    files: Sequence[_File]
    folder: Path
    near: NearDuplicates | None  # None: exact copies
    losers: Path | None  # documents that were found before and take no part

    @property
    def found(self) -> Path:
        return self.folder / "found"

    @property
    def hashes(self) -> int:
        """Of each document."""
        return self.near.bands if self.near else 1

    @property
    def slices(self) -> int:
        return max(1, -(-sum(file.rows for file in self.files) * self.hashes // _SLICE_ROWS))

    @property
    def waves(self) -> list[list[_File]]:
        waves: list[list[_File]] = []
        room = 0
        for file in self.files:
            if room < file.bytes or not waves:
                waves.append([])
                room = _WAVE_BYTES
            waves[-1].append(file)
            room -= file.bytes
        return waves

    @property
    def steps(self) -> int:
        return len(self.waves) + self.slices + 1

    def run(self) -> Iterator[str]:
        """Does what is not done yet, and says before each step what it is."""
        kind, waves = "near-duplicates" if self.near else "exact duplicates", self.waves
        for number, wave in enumerate(waves):
            yield f"{kind}: hashes, {number + 1} of {len(waves)}"
            if not (target := self.folder / "hashes" / f"{number:06d}").is_dir():
                self._write_hashes(wave, target)
        for number in range(self.slices):
            yield f"{kind}: groups, {number + 1} of {self.slices}"
            if not (target := self.folder / "groups" / f"{number:06d}.npy").is_file():
                self._write_groups(number, target)
        yield f"{kind}: found"
        if not self.found.is_dir():
            self._write_found()

    def _write_hashes(self, wave: Sequence[_File], target: Path) -> None:
        """Parquet files of (hash, position), each in the order of the hashes and small enough to be sorted at once."""
        from daft import col

        row_group = min(max(_PART_ROWS // self.slices, _ROW_GROUP[0]), _ROW_GROUP[1])
        waiting: list[pa.Table] = []
        with atomic_folder(target) as folder:
            wanted = read_parquet([file.path for file in wave]).where(col("reason").is_null())
            query = self._bands(wave, wanted, self.near) if self.near else wanted.select("position", "key")
            for number, batch in enumerate(query.to_arrow_iter()):
                waiting.append(pa.table(batch))
                if sum(table.num_rows for table in waiting) * self.hashes >= _PART_ROWS:
                    _write_sorted(waiting, folder / f"{number:06d}.parquet", row_group)
                    waiting = []
            if waiting:
                _write_sorted(waiting, folder / "last.parquet", row_group)

    def _bands(self, wave: Sequence[_File], wanted: "daft.DataFrame", near: NearDuplicates) -> "daft.DataFrame":
        """position, and the hash of each band of the MinHash signature."""
        import daft
        from daft import col, functions, lit

        texts = wanted.where(col("second").is_null()).select("position", "text")
        if self.losers is not None:
            known = Copies.open(self.losers)
            here = known.position[known.between(min(file.first for file in wave), max(file.last for file in wave) + 1)]
            if len(here):
                texts = texts.join(daft.from_arrow(pa.table({"position": here})), on="position", how="anti")
        spaced = functions.regexp_replace(col("text"), _LETTER, "$0 ")
        words = functions.normalize(spaced, remove_punct=True, lowercase=True, white_space=True)
        # A shorter text would be one n-gram as a whole, and an empty one be like every other that is empty.
        long_enough = functions.regexp_count(col("words"), " ") >= lit(near.n_gram - 1)
        signature = functions.minhash(
            col("words"), num_hashes=near.bands * near.rows, ngram_size=near.n_gram, seed=_SEED
        )
        frame = texts.select("position", words.alias("words")).where(long_enough)
        return frame.select("position", _hashes(near)(signature).alias("hashes"))

    def _write_groups(self, number: int, target: Path) -> None:
        """uint64 [2, R]: position, and number of the group within the slice; ascending."""
        from daft import col, lit

        first, last = 2**64 * number // self.slices, 2**64 * (number + 1) // self.slices - 1
        parts = sorted((self.folder / "hashes").glob("*/*.parquet"))
        rows = np.empty((2, 0), np.uint64)
        if parts:
            hashes = read_parquet(parts).where((col("hash") >= lit(first)) & (col("hash") <= lit(last)))
            shared = hashes.groupby("hash").agg(col("position").count().alias("n")).where(col("n") > lit(1))
            table = hashes.join(shared.select("hash"), on="hash", how="semi").to_arrow()
            group = np.unique(table["hash"].to_numpy(), return_inverse=True)[1].astype(np.uint64)
            position = table["position"].to_numpy()
            order = np.lexsort((group, position))
            rows = np.stack((position[order], group[order]))
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as draft, draft.open("wb") as file:
            np.save(file, rows)

    def _write_found(self) -> None:
        slices = sorted((self.folder / "groups").glob("*.npy"))
        sizes, sample = [0], []
        for path in slices:
            position, group = np.load(path, mmap_mode="r")
            sizes.append(int(group.max(initial=0)) + 1)
            sample.append(position[::_STRIDE])
        offsets = np.cumsum(sizes).astype(np.uint64)
        cuts = np.unique(np.sort(np.concatenate(sample))[:: max(1, _RANGE_ROWS // _STRIDE)])
        reason = NEAR if self.near else EXACT
        with (
            atomic_folder(self.found) as folder,
            tempfile.TemporaryFile(dir=folder) as file,
            writing(folder) as add,
        ):
            owner = np.memmap(file, np.uint64, "w+", shape=int(offsets[-1]))  # as many as the corpus has groups
            for first, last in itertools.pairwise((*cuts, NOBODY)):
                pieces = []
                for path, offset in zip(slices, offsets, strict=False):
                    rows = np.load(path, mmap_mode="r")
                    here = slice(*np.searchsorted(rows[0], np.array([first, last])))
                    pieces.append(np.stack((rows[0, here], rows[1, here] + offset)))
                rows = np.concatenate(pieces, axis=1)
                position, group = rows[:, np.argsort(rows[0], kind="stable")]
                position, of = _decide(position, group, owner)
                add(position, of, np.full(len(of), reason, np.uint8))


def _hashes(near: NearDuplicates) -> "Callable[[daft.Expression], daft.Expression]":
    """Of signatures, the hash of each band. Daft's own `hash` of a slice of a list takes three times as long."""
    import daft

    @daft.func.batch(return_dtype=daft.DataType.fixed_size_list(daft.DataType.uint64(), near.bands))
    def hashes(signatures: daft.Series) -> daft.Series:
        values = signatures.to_arrow().flatten().to_numpy().reshape(-1, near.bands, near.rows)
        hashes = np.tile(np.arange(near.bands, dtype=np.uint64), (len(values), 1))
        for row in range(near.rows):
            hashes = mix(hashes + values[:, :, row])
        return daft.Series.from_arrow(pa.FixedSizeListArray.from_arrays(hashes.reshape(-1), near.bands))

    return hashes


def _write_sorted(tables: Sequence[pa.Table], path: Path, row_group: int) -> None:
    position, hashes = (pa.concat_arrays(column.chunks) for column in pa.concat_tables(tables).columns)
    if pa.types.is_fixed_size_list(hashes.type):
        hashes = hashes.flatten()
    position, hashes = position.to_numpy(), hashes.to_numpy()
    order = np.argsort(hashes)
    rows = pa.table({"hash": hashes[order], "position": position[order // (len(hashes) // len(position))]})
    pa.parquet.write_table(rows, path, row_group_size=row_group, compression="none", use_dictionary=False)


def _decide(position: Positions, group: Positions, owner: Positions) -> tuple[Positions, Positions]:
    """Documents that are dropped and what they are copies of, both uint64 [D].

    position, group   [R], in ascending order of positions, none of them below those of earlier calls
    owner             [G], position + 1 of the first document of a group that is kept; 0 where none is. Filled here

    Each round settles at least the first document that is left, and usually nearly all of them.
    """
    left, groups = position, group
    while len(left):
        starts, document = _runs(left)
        free = np.logical_and.reduceat(owner[groups] == 0, starts)[document]
        left, groups = left[free], groups[free]
        if not len(left):
            break
        starts, document = _runs(left)
        first = np.zeros(len(left), bool)
        first[np.unique(groups, return_index=True)[1]] = True
        kept = np.logical_and.reduceat(first, starts)[document]
        owner[groups[kept]] = left[kept] + np.uint64(1)
        left, groups = left[~kept], groups[~kept]
    starts, _ = _runs(position)
    of = owner[group] - np.uint64(1)  # nobody is the largest number
    of = np.minimum.reduceat(np.where(of > position, NOBODY, of), starts)
    dropped = of != position[starts]
    return position[starts][dropped], of[dropped]


def _runs(position: Positions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each document starts [D], and which document each row is of [R]."""
    new = np.concatenate(([True], position[1:] != position[:-1]))
    return np.flatnonzero(new), np.cumsum(new) - 1
