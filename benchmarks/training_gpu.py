"""Training on one GPU: ours beside transformers, in tokens a second, share of the GPU's peak, and memory.

    python benchmarks/training_gpu.py --write docs/results/gpu.md    half an hour; needs CUDA and [evaluate]
    python benchmarks/training_gpu.py --rehearse                     tiny shapes on a CPU: measures nothing

The same weights, documents, masks and AdamW for all; matrix products in bfloat16, dropout off. A step is four passes of
exactly as many tokens as the budget. MFU counts model FLOPs: tokens of documents (padding counts for nobody), pairs
that see each other under the windows, the head at masked positions, times 3; over the peak of the data sheet, or where
the GPU has no row in plan/cost.py over a measured product. Every contestant has to give the answer of tiny models in
float32 on the CPU first; a wrong one is not timed. Each runs in a process of its own. Where memory does not suffice,
its passes are halved until it does. The last line is one JSON object.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]

OURS = ("tessera", "tessera, compiled")
PEERS = ("transformers, sdpa", "transformers, flash_attention_2")
HEADS = ("tessera", "plain logits", "linear_cross_entropy", "liger", "cut-cross-entropy")
PRESETS = ("mmbert-base", "mmbert-small", "eurobert-210m")
CONTEXTS = (1024, 8192)
AIM = ("mmbert-base", 0.45)  # MFU, at both contexts, on an H200
PARTS = Path(__file__).with_name("training_gpu_parts.py")
NO_MEASUREMENT = "REHEARSAL on a CPU with tiny shapes: these figures measure nothing"


# This process loads no torch: the memory of the GPU is the children's.
def main(given: argparse.Namespace) -> int:
    """Runs everything, prints the tables and the JSON line; the exit status is 1 where an answer of ours is wrong."""
    if given.rehearse:
        print(NO_MEASUREMENT)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        machine = _child(given, folder, {"what": "machine"})
        given.peak_flops = machine["peak_flops"]
        print(f"{_told(machine)}\n", flush=True)
        answers = {name: _child(given, folder, {"what": "parity", "name": name}) for name in given.only}
        _print_answers(answers)
        right = [name for name, row in answers.items() if row.get("right")]
        steps: dict[str, dict[str, Numbers]] = {}
        heads: dict[str, dict[str, Numbers]] = {}
        for preset in given.presets:
            _child(given, folder, {"what": "weights", "preset": preset})
            for context in given.contexts:
                steps[f"{preset}, {context:,}"] = _measure(given, folder, preset, context, right)
            heads[preset] = _measure_heads(given, folder, preset)
            shutil.rmtree(folder / preset, ignore_errors=True)
    result = {
        "benchmark": "training_gpu",
        "rehearsal": given.rehearse,
        "ours": _of(steps, OURS),
        "peers": _of(steps, PEERS),
        "ratios": _ratios(steps),
        "limit_share": {case: best["mfu"] for case, rows in steps.items() if (best := _best(rows))},
        "heads": heads,
        "parity": answers,
        "machine": machine,
        "setting": {"budget": given.budget, "steps": given.steps, "warmup": given.warmup, "lengths": given.lengths},
    }
    for case, share in result["limit_share"].items():
        if case.startswith(AIM[0]) and not given.rehearse:
            print(f"\n{case}: MFU {share:.1%}, aim {AIM[1]:.0%}")
    if given.write is not None:
        given.write.write_text(page(result), encoding="utf-8")
    print(json.dumps(result))
    return int(any(name in OURS and row.get("right") is False for name, row in answers.items()))


def _told(machine: Numbers) -> str:
    peak, product = (f"{machine[key] / 1e12:,.4g}" for key in ("peak_flops", "product_flops"))
    return (
        f"{machine['device']}, torch {machine['torch']}; peak {peak} TFLOP/s ({machine['peak_source']}), square "
        f"products as measured {product}"
    )


def _measure(
    given: argparse.Namespace, folder: Path, preset: str, context: int, right: list[str]
) -> dict[str, Numbers]:
    """A row for each contestant, printed as it comes."""
    print(f"\n{preset}, documents of at most {context:,} tokens, {given.lengths}")
    print(f"{'':<32} {'tokens/s':>10} {'MFU':>7} {'peak memory':>12} {'a pass':>8} {'padding':>8} {'first loss':>11}")
    rows: dict[str, Numbers] = {}
    for name in right:
        case = {"what": "train", "name": name, "preset": preset, "context": context, "halved": 0}
        rows[name] = row = _child(given, folder, case)
        while row.get("full") and case["halved"] < 6:
            case["halved"] += 1
            rows[name] = row = _child(given, folder, case)
        if "mfu" not in row:
            print(f"{name:<32} {row.get('error', 'memory is full even with one document a pass')}", flush=True)
            continue
        memory = f"{row['peak_bytes'] / 2**30:.1f} GiB"
        print(
            f"{name:<32} {row['tokens_per_second']:>10,.0f} {row['mfu']:>7.1%} {memory:>12} "
            f"{row['tokens_a_pass']:>8,.0f} {row['padding']:>8.0%} {row['losses'][0]:>11.4f}",
            flush=True,
        )
    return rows


def _measure_heads(given: argparse.Namespace, folder: Path, preset: str) -> dict[str, Numbers]:
    """The ways to the loss at the masked positions, from hidden states on and back."""
    rows = {}
    for name in HEADS:
        rows[name] = _child(given, folder, {"what": "head", "name": name, "preset": preset})
        if len(rows) == 1:
            first = rows[name]
            print(f"\n{preset}, loss of {first.get('positions', 0):,} masked positions and its gradients")
            print(f"{'':<32} {'ms':>10} {'of peak':>8} {'peak memory':>12} {'loss off by':>12} {'gradient':>9}")
        row = rows[name]
        if "seconds" not in row:
            print(f"{name:<32} {row['error']}", flush=True)
            continue
        print(f"{name:<32} {1e3 * row['seconds']:>10.2f} {row['of_peak']:>8.1%} {row['peak_bytes'] / 2**30:>8.2f} GiB "
              f"{row['loss_off']:>12.1e} {row['gradient_off']:>9.1e}", flush=True)  # fmt: skip
    return rows


def _print_answers(answers: dict[str, Numbers]) -> None:
    print(f"{'tiny models, beside float32 on the CPU':<40} {'loss off by':>12} {'gradient off by':>16}")
    for name, row in answers.items():
        if "error" in row:
            print(f"{name:<40} {row['error']}")
        else:
            verdict = "" if row["right"] else "   WRONG: not timed"
            print(f"{name:<40} {row['loss_off']:>12.1e} {row['gradient_off']:>16.1e}{verdict}", flush=True)


def _of(steps: dict[str, dict[str, Numbers]], names: tuple[str, ...]) -> dict[str, dict[str, Numbers]]:
    return {case: {name: row for name, row in rows.items() if name in names} for case, rows in steps.items()}


def _ratios(steps: dict[str, dict[str, Numbers]]) -> dict[str, dict[str, Numbers]]:
    """The fastest of ours beside each peer."""
    ratios: dict[str, dict[str, Numbers]] = {}
    for case, rows in steps.items():
        ours = _best(rows)
        for name in PEERS:
            if ours is not None and "mfu" in (peer := rows.get(name, {})):
                ratios.setdefault(case, {})[name] = {
                    "speed": ours["tokens_per_second"] / peer["tokens_per_second"],
                    "memory": ours["peak_bytes"] / max(1, peer["peak_bytes"]),
                }
    return ratios


def _best(rows: dict[str, Numbers]) -> Numbers | None:
    timed = [row for name, row in rows.items() if name in OURS and "mfu" in row]
    return max(timed, key=lambda row: row["mfu"], default=None)


def _child(given: argparse.Namespace, folder: Path, case: Numbers) -> Numbers:
    """What a process of its own found; with --keep, what an earlier call of this program found already."""
    case |= {"rehearse": given.rehearse, "budget": given.budget, "steps": given.steps, "warmup": given.warmup,
             "lengths": given.lengths, "peak_flops": getattr(given, "peak_flops", None)}  # fmt: skip
    kept = None
    if given.keep is not None and case["what"] in ("train", "head", "parity"):
        given.keep.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(json.dumps(case, sort_keys=True).encode()).hexdigest()[:16]
        kept = given.keep / f"{case['what']}-{digest}.json"
        if kept.exists():
            return json.loads(kept.read_text())["found"]
    done = subprocess.run(
        [sys.executable, str(PARTS), json.dumps({**case, "folder": str(folder)})],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode:
        if case["what"] in ("machine", "weights"):
            sys.exit(done.returncode)
        return {"error": f"its process ended with {done.returncode}; what it died of stands above"}
    found = json.loads(done.stdout.splitlines()[-1])
    if kept is not None:
        kept.write_text(json.dumps({"case": case, "found": found}))
    return found


# -------------------------------------------------------------------------------------------------------- the page


def page(result: Numbers) -> str:
    """The results as a page of docs/results."""
    setting = result["setting"]
    said = [
        "# Training on one GPU\n",
        *([f"**{NO_MEASUREMENT}.**\n"] if result["rehearsal"] else []),
        f"`python benchmarks/training_gpu.py --write docs/results/gpu.md`, {date.today().isoformat()}. "
        f"{_told(result['machine'])}. Steps of four passes of {setting['budget']:,} tokens, {setting['warmup']} before "
        f"the {setting['steps']} that are timed; lengths of documents: {setting['lengths']}. What is counted stands "
        "in the program's first lines.\n",
    ]
    for case, rows in result["ours"].items():
        said.append(f"## {case}\n\n| | tokens/s | MFU | peak memory, GiB | tokens a pass | padding | first loss |")
        said.append("|---|---|---|---|---|---|---|")
        for name, row in {**rows, **result["peers"][case]}.items():
            said.append(
                f"| {name} | {row['tokens_per_second']:,.0f} | {row['mfu']:.1%} | {row['peak_bytes'] / 2**30:.1f} | "
                f"{row['tokens_a_pass']:,.0f} | {row['padding']:.0%} | {row['losses'][0]:.4f} |"
                if "mfu" in row
                else f"| {name} | {row.get('error', 'memory is full')} | | | | | |"
            )
        for peer, ratio in result["ratios"].get(case, {}).items():
            said.append(f"\nBeside {peer}: {ratio['speed']:.2f} times the speed, {ratio['memory']:.2f} of the memory.")
        said.append("")
    for preset, rows in result["heads"].items():
        said.append(
            f"## The loss of {preset} at masked positions\n\n| | ms | of peak | peak memory, GiB | loss off by |"
        )
        said.append("|---|---|---|---|---|")
        for name, row in rows.items():
            said.append(
                f"| {name} | {1e3 * row['seconds']:.2f} | {row['of_peak']:.1%} | {row['peak_bytes'] / 2**30:.2f} | "
                f"{row['loss_off']:.1e} |"
                if "seconds" in row
                else f"| {name} | {row['error']} | | | |"
            )
        said.append("")
    return "\n".join(said)


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line; a rehearsal has sizes of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on a CPU, to see that all of it runs")
    parser.add_argument("--write", type=Path, help="a page of Markdown, as docs/results/gpu.md")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--contexts", nargs="+", type=int, default=None, help="1024 8192; in a rehearsal 64 256")
    parser.add_argument("--only", nargs="+", choices=(*OURS, *PEERS), default=[*OURS, *PEERS])
    parser.add_argument("--budget", type=int, default=None, help="tokens of a pass (32768)")
    lengths = "of documents: log-normal around a quarter of the context, or all of the context"
    parser.add_argument("--lengths", choices=("mixed", "full"), default="mixed", help=lengths)
    parser.add_argument("--steps", type=int, default=None, help="that are timed (8)")
    parser.add_argument("--warmup", type=int, default=None, help="steps before (3)")
    parser.add_argument("--keep", type=Path, help="a folder for what is measured; a second call goes on from there")
    given = parser.parse_args(words)
    sizes = {"contexts": ([64, 256], list(CONTEXTS)), "budget": (512, 32_768), "steps": (1, 8), "warmup": (1, 3)}
    for name, (rehearsed, measured) in sizes.items():
        if getattr(given, name) is None:
            setattr(given, name, rehearsed if given.rehearse else measured)
    return given


if __name__ == "__main__":
    sys.exit(main(arguments()))
