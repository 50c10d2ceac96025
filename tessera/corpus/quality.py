"""Quality scores: a function that says how good a text is, and its score as one of four tiers, 1 (worst) to 4.

A model that scores is inference/text_scorer.py; to this room it is one more function.
Source: four quality levels and the choice of the upper two, EuroBERT, arXiv:2503.05500, 2.2 and 4.
"""

import bisect
import functools
import importlib
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tessera.plan.errors import did_you_mean

Scorer = Callable[[Sequence[str]], Sequence[float]]


def tier(score: float, thresholds: Sequence[float]) -> int:
    """The tier of a score: 1 below the first threshold, 4 at or above the third; a threshold belongs to the tier above.

    thresholds  three, rising
    """
    assert len(thresholds) == 3, "four tiers have three thresholds"
    return bisect.bisect_right(thresholds, score) + 1


def thresholds(
    scores: Iterable[float], shares: Sequence[float] = (0.25, 0.25, 0.25, 0.25)
) -> tuple[float, float, float]:
    """The three thresholds that give the four tiers these shares of a sample of scores.

    shares  of tiers 1 to 4, together 1

    Equal scores stay in one tier, so with few different scores the shares are only met as nearly as they allow. A
    threshold lies halfway between two scores that were seen. Raises ValueError for an empty sample, a score that is
    not a finite number, or shares that are not shares.
    """
    if len(shares) != 4 or min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
        raise ValueError(f"shares of tiers are {list(shares)}; give four that add up to 1")
    sample = np.fromiter(scores, np.float64)
    if not len(sample):
        raise ValueError("no scores to choose thresholds from; was any document scored?")
    if not np.isfinite(sample).all():
        raise ValueError(f"a score is {sample[~np.isfinite(sample)][0]}; thresholds need finite numbers")
    values, counts = np.unique(sample, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])  # scores below the i-th value
    first, second, third = (
        _between(values, int(np.abs(below - wished * len(sample)).argmin())) for wished in np.cumsum(shares)[:3]
    )
    return first, second, third


def _between(values: Any, place: int) -> float:
    """What parts the values before `place` from those from it on."""
    if place == 0:
        return float(values[0])
    if place == len(values):
        return math.nextafter(values[-1], math.inf)
    middle = float(values[place - 1] + (values[place] - values[place - 1]) / 2)
    return middle if middle > values[place - 1] else float(values[place])


def scorer(name: str) -> Scorer:
    """The function called `package.module:function`, list of texts -> list of numbers; `checked` judges its answers.

    Modules are also looked for in the working directory. What is returned can be sent to another process, which finds
    the function there again, in the same directory. Raises ValueError where there is no such function now.
    """
    directory = str(Path.cwd())
    _function(name, directory)
    return functools.partial(_call, name, directory)  # a function itself could not be sent without its module


def _call(name: str, directory: str, texts: Sequence[str]) -> Sequence[float]:
    found: Sequence[float] = _function(name, directory)(list(texts)) if texts else []
    return found


@functools.cache
def _function(name: str, directory: str) -> Callable[[list[str]], Any]:
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise ValueError(f"score is {name!r}; a function is given as package.module:function")
    if directory not in sys.path:
        sys.path.insert(0, directory)  # as `python -m` does; the console script does not
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does when it is imported
        raise ValueError(
            f"score {name!r}: cannot import {module_name!r} ({type(error).__name__}: {error}); it must be installed "
            f"or lie in the directory where tessera runs, {directory}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            known = [n for n in dir(found) if not n.startswith("_")]
            raise ValueError(f"score {name!r}: {module_name} has no {path!r}; {did_you_mean(part, known)}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(
            f"score {name!r}: {path} is of type {type(found).__name__}; give a function of a list of texts that "
            "returns a list of numbers"
        )
    function: Callable[[list[str]], Any] = found
    return function


def checked(scores: Any, texts: Sequence[str], name: str) -> list[float]:
    """Scores as floats. Raises ValueError where they are not one finite number for each text."""
    try:
        found = list(scores)
    except TypeError:
        found = None
    if found is None or isinstance(scores, (str, dict)):
        raise ValueError(f"score {name!r} gave a {type(scores).__name__}; give a list, one number for each text")
    if len(found) != len(texts):
        raise ValueError(f"score {name!r} gave {len(found)} scores for {len(texts)} texts; give one for each")
    numbers = []
    for score, text in zip(found, texts, strict=True):
        try:
            number = math.nan if isinstance(score, (str, bytes)) else float(score)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"score {name!r} gave {score!r}, which is not a finite number, for the text that begins {text[:80]!r}"
            )
        numbers.append(number)
    return numbers
