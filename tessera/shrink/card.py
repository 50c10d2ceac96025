"""Model card of a smaller model, and the table of a curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tessera.files import model_name
from tessera.retrieval.cards import model_card
from tessera.shrink.importance import By
from tessera.shrink.layers import Kept, Stack
from tessera.shrink.teach import Learnt, Lesson

FILE = "shrink.json"
_WAYS = {
    "vectors": "one after the other, each time what turned the vectors of texts least (greedy)",
    "block": "those of least Block Influence (ShortGPT, arXiv:2403.03853)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model of the curve."""

    name: str
    folder: Path
    layers: int
    kept: Kept  # numbers of its layers in the whole model
    parameters: int
    in_layers: int  # of these, those of layers
    untaught: float  # mean cosine with the whole model's vectors on held-out passages, before anything was learnt
    cosine: float  # and after
    tokens: int = 0  # that were learnt on
    speed: float = 0.0  # times as fast as the whole model; 0: not measured
    scores: dict[str, float]  # task -> hundredths


def written(
    whole: Stack, base: Stack, kept: Kept, by: By, lesson: Lesson, found: Learnt, parts: tuple[int, int]
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
    if lesson.protocol is not None:
        learnt = (
            f"What is left was taught by the whole model, its hidden states and its vectors, on {found.tokens:,} "
            f"tokens ({len(lesson.learn):,} passages of plain text, {languages}), {found.steps:,} steps of "
            f"{lesson.protocol.batch_size}, learning rate {found.rate:g}."
        )
    what = (
        f"{len(kept)} of the {whole.count} layers of `{model_name(whole.inside)}`, {parts[0] / 1e6:.1f}M parameters of "
        f"{all_ / 1e6:.1f}M, {parts[1] / 1e6:.1f}M of {mine / 1e6:.1f}M in layers. Left out, counted from 0: "
        f"{', '.join(gone)}; {_WAYS[by]}.{trimmed} {learnt} Vectors of sentence-transformers differ from what was "
        f"learnt by at most {found.difference:.0e}. Cosine with the vectors of the whole model, on "
        f"{len(lesson.held):,} passages that were not learnt on:"
    )
    scores = {"before it was taught": {"cosine": found.before}, "after": {"cosine": found.after}}
    code = (
        "from sentence_transformers import SentenceTransformer\n"
        'model = SentenceTransformer("<this folder>")\nvectors = model.encode(["one sentence", "another"])'
    )
    return model_card(whole.whole, "shrink", what, scores, code)


def table(points: Sequence[Point]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: size, speed and scores of each, with the share of the first one's score that is kept."""
    names = list(dict.fromkeys(name for point in points for name in point.scores))
    columns = ["model", "layers kept", "parameters", "in layers", "speed", "untaught", "cosine", *names]
    first = points[0]

    def row(point: Point) -> list[str]:
        share = "" if point is first else f" ({point.in_layers / first.in_layers:.0%})"
        return [
            point.name,
            " ".join(map(str, point.kept)),
            f"{point.parameters / 1e6:.1f}M",
            f"{point.in_layers / 1e6:.1f}M{share}",
            f"{point.speed:.2f}" if point.speed else "",
            "" if point is first else f"{point.untaught:.4f}",
            "" if point is first else f"{point.cosine:.4f}",
            *(_score(point, first, name) for name in names),
        ]

    return columns, [row(point) for point in points]


def _score(point: Point, first: Point, name: str) -> str:
    if name not in point.scores:
        return ""
    value, due = point.scores[name], first.scores.get(name)
    return f"{value:.2f}" + ("" if point is first or not due else f" ({value / due:.1%})")
