"""Semantic search: a vector index over a file of texts, built once (`tessera index`), asked (`tessera search`).

Every document is compared with every query, so what is found is exact; on request a graph is made beside, which looks
at some hundreds of them. An index is a folder, written whole or not at all, with a checksum of each file; files are
compared with it when the index is opened:

    index.json        which model, which prompt, how many texts
    vectors.npy       [c, h], read from the disk as it is needed
    texts.parquet     id and text of each, in the same order
    neighbours.faiss  the graph, if there is one: read into memory
"""

# Shapes: q queries, c documents, h embedding width.

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from tessera import checksums, lock
from tessera.bulk.embed_file import embed_file
from tessera.bulk.nearest import Floats, Graph, nearest, recall
from tessera.bulk.parts import Settings, different
from tessera.bulk.text_files import RowReader, text_files, text_of
from tessera.files import LOCK, atomic_folder, refuse_taken, remove_folder, write_json
from tessera.inference import sentence_folder as folders
from tessera.inference.encoder import Encoder
from tessera.json_files import Strictly, read_own
from tessera.progress import Progress, Say, silent

_ABOUT, _VECTORS, _TEXTS, _GRAPH = "index.json", "vectors.npy", "texts.parquet", "neighbours.faiss"
_TRIED, _NEAR = 256, 11  # documents whose nearest are looked for to measure a graph; how many, itself among them
_ROWS = 4_096  # texts of a group of rows, which is read as a whole
_AT_ONCE = 16_384  # vectors in memory
_DOCUMENTS = ("document", "passage", "corpus")  # names of the prompt for documents, as Encoder.encode_document has them


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found."""

    id: Any
    text: str
    score: float  # inner product; of a reranker its score
    similarity: float | None = None  # before it was reranked


class _About(Strictly):
    """index.json, as far as a search needs it."""

    model: str
    model_hash: str
    dimensions: int | None
    max_length: int | None
    normalize: bool
    rows: int


class Query(NamedTuple):
    """What is asked, with its id where it came from a file."""

    id: Any
    text: str


def build(
    model: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    text: str = "text",
    id: str | None = None,
    prompt: str | None = None,
    dimensions: int | None = None,
    max_length: int | None = None,
    long: Literal["truncate", "chunk"] = "truncate",
    skip_bad: bool = False,
    output: Literal["float32", "float16"] = "float32",
    approximate: bool = False,
    on_progress: Progress = silent,
    say: Say = silent,
    **machine: Any,
) -> Path:
    """Writes an index over the texts of `source` and returns its folder.

    prompt       stands before every document; None: the folder's for documents, if it has one
    approximate  also a graph for approximate search, and what share of the nearest documents it finds
    machine      device, dtype, threads, as of `embed_file`, which says what the rest means

    It goes on where it was stopped. Raises ValueError and FileExistsError as `embed_file` does, and for a model whose
    similarity is a distance; ImportError where a graph is asked for and faiss is not installed.
    """
    out = Path(out)
    _refuse_other(out)
    if approximate:
        Graph.check()
    place = folders.local(model)
    pipeline, _ = folders.read(place)
    if pipeline.similarity not in ("cosine", "dot"):
        raise ValueError(f"{model}: its similarity is {pipeline.similarity}; search compares by cosine and dot")
    if prompt is None:
        prompt = next((pipeline.prompts[name] for name in _DOCUMENTS if name in pipeline.prompts), "")
    settings: Settings = {"model_hash": folders.content_hash(place), "similarity": pipeline.similarity}
    settings |= {"input": [file.stamp for file in text_files(str(source), text, id)], "text": text, "id": id}
    settings |= {"prompt": prompt, "dimensions": dimensions, "max_length": max_length, "long": long}
    settings |= {"skip_bad": skip_bad, "output": output, "approximate": approximate or None}
    settings["normalize"] = pipeline.similarity == "cosine" or pipeline.normalize
    building = out.with_name(f".{out.name}.building")
    with lock.hold(out.with_name(f".{out.name}.building{LOCK}"), str(out)):
        if _is_finished(out, settings, say):
            return out
        names = ("text", "id", "prompt", "dimensions", "max_length", "long", "skip_bad", "output", "normalize")
        how = {name: settings[name] for name in names}
        building.mkdir(parents=True, exist_ok=True)
        embed_file(model, source, building / _VECTORS, on_progress=on_progress, say=say, **how, **machine)
        reader = RowReader(text_files(str(source), text, id), id, skip_bad, text_of(text), text, "texts")
        rows = reader.look(silent).rows
        with atomic_folder(out, sealed=True) as draft:
            _link(building / _VECTORS, draft / _VECTORS)
            _write_texts(draft / _TEXTS, reader)
            found = {"recall": _write_graph(draft, rows, say)} if approximate else {}
            where = str(place.resolve()) if Path(model).is_dir() else str(model)
            write_json(draft / _ABOUT, {**settings, "model": where, "rows": rows, **found})
        remove_folder(building)
    return out


def _refuse_other(out: Path) -> None:
    """Raises FileExistsError where `out` is there and no index, OSError where none can be made there."""
    if out.is_dir() and any(out.iterdir()) and not (out / _ABOUT).is_file():
        raise FileExistsError(f"{out}: there already, and no index; remove it, or choose another name")
    if not (out / _ABOUT).is_file():
        refuse_taken(out)


def _is_finished(out: Path, settings: Settings, say: Say) -> bool:
    """Raises FileExistsError where `out` is there with other settings."""
    if not (out / _ABOUT).is_file():
        return False
    if named := different(read_own(Strictly, out / _ABOUT).model_dump(), settings):
        raise FileExistsError(f"{out}: there already, with another {named}; remove it, or choose another name")
    say(f"{out}: there already, with these settings")
    return True


def _link(file: Path, to: Path) -> None:
    """The same bytes under a second name, where the file system has such; else a copy."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def _write_texts(path: Path, reader: RowReader) -> None:
    schema = pa.schema([("id", reader.found.id_type), ("text", pa.string())])
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for ids, texts in reader.parts(_ROWS):
            writer.write_table(pa.table([ids, texts], schema=schema))


