"""The recipe of an adaptation: continued pre-training with re-warming, replay and an average at the end.

What is written is a recipe like any other: `tessera plan`, `run`, `ablate` take it, and it is meant to be edited.
Source: re-warming and replay, Ibrahim et al. 2024, arXiv:2403.08763; the average, Wortsman et al. 2022,
arXiv:2109.01903 (WiSE-FT).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.adapt.asked import Asked
from tessera.adapt.measure import Measured
from tessera.plan.fields import show_tokens
from tessera.plan.loading import dump
from tessera.plan.recipe import Recipe

PIECES = 1_000  # that are added for each language which the vocabulary cuts small, if nothing is said
MOST_TOKENS, EPOCHS = 2_000_000, 4  # read if nothing is said: the new text so often, at most so much
_PEAK = 0.15  # divided by the width of the model: a third of what models of that width are trained with
_CONTEXT, _LEAST_BATCH, _MOST_BATCH, _UPDATES = 512, 1_024, 16_384, 250
_HELD_OUT, _LEAST_HELD = 0.03, 6  # share of the documents, and of how few of a language on average
_ROWS, _DECAY, _WARMUP = 0.15, 0.2, 0.1  # of the tokens: new rows alone; the decay; and of the middle, its warm-up

HEADER = """\
# What `tessera adapt` made of its arguments. Edit it and run the same command again, or `tessera run` it: while nothing
# is trained every value may change, later those under `machine`. docs/adapt.md says how to choose the numbers.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One path of the command.

    name       of the source
    role       new, replay or watch
    language   that is said of it; None: its files say it
    bytes      of each language, as far as they were counted
    documents  likewise
    """

    name: str
    role: str
    path: str
    language: str | None
    bytes: Mapping[str, int]
    documents: Mapping[str, int]


def recipe_of(
    asked: Asked, texts: Sequence[Text], measured: Measured, start: str, positions: int, grown: bool
) -> Recipe:
    """The recipe: its corpus, its phases from the folder `start`, and the average.

    positions  that the model has, in tokens
    grown      whether `start` has new rows, which then learn before all others
    """
    total = asked.tokens or _tokens(asked, texts, measured)
    context = min(_CONTEXT, positions)
    batch = max(context, _LEAST_BATCH, min(_MOST_BATCH, total // _UPDATES // 256 * 256))
    peak = asked.peak or round(_PEAK / measured.width, 6)
    phases = _phases(start, total, peak, grown, {
        "context": context,
        "batch_tokens": batch,
        "mask_ratio": 0.15,
        "mask_replacement": "80-10-10",
        "optimizer": {"name": "stableadamw", "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 8e-5,
                      "fully_decoupled": True},
        "mixture": {"shares": _shares(asked, texts), "temperature": 0.5},
    })  # fmt: skip
    merges = []
    if asked.weight < 1.0:
        first = "rows" if grown else start
        weights = [round(1 - asked.weight, 6), asked.weight]
        merges = [{"name": "averaged", "method": "linear", "models": [first, "decay"], "weights": weights}]
    return Recipe.model_validate({
        "name": "adapted",
        "seed": asked.seed,
        "notes": f"{asked.model} adapted to {', '.join(sorted(new_languages(texts)))}.",
        "corpus": {
            "sources": [
                {"name": text.name, "path": text.path, "columns": {"text": asked.column}, "language": text.language}
                for text in texts
            ],
            "held_out": {"share": _held_out(texts), "max_bytes": "100kB"},
        },
        "tokenizer": {"path": start},
        "phases": phases,
        "merges": merges,
        "evaluation": {
            "every": max(1, total // 4), "max_tokens": 4_000,
        },
    })  # fmt: skip


def written(recipe: Recipe) -> str:
    """The recipe as the file that people edit."""
    return HEADER + dump(recipe)


def last_stage(recipe: Recipe) -> str:
    """The stage whose model comes out."""
    return recipe.merges[-1].name if recipe.merges else recipe.phases[-1].name


def new_languages(texts: Sequence[Text]) -> set[str]:
    """The languages that the model is adapted to."""
    return {language for text in texts if text.role == "new" for language in text.bytes}


def roles(texts: Sequence[Text]) -> dict[str, str]:
    """What is done with each language: new before replayed before watched."""
    found: dict[str, str] = {}
    for text in texts:
        for code in text.bytes:
            found.setdefault(code, text.role)
    return found


def relative(folder: Path) -> str:
    """A folder as recipes write one, so that it is never taken for a name on the Hub."""
    return str(folder) if folder.is_absolute() else f"./{folder.as_posix()}"


def _phases(start: str, total: int, peak: float, grown: bool, common: dict[str, Any]) -> list[dict[str, Any]]:
    """New rows alone, all weights, the decay."""
    batch = common["batch_tokens"]
    rows, decay = (max(1, int(total * part) // batch) * batch for part in (_ROWS if grown else 0.0, _DECAY))
    middle = max(1, (total - grown * rows - decay) // batch) * batch
    warmup = max(1, int(middle * _WARMUP))
    found = []
    if grown:
        slow = {"peak": peak, "warmup": max(1, int(rows * _WARMUP))}
        alone = {"name": "rows", "from": start, "tokens": rows, "learning_rate": slow, "freeze": "all_but_new_rows"}
        found.append({**alone, **common})
    found.append({"name": "adapt", "from": "rows" if grown else start, "tokens": middle, "learning_rate": {"peak": peak,
                  "warmup": warmup}, **common})  # fmt: skip
    rate = {"peak": peak, "decay": decay, "shape": "one_minus_sqrt"}
    found.append({"name": "decay", "from": "adapt", "tokens": decay, "learning_rate": rate, **common})
    return found


def _held_out(texts: Sequence[Text]) -> float:
    """The share of documents that is not trained on: where there are few, so many that some are of each language."""
    fewest = min(count for text in texts if text.role == "new" for count in text.documents.values())
    return round(max(_HELD_OUT, _LEAST_HELD / fewest), 4)


def _tokens(asked: Asked, texts: Sequence[Text], measured: Measured) -> int:
    """The new text so many times, within bounds."""
    cost = {one.language: one.tokens["tokens"] / max(1, one.tokens["bytes"]) for one in measured.languages}
    new = sum(size * cost.get(code, 0.3) for text in texts if text.role == "new" for code, size in text.bytes.items())
    share = asked.share if any(text.role == "replay" for text in texts) else 1.0
    return int(min(MOST_TOKENS, max(20 * _LEAST_BATCH, EPOCHS * new / share)) // 1_000 * 1_000)


def _shares(asked: Asked, texts: Sequence[Text]) -> dict[str, float]:
    """Of the new languages by the root of their size, of what is only watched nothing; the rest is left to replay."""
    sizes: dict[str, float] = {}
    for text in (text for text in texts if text.role == "new"):
        for language, size in text.bytes.items():
            sizes[f"{text.name}/{language}"] = float(size) ** 0.5
    share = asked.share if any(text.role == "replay" for text in texts) else 1.0
    whole = sum(sizes.values())
    shares = {key: round(share * size / whole, 6) for key, size in sizes.items()}
    return shares | {text.name: 0.0 for text in texts if text.role == "watch"}


def described(recipe: Recipe) -> str:
    """What will be read, in words."""
    parts = [f"{phase.name} {show_tokens(phase.tokens)}" for phase in recipe.phases]
    return f"{' + '.join(parts)} tokens, peak {recipe.phases[0].learning_rate.peak:g}"
