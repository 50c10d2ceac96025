"""What a recipe will do, as tables, before anything is spent."""

import json
import math
from pathlib import Path
from typing import Any

from tessera.plan import mixture, schedule
from tessera.plan.architecture import flops_per_token, head_flops, parameters
from tessera.plan.mixture import Bucket
from tessera.plan.recipe import Phase, Recipe
from tessera.plan.units import show_tokens

Rows = list[list[Any]]


def overview(recipe: Recipe, shards: Path) -> list[tuple[str, list[str], Rows]]:
    """(title, columns, rows) of the model, the phases, the merges, and where `shards` exist, of the languages.

    shards   the folder of the training shards of the run; its index says how much text there is
    """
    tables = []
    if recipe.model.preset is not None:
        config = recipe.model.config()
        counts = parameters(config)
        rows = [[part, f"{count:,}"] for part, count in counts.items()]
        tables.append((f"{recipe.name}: parameters ({recipe.model.preset})", ["part", "parameters"], rows))
    tables.append(("phases", _PHASE_COLUMNS, [_phase_row(recipe, phase) for phase in recipe.phases]))
    if recipe.merges:
        rows = [
            [m.name, m.method, ", ".join(m.models) or f"last {m.last} of {m.checkpoints_of}"] for m in recipe.merges
        ]
        tables.append(("merges", ["merge", "method", "of"], rows))
    if (shards / "index.json").exists():
        buckets = read_buckets(shards)
        tables += [_mixture_table(phase, buckets) for phase in recipe.phases]
    return tables


def read_buckets(shards: Path) -> list[Bucket]:
    """The buckets of a token store, from its index alone."""
    index = json.loads((shards / "index.json").read_text(encoding="utf-8"))
    fields = ("source", "language", "tier", "tokens", "documents", "bytes")
    return [Bucket(**{field: row[field] for field in fields}) for row in index["buckets"]]


_PHASE_COLUMNS = [
    "phase",
    "from",
    "tokens",
    "steps",
    "batch",
    "context",
    "mask",
    "peak rate",
    "last rate",
    "temp.",
    "FLOPs",
]


def _phase_row(recipe: Recipe, phase: Phase) -> list[Any]:
    steps = schedule.total_steps(phase)
    cost = math.nan
    if recipe.model.preset is not None:
        config = recipe.model.config()
        forward = flops_per_token(config, phase.context) + phase.mask_ratio * head_flops(config)
        cost = 3 * forward * phase.tokens  # the backward pass costs twice the forward pass
    return [
        phase.name,
        phase.from_,
        show_tokens(phase.tokens),
        f"{steps:,}",
        f"{phase.batch_tokens:,}",
        f"{phase.context:,}",
        f"{phase.mask_ratio:g}",
        f"{phase.learning_rate.peak:g}",
        f"{schedule.learning_rate_at(phase, steps - 1):.3g}",
        f"{phase.mixture.temperature:g}",
        f"{cost:.2e}",
    ]


def _mixture_table(phase: Phase, buckets: list[Bucket]) -> tuple[str, list[str], Rows]:
    """Available tokens, share, tokens drawn and epochs of every bucket that the phase reads, the largest first."""
    shares = mixture.shares(phase.mixture, buckets)
    if phase.mixture.max_epochs is not None:
        shares = mixture.cap(shares, [b.tokens for b in buckets], phase.tokens, phase.mixture.max_epochs)
    rows = []
    for bucket, share in sorted(zip(buckets, shares, strict=True), key=lambda pair: -pair[1]):
        if share > 0:
            drawn = share * phase.tokens
            rows.append(
                [
                    bucket.key,
                    f"{bucket.tokens:,}",
                    f"{share:.3%}",
                    f"{drawn:,.0f}",
                    f"{drawn / max(1, bucket.tokens):.2f}",
                ]
            )
    return f"{phase.name}: what is read", ["source/language", "available", "share", "tokens", "epochs"], rows
