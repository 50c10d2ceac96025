"""What the peers of benchmarks/stream.py do with the same tokens; see there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Reader = Callable[[int], Iterator[int]]  # from a token on: the tokens in each batch

CONTEXT, MASK_RATIO, MASK, SPECIAL, TEMPERATURE = 1024, 0.3, 4, 10, 0.3


def _pieces(folder: Path) -> tuple[Any, list[Any], list[Any], list[float]]:
    """For the peers: all tokens, starts and lengths of the pieces of each source, and how often each is to be drawn."""
    from tessera.data.shards import Shards
    from tessera.plan.mixture import shares
    from tessera.plan.phase import Mixture

    shards = Shards.open(folder)
    starts, lengths = [], []
    for first, bucket in zip(shards.first_document.tolist(), shards.buckets, strict=True):
        edges = np.asarray(shards.offsets[first : first + bucket.documents + 1])
        count = -(-np.diff(edges) // CONTEXT)
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        starts.append(np.repeat(edges[:-1], count) + CONTEXT * number)
        lengths.append(np.minimum(np.repeat(edges[1:], count) - starts[-1], CONTEXT))
    planned = shares(Mixture(temperature=TEMPERATURE), shards.buckets)
    draws = np.array([share / own.mean() for share, own in zip(planned, lengths, strict=True)])
    tokens = np.memmap(folder / "tokens-00000.bin", np.uint16, "r").view(np.ndarray)
    return tokens, starts, lengths, (draws / draws.sum()).tolist()


def _hide(rows: Any, random: Any) -> dict[str, Any]:
    hidden = (random.random(rows.shape, dtype=np.float32) < MASK_RATIO) & (rows >= SPECIAL)
    return {"inputs": np.where(hidden, MASK, rows), "labels": np.where(hidden, rows, -100)}


def grain_mix(folder: Path, batch_tokens: int, _: str) -> Callable[[], Reader]:
    import grain

    tokens, starts, lengths, weights = _pieces(folder)
    mean = float(np.dot(weights, [own.mean() for own in lengths]))

    class Source:
        def __init__(self, number: int) -> None:
            self.starts, self.lengths = starts[number], lengths[number]

        def __len__(self) -> int:
            return len(self.starts)

        def __getitem__(self, piece: int) -> Any:
            start = self.starts[piece]
            return {"tokens": tokens[start : start + self.lengths[piece]].astype(np.int32)}

    class Hide(grain.transforms.RandomMap):
        def random_map(self, element: Any, rng: Any) -> Any:
            return element | _hide(element["tokens"], rng)

    def setup() -> Reader:
        sources = [grain.MapDataset.source(Source(n)).seed(n).shuffle().repeat() for n in range(len(weights))]
        mixed = grain.MapDataset.mix(sources, weights=weights)

        def read(place: int) -> Iterator[int]:
            pieces = mixed[int(place / mean) :].to_iter_dataset(
                grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
            )
            packed = grain.experimental.FirstFitPackIterDataset(
                pieces, length_struct={"tokens": CONTEXT}, num_packing_bins=64
            )
            for batch in packed.batch(batch_tokens // CONTEXT).seed(7).random_map(Hide()):
                yield int(np.count_nonzero(batch["tokens_segment_ids"]))

        return read

    return setup


def _tables(folder: Path) -> tuple[Any, list[tuple[int, int]], list[float], float]:
    """All pieces as one Arrow file, where those of each source lie, the draws, and the mean length of what is drawn."""
    import pyarrow as pa

    tokens, starts, lengths, weights = _pieces(folder)
    schema, path = pa.schema({"input_ids": pa.list_(pa.int32())}), folder / "pieces.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as out:
        for first, size in zip(starts, lengths, strict=True):
            values = np.concatenate([tokens[a : a + n] for a, n in zip(first.tolist(), size.tolist(), strict=True)])
            edges = np.concatenate(([0], np.cumsum(size))).astype(np.int32)
            column = pa.ListArray.from_arrays(edges, values.astype(np.int32))
            out.write(pa.record_batch([column], schema=schema))
    ends = np.cumsum([len(own) for own in lengths]).tolist()
    ranges = list(zip([0, *ends[:-1]], ends, strict=True))
    return path, ranges, weights, float(np.dot(weights, [own.mean() for own in lengths]))


def _rows(values: Any) -> Any:
    return values[: len(values) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)


def datasets_mapped(folder: Path, batch_tokens: int, what: str) -> Callable[[], Reader]:
    import datasets

    path, ranges, weights, mean = _tables(folder)
    random = np.random.default_rng(0)

    def setup() -> Reader:
        whole = datasets.Dataset.from_file(str(path))
        sources = [whole.select(range(first, end)).shuffle(seed=end) for first, end in ranges]
        mixed = datasets.interleave_datasets(
            sources, probabilities=weights, seed=0, stopping_strategy="all_exhausted"
        ).with_format(what.split(", ")[1])
        many = round(batch_tokens / mean)

        def read(place: int) -> Iterator[int]:
            for first in range(int(place / mean), len(mixed), many):
                pieces = mixed[first : first + many]["input_ids"]
                values = pieces.combine_chunks().values.to_numpy() if "arrow" in what else np.concatenate(list(pieces))
                yield _hide(_rows(values), random)["inputs"].size

        return read

    return setup


def datasets_streamed(folder: Path, batch_tokens: int, _: str) -> Callable[[], Reader]:
    import datasets

    path, ranges, weights, mean = _tables(folder)
    random = np.random.default_rng(0)

    def pack(columns: Any) -> Any:
        return _hide(_rows(np.concatenate(columns["input_ids"])), random)

    def setup() -> Reader:
        whole = datasets.Dataset.from_file(str(path))
        sources = [whole.select(range(a, b)).to_iterable_dataset().with_format("numpy") for a, b in ranges]
        mixed = datasets.interleave_datasets(
            sources, probabilities=weights, seed=0, stopping_strategy="all_exhausted"
        ).with_format("numpy")

        def read(place: int) -> Iterator[int]:
            packed = mixed.skip(int(place / mean)).map(
                pack, batched=True, batch_size=round(batch_tokens / mean), remove_columns=["input_ids"]
            )
            for batch in packed.iter(batch_size=batch_tokens // CONTEXT):
                yield batch["inputs"].size

        return read

    return setup
