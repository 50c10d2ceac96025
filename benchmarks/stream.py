"""The stream at the size of the papers, and beside grain and Hugging Face datasets on the same tokens.

    python benchmarks/stream.py [--documents 10_000_000] [--only tessera grain ...]      1_000_000_000: 9 GB of disk

First a simulated store: 1,833 sources of Zipf's sizes, document lengths drawn, offsets and index as they are, the token
files holes of that size, so no token is read from a disk. Each start is a process of its own.

Then a store of 35 million real tokens in 1,833 sources: weighted mixing, pieces of at most 1,024 tokens, batches of
262,144, 30% masked, in one thread pinned to one core. Rates are tokens of documents for each second of processor time
of the whole process, padding counts for nobody. What each gives:

    tessera             documents end to end with their edges, shuffled anew each epoch, exact shares; masked positions
    + micro-batches     the same, cut into parts of 16,384 tokens as the trainer reads them
    grain               MapDataset.mix of shuffled, repeated sources; first-fit packing to rows with segment numbers;
                        drawn masks (random_map). Its threads and processes are off, so nothing waits for them
    datasets, numpy     interleave_datasets of memory-mapped tables, each shuffled, in numpy format; pieces concatenated
                        and cut into rows as in run_mlm.py, masked in numpy: no document edges, one order for ever
    datasets, arrow     the same, by hand: Arrow format, and its buffer taken for the row without looking at pieces
    datasets, streamed  the same from to_iterable_dataset(), numpy format, packed and masked by map; no shuffle

Peers get their sources as tables of pieces made beforehand, which is not timed. The last line is one JSON object.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from stream_peers import (
    CONTEXT,
    MASK,
    MASK_RATIO,
    SPECIAL,
    TEMPERATURE,
    Reader,
    datasets_mapped,
    datasets_streamed,
    grain_mix,
)

Numbers = dict[str, Any]

OURS = ("tessera", "tessera + micro-batches")
PEERS = ("grain", "datasets, arrow", "datasets, numpy", "datasets, streamed")
AIM = 3.0
SOURCES, ZIPF = 1833, 1.1
VOCABULARY = 60_000
SMALL_TOKENS, SMALL_MEAN, LARGE_MEAN = 35_000_000, 300, 500
MICRO_BATCH = 16_384
SEEK_TO = 1_000_000  # tokens, where the peers are asked to begin
SEEKS = 300
LIMITS = {"start_seconds": 2.0, "seek_worst_seconds": 0.1, "anonymous_bytes": 500e6, "tokens_per_second": 5e6}


def main(documents: int, batch_tokens: int, seconds: float, only: list[str]) -> None:
    """Runs every measurement in a process of its own, prints the tables and the JSON line."""
    with tempfile.TemporaryDirectory(prefix="stream-") as name:
        folder = Path(name)
        scale = _scale(folder / "large", documents, batch_tokens, seconds)
        _write_small(folder / "small")
        print(f"\n{'one core, the same tokens':<26} {'tokens/s':>12} {'ours is':>8} {'start':>9} {'seek':>9} "
              f"{'first 100M':>11} {'memory':>8}")  # fmt: skip
        found: dict[str, Numbers] = {}
        for what in only:
            package = what.split(",")[0]
            if what not in OURS and importlib.util.find_spec(package) is None:
                print(f"{what:<26} not installed; pip install {package}")
                continue
            found[what] = row = _child(what, folder / "small", batch_tokens, seconds)
            ours = found.get(OURS[0], row)["tokens_per_second"] / row["tokens_per_second"]
            row["first_100m_seconds"] = row["start_seconds"] + 1e8 / row["tokens_per_second"]
            print(f"{what:<26} {row['tokens_per_second']:>12,.0f} {ours:>7.1f}x {row['start_seconds']:>7.2f} s "
                  f"{row['seek_seconds']:>7.3f} s {row['first_100m_seconds']:>9.1f} s "
                  f"{row['anonymous_bytes'] / 1e6:>5.0f} MB", flush=True)  # fmt: skip
    print("mosaicml-streaming is not run: 0.13 demands numpy < 2.2 and transformers < 5, and imports torchvision")
    print(f"start: from opening to the first batch. seek: a fresh reader at token {SEEK_TO:,}. first 100M: start and "
          "as many tokens at the rate. memory: anonymous pages")  # fmt: skip
    print("datasets writes down every draw beforehand, until the largest source is through: its start grows with the "
          "documents\n")  # fmt: skip
    rate = {what: row["tokens_per_second"] for what, row in found.items()}
    ratios = {what: rate[OURS[0]] / rate[what] for what in PEERS if what in rate and OURS[0] in rate}
    missed = [what for what, ratio in ratios.items() if ratio < AIM]
    if ratios:
        print(f"aim: {AIM:g}x each; " + (f"missed beside {', '.join(missed)}" if missed else "met"))
    print(json.dumps({
        "benchmark": "stream",
        "ours": {"scale": scale, **{what: found[what] for what in OURS if what in found}},
        "peers": {what: found[what] for what in PEERS if what in found} | {"mosaicml-streaming": None},
        "ratios": ratios,
        "limit_share": None,
        "setting": {"documents": documents, "batch_tokens": batch_tokens, "sources": SOURCES,
                    "versions": {p: _version(p) for p in ("numpy", "grain", "datasets", "pyarrow")}},
    }))  # fmt: skip


def _scale(folder: Path, documents: int, batch_tokens: int, seconds: float) -> Numbers:
    """The simulated store: counted once, started warm, started with nothing in the page cache."""
    began = time.perf_counter()
    tokens = write_simulated(folder, documents)
    took = time.perf_counter() - began
    print(f"{documents:,} documents, {tokens:,} tokens, {SOURCES:,} sources; written in {took:.0f} s")
    rows = {}
    print(f"{'':<26} {'start':>9} {'seek':>10} {'worst':>9} {'memory':>8} {'mapped':>9} {'tokens/s':>12}")
    for what in ("first start, counting", "warm", "cold page cache"):
        if what.startswith("cold"):
            _forget(folder)
        rows[what] = row = _child("scale", folder, batch_tokens, seconds)
        print(f"{what:<26} {row['start_seconds']:>7.2f} s {row['seek_median_seconds'] * 1e3:>7.1f} ms "
              f"{row['seek_worst_seconds'] * 1e3:>6.0f} ms {row['anonymous_bytes'] / 1e6:>5.0f} MB "
              f"{row['mapped_bytes'] / 1e6:>6.0f} MB {row['tokens_per_second']:>12,.0f}", flush=True)  # fmt: skip
    kept = sum(path.stat().st_size for path in folder.glob("blocks-*.bin"))
    print(f"kept beside the store: {kept / 1e6:.1f} MB. seek: {MICRO_BATCH:,} tokens at one of {SEEKS} places")
    worse = [
        f"{what}: {name} {row[name]:.3g}, {limit:g} is asked"
        for what, row in list(rows.items())[1:]
        for name, limit in LIMITS.items()
        if (row[name] < limit) == (name == "tokens_per_second")
    ]
    print("; ".join(worse) or "every limit is kept, warm and cold")
    return {"documents": documents, "tokens": tokens, "kept_bytes": kept, **rows}


def _child(what: str, folder: Path, batch_tokens: int, seconds: float) -> Numbers:
    """What a process of its own printed last."""
    plain = ["--folder", folder, "--batch-tokens", batch_tokens, "--seconds", seconds]
    command = [sys.executable, __file__, "--measure", what, *map(str, plain)]
    threads = {"OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# ------------------------------------------------------------------------------------------------------- the stores


def _sizes(total: int) -> Any:
    """Documents of each source: Zipf, at least one."""
    share = 1 / np.arange(1, SOURCES + 1) ** ZIPF
    sizes = np.maximum((share / share.sum() * total).astype(np.int64), 1)
    sizes[0] += total - sizes.sum()
    return sizes


def _lengths(count: int, mean: int) -> Any:
    drawn = np.random.default_rng(0).lognormal(np.log(mean) - 0.5, 1.0, count)
    return np.clip(drawn, 4, 30_000).astype(np.int64)


def write_simulated(folder: Path, documents: int) -> int:
    """Offsets and index of a store that nobody tokenised; its token files are holes. Returns its tokens."""
    from tessera.data.shard_writer import FORMAT, INDEX, VERSION, index_hash

    folder.mkdir()
    table = _lengths(min(documents, 1 << 20), LARGE_MEAN)
    edges = np.concatenate(([0], np.cumsum(_sizes(documents))))
    bounds, at, tokens = np.zeros(SOURCES + 1, np.int64), 0, 0
    with (folder / "offsets.bin").open("wb") as file:
        file.write(np.zeros(1, "<i8").data)
        while at < documents:  # the table again and again, turned a little each time
            ends = tokens + np.cumsum(np.roll(table, at // len(table) * 7919)[: documents - at])
            file.write(ends.astype("<i8").data)
            here = np.flatnonzero((edges > at) & (edges <= at + len(ends)))
            bounds[here] = ends[edges[here] - at - 1]
            at, tokens = at + len(ends), int(ends[-1])
        file.flush()
        os.fsync(file.fileno())
    per_file = max(2**29, -(-tokens // 256))
    files = {"offsets.bin": {"bytes": 8 * (documents + 1), "sha256": ""}}
    for number in range(-(-tokens // per_file)):
        size, name = 2 * min(per_file, tokens - number * per_file), f"tokens-{number:05d}.bin"
        with (folder / name).open("wb") as file:
            file.truncate(size)
        files[name] = {"bytes": size, "sha256": ""}
    rows = [
        {"source": "web", "language": f"l{b:04d}", "tier": None, "tokens": int(bounds[b + 1] - bounds[b]),
         "documents": int(edges[b + 1] - edges[b]), "bytes": 4 * int(bounds[b + 1] - bounds[b]),
         "first_document": int(edges[b]), "first_token": int(bounds[b])}
        for b in range(SOURCES)
    ]  # fmt: skip
    index = {
        "format": FORMAT, "version": VERSION, "tokenizer": "none", "vocab_size": VOCABULARY, "dtype": "uint16",
        "tokens_per_file": per_file, "tokens": tokens, "documents": documents, "files": files, "buckets": rows,
    }  # fmt: skip
    (folder / INDEX).write_text(json.dumps({**index, "sha256": index_hash(index)}))
    return tokens


def _write_small(folder: Path) -> None:
    from tessera.data.shard_writer import ShardWriter

    random = np.random.default_rng(1)
    sizes = _sizes(SMALL_TOKENS // SMALL_MEAN)
    lengths = np.split(_lengths(int(sizes.sum()), SMALL_MEAN), np.cumsum(sizes)[:-1])
    with ShardWriter(folder, "none", VOCABULARY) as writer:
        for number, own in enumerate(lengths):
            ids = random.integers(SPECIAL, VOCABULARY, own.sum(), np.int32)
            writer.add("web", f"l{number:04d}", None, np.split(ids, np.cumsum(own)[:-1]), 4 * int(own.sum()))


def _forget(folder: Path) -> None:
    """Asks the system to drop the pages of the files from its cache."""
    for path in folder.iterdir():
        number = os.open(path, os.O_RDONLY)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)


# ------------------------------------------------------------------------------------------- what the children do


def measure(what: str, folder: Path, batch_tokens: int, seconds: float) -> Numbers:
    """One measurement, in this process and on one core of its own."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    prepare = {
        "grain": grain_mix,
        "datasets, arrow": datasets_mapped,
        "datasets, numpy": datasets_mapped,
        "datasets, streamed": datasets_streamed,
    }
    setup = prepare.get(what, _tessera)(folder, batch_tokens, what)  # imports, not timed
    began = time.perf_counter()
    reader = setup()
    opened = time.perf_counter() - began
    batches = reader(0)
    next(batches)
    result = {"start_seconds": opened if what == "scale" else time.perf_counter() - began}
    if what == "scale":
        result |= _seeks(reader)
    else:
        began = time.perf_counter()
        next(reader(SEEK_TO))
        result["seek_seconds"] = time.perf_counter() - began
    tokens, anonymous, wall, began = 0, 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        tokens += next(batches)
        anonymous = max(anonymous, _memory("RssAnon"))
    spent = time.process_time() - began
    return result | {
        "tokens_per_second": tokens / spent,
        "anonymous_bytes": anonymous,
        "mapped_bytes": _memory("RssFile"),
    }


