"""Batch embedding of files (`tessera embed`): texts to embeddings in bounded memory, resumed after interruptions.

Texts are read in parts of some thousand, whose vectors are written whole (parts.py). At the end the parts are joined,
in order.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tessera import lock
from tessera.bulk.parts import HOW_WRITTEN, PART_ROWS, Parts, Settings, different
from tessera.bulk.text_files import RowReader, text_files, text_of
from tessera.files import LOCK, atomic_file, refuse_unwritable
from tessera.inference import sentence_folder as folders
from tessera.inference.encoder import Encoder
from tessera.inference.engine import EncodeOptions
from tessera.progress import Progress, Say, silent

_METADATA = b"tessera"  # where a finished parquet file keeps its settings
_TRUNCATED = "truncated"  # how many texts lost their end: of a part in its metadata, of all beside the settings


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
    out = _output(out)
    model = folders.local(model)
    files = text_files(str(source), text, id)
    with lock.hold(out.with_name(f".{out.name}{LOCK}"), str(out)):
        encoder = Encoder.from_pretrained(model, device=device, dtype=dtype, threads=threads, drop_head=drop_head)
        how = encoder.how(**options)
        settings: Settings = {"model": folders.content_hash(model), "input": [f.stamp for f in files]}
        settings |= {"text": text, "id": id, "skip_bad": skip_bad, "output": output, "part_rows": part_rows}
        settings |= _settings(encoder, how)
        if _is_finished(out, settings, say):
            return out
        parts = Parts(out, settings)
        parts.check()
        say(str(encoder))
        reader = RowReader(files, id, skip_bad, text_of(text), text, "texts")
        say(str(reader.look(lambda done: on_progress(0, 0, f"reads {done:,} rows"))))
        _embed(encoder, reader, parts, on_progress, say, options)
        _join(parts, out, settings | {_TRUNCATED: _truncated(parts, reader, how, say)}, reader, how.dimensions)
        parts.remove()
        return out


def _settings(encoder: Encoder, how: EncodeOptions) -> Settings:
    """All that the vector of a text depends on, besides the model."""
    reading, number = how.reading, str(encoder.dtype).removeprefix("torch.")
    return {
        "compute": number if encoder.tuned is None else encoder.tuned.name,  # number format of the matrix products
        "pooling": "+".join(how.pooling),
        "normalize": how.normalize,
        "prompt": reading.prompt,
        "dimensions": how.dimensions,
        **{name: getattr(reading, name) for name in ("max_length", "long", "overlap")},
        "batch_invariant": how.alone,
    }


def _embed(
    encoder: Encoder, reader: RowReader, parts: Parts, on_progress: Progress, say: Say, options: dict[str, Any]
) -> None:
    """Writes the parts that are not there."""

    def work(ids: list[Any], texts: list[str], report: Progress) -> pa.Table:
        counts: list[int] = []
        vectors = encoder.encode(texts, on_progress=report, on_truncated=counts.append, **options)
        vectors = _as(parts.settings["output"], vectors, ids, parts.folder)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        columns = {reader.id_name: pa.array(ids, reader.found.id_type), "embedding": column}
        return pa.table(columns, metadata={_TRUNCATED: str(sum(counts))})

    parts.fill(reader, work, on_progress, say, "embedding")


def _truncated(parts: Parts, reader: RowReader, how: EncodeOptions, say: Say) -> int:
    """How many texts lost their end, which is said."""
    told = [(pa.parquet.read_schema(path).metadata or {}).get(_TRUNCATED.encode()) for path in parts.paths()]
    cut = sum(int(count) for count in told if count is not None)
    if None in told:  # parts of an older version
        texts = (texts for _, texts in reader.parts(parts.settings["part_rows"]))
        cut += sum(how.reading.read(some)[1] for count, some in zip(told, texts, strict=True) if count is None)
    if cut:
        say(
            f"{cut:,} of {reader.found.rows:,} texts are longer than {how.reading.max_length} tokens and were cut off "
            "there; --long chunk reads all of a text"
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
    refuse_unwritable(out)
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
    if named := different(before, settings):
        raise FileExistsError(f"{out}: there already, with another {named}; remove it, or choose another name")
    say(f"{out}: there already, with these settings")
    return True


def _join(parts: Parts, out: Path, settings: Settings, reader: RowReader, width: int) -> None:
    """One file out of all parts, one part in memory at a time."""
    tables = parts.tables()
    metadata = {_METADATA: json.dumps(settings, ensure_ascii=False)}
    number = np.dtype(settings["output"])
    column = pa.field("embedding", pa.list_(pa.from_numpy_dtype(number), width))
    identity = pa.field(reader.id_name, reader.found.id_type)
    if out.suffix == ".parquet":
        schema = pa.schema([identity, column], metadata)
        with atomic_file(out) as draft, pa.parquet.ParquetWriter(draft, schema, **HOW_WRITTEN) as writer:
            for table in tables:
                writer.write_table(table.cast(schema))
        return
    schema = pa.schema([identity], metadata)
    header = {"descr": np.lib.format.dtype_to_descr(number), "fortran_order": False}
    with (
        atomic_file(out) as draft,
        atomic_file(_ids_of(out)) as ids_draft,  # takes its name first: vectors never stand without their ids
        draft.open("wb") as file,
        pa.parquet.ParquetWriter(ids_draft, schema, **HOW_WRITTEN) as writer,
    ):
        np.lib.format.write_array_header_1_0(file, header | {"shape": (reader.found.rows, width)})
        for table in tables:
            writer.write_table(table.select([reader.id_name]).cast(schema))
            for chunk in table.column("embedding").chunks:
                file.write(chunk.flatten().to_numpy(zero_copy_only=False).tobytes())


def _ids_of(out: Path) -> Path:
    return out.with_suffix(".ids.parquet")
