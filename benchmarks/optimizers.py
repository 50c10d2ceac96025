"""AdamW, StableAdamW and Muon on the first phase of a run: loss at equal tokens and at equal seconds.

    python benchmarks/optimizers.py runs/nano --tokens 2M --out runs/optimizers [--peaks 1e-3 3e-3 1e-2] [--threads 1]

Takes recipe, tokenizer and shards of a run that is there, and trains its first phase again, shortened, once for each
optimizer and peak rate: the same batches, masks and initial weights. The rate warms up over a tenth and stays, so that
a run is comparable at any point of it. Seconds are those of the steps, measurement of held-out text left out.
The last line is one JSON object.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import yaml

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"name": "adamw", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01, "clip_norm": 1.0},
    "stableadamw": {"name": "stableadamw", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 8e-5,
                    "fully_decoupled": True},
    "muon": {"name": "muon", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01, "clip_norm": 1.0},
}  # fmt: skip
LAST = 0.1  # of the tokens: the training loss is the mean of the steps there


def main(run: Path, tokens: int, peaks: list[float], out: Path, threads: int) -> None:
    """Trains what is not finished, prints the tables and the JSON line."""
    whole = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    rows = {
        (name, peak): _train(whole, run, tokens, name, peak, out / f"{name}-{peak:g}", threads)
        for name in OPTIMIZERS
        for peak in peaks
    }
    shortest = min(row["seconds"] for row in rows.values())
    print(f"\nafter {tokens:,} tokens, and after the {shortest:.0f} seconds that the fastest took\n")
    print(f"{'optimizer':<12} {'peak':>7} {'loss':>7} {'held-out bits a byte':>21} {'seconds':>8} {'loss then':>10}")
    for (name, peak), row in rows.items():
        row["loss_at_equal_seconds"] = _loss_at(row["steps"], shortest)
        print(f"{name:<12} {peak:>7g} {row['loss']:>7.4f} {row['bits_per_byte']:>21.4f} {row['seconds']:>8.0f} "
              f"{row['loss_at_equal_seconds']:>10.4f}")  # fmt: skip
    best = {name: min((row for (n, _), row in rows.items() if n == name), key=_bits) for name in OPTIMIZERS}
    kept = ("peak", "loss", "bits_per_byte", "seconds", "loss_at_equal_seconds")
    print(json.dumps({
        "benchmark": "optimizers",
        "ours": {name: {key: row[key] for key in kept} for name, row in best.items()},
        "peers": {},
        "ratios": {name: row["bits_per_byte"] / best["adamw"]["bits_per_byte"] for name, row in best.items()},
        "limit_share": None,
        "all": [{"optimizer": name, **{key: row[key] for key in kept}} for (name, _), row in rows.items()],
    }))  # fmt: skip


def _bits(row: dict[str, Any]) -> float:
    return float(row["bits_per_byte"])


def _train(
    whole: dict[str, Any], run: Path, tokens: int, name: str, peak: float, folder: Path, threads: int
) -> dict[str, Any]:
    from tessera.plan.recipe import Recipe
    from tessera.run import run as walk

    phase = {
        **whole["phases"][0],
        "tokens": tokens,
        "optimizer": OPTIMIZERS[name],
        "learning_rate": {"peak": peak, "warmup": tokens // 10},
    }
    recipe = {**whole, "phases": [phase], "merges": [], "machine": {"threads": threads}}
    recipe["evaluation"] = {**whole.get("evaluation", {}), "tasks": []}
    if not (folder / "recipe.yaml").exists():
        folder.mkdir(parents=True)
        for part in ("tokenizer", "shards"):
            (folder / part).symlink_to((run / part).resolve())
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    walk(Recipe.model_validate(recipe), folder, until="train", accept_changes=True)
    lines = [json.loads(line) for line in (folder / phase["name"] / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["tokens"], line["step_seconds"], line["loss"]) for line in lines if line["kind"] == "step"]
    held_out = [line for line in lines if line["kind"] == "held_out"][-1]["languages"]
    result = {
        "peak": peak,
        "loss": statistics.fmean(loss for read, _, loss in steps if read > (1 - LAST) * tokens),
        "bits_per_byte": statistics.fmean(row["bits_per_byte"] for row in held_out.values()),
        "seconds": sum(seconds for _, seconds, _ in steps),
        "steps": steps,
    }
    print(f"{name} {peak:g}: loss {result['loss']:.4f}, {result['seconds']:.0f} s", flush=True)
    return result


def _loss_at(steps: list[tuple[int, float, float]], seconds: float) -> float:
    """Mean loss of the last tenth of the steps made by then."""
    spent, losses = 0.0, []
    for _, took, loss in steps:
        spent += took
        if spent > seconds + 1e-6:
            break
        losses.append(loss)
    return statistics.fmean(losses[-max(1, int(LAST * len(losses))) :])


if __name__ == "__main__":
    from tessera.plan.fields import parse_tokens

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokens", type=parse_tokens, default=2_000_000)
    parser.add_argument("--peaks", nargs="+", type=float, default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--out", type=Path, default=Path("runs/optimizers"))
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    main(given.run, given.tokens, given.peaks, given.out, given.threads)
