"""Evaluation of a fine-tuned model: the metric that chooses, others beside it, by language and by label; thresholds."""

# Shapes: N examples, K labels.

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tessera.data.examples import Question, Tagged
from tessera.finetune import loop
from tessera.finetune.learner import Learner
from tessera.labelled.dataset import Dataset, Part
from tessera.plan.task import Metric
from tessera.prediction import metrics
from tessera.prediction.tags import scheme

Scores = dict[str, float]
Said = list[Any]  # of each example: a number, tags, a text; multilabel: the probability of each label

_CLASSES: tuple[Metric, ...] = ("macro_f1", "accuracy")
_METRICS: dict[str, tuple[Metric, ...]] = {
    **dict.fromkeys(("classify", "pair", "reward"), _CLASSES),
    "multilabel": ("micro_f1", "macro_f1"),
    "regress": ("spearman", "pearson"),
    "choose": ("accuracy",),
    "span": ("squad_f1", "exact_match"),
}
_SPREAD = 0.05  # of that of the labels: numbers that differ by less are one answer
_ENOUGH = 5  # rows that bear a label, and such that do not, from which a threshold of its own is chosen


def metrics_of(data: Dataset) -> tuple[Metric, ...]:
    """The metric that rates are chosen by, then others."""
    if data.kind == "tag":
        return ("entity_f1", "accuracy") if scheme(data.labels) else ("accuracy", "macro_f1")
    if data.kind == "rerank":
        queries = [example.text for example in data.validation.examples]
        return ("ndcg@10", "average_precision") if len(queries) > 1.5 * len(set(queries)) else ("average_precision",)
    return _METRICS[data.kind]


def check(data: Dataset) -> None:
    """Raises ImportError where a metric lacks its library: rather now than after the training."""
    for metric in metrics_of(data):
        metrics.check("macro_f1" if data.kind == "multilabel" else metric, data.labels)


def say(learner: Learner, part: Part) -> Said:
    """What the model says of each example, without a look at its label."""
    if learner.reader.kind != "multilabel" or not len(part):
        return list(loop.predict(learner, part.examples)) if len(part) else []
    _, found = loop.scores(learner, part.examples)
    return [[round(float(p), 6) for p in expit(row.astype(np.float64))] for row in found]


def measure(data: Dataset, part: Part, said: Said, thresholds: Sequence[float] = ()) -> Scores:
    """Each metric of what was said of a split.

    thresholds  multilabel: from which probability on each label holds
    """
    wanted = metrics_of(data)
    right = [_right(example) for example in part.examples]
    match data.kind:
        case "multilabel":
            held, true = _held(said, thresholds), _bits(right, len(data.labels))
            return {metric: _f1_of_bits(held, true, metric) for metric in wanted}
        case "rerank":
            return _ranked(part, said, wanted)
    return {metric: metrics.score(metric, said, right, names=data.labels) for metric in wanted}


def by_language(data: Dataset, part: Part, said: Said, thresholds: Sequence[float] = ()) -> dict[str, Scores]:
    """The same for each language apart, where rows say theirs."""
    places: dict[str, list[int]] = defaultdict(list)
    for number, language in enumerate(part.languages):
        places[language].append(number)
    if len(places) < 2:
        return {}
    found = {}
    for language, numbers in sorted(places.items()):
        some = Part([part.examples[n] for n in numbers], [language] * len(numbers))
        found[language or "unknown"] = measure(data, some, [said[n] for n in numbers], thresholds)
    return found


def by_label(data: Dataset, part: Part, said: Said, thresholds: Sequence[float] = ()) -> dict[str, tuple[float, int]]:
    """(F1, how many rows or words bear it) of each label; nothing where there are none."""
    right = [_right(example) for example in part.examples]
    if not data.labels or not right:
        return {}
    if data.kind == "multilabel":
        held, true = _held(said, thresholds), _bits(right, len(data.labels))
        columns = [(held[:, n], true[:, n]) for n in range(len(data.labels))]
        return {name: (metrics.f1(a, b), int(b.sum())) for name, (a, b) in zip(data.labels, columns, strict=True)}
    if data.kind == "tag":
        said, right = ([tag for tags in side for tag in tags] for side in (said, right))
    return {name: (metrics.f1(said, right, label=n), right.count(n)) for n, name in enumerate(data.labels)}


