"""Encoding speed by the harness of the papers: ours, transformers, and the models they compare with.

    python benchmarks/efficiency.py --write docs/results/efficiency.md     on a GPU; about half an hour
    python benchmarks/efficiency.py --documents 16 --passes 3              on a CPU, as far as patience goes
    python benchmarks/efficiency.py --rehearse                             tiny shapes on a CPU: measures nothing

Random token ids, random weights, documents of four kinds, as in ModernBERT's harness (arXiv:2412.13663), which mmBERT
used too: 512 tokens; 8,192 tokens; normal (256, 64) cut to 16..512; normal (4,096, 1,024) cut to 16..8,192; seed 42.
The batch of each model is the largest, doubling, that fits on the fixed lengths, and is used for the variable ones
too; batches are taken in the order of the documents, and peers pad them. Ten passes over all documents, mean and
standard deviation, after one that is not counted; a pass ends when the device is done. Tokens are those of the
documents; padding counts for nobody. All in bfloat16 where the device multiplies in it. A vector is the mean of the
hidden states.

The published figures are those of mmBERT's chart (arXiv:2509.06888), read from its bars, right to about 0.5K. Its GPU
is not known: ratios can be compared, tokens a second cannot. The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]

PARTS = Path(__file__).with_name("efficiency_parts.py")
OURS = ("mmbert-small", "mmbert-base", "eurobert-210m")  # by tessera and by transformers
OTHERS = ("minilm", "mdistilbert", "xlm-r-base")  # at most 512 tokens, by transformers
KINDS = {"512": 512, "512 variable": 512, "8192": 8192, "8192 variable": 8192}  # the longest document
PUBLISHED = {  # thousands of tokens a second, in the order of KINDS
    "minilm": (102.6, 49.7, None, None),
    "mdistilbert": (118.0, 57.6, None, None),
    "mmbert-small": (220.2, 229.7, 199.7, 210.3),
    "xlm-r-base": (62.1, 31.2, None, None),
    "mmbert-base": (100.2, 102.9, 91.5, 95.8),
}
BESIDE = "xlm-r-base"  # "2 to 4 times faster than XLM-R"
NO_MEASUREMENT = "REHEARSAL with tiny shapes: these figures measure nothing"


# This process loads no torch: the memory of the GPU is the children's.
def main(given: argparse.Namespace) -> None:
    """Runs every contestant on every kind of document, prints the table and the JSON line."""
    if given.rehearse:
        print(NO_MEASUREMENT)
    found: dict[str, dict[str, Numbers]] = {}
    machine = _child(given, {"what": "machine"})
    print(f"{machine['device']}, {machine['dtype']}, {given.documents} documents, {given.passes} passes\n")
    print(f"{'':<28} {'documents':<14} {'tokens/s':>18} {'batch':>6} {'memory':>10} {'published':>10}")
    for name, model in _contestants(given.models):
        batches: dict[int, int] = {}
        for kind, longest in ((kind, KINDS[kind]) for kind in given.kinds):
            if model in OTHERS and longest > 512:
                continue
            case = {"what": "time", "name": name, "model": model, "kind": kind, "batch": batches.get(longest)}
            row = _child(given, case)
            found.setdefault(f"{model}, {name}", {})[kind] = row
            if "error" in row:
                print(f"{model + ', ' + name:<28} {kind:<14} {row['error']}", flush=True)
                continue
            batches.setdefault(longest, row["batch"])
            published = PUBLISHED.get(model, (None,) * 4)[list(KINDS).index(kind)]
            speed = f"{row['tokens_per_second']:,.0f} ± {row['spread']:,.0f}"
            print(f"{model + ', ' + name:<28} {kind:<14} {speed:>18} {row['batch']:>6} "
                  f"{row['peak_bytes'] / 2**30:>6.1f} GiB {f'{published:.1f}K' if published else '-':>10}",
                  flush=True)  # fmt: skip
    result = {
        "benchmark": "efficiency",
        "rehearsal": given.rehearse,
        "ours": {name: rows for name, rows in found.items() if name.endswith("tessera")},
        "peers": {name: rows for name, rows in found.items() if not name.endswith("tessera")},
        "ratios": ratios(found),
        "machine": machine,
        "setting": {"documents": given.documents, "passes": given.passes},
    }
    print("\n" + "\n".join(_told(result)))
    if given.write is not None:
        given.write.write_text(page(result), encoding="utf-8")
    print(json.dumps(result))


def _contestants(models: list[str]) -> list[tuple[str, str]]:
    names = [(name, model) for model in models if model in OURS for name in ("tessera", "transformers")]
    return names + [("transformers", model) for model in models if model in OTHERS]


def ratios(found: dict[str, dict[str, Numbers]]) -> dict[str, dict[str, Numbers]]:
    """Ours beside transformers on the same model, beside XLM-R at 512, and what was published of the latter."""
    said: dict[str, dict[str, Numbers]] = {}
    for model in OURS:
        for kind in KINDS:
            ours, theirs, others = (
                found.get(name, {}).get(kind, {}).get("tokens_per_second")
                for name in (f"{model}, tessera", f"{model}, transformers", f"{BESIDE}, transformers")
            )
            at = list(KINDS).index(kind)
            published, of_others = PUBLISHED.get(model, (None,) * 4)[at], PUBLISHED[BESIDE][at]
            row = {
                "transformers": ours / theirs if ours and theirs else None,
                BESIDE: ours / others if ours and others else None,
                "published": published / of_others if published and of_others else None,
            }
            if row["transformers"] or row[BESIDE]:
                said.setdefault(model, {})[kind] = row
    return said


def _told(result: Numbers) -> list[str]:
    lines = []
    for model, kinds in result["ratios"].items():
        for kind, row in kinds.items():
            parts = [f"{row['transformers']:.1f} times transformers" if row["transformers"] else ""]
            parts.append(f"{row[BESIDE]:.1f} times {BESIDE}" if row[BESIDE] else "")
            parts[-1] += f" (published: {row['published']:.1f})" if row[BESIDE] and row["published"] else ""
            lines.append(f"{model}, {kind}: tessera is {', '.join(part for part in parts if part)}")
    return lines


def _child(given: argparse.Namespace, case: Numbers) -> Numbers:
    """What a process of its own printed last, or {"error": why}."""
    case |= {"rehearse": given.rehearse, "documents": given.documents, "passes": given.passes}
    done = subprocess.run(
        [sys.executable, str(PARTS), json.dumps(case)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"},
    )
    if done.returncode:
        if case["what"] == "machine":
            sys.exit(done.returncode)
        return {"error": f"its process ended with {done.returncode}; what it died of stands above"}
    return json.loads(done.stdout.splitlines()[-1])


def page(result: Numbers) -> str:
    """The results as a page of docs/results."""
    machine, setting = result["machine"], result["setting"]
    said = [
        "# Encoding by the papers' harness\n",
        *([f"**{NO_MEASUREMENT}.**\n"] if result["rehearsal"] else []),
        f"`python benchmarks/efficiency.py`, {date.today().isoformat()}: {machine['device']}, {machine['dtype']}, "
        f"torch {machine['torch']}, {setting['documents']:,} documents, {setting['passes']} passes. Tokens a second, "
        "mean and standard deviation; published figures (mmBERT's chart, another GPU) in thousands. What is counted "
        "stands in the program's first lines.\n",
        "| | documents | tokens/s | batch | memory, GiB | published |\n|---|---|---|---|---|---|",
    ]
    for name, rows in {**result["ours"], **result["peers"]}.items():
        for kind, row in rows.items():
            published = PUBLISHED.get(name.partition(",")[0], (None,) * 4)[list(KINDS).index(kind)]
            said.append(
                f"| {name} | {kind} | {row['error']} | | | |"
                if "error" in row
                else f"| {name} | {kind} | {row['tokens_per_second']:,.0f} ± {row['spread']:,.0f} | {row['batch']} | "
                f"{row['peak_bytes'] / 2**30:.1f} | {f'{published:.1f}K' if published else ''} |"
            )
    return "\n".join([*said, "", *(f"- {line}" for line in _told(result)), ""])


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line; a rehearsal has sizes of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=None, help="4096; in a rehearsal 6")
    parser.add_argument("--passes", type=int, default=None, help="that are timed: 10; in a rehearsal 2")
    parser.add_argument("--models", nargs="+", choices=(*OURS, *OTHERS), default=[*OURS, *OTHERS])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="of documents")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes, to see that all of it runs")
    parser.add_argument("--write", type=Path, help="a page of Markdown, as docs/results/efficiency.md")
    given = parser.parse_args(words)
    for name, rehearsed, measured in (("documents", 6, 4096), ("passes", 2, 10)):
        if getattr(given, name) is None:
            setattr(given, name, rehearsed if given.rehearse else measured)
        elif getattr(given, name) < 1:
            parser.error(f"--{name} is {getattr(given, name)}; give 1 or more")
    return given


if __name__ == "__main__":
    main(arguments())
