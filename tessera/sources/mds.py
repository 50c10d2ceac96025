"""Reads MDS, the format of MosaicML Streaming, in which mmBERT's training data is released.

    index.json             version 2; of each shard its columns, sizes, compression and hashes
    shard.00000.mds        uint32 n, uint32 [n + 1] where each sample begins, the columns once more as JSON, n samples
    shard.00000.mds.zstd   the same, compressed
    a sample               uint32 size of each column whose size varies, then the values of all columns end to end

Everything is little-endian. Columns that are not asked for are stepped over, and nothing is ever unpickled.
Source: the layout as mosaicml/streaming 0.13 writes it (streaming/base/format/mds).
"""

# Shapes: n samples of a block, V columns whose size varies.

import glob
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from tessera.plan.errors import one_line

INDEX, VERSION = "index.json", 2

_BLOCK_BYTES = 2**24  # of samples in memory at a time, whatever the size of the shard
_STREAMS = {"zstd": "zstd", "gz": "gzip", "bz2": "bz2", "br": "brotli"}  # what MDS and what Arrow call a compression
_WIDTHS = {"uint": (8, 16, 32, 64), "int": (8, 16, 32, 64), "float": (16, 32, 64)}
_TYPES = {f"{kind}{bits}": np.dtype(f"<{kind[0]}{bits // 8}") for kind, widths in _WIDTHS.items() for bits in widths}
_CODES = {bits + n: _TYPES[f"{kind}{bits}"] for n, kind in enumerate(_WIDTHS) for bits in _WIDTHS[kind]}


class _ListedFile(BaseModel):  # as index.json has it
    basename: str = Field(max_length=1000)
    bytes: int = Field(ge=0, lt=2**32)
    hashes: dict[str, str] | None = None


class _ListedShard(BaseModel):
    raw_data: _ListedFile
    zip_data: _ListedFile | None = None
    compression: str | None = None
    samples: int = Field(ge=0, lt=2**30)
    column_names: list[Annotated[str, Field(max_length=200)]]
    column_encodings: list[Annotated[str, Field(max_length=200)]]
    column_sizes: list[Annotated[int, Field(ge=0, lt=2**32)] | None]


Decoder = Callable[[bytes, int, int], Any]  # of data[begin:end]


