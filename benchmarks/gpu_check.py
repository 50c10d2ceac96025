"""The first minutes on a GPU: is it right, how fast, where does the time go; parts in order of worth, in one JSON file.

    make gpu-check                                         what fits into 300 seconds, in order
    python benchmarks/gpu_check.py --out F --parts steps   some of it
    python benchmarks/gpu_check.py --out F --rehearse      all of it with tiny shapes on a CPU: measures nothing

    ceilings   what this GPU can do: copies, products of mmBERT-base's shapes
    parity     attention and tiny models against float32, forward and backward
    kernels    the attention kernel alone
    loss       the loss at masked positions and its rivals
    steps      training steps of mmBERT-base, one change at a time: MFU, memory beside the plan's
    profile    the largest kernels of a step
    tests      pytest -m gpu
    encode     vectors: ours, transformers, XLM-R
    peers      training steps of transformers

Each part is a process of its own with a limit of its own. Rows are printed as they come, and after each one
F/gpu_check.json is written anew and whole: a part that fails, hangs or runs out of time keeps the rows before, and the
next one begins. What the processes say beside is in F/gpu_check.log. Packages that a bare machine lacks come from a
folder of wheels (`make gpu-wheels`, --wheels). The exit status is 1 where a part failed or an answer is wrong.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
CHILD = Path(__file__).with_name("gpu_check_parts.py")
PARTS = {  # seconds at most
    "ceilings": 40, "parity": 60, "kernels": 45, "loss": 60, "steps": 240, "profile": 70, "tests": 120, "encode": 150,
    "peers": 150,
}  # fmt: skip
LEAST = 8.0  # seconds that a part needs to say anything at all
NEEDED = ("torch", "numpy", "scipy", "pyarrow", "yaml", "pydantic", "optimi", "tokenizers", "safetensors", "zstandard",
          "transformers", "typer", "rich", "packaging", "huggingface_hub", "pytest", "hypothesis")  # fmt: skip
RIVALS = ("liger_kernel", "cut_cross_entropy")
NO_MEASUREMENT = "REHEARSAL on a CPU with tiny shapes: these figures measure nothing"


# This process loads no torch: the memory of the GPU is the children's.
def main(given: argparse.Namespace) -> int:
    """Runs the parts; the exit status."""
    end = time.monotonic() + given.seconds
    given.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no child is left behind
    result: Numbers = {"benchmark": "gpu_check", "rehearsal": given.rehearse, "seconds": given.seconds, "parts": {}}
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as place:
        path = [str(ROOT), *site_of(given.wheels, Path(place), rivals=not given.rehearse)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]),
               "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
               "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}  # fmt: skip
        print(NO_MEASUREMENT if given.rehearse else f"what fits into {given.seconds:.0f} s, in order of worth")
        for name in given.parts:
            print(f"\n== {name}", flush=True)
            part = result["parts"][name] = {"rows": []}
            limit = given.seconds if given.rehearse else min(PARTS[name], end - time.monotonic())
            for row in run(name, given, limit, env, part):
                part["rows"].append(row)
                print(f"   {told(row)}", flush=True)
                save(result, given.out)
            save(result, given.out)
            print(f"   {part['seconds']:.1f} s{', ' + part['error'] if 'error' in part else ''}", flush=True)
    print("\n" + "\n".join(summary(result)))
    return int(any("error" in part or wrong(part) for part in result["parts"].values()))


def run(name: str, given: argparse.Namespace, limit: float, env: dict[str, str], part: Numbers) -> Iterator[Numbers]:
    """The rows of a part as they come; `part` gets its seconds and, where it did not come to its end, its error."""
    began = time.monotonic()
    part["seconds"] = 0.0
    if limit < LEAST:
        part["error"] = "no time was left"
        return
    words = [sys.executable, "-W", "ignore", str(CHILD), name, str(given.out), *(["--rehearse"] * given.rehearse)]
    log = given.out / "gpu_check.log"
    with log.open("a") as beside:
        beside.write(f"== {name}\n")
        beside.flush()
        # A group of its own, so that what it started is ended with it.
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=beside, text=True, env=env, process_group=0
        ) as child:
            clock = threading.Timer(limit, end_group, [child])
            clock.start()
            try:
                assert child.stdout is not None
                yield from (json.loads(line[4:]) for line in child.stdout if line.startswith("ROW "))
                child.wait()
            finally:
                clock.cancel()
                end_group(child)
    part["seconds"] = round(time.monotonic() - began, 1)
    if part["seconds"] >= limit:
        part["error"] = f"cut after {limit:.0f} s"
    elif child.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1]
        part["error"] = f"ended with {child.returncode}: {last[-300:]}"


def end_group(child: subprocess.Popen[str]) -> None:
    """Ends the process and all that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    child.wait()


def save(result: Numbers, out: Path) -> None:
    """The JSON file, whole at any time."""
    draft = out / "gpu_check.json.part"
    draft.write_text(json.dumps(result, indent=1), encoding="utf-8")
    draft.replace(out / "gpu_check.json")


def site_of(wheels: Path | None, place: Path, *, rivals: bool) -> list[str]:
    """A folder with the packages that are missing here, out of wheels; [] where none is missing or at hand."""
    wanted = (NEEDED, RIVALS if rivals else ())
    missing, absent = ([name for name in names if importlib.util.find_spec(name) is None] for names in wanted)
    found = sorted(map(str, wheels.glob("*.whl"))) if wheels is not None else []
    if missing and not found:
        sys.exit(f"error: {', '.join(missing)} missing, and no wheels in {wheels}; `make gpu-wheels` where there is a "
                 "network, carry the folder here and name it with --wheels")  # fmt: skip
    if not found or not missing + absent:
        return []
    print(f"{', '.join(missing + absent)} missing: {len(found)} wheels from {wheels}", flush=True)
    words = ["install", "-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--target", str(place)]
    subprocess.run([sys.executable, "-m", "pip", *words, *found], check=bool(missing))
    return [str(place)]


# --------------------------------------------------------------------------------------------------- what people read


def told(row: Numbers) -> str:
    """A row as one line, and under it the table that it may have."""
    values = (f"{key} {shown(value)}" for key, value in row.items() if key not in ("row", "table"))
    lines = [f"{row['row']:<44} {'  '.join(values)}"]
    lines += [f"      {ms:>10.3f} ms {count:>6} x {kernel}" for kernel, count, ms in row.get("table", [])]
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A number with four digits that count."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def wrong(part: Numbers) -> bool:
    """Whether a row of it says that an answer is not right."""
    return any(row.get("right") is False or "error" in row for row in part["rows"])


def summary(result: Numbers) -> list[str]:
    """What the parts found, one line each, and what was to be reached."""
    lines = []
    for name, part in result["parts"].items():
        state = part.get("error") or ("WRONG, see above" if wrong(part) else "done")
        lines.append(f"{name:<10} {len(part['rows']):>3} rows  {part['seconds']:>6.1f} s  {state}")
    aims = [row for part in result["parts"].values() for row in part["rows"] if "aim" in row]
    if aims and not result["rehearsal"]:
        lines += ["", *(f"{row['row']}: {shown(row['found'])}, aim {shown(row['aim'])}" for row in aims)]
    return lines


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder for gpu_check.json and gpu_check.log")
    parser.add_argument(
        "--seconds", type=float, default=300, help="for all parts together (300); in a rehearsal for each"
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels for what is not installed here")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on a CPU, to see that all of it runs")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main(arguments()))
