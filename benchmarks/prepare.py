"""From text to token shards: ours beside Hugging Face datasets, and beside what the tokenizer alone takes.

    python benchmarks/prepare.py FILES... [--tokenizer FOLDER] [--workers 2] [--filters] [--engine native|ray]

FILES are jsonl(.zst) with a column text, read as one source. Every contestant has a process tree of its own, with so
many cores, and begins with the files on disk:

    encode_batch    `tokenizers.encode_batch_fast` on all texts, already in memory: the yardstick of the others
    tessera         read, look for exact copies, split, encode, write two checksummed stores
    gigatoken       the same with machine.tokenize=gigatoken
    datasets        load_dataset("json") and map(batched, num_proc), as its documentation has it; it looks for no copies

Peak memory is that of the whole tree without the page cache (RssAnon), sampled. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

CONTESTANTS = ("encode_batch", "tessera", "gigatoken", "datasets")


def main(given: argparse.Namespace) -> None:
    """Runs every contestant, prints the table and the JSON line."""
    found: dict[str, dict[str, Any]] = {}
    columns = ("", "seconds", "MB/s", "of encode_batch", "CPU s", "peak memory", "documents")
    print("{:<14} {:>8} {:>7} {:>16} {:>7} {:>12} {:>11}".format(*columns))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = given.tokenizer or _train(given.files, Path(folder) / "tokenizer")
        for name in given.only:
            out = Path(folder) / name
            command = [sys.executable, __file__, *given.files, "--measure", name, "--tokenizer", str(tokenizer),
                       "--workers", str(given.workers), "--engine", given.engine, "--out", str(out)]  # fmt: skip
            env = {**os.environ, "RAYON_NUM_THREADS": str(given.workers)} if name == "encode_batch" else None
            child = subprocess.Popen(
                command + ["--filters"] * given.filters, stdout=subprocess.PIPE, text=True, env=env
            )
            before, peak = _cpu_seconds(), _watched(child)
            text, _ = child.communicate()
            if child.returncode:
                print(f"{name:<14} failed; its own message is above", flush=True)
                continue
            row = found[name] = {**json.loads(text.splitlines()[-1]), "peak_bytes": peak[0]}
            row["cpu_seconds"] = _cpu_seconds() - before
            yardstick = found.get("encode_batch", row)["seconds"]
            row["speed_of_encode_batch"] = yardstick / row["seconds"]
            row["mb_per_second"] = row["bytes"] / row["seconds"] / 1e6
            print(f"{name:<14} {row['seconds']:>8.1f} {row['mb_per_second']:>7.2f} "
                  f"{row['speed_of_encode_batch']:>16.2f} {row['cpu_seconds']:>7.1f} {peak[0] / 2**30:>8.2f} GiB "
                  f"{row['documents']:>11,}", flush=True)  # fmt: skip
    ours, peers = ("tessera", "gigatoken"), ("encode_batch", "datasets")
    ratios = {
        f"{us} / {peer}": found[peer]["seconds"] / found[us]["seconds"]
        for us in ours for peer in peers if us in found and peer in found
    }  # fmt: skip
    print(json.dumps({
        "benchmark": "prepare",
        "ours": {name: found[name] for name in ours if name in found},
        "peers": {name: found[name] for name in peers if name in found},
        "ratios": ratios,
        "limit_share": found["tessera"]["speed_of_encode_batch"] if "tessera" in found else None,
        "setting": {name: getattr(given, name) for name in ("workers", "engine", "filters", "files")},
    }))  # fmt: skip


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One contestant, in this process and its children."""
    match given.measure:
        case "encode_batch":
            return _alone(given)
        case "datasets":
            return _datasets(given)
        case "gigatoken":
            return _ours(given, "gigatoken")
        case _:
            return _ours(given, "tokenizers")