def thresholds_of(data: Dataset, said: Said) -> tuple[float, ...]:
    """multilabel: for each label the probability from which on it holds that gives the best F1 on validation.

    0.5 where fewer than five rows of validation bear the label, or fewer than five do not.
    """
    if data.kind != "multilabel":
        return ()
    chances = np.asarray(said, float).reshape(len(said), len(data.labels))
    true = _bits([_right(example) for example in data.validation.examples], len(data.labels))
    return tuple(_threshold(chances[:, n], true[:, n]) for n in range(len(data.labels)))


def _threshold(chances: NDArray[Any], true: NDArray[Any]) -> float:
    if min(true.sum(), len(true) - true.sum()) < _ENOUGH:
        return 0.5
    order = np.argsort(-chances, kind="stable")
    sorted_, hits = chances[order], np.cumsum(true[order])
    f1 = 2 * hits / (np.arange(1, len(true) + 1) + true.sum())
    ends = np.append(sorted_[1:] < sorted_[:-1], True)  # equal chances hold together or not at all
    best = int(np.where(ends, f1, -1).argmax())
    after = sorted_[best + 1] if best + 1 < len(sorted_) else 0.0
    return round(float((sorted_[best] + after) / 2), 4)


def constant(data: Dataset, part: Part, said: Said, thresholds: Sequence[float] = ()) -> str:
    """What all predictions of a split are, where they are all the same and the labels are not; else "".

    thresholds  multilabel: from which probability on each label holds
    """
    if data.kind in ("span", "choose") or len(part) < 2:
        return ""
    right: Any = [_right(example) for example in part.examples]
    if data.kind in ("regress", "rerank"):
        return f"about {np.mean(said):.3g}" if float(np.std(said)) < _SPREAD * float(np.std(right)) else ""
    if data.kind == "tag":
        said, right = ([tag for tags in side for tag in tags] for side in (said, right))
    given = set(map(tuple, _held(said, thresholds).tolist())) if data.kind == "multilabel" else set(said)
    true = set(right)
    if len(given) > 1 or len(true) < 2:
        return ""
    only: Any = given.pop()
    if data.kind == "multilabel":
        return ", ".join(name for name, held in zip(data.labels, only, strict=True) if held) or "no label"
    return data.labels[only]


def _right(example: Any) -> Any:
    match example:
        case Tagged():
            return list(example.tags)
        case Question():
            return [text for text, _ in example.answers]
        case _:
            return example.label


def _held(said: Said, thresholds: Sequence[float]) -> NDArray[np.int64]:
    """[N, K] of 0 and 1."""
    return (np.asarray(said, float) >= np.asarray(thresholds or 0.5)).astype(np.int64)


def _bits(right: Sequence[Any], labels: int) -> NDArray[np.int64]:
    return np.array([np.isin(np.arange(labels), one) for one in right], np.int64).reshape(len(right), labels)


def _f1_of_bits(held: NDArray[np.int64], true: NDArray[np.int64], metric: str) -> float:
    if metric == "micro_f1":
        return metrics.f1(held.ravel(), true.ravel())
    return float(np.mean([metrics.f1(held[:, n], true[:, n]) for n in range(true.shape[1])]))


def _ranked(part: Part, said: Said, wanted: Sequence[str]) -> Scores:
    """The mean over queries that some document answers; where each query has but one document, over all pairs."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, example in enumerate(part.examples):
        groups[example.text if "ndcg@10" in wanted else ""].append(number)
    found: Mapping[str, list[float]] = {metric: [] for metric in wanted}
    for numbers in groups.values():
        grades = {str(n): round(100 * float(part.examples[n].label or 0.0)) for n in numbers}
        if not any(grades.values()):
            continue
        ranking = [str(n) for n in sorted(numbers, key=lambda n: (-said[n], n))]
        for metric, values in found.items():
            rank = metrics.ndcg if metric == "ndcg@10" else metrics.average_precision
            values.append(rank(ranking, grades))
    return {metric: float(np.mean(values)) if values else 0.0 for metric, values in found.items()}
