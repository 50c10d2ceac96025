"""Fine-tuning from labelled rows to a model folder: rates searched on validation, scored on test over seeds, saved.

    data = dataset.read("reviews.csv")
    fitted = finetune("models/e5", data, "runs/reviews")

What comes out loads with AutoModelForSequenceClassification and its like, and with Predictor. Trials lie beside it, in
<out>.trials; the same command goes on there after a kill and ends with the same folder.
"""

import functools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tessera import lock
from tessera.files import LOCK, fingerprint, refuse_taken
from tessera.finetune import card, saved, scores, trials
from tessera.finetune.card import Fitted
from tessera.finetune.learner import Learner, pretrained
from tessera.finetune.trials import Json, Method, Search
from tessera.labelled.dataset import Dataset
from tessera.plan.recipe import Machine
from tessera.plan.shipped import pip_line
from tessera.plan.task import Protocol
from tessera.prediction import windows
from tessera.progress import Silent, Watcher
from tessera.statistics import interval

RATES = (3e-5, 1e-4, 3e-4, 1e-3)
"""Tried where no others are asked for: what base models like, and what small ones need."""
_SHARES = (1 / 8, 1 / 4, 1 / 2)
_STEPS = 250  # of a small dataset
_FEWEST_EPOCHS, _MOST_EPOCHS = 3, 20


def quick(data: Dataset, method: Method = "full") -> Protocol:
    """The protocol where none is named: a few rates, early stopping, epochs enough for a small dataset.

    Of its rates not all are tried; see trials.climbing.
    """
    epoch = math.ceil(len(data.train) / 16)
    epochs = min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, math.ceil(_STEPS / epoch)))
    return Protocol(
        name="quick",
        epochs=epochs,
        batch_size=16,
        learning_rates=RATES if method == "full" else tuple(10 * rate for rate in RATES),
        warmup_ratio=0.1,
        weight_decay=0.01,
        max_length=256 if data.kind != "span" else 384,
        patience=3,
        seeds=(0, 1, 2),
    )


def finetune(
    model: str | Path,
    data: Dataset,
    out: str | Path,
    *,
    protocol: Protocol | None = None,
    machine: Machine | None = None,
    balance: bool = False,
    curve: bool = False,
    method: Method = "full",
    listwise: bool = False,
    watcher: Watcher | None = None,
) -> Fitted:
    """Trains on the data and writes a folder, whole or not at all.

    model     a model folder of any family
    protocol  rates, epochs, seeds ...; None: `quick`
    balance   rare labels weigh more in the loss
    method    full: all weights learn. frozen: the head alone. lora: the head and low-rank additions to the encoder
    listwise  rerank: each answer is to be found among what does not answer its query (listwise.py)
    curve     also with an eighth, a quarter and a half of the rows, and what twice as many would give

    Raises FileExistsError where `out` holds something, ImportError where transformers is missing, ValueError where no
    training went well or transformers computes something else than we do, AtWork where another process makes `out`.
    """
    model, out, watcher = Path(model), Path(out), watcher or Silent()
    protocol = protocol or quick(data, method)
    _check(out, data, balance, method, listwise)
    one = Search(
        start=functools.cache(lambda: pretrained(model, machine)),
        start_fingerprint=fingerprint(model),
        data=data,
        protocol=protocol,
        balance=balance,
        folder=out.with_name(f"{out.name}.trials"),
        report=watcher.progress("finetune"),
        say=watcher.say,
        method=method,
        listwise=listwise,
    )
    with lock.hold(one.folder.with_name(f".{one.folder.name}{LOCK}"), str(out)):
        return _searched(one, model, out, curve=curve)


def _searched(one: Search, model: Path, out: Path, *, curve: bool) -> Fitted:
    """All trials, and the best of them as a folder."""
    data, protocol = one.data, one.protocol
    climb = protocol.name == "quick" and protocol.learning_rates == quick(data, one.method).learning_rates
    rate, first, done = trials.search(one, protocol.rates(), protocol.seeds, climb=climb)
    on = "test" if len(data.test) else "validation"
    fitted = _summary(one, out, rate, first, done, on)
    if curve:
        points, twice = _curve(one, rate, fitted.score[fitted.metric][0], on)
        fitted = replace(fitted, curve=points, twice=twice)
    best = max(done, key=lambda found: found["validation"])
    learner = _learner(one, best)
    thresholds = scores.thresholds_of(data, best["said_of_validation"])
    cut, protocol = list(_out_of_reach(data, learner)), _as_read(protocol, learner)
    if protocol is not one.protocol:
        cut.append(f"texts are read up to {protocol.max_length} tokens, the most that this model takes")
    fitted = replace(fitted, thresholds=thresholds, warnings=(*fitted.warnings, *cut))
    text = card.write(model, data, protocol, fitted)
    difference = saved.save(
        learner, model, out, (data.test if len(data.test) else data.validation).examples, labels=data.labels,
        pair=data.pair, thresholds=thresholds, card=text,
    )  # fmt: skip
    one.checkpoint(data, best["identity"]["rate"], best["identity"]["seed"]).remove()
    return replace(fitted, difference=difference)


def _check(out: Path, data: Dataset, balance: bool, method: Method, listwise: bool) -> None:
    """Raises what would be raised after the training rather before it."""
    if listwise and (data.kind != "rerank" or method != "full"):
        raise ValueError(f"--listwise is of kind rerank with all weights; this is {data.kind}, {method}")
    refuse_taken(out)
    try:
        import transformers  # noqa: F401  # the folder is compared with it before it counts
    except ImportError:
        raise ImportError(f"finetune compares what it writes with transformers; {pip_line('evaluate')}") from None
    scores.check(data)
    if balance:
        trials.class_weights(data)


