"""The same corpus on this machine and on a local Ray cluster: the same bytes of shards, and how long does each take?

    python benchmarks/engines.py SOURCE [--pairs FILE] [--contamination FOLDER] [--workers 2]

SOURCE is a file, a folder or a glob, as in a recipe. Everything that prepare can do is asked for: length, repetition,
language, contamination, exact and near copies, tiers by a function, pairs. The last line is one JSON object; the exit
status is 1 where a byte differs.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SCORE = "def letters(texts):\n    return [4 * sum(map(str.isalpha, t[:2000])) / max(1, len(t[:2000])) for t in texts]\n"


def main(given: argparse.Namespace) -> int:
    """Runs both engines in processes of their own and compares what they left."""
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "marks.py").write_text(SCORE)
        for engine in ("native", "ray"):
            command = [sys.executable, str(Path(__file__).resolve()), *_absolute(given)]
            command += ["--engine", engine, "--out", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=folder)
            found[engine] = row = json.loads(done.stdout.splitlines()[-1])
            counts = f"{row['documents']:>9,} documents  {row['tokens']:>12,} tokens  {row['dropped']:>7,} dropped"
            print(f"{engine:<7} {row['seconds']:>7.1f} s  {counts}  sha256 {row['sha256'][:16]}", flush=True)
    same = found["native"]["sha256"] == found["ray"]["sha256"]
    print("the same bytes" if same else "NOT THE SAME BYTES")
    ratio = found["ray"]["seconds"] / found["native"]["seconds"]
    print(json.dumps({"benchmark": "engines", "ours": found, "peers": {}, "ratios": {"ray / native": ratio},
                      "limit_share": None, "same": same}))  # fmt: skip
    return 0 if same else 1


def _absolute(given: argparse.Namespace) -> list[str]:
    """The arguments for a process that works in the folder of the scoring function."""
    more = [(f"--{name}", getattr(given, name)) for name in ("pairs", "contamination")]
    paths = [part for name, path in more if path for part in (name, str(Path(path).absolute()))]
    return [str(Path(given.source).absolute()), *paths, "--workers", str(given.workers)]


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One engine, from text to shards; the tokenizer is trained by the first and used by both."""
    from tessera.corpus import prepare
    from tessera.plan import corpus as c
    from tessera.tokenizer.sample import sample
    from tessera.tokenizer.tokenizer import Tokenizer, train

    sources = [c.Source(name="web", path=given.source, exclude=("parallel.jsonl.zst", "code.jsonl.zst"),
                        score="marks:letters", tiers=(2.6, 3.1, 3.3))]  # fmt: skip
    if given.pairs:
        sources.append(c.Source(name="parallel", path=given.pairs, kind="pairs"))
    sets = c.Contamination(sets={"evaluation": (given.contamination,)}) if given.contamination else None
    filters = c.Filters(min_characters=40, repetition=c.Repetition(), language=c.LanguageCheck(), contamination=sets)
    asked = c.Corpus(sources=tuple(sources), filters=filters, duplicates=c.Duplicates(near=c.NearDuplicates()))
    started, out = time.monotonic(), given.out / given.engine
    documents = prepare.read(asked, out / "documents", engine=given.engine, workers=given.workers)
    if not (given.out / "tokenizer").exists():
        training = c.TokenizerTraining(vocab_size=16_384, sample_bytes=10_000_000)
        train(sample(documents.texts(), training), training, given.out / "tokenizer")
    report = prepare.encode(documents, Tokenizer.load(given.out / "tokenizer"), out / "shards", workers=given.workers)
    seconds, digest = time.monotonic() - started, hashlib.sha256()
    for path in sorted(p for store in prepare.STORES for p in (out / "shards" / store).iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    dropped = sum(found["count"] for reasons in report.skipped.values() for found in reasons.values())
    return {"seconds": seconds, "sha256": digest.hexdigest(), "dropped": dropped, **report.total("train")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="jsonl, parquet or txt: a file, a folder or a glob")
    parser.add_argument("--pairs", help="files of translations")
    parser.add_argument("--contamination", help="evaluation text that must not be trained on")
    parser.add_argument("--workers", type=int, default=2, help="files at a time")
    parser.add_argument("--engine", choices=("native", "ray"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        print(json.dumps(measure(arguments)))
    else:
        sys.exit(main(arguments))
