"""Model card of a smaller model, and the table of a curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tessera import __version__
from tessera.files import model_name
from tessera.finetune.card import base_card, base_name
from tessera.shrink.gives import Gives
from tessera.shrink.importance import By
from tessera.shrink.layers import Kept, Stack
from tessera.shrink.teach import Learnt, Lesson

_TAKEN = ("license", "license_name", "license_link", "language", "pipeline_tag", "library_name")  # of the base's card
_WAYS = {
    "reconstruction": "those for which the layers before them stand best",
    "outcome": "one after the other, each time what changed least of what the model gives (greedy)",
    "choice": "those that somebody chose",
    "block": "those of least Block Influence (ShortGPT, arXiv:2403.03853)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model of the curve."""

    name: str
    folder: Path
    layers: int
    kept: Kept  # numbers of its layers in the whole model
    neurons: int = 0  # of its feed-forward networks; 0: its configuration does not say
    parameters: int
    in_layers: int  # of these, those of layers
    untaught: float  # how near the whole model on held-out passages (gives.py), before anything was learnt
    near: float  # and after
    tokens: int = 0  # that were learnt on
    speed: float = 0.0  # times as fast as the whole model; 0: not measured
    scores: dict[str, float]  # task -> hundredths


def written(
    gives: Gives, whole: Stack, base: Stack, kept: Kept, by: By, lesson: Lesson, found: Learnt, parts: tuple[int, int]
) -> str:
    """README.md of one: licence and base model, what was left out and how, how it was taught, how near it came.

    base   what layers were left out of: the whole model, or the same with fewer tokens
    parts  parameters of all weights and of layers
    """
    gone = [str(n) for n in range(whole.count) if n not in kept]
    all_, mine = whole.parameters()
    rows = [int(stack.config.get("vocab_size", 0)) for stack in (whole, base)]
    trimmed = f" Of {rows[0]:,} tokens {rows[1]:,} are kept, those that the text uses." if base is not whole else ""
    languages = ", ".join(sorted({one.language for one in lesson.held}))
    learnt = "It was not taught."
    if found.rate is not None and lesson.protocol is not None:
        learnt = (
            f"What is left was taught by the whole model, its hidden states{' and vectors' * gives.pooled}, on "
            f"{found.tokens:,} tokens ({len(lesson.learn):,} passages of plain text, {languages}), {found.steps:,} "
            f"steps of {lesson.protocol.batch_size}, learning rate {found.rate:g}."
        )
    what = (
        f"{len(kept)} of the {whole.count} layers of `{model_name(whole.inside)}`, {parts[0] / 1e6:.1f}M parameters of "
        f"{all_ / 1e6:.1f}M, {parts[1] / 1e6:.1f}M of {mine / 1e6:.1f}M in layers. Left out, counted from 0: "
        f"{', '.join(gone) or 'none'}; {_WAYS[by]}.{trimmed}{_solved(whole, lesson)} {learnt} What other libraries "
        f"make of this folder differs from what was learnt by at most {found.difference:.0e}. "
        f"{gives.called.capitalize()} with the whole model, on "
        f"{len(lesson.held):,} passages that were not learnt on:"
    )
    base_of = base_card(whole.whole)
    front = {key: base_of[key] for key in _TAKEN if key in base_of}
    front["base_model"] = base_name(whole.inside, base_of)
    front["tags"] = [*(["sentence-transformers"] if gives.called == "cosine" else []), "shrink", "tessera"]
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}\n---",
        f"# {len(kept)} layers of `{model_name(whole.whole)}`\n\nMade with tessera {__version__}.",
        what,
        f"| | {gives.called} |\n|---|---|\n| before it was taught | {found.before:.4f} |\n"
        f"| after | {found.after:.4f} |",
        f"```python\n{_code(whole, gives)}\n```",
    ]
    if "license" not in front:
        lines.append("The card of the base model names no licence; ask its makers before you publish this.")
    return "\n\n".join(lines) + "\n"


def _solved(whole: Stack, lesson: Lesson) -> str:
    """What reconstruction did, and how many neurons are left."""
    said = ""
    if lesson.solve:
        said = (
            " The products back from the neurons of layers that stand for others were solved anew, by least squares, "
            "so that what they give is what the whole model gives after these."
        )
    if lesson.neurons is not None:
        said += f" Of {whole.neurons:,} neurons of each feed-forward network {lesson.neurons:,} are kept."
    return said


def _code(whole: Stack, gives: Gives) -> str:
    """How it is loaded."""
    if gives.called == "cosine":
        return (
            "from sentence_transformers import SentenceTransformer\n"
            'model = SentenceTransformer("<this folder>")\nvectors = model.encode(["one sentence", "another"])'
        )
    kind = next(iter(whole.config.get("architectures") or []), "AutoModel")
    return f'from transformers import {kind}\nmodel = {kind}.from_pretrained("<this folder>")'


def table(points: Sequence[Point], near: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: size, speed and scores of each, with the share of the first one's score that is kept.

    near  what nearness is called
    """
    names = list(dict.fromkeys(name for point in points for name in point.scores))
    columns = ["model", "layers kept", "parameters", "in layers", "speed", "untaught", near, *names]
    first = points[0]

    def row(point: Point) -> list[str]:
        share = "" if point is first else f" ({point.in_layers / first.in_layers:.0%})"
        return [
            point.name,
            " ".join(map(str, point.kept)) + (f", {point.neurons} neurons" if point.neurons != first.neurons else ""),
            f"{point.parameters / 1e6:.1f}M",
            f"{point.in_layers / 1e6:.1f}M{share}",
            f"{point.speed:.2f}" if point.speed else "",
            "" if point is first else f"{point.untaught:.4f}",
            "" if point is first else f"{point.near:.4f}",
            *(_score(point, first, name) for name in names),
        ]

    return columns, [row(point) for point in points]


def _score(point: Point, first: Point, name: str) -> str:
    if name not in point.scores:
        return ""
    value, due = point.scores[name], first.scores.get(name)
    return f"{value:.2f}" + ("" if point is first or not due else f" ({value / due:.1%})")
