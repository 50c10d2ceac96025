"""Batch embedding of files (`tessera embed`): texts to embeddings in bounded memory, resumed after interruptions.

Texts are read in parts of some thousand. The vectors of a part are written whole, under a name of their own in a folder
beside the output; a restart computes the parts that are missing. At the end the parts are joined, in order, and the
folder goes. Where the parts lie depends on the text alone, so an interrupted run ends with the same bytes as another.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from pydantic import ValidationError

from tessera import checksums, lock
from tessera.data import storage
from tessera.data.readers import BROKEN, rows
from tessera.files import LOCK, atomic_file, read_json, remove_folder, remove_leftovers, write_json
from tessera.inference import sentence_folder as folders
from tessera.inference.encoder import Encoder
from tessera.inference.engine import EncodeOptions
from tessera.plan.corpus import Columns, Source
from tessera.progress import Progress, Say, silent

PART_ROWS = 4_096
_PART_CHARACTERS = 2**20  # what a part holds at most, but for its last row
_MAX_BYTES = 2**26  # of a row
_SETTINGS = "settings.json"
_METADATA = b"tessera"  # where a finished parquet file keeps its settings
_ROW = "row"  # the id column where the input has none


Settings = dict[str, Any]
"""What decides every byte of the output, but for the machine. Another value is another output."""


class _Found(NamedTuple):
    """What the first reading of the input tells."""

    rows: int
    id_type: pa.DataType
    bad: int
    mended: int

    def __str__(self) -> str:
        bad = f"; {self.bad:,} bad rows are left out" if self.bad else ""
        mended = f"; half characters are replaced in {self.mended:,}" if self.mended else ""
        return f"{self.rows:,} texts{bad}{mended}"


def embed_file(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    text: str = "text",
    id: str | None = None,
    skip_bad: bool = False,
    output: Literal["float32", "float16"] = "float32",
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    threads: int | None = None,
    part_rows: int = PART_ROWS,
    on_progress: Progress = silent,
    say: Say = silent,
    **options: Any,
) -> Path:
    """Writes one row for each text of `source`, in its order, and returns `out`.

    source     jsonl, csv, tsv, txt (also .zst, .gz, .bz2, .xz) or parquet: a file, a folder, a glob, here or at a URL
    out        .parquet: columns id (or row) and embedding, a list of fixed size. .npy: [n, h], and the ids beside it
               in NAME.ids.parquet
    text       the column that holds the text; of txt every line is one, blank ones left out
    id         the column that is kept; None: `id` where the first row has it, else the number of the row in its file,
               from 1 (and the file's name, where there are several). The same id twice is nobody's business here
    skip_bad   leaves out rows that hold no text; else they are an error before anything is computed
    output     number format of what is written
    part_rows  texts whose vectors are lost at most when it is interrupted
    say        told what is done, and what is wrong with the input
    options    as of Encoder.encode

    Half characters (lone surrogates, which JSON can write) are replaced by U+FFFD and counted.

    Raises ValueError for a bad row, naming file and line; for parts that were begun with other settings, naming them;
    FileExistsError where `out` is something else than this would write; lock.AtWork where another process writes it.
    """
    out = Path(out)
    if out.suffix not in (".parquet", ".npy"):
        raise ValueError(f"{out}: unknown kind of output; name it .parquet or .npy")
    files = _files(str(source), text, id)
    with lock.hold(out.with_name(f".{out.name}{LOCK}"), str(out)):
        encoder = Encoder.from_pretrained(model, device=device, dtype=dtype, threads=threads)
        how = encoder.how(**options)
        settings: Settings = {"model": folders.content_hash(folders.local(model)), "input": [f.stamp for f in files]}
        settings |= {"text": text, "id": id, "skip_bad": skip_bad, "output": output}
        settings |= {**_settings(encoder, how), "part_rows": part_rows}
        if _is_finished(out, settings):
            say(f"{out}: there already, with these settings")
            return out
        parts = out.with_name(f"{out.name}.parts")
        remove_leftovers(parts)
        _agree(parts, settings)
        say(str(encoder))
        reader = _Reader(files, text, id, skip_bad)
        say(str(reader.look(lambda done: on_progress(0, 0, f"reads {done:,} rows"))))
        write_json(parts / _SETTINGS, settings, sealed=True)
        _embed(encoder, reader, parts, settings, on_progress, say, options)
        _join(parts, out, settings, reader, how.dimensions)
        remove_folder(parts)
        return out


def _settings(encoder: Encoder, how: EncodeOptions) -> Settings:
    """All that the vector of a text depends on, besides the model."""
    reading = how.reading
    return {
        "compute": str(encoder.dtype).removeprefix("torch."),  # number format of the matrix products
        "pooling": "+".join(how.pooling),
        "normalize": how.normalize,
        "prompt": reading.prompt,
        "dimensions": how.dimensions,
        **{name: getattr(reading, name) for name in ("max_length", "long", "overlap")},
        "batch_invariant": how.alone,
    }


# -------------------------------------------------------------------------------------------------------------- input


def _embed(
    encoder: Encoder, reader: "_Reader", parts: Path, settings: Settings, on_progress: Progress, say: Say, options: Any
) -> None:
    """Writes the parts that are not there."""
    done, found = 0, reader.found
    try:
        for number, (ids, texts) in enumerate(reader.parts(settings["part_rows"])):
            path = parts / f"{number:06}.parquet"
            if not path.is_file():

                def report(some: int, of: int, what: str, begun: int = done) -> None:
                    on_progress(begun + some, found.rows, what)

                vectors = encoder.encode(texts, on_progress=report, **options)
                _write_part(path, reader.id_name, pa.array(ids, found.id_type), vectors.astype(settings["output"]))
            done += len(texts)
            on_progress(done, found.rows, "embedding")
    except KeyboardInterrupt:
        say(f"stopped after {done:,} of {found.rows:,} texts, which are kept in {parts}; the same command goes on")
        raise


class _Reader:
    """The rows of the input, twice: once to look, once to work."""

    found: _Found

    def __init__(self, files: list[storage.File], text: str, id: str | None, skip_bad: bool) -> None:
        self.files, self.text, self.id, self.skip_bad = files, text, id, skip_bad
        self.source = _source("", text, id)
        first = next((values for _, _, values, _ in self._raw() if values), {})
        self.id_column = id if id is not None else "id" if "id" in first else None
        self.id_name = "id" if self.id_column else _ROW

    def look(self, tell: Callable[[int], None]) -> _Found:
        """Counts rows (kept as `found`) and checks them. Raises ValueError naming the first bad one."""
        count = bad = mended = 0
        whole = self.id_column is not None or len(self.files) == 1  # whether ids so far are whole numbers
        for place, reason, key, text in self._rows():
            if reason:
                if not self.skip_bad:
                    raise ValueError(f"{place}: {reason}; mend it, or leave out such rows with --skip-bad")
                bad += 1
                continue
            mended += _mend(text) is not text
            whole = whole and isinstance(key, int) and not isinstance(key, bool) and -(2**63) <= key < 2**63
            count += 1
            if count % 10_000 == 0:
                tell(count)
        if not count:
            raise ValueError(f"{self.files[0]}: holds no text")
        self.found = _Found(count, pa.int64() if whole else pa.string(), bad, mended)
        return self.found

    def parts(self, part_rows: int) -> Iterator[tuple[list[Any], list[str]]]:
        """(ids, texts) of each part."""
        ids: list[Any] = []
        texts: list[str] = []
        size = 0
        for _, reason, key, text in self._rows():
            if reason:
                continue
            ids.append(key if pa.types.is_integer(self.found.id_type) else _name(key))
            texts.append(_mend(text))
            size += len(text)
            if len(texts) == part_rows or size >= _PART_CHARACTERS:
                yield ids, texts
                ids, texts, size = [], [], 0
        if texts:
            yield ids, texts

    def _rows(self) -> Iterator[tuple[str, str, Any, str]]:
        """(file and row, what is wrong with it, id, text)"""
        for file, number, values, reason in self._raw():
            text = None if values is None else values.get(self.text)
            key: Any = number if len(self.files) == 1 else f"{file}:{number}"
            if not reason and not isinstance(text, str):
                known = ", ".join(values or ())
                reason = f"has no text in column {self.text!r}; its columns are {known}"
            if not reason and self.id_column is not None:
                key = (values or {}).get(self.id_column)
                if key is None:
                    reason = f"has no id in column {self.id_column!r}"
            yield f"{file}:{number}", reason, key, text if isinstance(text, str) else ""

    def _raw(self) -> Iterator[tuple[storage.File, int, dict[str, Any] | None, str]]:
        for file in self.files:
            try:
                for number, values, reason, _ in rows(file, self.source, _MAX_BYTES):
                    yield file, number, values, reason
            except BROKEN as error:
                raise ValueError(f"{file}: broken: {error}; copy or download it again") from None


def _files(source: str, text: str, id: str | None) -> list[storage.File]:
    found = storage.files(_source(source, text, id))
    if odd := [file for file in found if file.kind not in (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet")]:
        raise ValueError(
            f"{odd[0]}: embed reads jsonl, csv, tsv, txt and parquet; `tessera prepare` reads web archives"
        )
    return found


def _source(path: str, text: str, id: str | None) -> Source:
    try:
        return Source(name="input", path=path, columns=Columns(text=text, id=id or "id"))
    except ValidationError as error:
        raise ValueError(f"{path}: {error.errors()[0]['msg']}") from None


def _name(key: Any) -> str:
    return json.dumps(key, default=str) if isinstance(key, dict | list) else _mend(str(key))


def _mend(text: str) -> str:
    """The same object where the text is whole."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


# ------------------------------------------------------------------------------------------------------------- output


def _is_finished(out: Path, settings: Settings) -> bool:
    """Raises FileExistsError where `out` is there and is something else."""
    if not out.exists():
        return False
    try:
        described = pa.parquet.read_schema(out if out.suffix == ".parquet" else _ids_of(out))
        before = json.loads((described.metadata or {})[_METADATA])
    except (OSError, KeyError, ValueError, pa.ArrowException):
        raise FileExistsError(
            f"{out}: there already, and not by this command; remove it, or choose another name"
        ) from None
    if named := _different(before, settings):
        raise FileExistsError(f"{out}: there already, with another {named}; remove it, or choose another name")
    return True


def _agree(parts: Path, settings: Settings) -> None:
    """Raises ValueError where parts were begun with other settings."""
    place = parts / _SETTINGS
    begun = read_json(place) if place.is_file() else {}
    if not isinstance(begun, dict):
        raise ValueError(f"{place}: holds no settings; remove {parts} and start again")
    if any(parts.glob("*.parquet")) and begun and (named := _different(begun, settings)):
        raise ValueError(f"{parts} was begun with another {named}; go on with the same, or remove the folder")


def _different(before: dict[str, Any], settings: Settings) -> str:
    """Which setting differs, and how; empty where none does."""
    for name, value in settings.items():
        if before.get(name) != value:
            return f"{name}: it was {_shown(before.get(name))}, now it is {_shown(value)}"
    return ""


def _shown(value: Any) -> str:
    return repr(value) if not isinstance(value, list) else ", ".join(map(str, value[:3]))


def _write_part(path: Path, id_name: str, ids: pa.Array, vectors: np.ndarray[Any, Any]) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    with atomic_file(path, sealed=True) as draft:
        pa.parquet.write_table(pa.table({id_name: ids, "embedding": column}), draft, **_HOW_WRITTEN)


# Vectors do not compress; a dictionary or statistics of them would only take time.
_HOW_WRITTEN: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}


