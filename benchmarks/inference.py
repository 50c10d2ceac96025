"""Encoding on CPUs: ours beside transformers and OpenVINO on the same weights and the same texts.

    python benchmarks/inference.py [--shape mmbert-small] [--lengths mixed] [--threads 2] [--seconds 8] [--only ...]
    python benchmarks/inference.py --shape mmbert-base --lengths 512
    python benchmarks/inference.py --baselines            # XLM-R and multilingual MiniLM shapes beside ours
    python benchmarks/inference.py --every                # all shapes and lengths, what is to be reached, exit status

Random weights from a seed, random token ids; what is timed is everything from ids to normalized vectors, tokenizing is
not. Tokens are those of the texts; padding counts for nobody. Lengths:

    mixed        64 texts, log-normal, mean about 91, at most 512
    512          16 texts of 512
    8192         1 text of 8,192
    8192-mixed   8 texts, normal (4,096, 1,024), at most 8,192
    one          one text of 16 tokens at a time: latency

Each contestant runs in a process of its own. Where the processor has no bfloat16 products (AVX512_BF16 or AMX), those
of float32 stand in their place, in what is compared and in what is to be reached, and int8 of our own, which needs
AVX512_VNNI, is left out. The limit is the time that the matrix products need by themselves, measured here and now:
those of the layers, timed, and those of attention over visible pairs only, counted at the rate of the others; int8 may
come above it. The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from inference_parts import BASELINES, INT8, OURS, PEERS, SHAPES, measure  # loads no torch by itself

Numbers = dict[str, Any]

AIMS = {PEERS[0]: 16.0, PEERS[3]: 1.5}  # times the speed, of mmbert-small on mixed lengths
AIM_OF_LIMIT = 0.6

EVERY = (  # shape, lengths; and the floors: ours / OpenVINO, of the limit, int8 / bfloat16 (None: no floor)
    ("mmbert-small", "mixed", 1.25, 0.75, 1.5),
    ("mmbert-small", "512", 1.25, 0.70, 1.5),
    ("mmbert-small", "one", 1.0, None, None),
    ("mmbert-small", "8192", 1.25, None, None),
    ("mmbert-small", "8192-mixed", 1.25, None, None),
    ("mmbert-base", "mixed", 1.25, None, None),
    ("eurobert-210m", "mixed", 1.25, None, None),
    ("minilm", "mixed", 1.25, None, None),
)
_ROUNDS = 2  # each is measured so often, in turns; the best counts
_NUMBERS = {"bfloat16": (OURS[0], PEERS[3]), "float32": (OURS[2], PEERS[2])}  # ours and OpenVINO's in it


# This process loads no torch: a child's peak memory begins with what its parent holds.
def main(given: argparse.Namespace) -> None:
    """Runs every contestant, prints the table and the JSON line."""
    settings = ["--shape", given.shape, "--lengths", given.lengths, "--threads", given.threads]
    settings += ["--seconds", given.seconds, *(["--processor-time"] if given.processor_time else [])]
    print(f"{given.shape}, lengths {given.lengths}, {given.threads} threads", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        made = _child("weights", folder, settings)
        print(f"{made['texts']} texts, {made['tokens']:,} tokens, longest {made['longest']:,}", flush=True)
        limit = _child("limit", folder, settings)
        print(f"limit of the matrix products in {limit['dtype']}: {limit['tokens_per_second']:,.0f} tokens/s at "
              f"{limit['gflops_per_second']:,.0f} GFLOP/s\n")  # fmt: skip
        print(f"{'':<41} {'tokens/s':>9} {'of limit':>9} {'ms a text':>10} {'memory':>9} {'worst cosine':>13}")
        found: dict[str, Numbers] = {}
        able = limit["dtype"] == "bfloat16"
        for name in given.only or [name for name in (*OURS, *PEERS) if able or "bfloat16" not in name]:
            row = _child("quantize", folder, settings) if name == INT8 else {}
            row = row or _child(name, folder, settings)
            if "missing" in row:
                print(f"{name:<41} {row['missing']}", flush=True)
                continue
            found[name] = row
            row["limit_share"] = row["tokens_per_second"] / limit["tokens_per_second"]
            print(f"{name:<41} {row['tokens_per_second']:>9,.0f} {row['limit_share']:>9.1%} "
                  f"{1e3 * row['seconds'] / made['texts']:>10.1f} {row['peak_bytes'] / 2**30:>5.2f} GiB "
                  f"{row['worst_cosine']:>13.6f}", flush=True)  # fmt: skip
        for name in BASELINES if given.baselines else ():
            row = found[name] = _child(name, folder, settings)
            print(f"{name + ', transformers, float32, batch 32':<41} {row['tokens_per_second']:>9,.0f}", flush=True)
    print(json.dumps(_summary(given, found, limit, made)))


def every(given: argparse.Namespace) -> int:
    """All shapes and lengths beside the peer; 1 where a floor is missed, or what has one was not measured in time."""
    until, missed, rows = time.monotonic() + 60 * given.minutes, [], []
    print(f"{'':<26} {'limit':>7} {'ours':>9} {'of limit':>9} {'OpenVINO':>9} {'ours / it':>9} {'int8':>8} "
          f"{'int8 / ours':>11} {'cosine':>8} {'int8':>8}", flush=True)  # fmt: skip
    for shape in dict.fromkeys(shape for shape, *_ in EVERY):
        with tempfile.TemporaryDirectory() as folder:
            for lengths, *floors in [row[1:] for row in EVERY if row[0] == shape]:
                name = f"{shape}, {lengths}"
                if time.monotonic() > until:
                    missed.append(f"{name}: not measured within {given.minutes:g} minutes")
                    continue
                row = _one_of_every(given, folder, shape, lengths)
                rows.append({"name": name, **row})
                print(f"{name:<26} {row['limit']:>7,.0f} {row['ours']:>9,.0f} {row['of_limit']:>9.1%} "
                      f"{row['openvino']:>9,.0f} {row['ratio']:>9.2f} {row['int8']:>8,.0f} {row['int8_ratio']:>11.2f} "
                      f"{row['cosine']:>8.5f} {row['int8_cosine']:>8.5f}", flush=True)  # fmt: skip
                for key, floor in zip(("ratio", "of_limit", "int8_ratio"), floors, strict=True):
                    left_out = key == "int8_ratio" and "int8" in row["left_out"]
                    if floor is not None and not left_out and not row[key] >= floor:
                        missed.append(f"{name}: {key} is {row[key]:.2f}, the floor is {floor:g}")
    print("", *missed, sep="\n")
    if rows:
        print(f"ours and OpenVINO in {rows[0]['dtype']}", *rows[0]["left_out"].values(), sep="; ")
    print(json.dumps({"benchmark": "inference --every", "threads": given.threads, "rows": rows, "missed": missed}))
    return 1 if missed else 0


def _one_of_every(given: argparse.Namespace, folder: str, shape: str, lengths: str) -> Numbers:
    """Ours, the peer and our int8, in turns; nan for what cannot be measured here."""
    settings = ["--shape", shape, "--lengths", lengths, "--threads", given.threads, "--seconds", given.seconds]
    settings += ["--processor-time"] if given.processor_time else []
    _child("weights", folder, settings)
    best: dict[str, Numbers] = {}
    limit, left_out = _child("limit", folder, settings), dict[str, str]()
    dtype, most = limit["dtype"], limit["tokens_per_second"]
    names = [*_NUMBERS[dtype], *([] if shape in BASELINES else [OURS[1]])]
    for turn in range(_ROUNDS):
        if turn:
            most = max(most, _child("limit", folder, settings)["tokens_per_second"])
        for name in names:
            found = _child(name, folder, settings)
            if "missing" in found:
                left_out["int8" if name == OURS[1] else name] = f"{name}: {found['missing']}"
            elif found["tokens_per_second"] > best.get(name, {}).get("tokens_per_second", 0.0):
                best[name] = found
    nothing = {"tokens_per_second": float("nan"), "worst_cosine": float("nan")}
    ours, peer, int8 = (best.get(name, nothing) for name in (*_NUMBERS[dtype], OURS[1]))
    speed = ours["tokens_per_second"]
    return {
        "dtype": dtype,
        "limit": most,
        "ours": speed,
        "of_limit": speed / most,
        "openvino": peer["tokens_per_second"],
        "ratio": speed / peer["tokens_per_second"],
        "int8": int8["tokens_per_second"],
        "int8_ratio": int8["tokens_per_second"] / speed,
        "cosine": ours["worst_cosine"],
        "int8_cosine": int8["worst_cosine"],
        "left_out": left_out,
    }


def _summary(given: argparse.Namespace, found: dict[str, Numbers], limit: Numbers, made: Numbers) -> Numbers:
    """Ours beside each of the others, printed with what is to be reached where bfloat16 is there."""
    name_of_ours = _NUMBERS[limit["dtype"]][0]
    ours, ratios = found.get(name_of_ours), {}
    aimed = given.shape == "mmbert-small" and given.lengths == "mixed" and limit["dtype"] == "bfloat16"
    if ours is not None:
        print(f"\n{name_of_ours + ', beside':<41} {'speed':>7} {'aim':>6}")
        for name, other in found.items():
            if name != name_of_ours:
                ratios[name] = ours["tokens_per_second"] / other["tokens_per_second"]
                aim = f"{AIMS[name]:g}" if aimed and name in AIMS else ""
                print(f"{name:<41} {ratios[name]:>6.2f}x {aim:>6}")
        print(f"{'the limit':<41} {ours['limit_share']:>6.2f}x {AIM_OF_LIMIT if aimed else '':>6}\n")
    return {
        "benchmark": "inference",
        "ours": {name: row for name, row in found.items() if name in OURS},
        "peers": {name: row for name, row in found.items() if name not in OURS},
        "ratios": ratios,
        "limit_share": ours["limit_share"] if ours is not None else None,
        "limit": limit,
        "setting": {"shape": given.shape, "lengths": given.lengths, "threads": given.threads, **made},
    }


def _child(what: str, folder: str, settings: list[Any]) -> Numbers:
    """What a process of its own printed last."""
    command = [sys.executable, __file__, "--measure", what, "--folder", folder, *map(str, settings)]
    threads = str(settings[settings.index("--threads") + 1])
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONWARNINGS": "ignore"},
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default=SHAPES[0])
    parser.add_argument("--lengths", choices=("mixed", "512", "8192", "8192-mixed", "one"), default="mixed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8, help="how long each contestant repeats; the best counts")
    parser.add_argument("--only", nargs="+", choices=(*OURS, *PEERS))
    parser.add_argument("--baselines", action="store_true", help="XLM-R and multilingual MiniLM shapes too")
    parser.add_argument("--every", action="store_true", help="all shapes and lengths; exit status 1 under a floor")
    parser.add_argument(
        "--minutes", type=float, default=20, help="of --every: what is not begun by then is not measured"
    )
    parser.add_argument("--processor-time", action="store_true", help="where others use the machine; with --threads 1")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what a child does
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.folder, arguments.shape, arguments.lengths,
                                 arguments.threads, arguments.seconds,
                                 processor=arguments.processor_time)))  # fmt: skip
    elif arguments.every:
        sys.exit(every(arguments))
    else:
        main(arguments)