@dataclass(frozen=True, slots=True)
class Column:
    """One value of a sample; `size` in bytes where it is the same for all."""

    name: str
    encoding: str
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of samples, as it lies on the disk: compressed, or not."""

    path: Path
    samples: int
    bytes: int  # of the samples with all that is around them, not compressed
    compression: str | None  # of the file
    hashes: tuple[tuple[str, str], ...]  # of the file, with the name of the algorithm
    columns: tuple[Column, ...]


def folders(path: str | Path) -> list[Path]:
    """Folders with shards of their own: `path` itself and all below it, or below what a glob finds; sorted.

    A folder whose index.json only joins those of its sub-folders (streaming's merge_index) is not among them, so every
    shard is found once. Raises ValueError where there is none.
    """
    if "://" in str(path).removeprefix("file://"):
        raise ValueError(
            f"{path}: MDS shards are read from this machine; fetch them first (hf download NAME --repo-type dataset "
            "--local-dir FOLDER, aws s3 sync ...) and give the folder"
        )
    root = Path(str(path).removeprefix("file://")).expanduser()
    roots = [root] if root.is_dir() else [Path(p) for p in glob.glob(str(root), recursive=True)]
    found = {index.parent for root in roots if root.is_dir() for index in root.rglob(INDEX)}
    own = sorted(folder for folder in found if _entries(folder))
    if not own:
        raise ValueError(
            f"{path}: no {INDEX} of MDS shards here or below (from {Path.cwd()}); give the folder that holds it, a "
            "folder of such folders, or a glob"
        )
    return own


def shards(folder: Path) -> list[Shard]:
    """What index.json lists, without what the index of a sub-folder lists too. A shard that is there compressed and not
    is read as it is.

    Raises ValueError where a file is missing or has another size, and for an index of another format or version.
    """
    found = [_shard(folder, entry) for entry in _entries(folder)]
    missing = [shard.path for shard in found if not shard.path.is_file()]
    if missing:
        raise ValueError(
            f"{folder / INDEX}: {len(missing)} of {len(found)} shards are not there, the first is {missing[0]}; fetch "
            "them, or point `path` at the sub-folders that are whole"
        )
    return found


def read_shard(shard: Shard, wanted: Sequence[str]) -> Iterator[list[list[Any]]]:
    """For some samples at a time, the values of each wanted column as they were written: arrays, numbers, strings,
    bytes, JSON.

    Memory is bounded by a block. Raises ValueError, naming the file, where it is broken, where a column is not there,
    and for columns of pickles and images.
    """
    names = [column.name for column in shard.columns]
    for name in wanted:
        if name not in names:
            raise ValueError(
                f"{shard.path}: has no column {name!r}; it has {', '.join(names)}. Name the right one under `columns` "
                "of the source"
            )
    places = [names.index(name) for name in wanted]
    decoders = [_decoder(shard.columns[place], shard) for place in places]
    _check_hashes(shard)
    first = 0
    for data, offsets in _blocks(shard):
        bounds = _bounds(data, offsets, shard, first)
        block = []
        for place, decode in zip(places, decoders, strict=True):
            values: list[Any] = []
            try:
                for begin, end in zip(bounds[place].tolist(), bounds[place + 1].tolist(), strict=True):
                    values.append(decode(data, begin, end))
            except (ValueError, IndexError) as error:
                raise _broken(shard, f"sample {first + len(values)}, column {names[place]!r}: {error}") from error
            block.append(values)
        yield block
        first += len(offsets) - 1


# -------------------------------------------------------------------------------------------------------- what is there


def _entries(folder: Path) -> list[dict[str, Any]]:
    """The shards of index.json that no index of a sub-folder lists."""
    file = folder / INDEX
    try:
        index = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); copy it again") from None
    entries = index.get("shards") if isinstance(index, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f"{file}: no index of MDS shards; point the source at a folder that MDSWriter wrote")
    if index.get("version", VERSION) != VERSION:
        raise ValueError(f"{file}: version {ascii(index['version'])[:40]} of MDS; only version {VERSION} is known")
    below: dict[PurePosixPath, bool] = {}
    own = []
    for number, entry in enumerate(entries):
        try:
            between = PurePosixPath(entry["raw_data"]["basename"]).parents[:-1]
        except (KeyError, TypeError):
            raise ValueError(f"{file}: shard {number} has no raw_data with a basename; copy it again") from None
        for parent in between:
            if parent not in below:
                below[parent] = (folder / parent / INDEX).is_file()
        if not any(below[parent] for parent in between):
            own.append(entry)
    return own


def _shard(folder: Path, entry: dict[str, Any]) -> Shard:
    index, basename = folder / INDEX, ascii(entry["raw_data"]["basename"])[1:-1][:100]
    if (kind := entry.get("format"), entry.get("version")) != ("mds", VERSION):
        raise ValueError(
            f"{index}: shard {basename} is {ascii(kind)[:40]} version {ascii(entry.get('version'))[:40]}; only 'mds' "
            f"version {VERSION} is known"
        )
    try:
        listed = _ListedShard.model_validate(entry, strict=True)
        triples = list(zip(listed.column_names, listed.column_encodings, listed.column_sizes, strict=True))
    except ValueError as error:
        what = (
            one_line(error) if isinstance(error, ValidationError) else "columns, encodings and sizes differ in number"
        )
        raise ValueError(
            f"{index}: shard {basename}: {what[:1000]}: this is missing or wrong; copy the index again"
        ) from None
    raw, zipped = listed.raw_data, listed.zip_data
    name = PurePosixPath(raw.basename)
    file = raw if zipped is None or (_within(name) and (folder / name).is_file()) else zipped
    name = PurePosixPath(file.basename)
    if not _within(name):
        raise ValueError(f"{index}: the shard {str(name)!r} is outside the folder; only what is in it is read")
    shard = Shard(
        path=folder / name,
        samples=listed.samples,
        bytes=raw.bytes,
        compression=None if file is raw else str(listed.compression).partition(":")[0],
        hashes=tuple((file.hashes or {}).items()),
        columns=tuple(Column(n, e, s or None) for n, e, s in triples),
    )
    if shard.path.is_file() and (size := shard.path.stat().st_size) != file.bytes:
        raise ValueError(f"{shard.path}: has {size} bytes, {INDEX} says {file.bytes}; copy it again")
    if shard.compression not in (None, *_STREAMS):
        raise ValueError(
            f"{shard.path}: compression {shard.compression!r} is not known, only {', '.join(_STREAMS)}; decompress it "
            f"to {raw.basename} beside it"
        )
    return shard


def _within(name: PurePosixPath) -> bool:
    return bool(name.parts) and not name.is_absolute() and ".." not in name.parts and "\0" not in str(name)


def _check_hashes(shard: Shard) -> None:
    """Compares with what index.json says, as far as Python has the algorithm (sha1, md5, ..., not xxhash)."""
    for name, expected in shard.hashes:
        if name in hashlib.algorithms_available:
            with shard.path.open("rb") as file:
                found = hashlib.file_digest(file, name).hexdigest()
            if found != expected:
                raise ValueError(f"{shard.path}: its {name} is {found}, {INDEX} says {expected}; copy it again")


def _broken(shard: Shard, what: str) -> ValueError:
    return ValueError(f"{shard.path}: broken ({what}); copy it again")


# -------------------------------------------------------------------------------------------------------------- samples


def _blocks(shard: Shard) -> Iterator[tuple[bytes, NDArray[np.int64]]]:
    """Some samples at a time: their bytes, and where in these each begins and the last ends, int64 [n + 1]."""
    try:
        with pa.input_stream(str(shard.path), compression=_STREAMS.get(shard.compression or "")) as stream:
            offsets = _offsets(stream, shard)
            first = 0
            while first < shard.samples:
                last = int(np.searchsorted(offsets, offsets[first] + _BLOCK_BYTES, side="right")) - 1
                last = min(max(last, first + 1), shard.samples)
                data = stream.read(int(offsets[last] - offsets[first]))
                if len(data) < offsets[last] - offsets[first]:
                    raise _broken(shard, f"it ends before sample {last}")
                yield data, offsets[first : last + 1] - offsets[first]
                first = last
            if stream.read(1):
                raise _broken(shard, f"it goes on behind its last sample, byte {shard.bytes}")
    except (OSError, pa.ArrowException) as error:
        raise _broken(shard, str(error).strip()) from error


def _offsets(stream: Any, shard: Shard) -> NDArray[np.int64]:
    """Where each sample begins and the last ends, int64 [samples + 1]; the stream is left where the first begins."""
    head = 4 * (shard.samples + 2)
    start = stream.read(head)
    found = int.from_bytes(start[:4], "little")
    if len(start) < head or found != shard.samples:
        raise _broken(shard, f"{found} samples in {len(start)} bytes, {INDEX} says {shard.samples}")
    offsets = np.frombuffer(start, dtype="<u4", offset=4).astype(np.int64)
    if offsets[0] < head or (np.diff(offsets) < 0).any() or offsets[-1] != shard.bytes:
        raise _broken(shard, f"its samples end at byte {offsets[-1]}, {INDEX} says {shard.bytes}")
    stream.read(int(offsets[0]) - head)  # the columns, which index.json has too
    return offsets


def _bounds(data: bytes, offsets: NDArray[np.int64], shard: Shard, first: int) -> NDArray[np.int64]:
    """Where the columns of each sample begin, and the last ends: int64 [columns + 1, n]."""
    varying = np.array([column.size is None for column in shard.columns], dtype=np.bool_)
    head = 4 * int(varying.sum())
    bounds = np.zeros((len(shard.columns) + 1, len(offsets) - 1), dtype=np.int64)
    bounds[0] = offsets[:-1] + head
    wrong = np.flatnonzero(bounds[0] > offsets[1:])
    if not len(wrong):
        places = offsets[:-1, None] + np.arange(head)
        bounds[1:][varying] = np.frombuffer(data, dtype=np.uint8)[places].view("<u4").T  # from [n, V]
        bounds[1:][~varying] = np.array([c.size for c in shard.columns if c.size is not None], dtype=np.int64)[:, None]
        np.cumsum(bounds, axis=0, out=bounds)
        wrong = np.flatnonzero(bounds[-1] != offsets[1:])
    if len(wrong):
        raise _broken(shard, f"sample {first + wrong[0]} has not the size of its columns")
    return bounds


def _decoder(column: Column, shard: Shard) -> Decoder:
    """How the bytes of a column become a value."""
    kind, _, details = column.encoding.partition(":")
    plain: dict[str, Decoder] = {
        "bytes": lambda data, begin, end: data[begin:end],
        "str": lambda data, begin, end: data[begin:end].decode("utf-8"),
        "json": lambda data, begin, end: json.loads(data[begin:end]),
        "str_int": lambda data, begin, end: int(data[begin:end]),
        "str_float": lambda data, begin, end: float(data[begin:end]),
        "int": lambda data, begin, end: int(_scalar(_TYPES["int64"], data, begin, end)),
    }
    if kind in plain:
        return plain[kind]
    if kind in _TYPES:
        return lambda data, begin, end: _scalar(_TYPES[kind], data, begin, end)
    dtype, _, shape = details.partition(":")
    if kind == "ndarray" and (not dtype or dtype in _TYPES):
        return _array_decoder(_TYPES[dtype] if dtype else None, tuple(map(int, shape.split(","))) if shape else None)
    why = "a pickle may run any program, so none is read" if kind == "pkl" else "that is not known here"
    raise ValueError(
        f"{shard.path}: column {column.name!r} is encoded as {column.encoding!r}; {why}. Name another column, or write "
        "the shards again with token ids as 'ndarray:uint32'"
    )


def _scalar(dtype: np.dtype[Any], data: bytes, begin: int, end: int) -> Any:
    if end - begin != dtype.itemsize:
        raise ValueError(f"{end - begin} bytes for one {dtype}")
    return np.frombuffer(data, dtype, 1, begin)[0]


def _array_decoder(given_type: np.dtype[Any] | None, given_shape: tuple[int, ...] | None) -> Decoder:
    """Arrays say their type and shape in the encoding (`ndarray:uint16:1024`), or each in its own first bytes:
    [code of the type] [axes << 2 | log2 of the bytes of a length] [length of each axis] [values].
    """

    def array(data: bytes, begin: int, end: int) -> NDArray[Any]:
        dtype, shape = given_type, given_shape
        if dtype is None:
            if data[begin] not in _CODES:
                raise ValueError(f"no type of array has the code {data[begin]}")
            dtype = _CODES[data[begin]]
            begin += 1
        if shape is None:
            axes, width = data[begin] >> 2, 1 << (data[begin] & 3)
            start, begin = begin + 1, begin + 1 + axes * width
            if axes == 1:  # by far the most
                shape = (int.from_bytes(data[start:begin], "little"),)
            else:
                shape = tuple(int.from_bytes(data[at : at + width], "little") for at in range(start, begin, width))
        if begin > end or (end - begin) % dtype.itemsize:
            raise ValueError(f"{end - begin} bytes for an array of {dtype}")
        values = np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, begin)
        return values if shape == values.shape else values.reshape(shape)

    return array
