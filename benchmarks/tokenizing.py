"""Text to token ids: ours beside tokenizers.encode_batch_fast and gigatoken alone, on the same text and cores.

    python benchmarks/tokenizing.py --text FOLDER [--megabytes 30] [--threads 1 2] [--rounds 3] [--tokenizer FOLDER]

The text is as much of each file as there is room for, in batches of 1,024 documents. Without --tokenizer one is trained
on it first, split as gigatoken knows it. Every measurement is a process of its own, whose caches are empty, and the
contestants take turns; the median counts. Equal sums of ids mean equal ids. The last line is one JSON object.
"""

import argparse
import glob
import hashlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]

PEERS = ("tokenizers.encode_batch_fast", "gigatoken.encode_batch")
OURS = ("tessera", "tessera, engine gigatoken")
BATCH = 1_024


# This process loads neither text nor tokenizer: a child's peak memory begins with what its parent holds.
def main(text: str, tokenizer: Path | None, megabytes: float, threads: list[int], rounds: int, vocab_size: int) -> None:
    """Runs every contestant, prints the table and the JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder)
        wanted = ["--text", text, "--megabytes", str(megabytes), "--vocab-size", str(vocab_size)]
        wanted += ["--tokenizer", str(tokenizer)] if tokenizer else []
        setting = _child(["--prepare", folder, *wanted], max(threads))
        print(f"{setting['bytes'] / 1e6:.1f} MB, {setting['documents']:,} documents of {setting['files']} files")
        print(f"vocabulary of {setting['vocab_size']:,}, made or read in {setting['seconds']:.0f} s", flush=True)
        arguments = ["--tokenizer", str(tokenizer or given / "tokenizer"), "--text", str(given / "texts.json")]
        found: dict[str, Numbers] = {}
        for number in threads:
            runs: dict[str, list[Numbers]] = {name: [] for name in (*PEERS, *OURS)}
            for _, name in itertools.product(range(rounds), runs):
                runs[name].append(_child(["--measure", name, *arguments], number))
            for name, several in runs.items():
                found[f"{name}, {number} threads"] = _summary(several, setting["bytes"])
    print(
        f"\n{'':<42} {'MB/s':>7} {'range':>14} {'MB/CPU s':>9} {'beside tokenizers':>18} {'peak memory':>12} {'ids':>9}"
    )
    ratios: dict[str, dict[str, float]] = {}
    for key, row in found.items():
        first = found[f"{PEERS[0]}, {key.rsplit(', ')[-1]}"]
        ratios[key] = {what: row[what] / first[what] for what in ("mb_per_second", "mb_per_cpu_second")}
        spread = "{:.1f} to {:.1f}".format(*row["range"])
        speed, beside, peak = row["mb_per_second"], ratios[key]["mb_per_second"], row["peak_bytes"] / 2**30
        print(f"{key:<42} {speed:>7.1f} {spread:>14} {row['mb_per_cpu_second']:>9.1f} {beside:>17.2f}x "
              f"{peak:>8.2f} GiB {row['ids']:>9}")  # fmt: skip
    print(json.dumps({
        "benchmark": "tokenizing",
        "ours": {key: row for key, row in found.items() if key.startswith(OURS)},
        "peers": {key: row for key, row in found.items() if key.startswith(PEERS)},
        "ratios": ratios,
        "limit_share": None,
        "same_ids": len({row["ids"] for row in found.values()}) == 1,
        "setting": {**setting, "rounds": rounds},
    }))  # fmt: skip


def _child(arguments: list[str], threads: int) -> Numbers:
    """What a process of its own printed last."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _summary(runs: Sequence[Numbers], size: int) -> Numbers:
    speeds = sorted(size / 1e6 / run["seconds"] for run in runs)
    assert len({run["ids"] for run in runs}) == 1
    return {
        "mb_per_second": statistics.median(speeds),
        "range": (speeds[0], speeds[-1]),
        "mb_per_cpu_second": statistics.median(size / 1e6 / run["cpu_seconds"] for run in runs),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "tokens": runs[0]["tokens"],
        "ids": runs[0]["ids"],
    }


