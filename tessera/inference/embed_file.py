"""`tessera embed`: a file of texts into a file of vectors, in bounded memory, through any number of interruptions.

Texts are read in parts of some thousand. The vectors of a part are written whole, under a name of their own in a folder
beside the output; a restart computes the parts that are missing. At the end the parts are joined, in order, and the
folder goes. Where the parts lie depends on the text alone, so an interrupted run ends with the same bytes as another.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from pydantic import ValidationError

from tessera.data import storage
from tessera.data.readers import BROKEN, rows
from tessera.files import atomic_file, remove_folder, write_json
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides every byte of the output, but for the machine. Another value is another output."""

    model: str  # fingerprint of its folder
    input: list[str]  # each file, its size and its version
    text: str  # column
    id: str | None
    skip_bad: bool
    output: Literal["float32", "float16"]
    compute: str  # number format of the matrix products
    pooling: str
    normalize: bool
    prompt: str
    dimensions: int
    max_length: int
    long: str
    overlap: int
    batch_invariant: bool
    part_rows: int


class _Found(NamedTuple):
    """What the first reading of the input tells."""

    rows: int
    id_type: pa.DataType
    bad: int
    mended: int


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

    source     jsonl, txt (also .zst, .gz, .bz2, .xz) or parquet: a file, a folder, a glob, here or at a URL
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
    and FileExistsError where `out` is something else than this would write.
    """
    out = Path(out)
    if out.suffix not in (".parquet", ".npy"):
        raise ValueError(f"{out}: unknown kind of output; name it .parquet or .npy")
    files = _files(str(source), text, id)
    encoder = Encoder.from_pretrained(model, device=device, dtype=dtype, threads=threads)
    how = encoder.how(**options)
    asked = {"text": text, "id": id, "skip_bad": skip_bad, "output": output, "part_rows": part_rows}
    settings = _settings(model, files, encoder, how, **asked)
    if _is_finished(out, settings):
        say(f"{out}: there already, with these settings")
        return out
    parts = out.with_name(f"{out.name}.parts")
    _agree(parts, settings)
    say(str(encoder))
    reader = _Reader(files, text, id, skip_bad)
    found = reader.look(lambda done: on_progress(0, 0, f"reads {done:,} rows"))
    say(
        f"{found.rows:,} texts"
        + (f"; {found.bad:,} bad rows are left out" if found.bad else "")
        + (f"; half characters are replaced in {found.mended:,}" if found.mended else "")
    )
    write_json(parts / _SETTINGS, asdict(settings))
    _embed(encoder, reader, found, parts, settings, on_progress, say, options)
    _join(parts, out, settings, reader.id_name, found, how.dimensions)
    remove_folder(parts)
    return out


def _settings(
    model: str | Path, files: Sequence[storage.File], encoder: Encoder, how: EncodeOptions, **asked: Any
) -> Settings:
    """All that the vectors depend on."""
    return Settings(
        model=folders.content_hash(folders.local(model)),
        input=[file.stamp for file in files],
        compute=str(encoder.dtype).removeprefix("torch."),
        pooling="+".join(how.pooling),
        normalize=how.normalize,
        prompt=how.reading.prompt,
        dimensions=how.dimensions,
        max_length=how.reading.max_length,
        long=how.reading.long,
        overlap=how.reading.overlap,
        batch_invariant=how.alone,
        **asked,
    )


# -------------------------------------------------------------------------------------------------------------- input


def _embed(
    encoder: Encoder,
    reader: "_Reader",
    found: _Found,
    parts: Path,
    settings: Settings,
    on_progress: Progress,
    say: Say,
    options: dict[str, Any],
) -> None:
    """Writes the parts that are not there."""
    done = 0
    try:
        for number, (ids, texts) in enumerate(reader.parts(found, settings.part_rows)):
            path = parts / f"{number:06}.parquet"
            if not path.is_file():

                def report(some: int, of: int, what: str, begun: int = done) -> None:
                    on_progress(begun + some, found.rows, what)

                vectors = encoder.encode(texts, on_progress=report, **options)
                _write_part(path, reader.id_name, pa.array(ids, found.id_type), vectors.astype(settings.output))
            done += len(texts)
            on_progress(done, found.rows, "embedding")
    except KeyboardInterrupt:
        say(f"stopped after {done:,} of {found.rows:,} texts, which are kept in {parts}; the same command goes on")
        raise


class _Reader:
    """The rows of the input, twice: once to look, once to work."""

    def __init__(self, files: list[storage.File], text: str, id: str | None, skip_bad: bool) -> None:
        self.files, self.text, self.id, self.skip_bad = files, text, id, skip_bad
        self.source = _source("", text, id)
        first = next((values for _, _, values, _ in self._raw() if values), {})
        self.id_column = id if id is not None else "id" if "id" in first else None
        self.id_name = "id" if self.id_column else _ROW

    def look(self, tell: Callable[[int], None]) -> _Found:
        """How many rows there are, and that they are good. Raises ValueError naming the first bad one."""
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
        return _Found(count, pa.int64() if whole else pa.string(), bad, mended)

    def parts(self, found: _Found, part_rows: int) -> Iterator[tuple[list[Any], list[str]]]:
        """(ids, texts) of each part."""
        ids: list[Any] = []
        texts: list[str] = []
        size = 0
        for _, reason, key, text in self._rows():
            if reason:
                continue
            ids.append(key if pa.types.is_integer(found.id_type) else str(key))
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
    if odd := [file for file in found if file.kind not in (".jsonl", ".json", ".txt", ".parquet")]:
        raise ValueError(f"{odd[0]}: embed reads jsonl, txt and parquet; `tessera prepare` reads web archives")
    return found


def _source(path: str, text: str, id: str | None) -> Source:
    try:
        return Source(name="input", path=path, columns=Columns(text=text, id=id or "id"))
    except ValidationError as error:
        raise ValueError(f"{path}: {error.errors()[0]['msg']}") from None


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
    described = out if out.suffix == ".parquet" else _ids_of(out)
    try:
        given = (pa.parquet.read_schema(described).metadata or {}).get(_METADATA)
        before = json.loads(given) if given else None
    except (OSError, ValueError, pa.ArrowException):
        before = None
    if before is None:
        raise FileExistsError(f"{out}: there already, and not by this command; remove it, or choose another name")
    if named := _different(before, settings):
        raise FileExistsError(f"{out}: there already, with another {named}; remove it, or choose another name")
    return True


def _agree(parts: Path, settings: Settings) -> None:
    """Raises ValueError where parts were begun with other settings."""
    place = parts / _SETTINGS
    if not place.is_file() or not any(parts.glob("*.parquet")):
        return
    if named := _different(json.loads(place.read_text(encoding="utf-8")), settings):
        raise ValueError(f"{parts} was begun with another {named}; go on with the same, or remove the folder")


def _different(before: dict[str, Any], settings: Settings) -> str:
    """Which setting differs, and how; empty where none does."""
    for name, value in asdict(settings).items():
        if before.get(name) != value:
            return f"{name}: it was {_shown(before.get(name))}, now it is {_shown(value)}"
    return ""


def _shown(value: Any) -> str:
    return repr(value) if not isinstance(value, list) else ", ".join(map(str, value[:3]))


def _write_part(path: Path, id_name: str, ids: pa.Array, vectors: np.ndarray[Any, Any]) -> None:
    flat = pa.array(vectors.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    with atomic_file(path) as draft:
        pa.parquet.write_table(pa.table({id_name: ids, "embedding": column}), draft, **_HOW_WRITTEN)


# Vectors do not compress; a dictionary or statistics of them would only take time.
_HOW_WRITTEN: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}


def _join(parts: Path, out: Path, settings: Settings, id_name: str, found: _Found, width: int) -> None:
    """One file out of all parts, one part in memory at a time."""
    tables = (pa.parquet.read_table(path) for path in sorted(parts.glob("*.parquet")))
    metadata = {_METADATA: json.dumps(asdict(settings), ensure_ascii=False)}
    element = pa.float16() if settings.output == "float16" else pa.float32()
    column = pa.field("embedding", pa.list_(element, width))
    identity = pa.field(id_name, found.id_type)
    if out.suffix == ".parquet":
        schema = pa.schema([identity, column], metadata)
        with atomic_file(out) as draft, pa.parquet.ParquetWriter(draft, schema, **_HOW_WRITTEN) as writer:
            for table in tables:
                writer.write_table(table.cast(schema))
        return
    schema = pa.schema([identity], metadata)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(settings.output)), "fortran_order": False}
    with (
        atomic_file(out) as draft,
        atomic_file(_ids_of(out)) as ids_draft,  # takes its name first: vectors never stand without their ids
        draft.open("wb") as file,
        pa.parquet.ParquetWriter(ids_draft, schema, **_HOW_WRITTEN) as writer,
    ):
        np.lib.format.write_array_header_1_0(file, header | {"shape": (found.rows, width)})
        for table in tables:
            writer.write_table(table.select([id_name]).cast(schema))
            for chunk in table.column("embedding").chunks:
                file.write(chunk.flatten().to_numpy(zero_copy_only=False).tobytes())


def _ids_of(out: Path) -> Path:
    return out.with_suffix(".ids.parquet")