def _learner(one: Search, best: Json) -> Learner:
    """The model of a trial: still in memory, or trained again, which gives the same."""
    rate, seed = best["identity"]["rate"], best["identity"]["seed"]
    name = f"{rate:g}.seed-{seed}.json"
    for _, kept, learner in one.kept:
        if kept == name:
            return learner
    again, _, failed = trials.run(one, one.data, rate, seed, f"the model of rate {rate:g} and seed {seed} again")
    if again is None:
        raise ValueError(f"the training that went well before fails now ({failed})")
    return again


def _summary(one: Search, out: Path, rate: float, first: dict[float, Json], done: Sequence[Json], on: str) -> Fitted:
    data, part = one.data, one.data.test if on == "test" else one.data.validation
    by_seed = [(found[f"said_of_{on}"], scores.thresholds_of(data, found["said_of_validation"])) for found in done]
    whole = [scores.measure(data, part, *seed) for seed in by_seed]
    languages = [scores.by_language(data, part, *seed) for seed in by_seed]
    labels = [scores.by_label(data, part, *seed) for seed in by_seed]
    metric = scores.metrics_of(data)[0]
    return Fitted(
        folder=out,
        metric=metric,
        rate=rate,
        rates={one_rate: found["validation"] for one_rate, found in first.items()},
        on=on,
        score={name: interval([found[name] for found in whole]) for name in whole[0]},
        languages={
            x: {name: interval([found[x][name] for found in languages]) for name in whole[0]} for x in languages[0]
        },
        labels={x: (*interval([found[x][0] for found in labels]), labels[0][x][1]) for x in labels[0]},
        warnings=_warnings(one, rate, first, done, part, on),
    )


def _warnings(
    one: Search, rate: float, first: dict[float, Json], done: Sequence[Json], part: Any, on: str
) -> tuple[str, ...]:
    found = []
    rates = sorted(first)
    same = []
    for trial in done:
        thresholds = scores.thresholds_of(one.data, trial["said_of_validation"])
        same.append(scores.constant(one.data, part, trial[f"said_of_{on}"], thresholds))
    if any(same):
        found.append(
            f"{sum(map(bool, same))} of {len(same)} models always answer {next(filter(None, same))!r}: they learned "
            "nothing; try other rates (--rates), more epochs (--epochs), or --balance where labels are unequal"
        )
    if len(rates) > 2 and rate == rates[-1]:
        found.append(f"the highest rate that was tried, {rate:g}, is the best; a higher one may be better (--rates)")
    if failed := [rate for rate in rates if first[rate]["failed"]]:
        found.append(f"training failed at {', '.join(f'{one:g}' for one in failed)}: {first[failed[0]]['failed']}")
    if on == "validation":
        found.append("there is no test set: scores are of validation, which the model was chosen on, so a bit too high")
    if len(part) < 100:
        much = f"one more or less right is {100 / max(1, len(part)):.1f} points"
        found.append(f"{on} has {len(part)} rows; {'few for a correlation' if one.data.kind == 'regress' else much}")
    return tuple(found)


def _as_read(protocol: Protocol, learner: Learner) -> Protocol:
    """The protocol with as many tokens as the model reads."""
    most = learner.reader.max_length
    return protocol if protocol.max_length <= most else protocol.model_copy(update={"max_length": most})


def _out_of_reach(data: Dataset, learner: Learner) -> Iterator[str]:
    """What is to be known of questions that no answer can be right for, and of those that taught that there is none."""
    if data.kind != "span":
        return
    how = {"max_length": learner.reader.max_length, "stride": learner.reader.stride}
    for name, part in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if lost := windows.out_of_reach(learner.reader.tokenizer, part.examples, **how):
            yield (
                f"{lost} of {len(part)} answers in {name} are too long to be given, or whole in no window of "
                f"{how['max_length']} tokens"
            )


# ------------------------------------------------------------------------------------------------------ learning curve


def _curve(one: Search, rate: float, whole: float, on: str) -> tuple[tuple[tuple[int, float], ...], float | None]:
    """Scores with parts of the rows, and what twice as many would give."""
    seed, points = one.protocol.seeds[0], []
    for share in _SHARES:
        data = trials.part_of(one.data, share)
        found = trials.trial(one, data, rate, seed, f"learning curve, {len(data.train):,} rows")
        if found["failed"] is None:
            part = data.test if on == "test" else data.validation
            thresholds = scores.thresholds_of(data, found["said_of_validation"])
            score = scores.measure(data, part, found[f"said_of_{on}"], thresholds)[scores.metrics_of(data)[0]]
            points.append((len(data.train), score))
    points.append((len(one.data.train), whole))
    return tuple(points), twice(points)


def twice(points: Sequence[tuple[int, float]]) -> float | None:
    """The score that twice the most rows would give: errors fall as a power of the rows; None: they do not fall.

    Source: Hestness et al. 2017, arXiv:1712.00409: learning curves are lines where both axes are logarithms.
    """
    known = [(math.log(rows), math.log(1 - score)) for rows, score in points if score < 1]
    if len({rows for rows, _ in known}) < 3:
        return None
    slope, start = statistics.linear_regression([x for x, _ in known], [y for _, y in known])
    if slope >= 0:
        return None
    rows, last = max(points)
    fitted = 1 - math.exp(start + slope * math.log(2 * rows))
    return max(last, fitted)
