"""A probe: how much of a label can be read off frozen embeddings by logistic regression?"""

# Shapes: n training rows, m test rows, h embedding width.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

C = 0.01  # inverse strength of the L2 penalty: strong, as there are often more features than rows; the same everywhere
MAX_ITERATIONS = 1000


@dataclass(frozen=True, slots=True)
class Probe:
    """Multinomial logistic regression on standardised features."""

    mean: Floats  # [h], of the training rows
    scale: Floats  # [h]
    weight: Floats  # [classes, h]
    bias: Floats  # [classes]
    labels: tuple[str, ...]  # sorted, one for each class

    def predict(self, embeddings: Floats) -> list[str]:
        """The most probable label of each row; embeddings [m, h]."""
        scores = ((embeddings - self.mean) / self.scale) @ self.weight.T + self.bias
        return [self.labels[place] for place in scores.argmax(1)]


def fit(embeddings: Floats, labels: Sequence[str]) -> Probe:
    """Trains on rows [n, h] with n labels; deterministic.

    Minimises |W|^2 / 2 + C * (sum of cross-entropies) by L-BFGS. Features that do not vary count for nothing.

    Raises ImportError without scikit-learn, ValueError where rows and labels do not fit or there is one label only.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn
    except ImportError:
        raise ImportError('probe needs scikit-learn; pip install "tessera-encoders[evaluate]"') from None
    if embeddings.ndim != 2 or len(embeddings) != len(labels):
        raise ValueError(f"probe: {list(embeddings.shape)} embeddings for {len(labels)} labels; give one row for each")
    known = sorted(set(labels))
    if len(known) < 2:
        raise ValueError(f"probe: the training rows have {len(known)} different labels; give at least 2")
    mean, spread = embeddings.mean(0), embeddings.std(0)
    scale = np.where(spread > 1e-7, spread, np.inf).astype(np.float32)
    number = {label: place for place, label in enumerate(known)}
    classes = np.array([number[label] for label in labels])
    with threadpool_limits(1):  # products this small take longer on many threads, by far on a busy machine
        model = LogisticRegression(C=C, max_iter=MAX_ITERATIONS).fit((embeddings - mean) / scale, classes)
    weight, bias = model.coef_, model.intercept_
    if len(known) == 2:  # scikit-learn keeps one row for two classes: the score of the second against the first
        weight, bias = np.concatenate((-weight, weight)) / 2, np.concatenate((-bias, bias)) / 2
    return Probe(mean, scale, weight.astype(np.float32), bias.astype(np.float32), tuple(known))


def scores(predicted: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """Accuracy, and F1 averaged over the labels found in either list, each in [0, 1]."""
    if not truth or len(predicted) != len(truth):
        raise ValueError(f"probe: {len(predicted)} predictions for {len(truth)} labels; give one for each row")
    f1 = []
    for label in sorted({*predicted, *truth}):
        both = sum(p == label and t == label for p, t in zip(predicted, truth, strict=True))
        either = sum(p == label for p in predicted) + sum(t == label for t in truth)
        f1.append(2 * both / either)
    accuracy = sum(p == t for p, t in zip(predicted, truth, strict=True)) / len(truth)
    return {"accuracy": accuracy, "macro_f1": sum(f1) / len(f1)}