@dataclass(frozen=True, slots=True, eq=False)
class SearchIndex:
    """An index that is open, and the model that it was built with; see `open`."""

    encoder: Encoder
    vectors: NDArray[Any]  # [c, h], on the disk
    texts: Path
    about: _About
    graph: Graph | None = None  # of the vectors, where one was made

    @classmethod
    def open(
        cls, folder: str | Path, model: str | Path | None = None, *, approximate: bool = True, **machine: Any
    ) -> Self:
        """The index in a folder.

        model        where its model is now; None: where it was when the index was built
        approximate  False: every document is compared, also where there is a graph
        machine      device, dtype, threads, as of Encoder.from_pretrained

        Raises ValueError for a file that is not what was written, and for another model than its own; ImportError
        where there is a graph, and faiss is not installed.
        """
        folder = Path(folder)
        if not (folder / _ABOUT).is_file():
            raise ValueError(f"{folder}: is no index; `tessera index MODEL TEXTS {folder}` builds one")
        if not checksums.check_folder(folder):
            raise ValueError(f"{folder}: {checksums.MANIFEST} is missing, so the index is not whole; build it anew")
        about = read_own(_About, folder / _ABOUT)
        name = about.model if model is None else model
        try:
            place = folders.local(name)
        except ValueError as error:
            raise ValueError(f"{folder}: its model is gone: {error}; give where it is now with --model") from None
        if (now := folders.content_hash(place)) != about.model_hash:
            raise ValueError(
                f"{folder}: was built with another model than {name} holds now ({about.model_hash}, not {now}); "
                "give that one with --model, or build the index anew"
            )
        vectors = _vectors(folder / _VECTORS, about.rows)
        graph = Graph.read(folder / _GRAPH) if approximate and (folder / _GRAPH).is_file() else None
        return cls(Encoder.from_pretrained(place, **machine), vectors, folder / _TEXTS, about, graph)

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, queries: Sequence[str], top: int = 10, *, prompt: str | None = None) -> list[list[Hit]]:
        """The `top` documents that are nearest to each query, the nearest first; of equals the first.

        Where there is a graph some may be missed.

        prompt  stands before every query; None: the folder's for queries, if it has one
        """
        how = self.about.model_dump(include={"dimensions", "max_length", "normalize"})
        asked = self.encoder.encode_query(list(queries), prompt=prompt, **how)
        places, scores = self._nearest(asked, top)
        rows = self._rows(np.unique(places))
        return [
            [Hit(*rows[place], score) for place, score in zip(line, near, strict=True)]
            for line, near in zip(places.tolist(), scores.tolist(), strict=True)
        ]

    def _nearest(self, asked: Floats, top: int) -> tuple[NDArray[np.int64], Floats]:
        if self.graph is not None and top >= 1:
            places, scores = self.graph.nearest(asked, top)
            if (places >= 0).all():
                return places, scores
        return nearest(asked, _parts(self.vectors), top)

    def _rows(self, places: NDArray[np.int64]) -> dict[int, tuple[Any, str]]:
        """(id, text) of documents by their place; only the groups of rows that hold them are read."""
        found: dict[int, tuple[Any, str]] = {}
        with pa.parquet.ParquetFile(self.texts) as file:
            begin = 0
            for group in range(file.metadata.num_row_groups):
                end = begin + file.metadata.row_group(group).num_rows
                mine = places[(places >= begin) & (places < end)]
                if len(mine):
                    table = file.read_row_group(group).take(mine - begin)
                    pairs = zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
                    found |= dict(zip(mine.tolist(), pairs, strict=True))
                begin = end
        return found


