"""Linear probe: how much of a label can be read off frozen embeddings by logistic regression?

How strongly the weights are held back is chosen among a few values for each model and language: on validation rows, or
where there are none by cross-validation within the training rows. Test rows have no say in it.
"""

# Shapes: n training rows, m test rows, h embedding width.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera.bulk.nearest import Floats, check_vectors
from tessera.plan.shipped import pip_line
from tessera.prediction import metrics

GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse strengths of the L2 penalty, from hardly anything learned to hardly held
FOLDS = 5
MAX_ITERATIONS = 1000

Labelled = tuple[Floats, Sequence[str]]  # rows [n, h] and their labels


@dataclass(frozen=True, slots=True)
class Probe:
    """Multinomial logistic regression on standardised features."""

    mean: Floats  # [h], of the training rows
    scale: Floats  # [h]
    weight: Floats  # [classes, h]
    bias: Floats  # [classes]
    labels: tuple[str, ...]  # sorted, one for each class

    def predict(self, embeddings: Floats) -> list[str]:
        """The most probable label of each row; embeddings [m, h]. Raises ValueError for rows that are not finite."""
        check_vectors(embeddings, [f"row {place + 1}" for place in range(len(embeddings))])
        scores = ((embeddings - self.mean) / self.scale) @ self.weight.T + self.bias
        return [self.labels[place] for place in scores.argmax(1)]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The strength that a probe was trained with, and why."""

    c: float  # one of GRID
    accuracy: dict[float, float]  # of each strength, on rows that it was not trained on
    rows: int  # how many those are


def choose(train: Labelled, validation: Labelled | None = None) -> tuple[Probe, Chosen]:
    """A probe on all training rows, with the strength that is right most often on rows it did not see; deterministic.

    validation   the rows it is chosen on; None: each training row in turn, by cross-validation (see `folds`)

    Of strengths that are right equally often the strongest penalty is taken. Raises as `fit`, and ValueError where
    the training rows are too few to be divided.
    """
    embeddings, labels = train
    if validation is not None:
        probes = {c: fit(embeddings, labels, c) for c in GRID}
        accuracy = {c: scores(probe.predict(validation[0]), validation[1])["accuracy"] for c, probe in probes.items()}
        c = max(GRID, key=accuracy.__getitem__)  # the first of equals
        return probes[c], Chosen(c, accuracy, len(validation[1]))
    given, part = np.array(labels), folds(labels)
    right = dict.fromkeys(GRID, 0)
    for fold in range(part.max() + 1):
        seen, unseen = part != fold, part == fold
        for c in GRID:
            predicted = fit(embeddings[seen], given[seen].tolist(), c).predict(embeddings[unseen])
            right[c] += int((np.array(predicted) == given[unseen]).sum())
    c = max(GRID, key=right.__getitem__)
    return fit(embeddings, labels, c), Chosen(c, {c: n / len(labels) for c, n in right.items()}, len(labels))


def folds(labels: Sequence[str]) -> NDArray[np.int64]:
    """The fold of each training row [n]: the rows of a label are dealt out in turn, as they come.

    There are FOLDS of them, fewer where the second most frequent label has fewer rows, so that at least two labels are
    left to train on whichever fold is taken away.
    """
    seen: dict[str, int] = {}
    nth = []
    for label in labels:
        nth.append(seen.get(label, 0))
        seen[label] = nth[-1] + 1
    count = min(FOLDS, sorted(seen.values())[-2] if len(seen) > 1 else 1)
    if count < 2:
        raise ValueError(
            "probe: cross-validation needs two labels with at least two rows each, the training rows have "
            f"{ {label: seen[label] for label in sorted(seen)[:5]} }; give more rows, or a file for validation"
        )
    return np.array(nth, np.int64) % count


def fit(embeddings: Floats, labels: Sequence[str], c: float) -> Probe:
    """Trains on rows [n, h] with n labels; deterministic.

    Minimises |W|^2 / 2 + c * (sum of cross-entropies) by L-BFGS. Features that do not vary count for nothing.

    Raises ImportError without scikit-learn, ValueError where rows and labels do not fit or there is one label only, and
    for rows that are not finite.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn
    except ImportError:
        raise ImportError(f"probe needs scikit-learn; {pip_line('evaluate')}") from None
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise ValueError(f"probe: {list(embeddings.shape)} embeddings for {len(labels)} labels; give one row for each")
    check_vectors(embeddings, [f"training row {place + 1}" for place in range(len(embeddings))])
    known = sorted(set(labels))
    if len(known) < 2:
        raise ValueError(f"probe: the training rows have {len(known)} different labels; give at least 2")
    mean, spread = embeddings.mean(0), embeddings.std(0)
    scale = np.where(spread > 1e-7, spread, np.inf).astype(np.float32)
    number = {label: place for place, label in enumerate(known)}
    classes = np.array([number[label] for label in labels])
    with threadpool_limits(1):  # products this small take longer on many threads, by far on a busy machine
        model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS).fit((embeddings - mean) / scale, classes)
    weight, bias = model.coef_, model.intercept_
    if len(known) == 2:  # scikit-learn keeps one row for two classes: the score of the second against the first
        weight, bias = np.concatenate((-weight, weight)) / 2, np.concatenate((-bias, bias)) / 2
    return Probe(mean, scale, weight.astype(np.float32), bias.astype(np.float32), tuple(known))


def scores(predicted: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """Accuracy, and F1 averaged over the labels found in either list, each in [0, 1]."""
    return {"accuracy": metrics.accuracy(predicted, truth), "macro_f1": metrics.macro_f1(predicted, truth)}
