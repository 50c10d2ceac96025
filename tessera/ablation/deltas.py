"""Differences to the baseline of an ablation, paired by seed, with 95% intervals: how far would chance carry them?

Variants of one seed share the order of the text and the hidden held-out tokens, so differences are taken within a seed
and then averaged. Two intervals of 95% are given for each:

    own      Student's t on the differences of this variant: n seeds leave n - 1 degrees of freedom, and with two or
             three seeds it is very wide, whatever there is to see
    pooled   the same with one spread for all variants of a measure, as if chance moved all of them equally: what is
             left of the scores when the mean of each variant and of each seed is taken off (randomised blocks,
             Fisher 1935), with (variants - 1)(seeds - 1) degrees of freedom
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tessera.ablation.axes import BASELINE
from tessera.files import read_json
from tessera.json_files import Strictly, fit
from tessera.report.run_files import NOT_LANGUAGES
from tessera.results.result import HELD_OUT, read
from tessera.statistics import critical_t, interval, pooled_spread

ABLATION, DELTAS = "ablation.json", "deltas.json"
BITS = "held-out"  # what its measures are called
Scores = Mapping[int, float]  # by seed
_Part = Annotated[str, Field(pattern=r"^[^/\\\x00]{1,200}$")]  # of a path


class _Value(Strictly):
    label: str
    variant: _Part


class _Axis(Strictly):
    key: str
    values: list[_Value]


class _Asked(Strictly):
    """ablation.json."""

    phase: _Part
    seeds: list[Annotated[int, Field(ge=-(2**63), lt=2**63)]]
    tasks: list[_Part]
    axes: list[_Axis]


class _Bucket(Strictly):
    language: str
    share_planned: float


class _Mixture(Strictly):
    """mixture.json of a phase."""

    buckets: list[_Bucket]


def study(folder: str | Path) -> dict[str, Any]:
    """All that came out so far in the folder of an ablation, as JSON-like data.

    {"recipe", "phase", "from", "tokens", "seeds", "tasks", "tessera": as in ablation.json,
     "measures": [{"name", "unit", "lower_is_better"}],
     "reference": {measure: {"mean", "spread", "scores": {seed: score}}},
     "rows": [{"axis", "label", "variant", "measure", "mean", "spread", "delta", "own", "pooled", "seeds", "scores"}]}

    spread   standard deviation over seeds; None, like the intervals, where there is one seed
    delta    mean of the differences to the baseline over the seeds that both have; a value that is the recipe's own
             has the delta 0 and no interval

    Raises ValueError where the folder holds no ablation, or nothing of it is finished.
    """
    folder = Path(folder)
    try:
        asked = read_json(folder / ABLATION)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no ablation ({ABLATION} is missing)") from None
    fit(_Asked, asked, folder / ABLATION)
    found = _scores(folder, asked)
    if not any(BASELINE in by_variant for by_variant in found.values()):
        raise ValueError(f"{folder}: the baseline is not finished with any seed, so there is nothing to compare with")
    rows, baseline = [], {}
    for measure, by_variant in found.items():
        base = by_variant.get(BASELINE, {})
        baseline[measure] = {**_mean(base), "scores": base}
        error = pooled_spread(by_variant)
        rows += [
            row
            for axis in asked["axes"]
            for value in axis["values"]
            if (row := _row(axis["key"], value, measure, by_variant, base, error)) is not None
        ]
    head = {key: value for key, value in asked.items() if key != "axes"}
    measures = [
        {"name": name, "unit": "bits per byte" if bits else "%", "lower_is_better": bits}
        for name in found
        for bits in [name.startswith(BITS)]
    ]
    return {**head, "measures": measures, "reference": baseline, "rows": rows}


def _row(
    key: str, value: dict[str, str], measure: str, by_variant: Mapping[str, Scores], base: Scores,
    error: tuple[float, int] | None,
) -> dict[str, Any] | None:  # fmt: skip
    found = by_variant.get(value["variant"], {})
    scores = {seed: found[seed] for seed in sorted(found.keys() & base.keys())}
    if not scores:
        return None
    delta, own = interval([score - base[seed] for seed, score in scores.items()])
    same = value["variant"] == BASELINE
    pooled = None if error is None or same else critical_t(0.95, error[1]) * error[0] * math.sqrt(2 / len(scores))
    return {
        "axis": key,
        "label": value["label"],
        "variant": value["variant"],
        "measure": measure,
        **_mean(scores),
        "delta": delta,
        "own": None if same or math.isnan(own) else own,
        "pooled": pooled,
        "seeds": list(scores),
        "scores": scores,
    }


def _mean(scores: Scores) -> dict[str, float | None]:
    values = list(scores.values())
    return {
        "mean": statistics.fmean(values) if values else None,
        "spread": statistics.stdev(values) if len(values) > 1 else None,
    }


def _scores(folder: Path, asked: dict[str, Any]) -> dict[str, dict[str, dict[int, float]]]:
    """{measure: {variant: {seed: score}}} of what is there."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    variants = [BASELINE, *(v["variant"] for axis in asked["axes"] for v in axis["values"])]
    spoken = _languages_read(folder / BASELINE, asked)
    for task in asked["tasks"]:
        for variant in dict.fromkeys(variants):
            for seed in asked["seeds"]:
                place, name = folder / variant / f"seed-{seed}" / "evaluation", f"{asked['phase']}.{task}"
                files = [path for path in (place / f"{name}.json", *place.glob(f"{name}.*.json")) if path.exists()]
                if not files:
                    continue
                result = read(files[0])
                share = {task: 100 * result.average[result.metric]}
                if task == HELD_OUT and not all("bits_per_byte" in row for row in result.results.values()):
                    raise ValueError(f"{files[0]}: has no bits_per_byte of some language, so it is no held-out result")
                for measure, score in (_bits(result.results, spoken) if task == HELD_OUT else share).items():
                    found.setdefault(measure, {}).setdefault(variant, {})[seed] = score
    return found


def _languages_read(baseline: Path, asked: dict[str, Any]) -> set[str]:
    """The languages of which the baseline reads something."""
    for seed in asked["seeds"]:
        path = baseline / f"seed-{seed}" / asked["phase"] / "mixture.json"
        if path.exists():
            mixture = fit(_Mixture, read_json(path), path)
            return {bucket.language for bucket in mixture.buckets if bucket.share_planned > 0}
    return set()


def _bits(results: Mapping[str, Mapping[str, float]], read: set[str]) -> dict[str, float]:
    """Bits per byte of language groups; groups without text are left out."""
    bits = {code: row["bits_per_byte"] for code, row in results.items()}
    spoken = {code for code in bits if code.partition("_")[0] not in NOT_LANGUAGES}
    groups: dict[str, Sequence[str]] = {
        BITS: sorted(spoken),
        f"{BITS}, languages read": sorted(spoken & read),
        f"{BITS}, languages not read": sorted(spoken - read),
        f"{BITS}, code": sorted(set(bits) - spoken),
    }
    if not groups[f"{BITS}, languages not read"]:  # then the first two are the same
        del groups[f"{BITS}, languages read"]
    return {name: statistics.fmean(bits[code] for code in codes) for name, codes in groups.items() if codes}
