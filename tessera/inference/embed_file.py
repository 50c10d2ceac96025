"""Batch embedding of files (`tessera embed`): texts to embeddings in bounded memory, resumed after interruptions.

Texts are read in parts of some thousand. The vectors of a part are written whole, under a name of their own in a folder
beside the output; a restart computes the parts that are missing. At the end the parts are joined, in order, and the
folder goes. Where the parts lie depends on the text alone, so an interrupted run ends with the same bytes as another.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tessera import checksums, lock
from tessera.files import LOCK, atomic_file, read_json, remove_folder, remove_leftovers, write_json
from tessera.inference import sentence_folder as folders
from tessera.inference.encoder import Encoder
from tessera.inference.engine import EncodeOptions
from tessera.inference.text_files import TextReader, text_files
from tessera.progress import Progress, Say, silent
from tessera.signals import Stopped

PART_ROWS = 4_096
_SETTINGS = "settings.json"
_METADATA = b"tessera"  # where a finished parquet file keeps its settings
_TRUNCATED = "truncated"  # how many texts lost their end: of a part in its metadata, of all beside the settings


Settings = dict[str, Any]
"""What decides every byte of the output, but for the machine; another value is another output. Of a file of the input
it is the stamp: its size and version."""


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
    drop_head: bool = False,
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
    drop_head  whether a classifier may be left out, for vectors of what is beneath it
    part_rows  texts whose vectors are lost at most when it is interrupted
    say        told what is done, and what is wrong with the input
    options    as of Encoder.encode

    Half characters (lone surrogates, which JSON can write) are replaced by U+FFFD and counted; texts that lost their
    end are counted too, also in the file's metadata ("truncated").

    Raises ValueError for a bad row, naming file and line; for parts that were begun with other settings, naming them;
    for a vector too large for `output`, naming its text; FileExistsError where `out` is something else; and
    lock.AtWork where another process writes it.
    """
    out, model = _output(out), folders.local(model)
    files = text_files(str(source), text, id)
    with lock.hold(out.with_name(f".{out.name}{LOCK}"), str(out)):
        encoder = Encoder.from_pretrained(model, device=device, dtype=dtype, threads=threads, drop_head=drop_head)
        how = encoder.how(**options)
        settings: Settings = {"model": folders.content_hash(model), "input": [f.stamp for f in files]}
        settings |= {"text": text, "id": id, "skip_bad": skip_bad, "output": output}
        settings |= {**_settings(encoder, how), "part_rows": part_rows}
        if _is_finished(out, settings, say):
            return out
        parts = out.with_name(f"{out.name}.parts")
        _agree(parts, settings)
        say(str(encoder))
        reader = TextReader(files, text, id, skip_bad)
        say(str(reader.look(lambda done: on_progress(0, 0, f"reads {done:,} rows"))))
        write_json(parts / _SETTINGS, settings, sealed=True)
        written = settings | {_TRUNCATED: _embed(encoder, reader, parts, settings, on_progress, say, options)}
        _join(parts, out, written, reader, how.dimensions)
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


def _embed(
    encoder: Encoder, reader: TextReader, parts: Path, settings: Settings, on_progress: Progress, say: Say, options: Any
) -> int:
    """Writes the parts that are not there. Returns how many texts, of all parts, lost their end."""
    done, found, cut = 0, reader.found, 0
    try:
        for number, (ids, texts) in enumerate(reader.parts(settings["part_rows"])):
            path = parts / f"{number:06}.parquet"
            if path.is_file():
                before = (pa.parquet.read_schema(path).metadata or {}).get(_TRUNCATED.encode())
                cut += encoder.how(**options).reading.read(texts)[1] if before is None else int(before)
            else:
                counts: list[int] = []

                def report(some: int, of: int, what: str, begun: int = done) -> None:
                    on_progress(begun + some, found.rows, what)

                vectors = encoder.encode(texts, on_progress=report, on_truncated=counts.append, **options)
                vectors = _as(settings["output"], vectors, ids, parts)
                _write_part(path, reader.id_name, pa.array(ids, found.id_type), vectors, sum(counts))
                cut += sum(counts)
            done += len(texts)
            on_progress(done, found.rows, "embedding")
    except (KeyboardInterrupt, Stopped):
        say(f"stopped after {done:,} of {found.rows:,} texts, which are kept in {parts}; the same command goes on")
        raise
    if cut:
        longest = settings["max_length"]
        say(
            f"{cut:,} of {found.rows:,} texts are longer than {longest} tokens and were cut off there; "
            "--long chunk reads all of a text"
        )
    return cut


def _as(output: str, vectors: np.ndarray[Any, Any], ids: list[Any], parts: Path) -> np.ndarray[Any, Any]:
    """The vectors in the number format of the file. Raises ValueError naming the text of one that it cannot hold."""
    with np.errstate(over="ignore"):
        found = vectors.astype(output)
    whole = np.isfinite(found).all(axis=1)
    if not whole.all():
        row = int(whole.argmin())
        raise ValueError(
            f"the vector of {ids[row]!r} has a number of {np.abs(vectors[row]).max():.4g}, and {output} holds none "
            f"beyond {np.finfo(output).max:,}; remove {parts} and write float32, or vectors of length 1 (without --raw)"
        )
    return found


# ------------------------------------------------------------------------------------------------------------- output


def _output(name: str | Path) -> Path:
    out = Path(name)
    if out.suffix not in (".parquet", ".npy"):
        raise ValueError(f"{out}: unknown kind of output; name it .parquet or .npy")
    _written_before(out)
    return out


def _written_before(out: Path) -> Settings:
    """With what settings `out` was written; raises FileExistsError where it is there and is something else."""
    if not out.exists():
        return {}
    try:
        described = pa.parquet.read_schema(out if out.suffix == ".parquet" else _ids_of(out))
        before = json.loads((described.metadata or {})[_METADATA])
        return {**before}
    except (OSError, KeyError, ValueError, TypeError, RecursionError, pa.ArrowException):
        raise FileExistsError(
            f"{out}: there already, and not by this command; remove it, or choose another name"
        ) from None


def _is_finished(out: Path, settings: Settings, say: Say) -> bool:
    """Raises FileExistsError where `out` is there with other settings."""
    if not (before := _written_before(out)):
        return False
    if named := _different(before, settings):
        raise FileExistsError(f"{out}: there already, with another {named}; remove it, or choose another name")
    say(f"{out}: there already, with these settings")
    return True


def _agree(parts: Path, settings: Settings) -> None:
    """Raises ValueError where parts were begun with other settings."""
    remove_leftovers(parts)
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


def _write_part(path: Path, id_name: str, ids: pa.Array, vectors: np.ndarray[Any, Any], cut: int) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    with atomic_file(path, sealed=True) as draft:
        table = pa.table({id_name: ids, "embedding": column}, metadata={_TRUNCATED: str(cut)})
        pa.parquet.write_table(table, draft, **_HOW_WRITTEN)


# Vectors do not compress; a dictionary or statistics of them would only take time.
_HOW_WRITTEN: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}


def _part(path: Path) -> pa.Table:
    """A finished part. Raises ValueError where it is not what was written."""
    checksums.check(path)
    return pa.parquet.read_table(path)


def _join(parts: Path, out: Path, settings: Settings, reader: TextReader, width: int) -> None:
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