# ------------------------------------------------------------------------------------------- what the children do


def prepare(folder: Path, text: str, tokenizer: Path | None, megabytes: float, vocab_size: int) -> Numbers:
    """Writes the texts and, where there is none, a tokenizer trained on them."""
    from tessera.plan.corpus import TokenizerTraining
    from tessera.tokenizer.tokenizer import Tokenizer, train

    texts, files = _texts(text, int(megabytes * 1e6))
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    size = sum(len(t.encode()) for t in texts)
    began = time.perf_counter()
    if tokenizer:
        made = Tokenizer.load(tokenizer)
    else:
        training = TokenizerTraining(vocab_size=vocab_size, sample_bytes=max(1, size))
        made = train({"": texts}, training, folder / "tokenizer")
    seconds = time.perf_counter() - began
    return {"bytes": size, "documents": len(texts), "files": files, "vocab_size": made.vocab_size, "seconds": seconds}


def _texts(path: str, total: int) -> tuple[list[str], int]:
    """The first documents of each file; what small files leave goes to the next ones."""
    from tessera.corpus.documents import Document, read
    from tessera.plan.corpus import Source

    found = [Path(p) for p in glob.glob(path + "/**" if Path(path).is_dir() else path, recursive=True)]
    found = [p for p in found if ".jsonl" in p.suffixes]
    texts: list[str] = []
    room, used = total, 0
    for done, file in enumerate(sorted(found, key=lambda f: f.stat().st_size)):
        share = room / (len(found) - done)
        taken = 0
        for document in read(Source(name="text", path=str(file))):
            assert isinstance(document, Document)
            texts.append(document.text)
            taken += len(document.text.encode())
            if taken >= share:
                break
        room -= taken
        used += taken > 0
    return texts, used


def measure(what: str, tokenizer: Path, texts: Path) -> Numbers:
    """One measurement, in this process; what comes after the clock is the check of the ids."""
    given: list[str] = json.loads(texts.read_text(encoding="utf-8"))
    encode, ids_of = _contestant(what, tokenizer)
    encode(["warm up"])
    seconds, cpu, tokens, digest = 0.0, 0.0, 0, hashlib.blake2b(digest_size=4)
    for first in range(0, len(given), BATCH):
        began, used = time.perf_counter(), time.process_time()
        encoded = encode(given[first : first + BATCH])
        seconds, cpu = seconds + time.perf_counter() - began, cpu + time.process_time() - used
        for ids in ids_of(encoded):
            tokens += len(ids)
            digest.update(repr(list(map(int, ids))).encode())
        del encoded
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "cpu_seconds": cpu, "tokens": tokens, "ids": digest.hexdigest(), "peak_bytes": peak}


def _contestant(what: str, folder: Path) -> tuple[Callable[[list[str]], Any], Callable[[Any], Any]]:
    """How it encodes a batch, and the ids without template of what it returned."""
    from tessera.tokenizer.tokenizer import Tokenizer

    if what in OURS:
        ours = Tokenizer.load(folder, engine="gigatoken" if "gigatoken" in what else "tokenizers")
        before, after = map(len, ours.template)
        return ours.encode_batch, lambda rows: [row[before : len(row) - after] for row in rows]
    if what == PEERS[0]:
        import tokenizers

        theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        theirs.encode_special_tokens = True
        plain = Tokenizer.load(folder)
        before, after = map(len, plain.template)
        return theirs.encode_batch_fast, lambda rows: [row.ids[before : len(row.ids) - after] for row in rows]
    import gigatoken

    alone = gigatoken.Tokenizer(str(folder / "tokenizer.json"))
    return alone.encode_batch, lambda rows: rows.tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", required=True, help="a file, folder or glob of .jsonl, also .zst or .gz")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=(*PEERS, *OURS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepare:
        print(json.dumps(prepare(given.prepare, given.text, given.tokenizer, given.megabytes, given.vocab_size)))
    elif given.measure:
        print(json.dumps(measure(given.measure, given.tokenizer, Path(given.text))))
    else:
        main(given.text, given.tokenizer, given.megabytes, given.threads, given.rounds, given.vocab_size)
