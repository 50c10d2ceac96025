"""Several models into one, as plain arithmetic on their weights: averages, and TIES on what was learned since a base.

A model is here a `dict[str, Tensor]`, name -> weight, as `state_dict()` gives it. All arithmetic is float32; the result
has the dtype of the first model. Weights are walked one by one, so that no second copy of a whole model is needed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]

_PIECE = 1 << 24  # values looked at together while a threshold is searched for: bounds the memory, not the result
_NOT_FINITE = 0x7F80  # upper half of the bits of float32 infinity; NaN lies above


def linear(states: Sequence[State], weights: Sequence[float] | None = None) -> State:
    """The weighted average of models: sum(w_i x_i) / sum(w_i).

    weights   one for each model, at least 0, not all 0; None: all equal

    Equal models give exactly that model. Raises ValueError where names or shapes differ.
    Source: "model soups", Wortsman et al. 2022, arXiv:2203.05482.
    """
    _check(states)
    shares = _shares(weights, len(states))
    merged = {}
    for name, first in states[0].items():
        start = first.float()
        # Written as a walk away from the first model: what all models agree on stays as it is, to the last bit.
        moved = torch.zeros_like(start)
        for share, state in zip(shares, states, strict=True):
            moved += share * (state[name].float() - start)
        merged[name] = (start + moved).to(first.dtype)
    return merged


def exponential(states: Sequence[State], decay: float) -> State:
    """The average of checkpoints of one run, oldest first; each weighs `decay` times the one after it.

    decay   in (0, 1]; 1 is the plain average

    Source: mmBERT-small (Marone et al. 2025, arXiv:2509.06888) weighs its decay checkpoints exponentially; the factor
    is not published.
    """
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay is {decay}; a weight relative to the next checkpoint is above 0 and at most 1")
    return linear(states, [decay**age for age in reversed(range(len(states)))])


def ties(
    base: State,
    states: Sequence[State],
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    scale: float = 1.0,
) -> State:
    """TIES: what each model learned since `base`, trimmed, freed of disagreements in sign, averaged and added to it.

    With t_i = states[i] - base:
      trim    of each t_i keep the share `density` that is largest by magnitude, over the whole model; 0 elsewhere
      elect   for each parameter the sign of sum(w_i t_i); where that is 0 nothing is learned
      merge   base + scale * mean of those w_i t_i that are not 0 and bear this sign (a mean weighted by w_i)

    weights   one for each model, at least 0, not all 0; None: all equal, as in the paper
    density   in (0, 1]; values that tie with the smallest kept one are kept as well
    scale     the paper's lambda

    Raises ValueError where names or shapes differ. The result has the dtype of `base`.
    Source: Yadav et al. 2023, arXiv:2306.01708, algorithm 1.
    """
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density is {density}; it is the share of each task vector to keep, so above 0 and at most 1")
    if not states:
        raise ValueError("ties: no models were given besides the base")
    _check([base, *states])
    shares = _shares(weights, len(states))
    thresholds = [_threshold(base, state, density) for state in states]
    merged = {}
    for name, start in base.items():
        origin = start.float()
        mass = torch.zeros_like(origin)
        kept = []
        for share, state, least in zip(shares, states, thresholds, strict=True):
            vector = state[name].float() - origin
            vector = torch.where(vector.abs() >= least, vector, 0.0)
            kept.append(vector)
            mass += share * vector
        elected = mass.sign()
        total, voters = torch.zeros_like(origin), torch.zeros_like(origin)
        for share, vector in zip(shares, kept, strict=True):
            agrees = (vector.sign() == elected) & (vector != 0)
            total += torch.where(agrees, share * vector, 0.0)
            voters += share * agrees
        mean = torch.where(voters > 0, total / voters, 0.0)
        merged[name] = (origin + scale * mean).to(start.dtype)
    return merged


def _threshold(base: State, state: State, density: float) -> float:
    """The k-th largest |state - base| over all weights, k = round(density * parameters), at least 1.

    Magnitudes in float32 are ordered as their bits are, so two histograms, of the upper and of the lower 16 bits, find
    it exactly, without sorting and without all the differences in memory at once.
    """
    wanted = max(1, round(density * sum(weight.numel() for weight in base.values())))
    prefix = 0
    for shift in (16, 0):
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for name, start in base.items():
            pieces = zip(start.flatten().split(_PIECE), state[name].flatten().split(_PIECE), strict=True)
            for before, after in pieces:
                bits = (after.float() - before.float()).abs().view(torch.int32)
                if shift == 0:
                    bits = bits[(bits >> 16) == prefix]
                counts += torch.bincount((bits >> shift).bitwise_and(0xFFFF), minlength=1 << 16).cpu()
        if shift == 16 and counts[_NOT_FINITE:].any():
            raise ValueError(
                "ties: a model holds values that are not finite (NaN or infinite); its training has diverged"
            )
        from_above = counts.flip(0).cumsum(0)  # [i]: how many have one of the i + 1 highest values
        place = int(torch.searchsorted(from_above, wanted))
        wanted -= int(from_above[place - 1]) if place else 0
        prefix = (prefix << 16) | (0xFFFF - place)
    return torch.tensor(prefix, dtype=torch.int32).view(torch.float32).item()


def _shares(weights: Sequence[float] | None, models: int) -> list[float]:
    if weights is None:
        return [1.0 / models] * models
    if len(weights) != models:
        raise ValueError(f"{len(weights)} weights for {models} models; give one for each")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights are {list(weights)}; give numbers of at least 0 that are not all 0")
    return [weight / sum(weights) for weight in weights]


def _check(states: Sequence[State]) -> None:
    """Refuses models that do not have the same weights in the same shapes, naming the first that differs."""
    if not states:
        raise ValueError("no models to merge")
    first = states[0]
    for number, state in enumerate(states[1:], start=2):
        for name in [*first, *state]:
            if name not in state or name not in first:
                lacking, having = (number, 1) if name not in state else (1, number)
                raise ValueError(
                    f"cannot merge: model {having} has {name!r}, model {lacking} does not; are they of one family?"
                )
            if state[name].shape != first[name].shape:
                raise ValueError(
                    f"cannot merge: {name!r} is {list(first[name].shape)} in model 1 and {list(state[name].shape)} in "
                    f"model {number}; only models of one size and vocabulary merge"
                )