def _parts(vectors: NDArray[Any]) -> Iterator[Floats]:
    for begin in range(0, len(vectors), _AT_ONCE):
        yield np.asarray(vectors[begin : begin + _AT_ONCE], np.float32)


def _write_graph(folder: Path, rows: int, say: Say) -> float:
    """The graph of the vectors in a folder, beside them; returns the share of near documents that it finds."""
    vectors = _vectors(folder / _VECTORS, rows)
    graph = Graph.of(_parts(vectors))
    graph.write(folder / _GRAPH)
    asked = np.asarray(vectors[:: max(1, rows // _TRIED)][:_TRIED], np.float32)
    found = recall(graph.nearest(asked, _NEAR)[0], nearest(asked, _parts(vectors), _NEAR)[0])
    say(f"approximate search: {found:.1%} of the {_NEAR} nearest texts, for {len(asked)} of these texts as queries")
    return found


def _vectors(path: Path, rows: int) -> NDArray[Any]:
    """[rows, h], read from the disk as it is needed. Raises ValueError where the file holds something else."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: holds no vectors ({str(error)[:100]}); build the index anew") from None
    if found.ndim != 2 or len(found) != rows or found.dtype.kind != "f":
        raise ValueError(f"{path}: holds {found.dtype} {list(found.shape)}, not {rows} vectors; build the index anew")
    return found


def read_queries(source: str, text: str = "text", id: str | None = None) -> list[Query]:
    """The queries of a file. Raises ValueError for a bad row."""
    reader = RowReader(text_files(source, text, id, "search"), id, False, text_of(text), text, "queries")
    reader.look(silent)
    return [Query(*both) for ids, texts in reader.parts(_ROWS) for both in zip(ids, texts, strict=True)]


def with_scores(hits: Sequence[Hit], scores: Sequence[float]) -> list[Hit]:
    """The hits by other scores, the highest first; of equals the one that was first."""
    both = [replace(hit, score=score, similarity=hit.score) for hit, score in zip(hits, scores, strict=True)]
    return sorted(both, key=lambda hit: -hit.score)