def _seeks(reader: Reader) -> Numbers:
    """A small batch at places all over ten epochs of the corpus, each in a window never read before."""
    took = []
    for place in np.random.default_rng(2).integers(0, 5 * 10**12, SEEKS).tolist():
        began = time.perf_counter()
        next(reader(-place))
        took.append(time.perf_counter() - began)
    return {"seek_median_seconds": statistics.median(took), "seek_worst_seconds": max(took)}


def _memory(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def _tessera(folder: Path, batch_tokens: int, what: str) -> Callable[[], Reader]:
    from tessera.data.packing import micro_batches
    from tessera.data.shards import Shards
    from tessera.data.stream import Stream
    from tessera.plan.mixture import MixtureSchedule, shares
    from tessera.plan.phase import Mixture

    def setup() -> Reader:
        shards = Shards.open(folder)
        mixture = MixtureSchedule((0, 1), (shares(Mixture(temperature=TEMPERATURE), shards.buckets),))
        stream = Stream(
            shards, mixture, context=CONTEXT, seed=0, phase_name="p",
            replacement="mask", crop=None, mask_id=MASK, special_ids=range(SPECIAL), vocab_size=VOCABULARY,
        )  # fmt: skip

        def read(place: int) -> Iterator[int]:
            step = batch_tokens if place >= 0 else MICRO_BATCH  # a place below 0 is a seek
            for t in range(abs(place), 10**18, step):
                batch = stream.read(t, t + step, MASK_RATIO)
                yield (
                    sum(len(part.tokens) for part in micro_batches(batch, MICRO_BATCH))
                    if what.endswith("micro-batches")
                    else len(batch.tokens)
                )

        return read

    return setup


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000, help="of the simulated store")
    parser.add_argument("--batch-tokens", type=int, default=262_144)
    parser.add_argument("--seconds", type=float, default=5.0, help="that each is timed")
    parser.add_argument("--only", nargs="+", choices=(*OURS, *PEERS), default=[*OURS, *PEERS])
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what a child does
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder, given.batch_tokens, given.seconds)))
    else:
        main(given.documents, given.batch_tokens, given.seconds, given.only)
