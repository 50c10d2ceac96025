"""Model card of a fine-tuned model: its data, scores by label and language with intervals, how to load it."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tessera import __version__
from tessera.json_files import read_json
from tessera.labelled.dataset import Dataset
from tessera.model.task_config import class_suffix
from tessera.plan.loading import parse_yaml
from tessera.plan.task import Protocol
from tessera.prediction.features import HEADS

_PIPELINES = {
    **dict.fromkeys(("classify", "pair", "multilabel", "regress", "reward"), "text-classification"),
    "rerank": "text-ranking",
    "tag": "token-classification",
    "span": "question-answering",
    "choose": "multiple-choice",
}
_TAKEN = ("license", "license_name", "license_link", "language")  # from the card of the base model
_MOST = 400  # labels and languages of a table


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What came out: where it lies, and how good it is."""

    folder: Path
    metric: str
    rate: float
    rates: dict[float, float | None]  # each with its score on validation; None: it failed
    on: str  # the split that scores are of
    score: dict[str, tuple[float, float]]  # metric -> mean over seeds and half its 95% interval; one seed: nan
    languages: dict[str, dict[str, tuple[float, float]]]
    labels: dict[str, tuple[float, float, int]]  # F1, half its interval, how many rows or words
    thresholds: tuple[float, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()  # (rows to train on, score)
    twice: float | None = None  # what twice as many rows would give, by that curve
    warnings: tuple[str, ...] = ()
    difference: float = 0.0  # of transformers' logits


def write(model: Path, data: Dataset, protocol: Protocol, fitted: Fitted) -> str:
    """The text of README.md: YAML for the Hub, then what people want to know."""
    name = fitted.folder.name
    base = base_card(model)
    head: dict[str, Any] = {key: base[key] for key in _TAKEN if key in base}
    head |= {
        "base_model": base_name(model, base),
        "pipeline_tag": _PIPELINES[data.kind],
        "library_name": "transformers",
    }
    head |= {"tags": [data.kind, "tessera"]}
    if len(fitted.languages) > 1 and "language" not in head:
        head["language"] = sorted(fitted.languages)
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()}\n---\n",
        f"# {name}\n",
        f"Kind **{data.kind}**, fine-tuned from `{head['base_model']}` with tessera {__version__}.\n",
        "## Use\n",
        _use(model, data, name),
        "## Data\n",
        *(f"- {_plain(line)}" for line in data.said),
        f"- rows: train {len(data.train):,}, validation {len(data.validation):,}, test {len(data.test):,}\n",
        f"## Scores on {fitted.on}\n",
        _about_scores(protocol),
        *_tables(data, fitted),
        *_thresholds(data, fitted),
        "## Training\n",
        _training(protocol, fitted),
    ]
    if "license" not in head:
        parts.append("\nThe card of the base model names no licence; ask its makers before you publish this.")
    return "\n".join(parts).rstrip() + "\n"


def base_card(model: Path) -> dict[str, Any]:
    """What the YAML of a model's card says; nothing where it has none, or it cannot be read."""
    try:
        text = (model / "README.md").read_text(encoding="utf-8")
        found = re.match(r"---\s*\n(.*?)\n---\s*\n", text, re.DOTALL)
        given = parse_yaml(found[1]) if found else {}
    except (OSError, ValueError):
        return {}
    return {str(key): value for key, value in given.items()} if isinstance(given, dict) else {}


def base_name(model: Path, card: dict[str, Any]) -> str:
    """What the base model is called: as its config.json has it from the Hub, else its folder."""
    said = read_json(model / "config.json").get("_name_or_path")
    named = isinstance(said, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", said)
    return str(said) if named else model.name


def _use(model: Path, data: Dataset, name: str) -> str:
    family = str(read_json(model / "config.json").get("model_type"))
    row = {
        "span": '{"question": "...", "context": "..."}',
        "choose": '{"text": "...", "options": ["...", "..."]}',
        "rerank": '("a query", "a document")',
    }.get(data.kind, '("one text", "another")' if data.pair else '"a text"')
    lines = [
        "```python",
        "from tessera.prediction.predictor import Predictor",
        f'predictor = Predictor.from_pretrained("{name}")',
        f"predictor.predict([{row}])",
        "```\n",
        "or with transformers alone:\n",
        "```python",
        f"from transformers import AutoModel{class_suffix(HEADS[data.kind], family)}, AutoTokenizer",  # type: ignore[index]
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        f'model = AutoModel{class_suffix(HEADS[data.kind], family)}.from_pretrained("{name}")',  # type: ignore[index]
        "```\n",
    ]
    return "\n".join(lines)


def _about_scores(protocol: Protocol) -> str:
    seeds = len(protocol.seeds)
    if seeds == 1:
        return "One seed. In hundredths.\n"
    return f"Mean of {seeds} seeds ± half the 95% interval of that mean (Student's t). In hundredths.\n"


def _tables(data: Dataset, fitted: Fitted) -> Iterable[str]:
    names = list(fitted.score)
    yield _table(["", *names], [["all", *(points(*fitted.score[name]) for name in names)]])
    if fitted.languages:
        rows = [[code, *(points(*row[name]) for name in names)] for code, row in fitted.languages.items()]
        yield _table(["language", *names], rows[:_MOST])
    if fitted.labels:
        counted = "words" if data.kind == "tag" else "rows"
        rows = [[name, points(f1, half), f"{n:,}"] for name, (f1, half, n) in fitted.labels.items()]
        yield _table(["label", "F1", counted], rows[:_MOST])
    if fitted.curve:
        rows = [[f"{count:,}", points(score, math.nan)] for count, score in fitted.curve]
        if fitted.twice is not None:
            rows.append([f"{2 * fitted.curve[-1][0]:,}, by the curve", points(fitted.twice, math.nan)])
        yield _table(["rows to train on", fitted.metric], rows)
    for line in fitted.warnings:
        yield f"- {_plain(line)}"
    yield ""


def _thresholds(data: Dataset, fitted: Fitted) -> Iterable[str]:
    if fitted.thresholds:
        yield "A label holds from this probability on, chosen on validation:\n"
        yield _table(["label", "from"], [[n, f"{t:g}"] for n, t in zip(data.labels, fitted.thresholds, strict=True)])


def _training(protocol: Protocol, fitted: Fitted) -> str:
    length = f"{protocol.epochs:g} epochs" if protocol.epochs is not None else f"{protocol.steps} steps"
    tried = ", ".join(
        f"{rate:g} ({'failed' if score is None else points(score, math.nan)})" for rate, score in fitted.rates.items()
    )
    stopping = f", early stopping after {protocol.patience} epochs without a better score" if protocol.patience else ""
    return (
        f"Full fine-tuning, {length} of batches of {protocol.batch_size}{stopping}. Learning rates with "
        f"{fitted.metric} on validation: {tried}; {fitted.rate:g} was chosen. Texts are read up to "
        f"{protocol.max_length} tokens."
    )


def points(value: float, half: float) -> str:
    """A score in hundredths, with half its interval where it has one."""
    return f"{100 * value:.1f}" + ("" if math.isnan(half) else f" ± {100 * half:.1f}")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return (
        "\n".join(f"| {' | '.join(_plain(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        + "\n"
    )


def _plain(text: str) -> str:
    """Text that stays on its line and is no markup: labels and columns are other people's."""
    return re.sub(r"([<>\[\]`])", r"\\\1", " ".join(text.split()))
