"""Phases fitted to the text at hand: token counts that fit where a cap on epochs (max_epochs) refuses those given.

A recipe that is copied to smaller text keeps its proportions: what is counted in tokens is shortened by one factor.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from tessera.plan.corpus import Bucket
from tessera.plan.errors import one_line
from tessera.plan.fields import show_tokens
from tessera.plan.mixture import TooLittleTextError, mixture_of
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe
from tessera.plan.token_counts import Inventory, text_of

_LENGTHS = (
    ("tokens",),
    ("learning_rate", "warmup"),
    ("learning_rate", "decay"),
    ("learning_rate", "halve_at"),
    ("batch_warmup", "tokens"),
    ("checkpoint_every",),
)
_TRIES = 30  # each a tenth shorter
_MOST = 10**15  # tokens; more than there is
_STEPS = 20  # at least, or the batch is made smaller, too


def check(phases: Sequence[Phase], buckets: Sequence[Bucket]) -> None:
    """Raises ValueError for all phases whose mixture the text cannot fill, with the values to write, ready to paste."""
    found, values = [], []
    for phase in phases:
        try:
            mixture_of(phase, buckets)
        except TooLittleTextError as error:
            found.append(f"phases.{phase.name}.mixture: {error}")
            shorter = fitting(phase, buckets)
            values += [] if shorter is None else list(_differences(phase, shorter))
        except ValueError as error:
            found.append(f"phases.{phase.name}.mixture: {error}")
    if values:
        found.append(f"these lengths fit the text: --accept-changes {' '.join(f'--set {value}' for value in values)}")
    if found:
        raise ValueError("\n".join(found))


def fitting(phase: Phase, buckets: Sequence[Bucket]) -> Phase | None:
    """The phase shortened until the text fills it, all its lengths alike; None where no length would do."""
    factor = 1.0
    for _ in range(_TRIES):
        try:
            shorter = _scaled(phase, factor)
            mixture_of(shorter, buckets)
        except TooLittleTextError as error:
            factor *= min(0.9, error.possible / error.total)
        except ValueError:
            return None
        else:
            return shorter
    return None


def settled(recipe: Recipe, inventory: Inventory) -> Recipe:
    """The recipe with numbers in place of each `tokens: auto`; see `settled_phase`. Raises ValueError naming the phase.

    They depend on the text alone, so every process and every start comes to the same.
    """
    phases = []
    for phase in recipe.phases:
        if phase.auto:
            text = text_of(recipe, phase, inventory)
            found = settled_phase(text.phase, text.buckets, text.available)
            phase = found.model_copy(update={"mixture": phase.mixture})  # which a table of counts may have narrowed
        phases.append(phase)
    return recipe.model_copy(update={"phases": tuple(phases)})


def settled_phase(phase: Phase, buckets: Sequence[Bucket], available: Sequence[float] | None = None) -> Phase:
    """A phase of `tokens: auto` with as many whole steps as max_epochs and the text allow.

    Ramps that are longer than that are shortened to fill it, and its batch where it would have fewer than 20 steps.

    available   as of `mixture_of`
    """

    def problem(steps: int, batch: int) -> TooLittleTextError | None:
        try:
            mixture_of(_of_length(phase, steps * batch, batch), buckets, available)
        except TooLittleTextError as error:
            return error
        except ValueError as error:
            why = one_line(error) if isinstance(error, ValidationError) else error
            raise ValueError(f"phases.{phase.name}.tokens: auto: {why}") from None
        return None

    whole = problem(_MOST // phase.batch_tokens, phase.batch_tokens)
    possible = _MOST if whole is None else int(whole.possible)
    batch = min(phase.batch_tokens, max(phase.context, _round(possible / _STEPS)))
    low, high, middle = 0, possible // batch, possible // batch  # the most is tried first: seldom is it too much
    while low < high:
        low, high = (middle, high) if problem(middle, batch) is None else (low, middle - 1)
        middle = (low + high + 1) // 2
    if low == 0:
        raise ValueError(
            f"phases.{phase.name}.tokens: auto: {possible} tokens can be read, too few for one step of {batch}; add "
            "text, raise max_epochs or lower context"
        )
    return _of_length(phase, low * batch, batch)


def _of_length(phase: Phase, tokens: int, batch: int) -> Phase:
    data = phase.model_dump(mode="json", by_alias=True)
    rate = data["learning_rate"]
    if (ramps := rate["warmup"] + rate["decay"]) > tokens:
        rate["warmup"] = rate["warmup"] * tokens // ramps
        rate["decay"] = rate["decay"] * tokens // ramps
    if batch < phase.batch_tokens:
        data["batch_tokens"] = batch
        if data["batch_warmup"] is not None:
            data["batch_warmup"]["start"] = min(data["batch_warmup"]["start"], batch)
    return Phase.model_validate({**data, "tokens": tokens})


def _scaled(phase: Phase, factor: float) -> Phase:
    """Raises ValueError where the phase would be too short for what else it says."""
    if factor == 1.0:
        return phase
    data = phase.model_dump(mode="json", by_alias=True)
    for *inside, last in _LENGTHS:
        place: Any = data
        for key in inside:
            place = place[key] or {}
        if place.get(last):
            place[last] = _round(place[last] * factor)
    for language, tokens in data["mixture"]["entries"].items():
        data["mixture"]["entries"][language] = _round(tokens * factor)
    batch = max(phase.context, _round(data["tokens"] / _STEPS))
    if batch < phase.batch_tokens:
        data["batch_tokens"] = batch
        if data["batch_warmup"] is not None:
            data["batch_warmup"]["start"] = min(data["batch_warmup"]["start"], batch)
    return Phase.model_validate(data)


def _round(tokens: float) -> int:
    """Down to two digits, at least 1."""
    tokens = round(tokens)  # a factor is seldom exact
    unit = 10 ** max(0, math.floor(math.log10(max(1.0, tokens))) - 1)
    return max(1, int(tokens // unit) * unit)


def _differences(old: Phase, new: Phase) -> Iterator[str]:
    """What to write, as `--set` takes it."""

    def walk(before: Any, after: Any, place: str) -> Iterator[str]:
        if isinstance(before, dict) and isinstance(after, dict):
            for key in after:
                yield from walk(before.get(key), after[key], f"{place}.{key}")
        elif before != after:
            yield f"{place}={show_tokens(after)}"

    before, after = (phase.model_dump(mode="json", by_alias=True) for phase in (old, new))
    yield from walk(before, after, f"phases.{old.name}")
