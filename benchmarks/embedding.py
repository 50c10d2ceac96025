"""Texts to vectors on CPUs: `Encoder` beside sentence-transformers, for one folder or several, on the same texts.

    python benchmarks/embedding.py TEACHER [STUDENT ...] --texts TEXTS [--rows 360] [--threads 1] [--repeats 4]

TEXTS has a text a line; the second set is passages of six lines each, a sixth of as many. sentence-transformers runs as
people run it: float32, its own batches of 32. All is timed from texts to vectors, tokenizing included; contestants take
turns, and the least of the repeats counts. Ratios are of processor time, which neighbours on the machine do not
stretch, beside the first folder in sentence-transformers. The lowest cosine of ours to theirs is printed too: a fast
way to other vectors would be none. The last line is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]
Way = Callable[[list[str]], Any]  # texts -> vectors

PASSAGE = 6  # lines


def main(given: argparse.Namespace) -> None:
    """Measures every folder in both libraries, prints the table and the JSON line."""
    import torch

    torch.set_num_threads(given.threads)
    lines = [line for line in given.texts.read_text(encoding="utf-8").splitlines() if line.strip()][: given.rows]
    passages = [" ".join(lines[first : first + PASSAGE]) for first in range(0, len(lines), PASSAGE)]
    sets = {f"{len(lines)} texts": lines, f"{len(passages)} passages": passages}
    pairs = [_both(folder) for folder in given.folders]
    found: dict[str, dict[str, Numbers]] = {name: {} for both in pairs for name in both}
    for of, texts in sets.items():
        for name, row in _measured(pairs, texts, given.repeats).items():
            found[name][of] = row
    _show(found, list(sets))
    print(json.dumps({"benchmark": "embedding", "threads": given.threads, "found": found}))


def _both(folder: Path) -> dict[str, Way]:
    """Theirs, then ours."""
    import sentence_transformers

    from tessera import Encoder

    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    ours = Encoder.from_pretrained(folder)
    number = str(ours.dtype).removeprefix("torch.")
    return {
        f"{folder.name}, sentence-transformers, float32": lambda texts: theirs.encode(texts, show_progress_bar=False),
        f"{folder.name}, tessera, {number}": ours.encode,
    }


def _measured(pairs: list[dict[str, Way]], texts: list[str], repeats: int) -> dict[str, Numbers]:
    """Processor seconds of every contestant, and its lowest cosine to sentence-transformers on the same folder."""
    import numpy as np

    found: dict[str, Numbers] = {}
    for both in pairs:
        vectors = [np.asarray(way(texts)) for way in both.values()]
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in vectors]
        for name, rows in zip(both, unit, strict=True):
            found[name] = {"processor_seconds": float("inf"), "lowest_cosine": float((rows * unit[0]).sum(1).min())}
    for _ in range(repeats):
        for name, way in ((name, way) for both in pairs for name, way in both.items()):
            begun = time.process_time()
            way(texts)
            found[name]["processor_seconds"] = min(found[name]["processor_seconds"], time.process_time() - begun)
    return found


def _show(found: dict[str, dict[str, Numbers]], sets: list[str]) -> None:
    first = next(iter(found.values()))
    print(f"{'processor seconds (times as fast as the first)':<58}", *(f"{of:>18}" for of in sets), f"{'cosine':>9}")
    for name, row in found.items():
        cells = [
            f"{row[of]['processor_seconds']:.2f} ({first[of]['processor_seconds'] / row[of]['processor_seconds']:.1f})"
            for of in sets
        ]
        lowest = min(row[of]["lowest_cosine"] for of in sets)
        print(f"{name:<58}", *(f"{cell:>18}" for cell in cells), f"{lowest:>9.6f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--texts", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=360)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=4)
    main(parser.parse_args())