def _part(path: Path) -> pa.Table:
    """A finished part. Raises ValueError where it is not what was written."""
    checksums.check(path)
    return pa.parquet.read_table(path)


def _join(parts: Path, out: Path, settings: Settings, reader: _Reader, width: int) -> None:
    """One file out of all parts, one part in memory at a time."""
    tables = (_part(path) for path in sorted(parts.glob("*.parquet")))
    metadata = {_METADATA: json.dumps(settings, ensure_ascii=False)}
    number = np.dtype(settings["output"])
    column = pa.field("embedding", pa.list_(pa.from_numpy_dtype(number), width))
    identity = pa.field(reader.id_name, reader.found.id_type)
    if out.suffix == ".parquet":
        schema = pa.schema([identity, column], metadata)
        with atomic_file(out) as draft, pa.parquet.ParquetWriter(draft, schema, **_HOW_WRITTEN) as writer:
            for table in tables:
                writer.write_table(table.cast(schema))
        return
    schema = pa.schema([identity], metadata)
    header = {"descr": np.lib.format.dtype_to_descr(number), "fortran_order": False}
    with (
        atomic_file(out) as draft,
        atomic_file(_ids_of(out)) as ids_draft,  # takes its name first: vectors never stand without their ids
        draft.open("wb") as file,
        pa.parquet.ParquetWriter(ids_draft, schema, **_HOW_WRITTEN) as writer,
    ):
        np.lib.format.write_array_header_1_0(file, header | {"shape": (reader.found.rows, width)})
        for table in tables:
            writer.write_table(table.select([reader.id_name]).cast(schema))
            for chunk in table.column("embedding").chunks:
                file.write(chunk.flatten().to_numpy(zero_copy_only=False).tobytes())


def _ids_of(out: Path) -> Path:
    return out.with_suffix(".ids.parquet")
