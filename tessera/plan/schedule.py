"""Schedules of batch size, learning rate (warm-up, decay) and mask ratio, as pure functions of the tokens read.

The clock counts planned tokens: step s covers the window [boundary(s), boundary(s + 1)), whatever the machine. A phase
that grows its batch, or is resumed on another number of processes, keeps its curves. No schedule keeps state.
"""

import math

from tessera.plan.fields import at
from tessera.plan.phase import LearningRate, Phase


def boundary(phase: Phase, step: int) -> int:
    r"""Tokens read before `step`, in [0, phase.tokens].

    With a batch warm-up of W tokens the batch grows linearly in steps from `start` to `batch_tokens`, so that every
    batch size gets the same number of updates; U = 2 W / (start + batch_tokens) steps do that:

        tokens(s) = start * s + (batch - start) * s^2 / (2 U)    for s <= U
                    W + (s - U) * batch                          after

    Source: the batch-size warm-up of ModernBERT (arXiv:2412.13663, appendix A), which mmBERT follows.
    """
    batch = phase.batch_tokens
    if phase.batch_warmup is None:
        return min(step * batch, phase.tokens)
    start, length = phase.batch_warmup.start, phase.batch_warmup.tokens
    steps = 2 * length / (start + batch)
    if step <= steps:
        tokens = start * step + (batch - start) * step * step / (2 * steps)
    else:
        tokens = length + (step - steps) * batch
    return min(round(tokens), phase.tokens)


def total_steps(phase: Phase) -> int:
    """Steps until the phase has read its tokens; the last one may be shorter than the others."""
    if phase.auto:
        raise ValueError(
            f"phases.{phase.name}.tokens is auto, which needs text to count: run `tessera prepare` with this recipe "
            "first (plan: or give --counts); the recipe.yaml of a run has the number"
        )
    batch = phase.batch_tokens
    if phase.batch_warmup is None:
        return math.ceil(phase.tokens / batch)
    low, high = 0, math.ceil(phase.tokens / phase.batch_warmup.start)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if boundary(phase, middle) >= phase.tokens else (middle + 1, high)
    return low


def passes_multiple(phase: Phase, step: int, every: int | None) -> bool:
    """Whether a multiple of `every` tokens lies in the window that ended before `step`; never where that is None."""
    if every is None or step == 0:
        return False
    return boundary(phase, step) // every > boundary(phase, step - 1) // every


def learning_rate(rate: LearningRate, tokens: float, total: int) -> float:
    r"""The learning rate once `tokens` of `total` tokens have been read.

        peak  |   ________
              |  /        \      linear, cosine or 1 - sqrt
        floor | /          \
              0  warmup     total

    "Inverse square root decay" in the text of mmBERT is 1 - sqrt(progress): see docs/numerics.md.
    `halve_at` halves the peak from there on; fully decoupled weight decay follows the rate, so it is halved too.
    Source: warmup-stable-decay, Hu et al. 2024, arXiv:2404.06395.
    """
    peak = rate.peak / 2 if rate.halve_at is not None and tokens >= rate.halve_at else rate.peak
    if tokens < rate.warmup:
        return peak * tokens / rate.warmup
    begin = total - rate.decay
    if rate.decay == 0 or tokens <= begin:
        return peak
    progress = min(1.0, (tokens - begin) / rate.decay)
    match rate.shape:
        case "linear":
            remaining = 1.0 - progress
        case "cosine":
            remaining = (1.0 + math.cos(math.pi * progress)) / 2.0
        case "one_minus_sqrt":
            remaining = 1.0 - math.sqrt(progress)
    return peak * (rate.floor + (1.0 - rate.floor) * remaining)


def learning_rate_at(phase: Phase, step: int) -> float:
    """The learning rate of a step: the curve at the middle of its window, so that neither the first step of a
    warm-up nor the last of a decay to zero is spent at a rate of 0."""
    middle = (boundary(phase, step) + boundary(phase, step + 1)) / 2
    return learning_rate(phase.learning_rate, middle, phase.tokens)


def mask_ratio_at(phase: Phase, step: int) -> float:
    """The share of tokens to predict in a step: the curve at the middle of its window, or the plain number."""
    middle = (boundary(phase, step) + boundary(phase, step + 1)) / 2
    return at(phase.predicted, middle / phase.tokens)