def _alone(given: argparse.Namespace) -> dict[str, Any]:
    from tessera.corpus.documents import Document, read_file
    from tessera.plan.corpus import Source
    from tessera.sources.storage import files
    from tessera.tokenizer.tokenizer import Tokenizer

    texts = []
    for path in given.files:
        source = Source(name="web", path=path)
        rows = (row.item for file in files(source) for row in read_file(file, source))
        texts += [item.text for item in rows if isinstance(item, Document)]
    inner = Tokenizer.load(given.tokenizer)._inner
    started = time.monotonic()
    for start in range(0, len(texts), 1_000):
        inner.encode_batch_fast(texts[start : start + 1_000])
    seconds = time.monotonic() - started
    return {"seconds": seconds, "documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)}


def _ours(given: argparse.Namespace, library: Any) -> dict[str, Any]:
    from tessera.corpus import prepare
    from tessera.plan.corpus import Corpus, Duplicates, Filters, LanguageCheck, NearDuplicates, Repetition, Source
    from tessera.tokenizer.tokenizer import Tokenizer

    sources = tuple(Source(name=f"web{n}", path=path) for n, path in enumerate(given.files))
    if given.filters:
        filters = Filters(repetition=Repetition(), language=LanguageCheck())
        corpus = Corpus(sources=sources, filters=filters, duplicates=Duplicates(near=NearDuplicates()))
    else:
        corpus = Corpus(sources=sources)
    started = time.monotonic()
    documents = prepare.read(corpus, given.out / "documents", engine=given.engine, workers=given.workers)
    reading = time.monotonic() - started
    tokenizer = Tokenizer.load(given.tokenizer)
    report = prepare.encode(documents, tokenizer, given.out / "shards", library=library, workers=given.workers)
    total = [report.total(store) for store in prepare.STORES]
    counts = {unit: sum(store[unit] for store in total) for unit in ("documents", "bytes", "tokens")}
    return {"seconds": time.monotonic() - started, "reading_seconds": reading, **counts}


def _datasets(given: argparse.Namespace) -> dict[str, Any]:
    import datasets
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(given.tokenizer))
    started = time.monotonic()
    loaded = datasets.load_dataset("json", data_files=given.files, split="train", cache_dir=str(given.out / "cache"))

    def encode(rows: dict[str, list[str]]) -> Any:
        return tokenizer(rows["text"], return_attention_mask=False, return_token_type_ids=False)

    encoded = loaded.map(encode, batched=True, num_proc=given.workers, remove_columns=loaded.column_names)
    encoded.save_to_disk(str(given.out / "saved"))
    seconds = time.monotonic() - started
    return {"seconds": seconds, "documents": len(encoded), "bytes": sum(len(text.encode()) for text in loaded["text"])}


def _train(files: list[str], folder: Path) -> Path:
    """A vocabulary of 16,384 on 10 MB of the files."""
    from tessera.corpus.documents import Document, read
    from tessera.plan.corpus import Corpus, Source, TokenizerTraining
    from tessera.tokenizer.sample import sample
    from tessera.tokenizer.tokenizer import train

    training = TokenizerTraining(vocab_size=16_384, sample_bytes=10_000_000)
    corpus = Corpus(sources=tuple(Source(name=f"web{n}", path=path) for n, path in enumerate(files)))
    items = (item for source in corpus.sources for item in read(source))
    texts = ((item.language, item.text) for item in items if isinstance(item, Document))
    train(sample(texts, training), training, folder)
    return folder


def _watched(child: "subprocess.Popen[str]") -> list[int]:
    """Peak of the anonymous memory of a process and all below it, in bytes; filled while it runs."""
    peak = [0]

    def watch() -> None:
        while child.poll() is None:
            peak[0] = max(peak[0], sum(map(_anonymous, _tree(child.pid))))
            time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()
    return peak


def _cpu_seconds() -> float:
    """Of all children so far, with theirs: start, imports and reading of the files into memory too."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
    tree = {root}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return tree


def _anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="jsonl or jsonl.zst")
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer.json (default: one is trained)")
    parser.add_argument("--workers", type=int, default=2, help="cores for each contestant")
    parser.add_argument("--engine", choices=("native", "ray"), default="native", help="Daft's runner")
    parser.add_argument("--filters", action="store_true", help="ours: repetition, language and near-duplicates too")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), help="contestants")
    parser.add_argument("--measure", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
    else:
        main(arguments)
