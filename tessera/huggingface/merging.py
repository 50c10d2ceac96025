"""Model merging: weighted averages of weights, and TIES on what was learned since a base.

A model is here a `dict[str, Tensor]`, name -> weight, as `state_dict()` gives it. All arithmetic is float32; the result
has the dtype of the first model. Weights are walked one by one, so that no second copy of a whole model is needed.
`merge` does it with folders, and refuses what an average of weights says nothing about: models that read other tokens
under the same ids, or compute something else with the same shapes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tessera.huggingface import hub
from tessera.huggingface.hf_files import config_json, is_finite, tokenizers_differ, vocabularies_differ
from tessera.model.mlm import MaskedLM

Method = Literal["ties", "linear", "exponential"]
State = dict[str, Tensor]

_PIECE = 1 << 24  # values looked at together while a threshold is searched for: bounds the memory, not the result
_ROTARY = ("global_rope_theta", "local_rope_theta")
_WRITTEN = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_CHOSEN = frozenset((  # fields that weights of other values may be averaged under: the result takes those of one model
    *_ROTARY, "norm_eps", "global_attn_every_n_layers", "local_attention",
    "max_position_embeddings", "attention_output_dropout", "initializer_range", "initialization",
    "pad_token_id", "bos_token_id", "eos_token_id", "mask_token_id",
))  # fmt: skip


def merge(
    models: Sequence[Path],
    method: Method = "ties",
    *,
    base: Path | None = None,
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    scale: float = 1.0,
    decay: float = 0.5,
    config_of: Path | None = None,
    tokenizer: Path | None = None,
) -> hub.AnyMaskedLM:
    """One model out of several folders, with their common configuration.

    base, weights, density, scale, decay  as for `ties`, `linear` and `exponential`
    config_of  where the models differ in what an average can bridge (rotary bases, windows, eps, special tokens, rules
               of the tokenizer): the one of them whose values hold; None: they may not differ
    tokenizer  folder of the tokenizer that the result will stand beside, if it is not one of theirs

    Raises ValueError, before any weight is read, naming what differs; and for weights that are not finite.
    """
    if len(models) < 2:
        raise ValueError(f"a merge needs at least two models, {len(models)} given")
    if method not in get_args(Method):
        raise ValueError(f"unknown merge method {method!r}; known are {', '.join(get_args(Method))}")
    if method == "ties" and base is None:
        raise ValueError("ties adds task vectors to a base; give the model that the others branched from as base")
    _shares(weights, len(models))
    if method == "ties":
        _check_ties(density, scale)
    elif method == "exponential":
        weights = _by_age(len(models), decay)
    _check_alike(models, base, config_of, tokenizer)
    states = [hub.load_any(path).state_dict() for path in models]
    if method == "ties" and base is not None:
        state = ties(hub.load_any(base).state_dict(), states, weights, density, scale)
    else:
        state = linear(states, weights)
    if not hub.is_ours(models[0]):
        other = hub.load_any(config_of or models[0])
        other.load_state_dict(state)
        return other
    with torch.device("meta"):
        merged = MaskedLM(hub.read_config(config_of or models[0]))
    merged.load_state_dict(state, assign=True)
    return merged


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
        merged[name] = _finite(name, (start + moved).to(first.dtype))
    return merged


def exponential(states: Sequence[State], decay: float) -> State:
    """The average of checkpoints of one run, oldest first; each weighs `decay` times the one after it.

    decay   in (0, 1]; 1 is the plain average

    Source: mmBERT-small (Marone et al. 2025, arXiv:2509.06888) weighs its decay checkpoints exponentially; the factor
    is not published.
    """
    return linear(states, _by_age(len(states), decay))


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
    _check_ties(density, scale)
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
        merged[name] = _finite(name, (origin + scale * mean).to(start.dtype))
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
    if not all(map(math.isfinite, weights)) or min(weights) < 0 or max(weights) <= 0:
        raise ValueError(f"weights are {list(weights)}; give finite numbers of at least 0 that are not all 0")
    if not math.isfinite(sum(weights)):
        weights = [weight / max(weights) for weight in weights]
    return [weight / sum(weights) for weight in weights]


def _check_ties(density: float, scale: float) -> None:
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density is {density}; it is the share of each task vector to keep, so above 0 and at most 1")
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}; what was learned is multiplied by it, so give a finite number")


def _by_age(models: int, decay: float) -> list[float]:
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay is {decay}; a weight relative to the next checkpoint is above 0 and at most 1")
    return [decay**age for age in reversed(range(models))]


def _finite(name: str, merged: Tensor) -> Tensor:
    if not is_finite(merged):
        raise ValueError(
            f"cannot merge: {name!r} comes out not finite: what the models hold, or `scale` makes of it, is too large "
            f"for {str(merged.dtype).removeprefix('torch.')}"
        )
    return merged


def _check(states: Sequence[State]) -> None:
    """Refuses models that hold no numbers, or other weights or shapes than the first, naming what differs."""
    if not states:
        raise ValueError("no models to merge")
    first = states[0]
    for number, state in enumerate(states, start=1):
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
        for name, values in state.items():
            if not is_finite(values):
                raise ValueError(
                    f"cannot merge: {name!r} of model {number} holds values that are not finite (NaN or infinite); its "
                    "training has diverged"
                )


_CHOOSE = "the merged model has one of them: say whose it takes (config_of; --config-of FOLDER)"


def _check_alike(models: Sequence[Path], base: Path | None, config_of: Path | None, tokenizer: Path | None) -> None:
    """Refuses folders of models that compute different things, or read other tokens, naming what differs.

    Rotary bases of `base` may be others: a phase may have changed them, which is part of what was learned since.
    """
    folders = [*models, *([base] if base else [])]
    if config_of is not None and config_of not in folders:
        raise ValueError(f"config_of is {config_of}, which is none of {', '.join(map(str, folders))}")
    for folder in folders:
        if (folder / "modules.json").is_file():
            raise ValueError(
                f"{folder} is a model of sentence-transformers: a merge makes a masked language model, and would lose "
                "its pooling, prompts and further layers; take modules.json out of a copy if that is meant"
            )
    first, mine = folders[0], _config(folders[0])
    for other in folders[1:]:
        theirs, free = _config(other), _ROTARY if other not in models else ()
        unlike = [field for field in {**mine, **theirs} if mine.get(field) != theirs.get(field) and field not in free]
        fatal = [field for field in unlike if field not in _CHOSEN]
        if fatal or (unlike and config_of is None):
            raise ValueError(
                f"cannot merge {first} and {other}: "
                + "; ".join(f"{field} is {mine.get(field)} and {theirs.get(field)}" for field in fatal or unlike)
                + f"; {'weights of other architectures do not average' if fatal else _CHOOSE}"
            )
    readers = [*folders, *([tokenizer] if tokenizer else [])]
    read = [folder for folder in readers if (folder / "tokenizer.json").is_file()]
    if read and len(read) < len(readers):
        lacking = next(folder for folder in readers if folder not in read)
        raise ValueError(
            f"cannot merge: {read[0]} has a tokenizer.json and {lacking} none, so nobody knows whether their ids are "
            "the same tokens; put the tokenizer.json of its training there"
        )
    for other in readers[1:]:
        if read:
            _check_tokenizers(readers[0], other, config_of)
        elif (name := vocabularies_differ(readers[0], other)) is not None:
            raise ValueError(
                f"cannot merge {readers[0]} and {other}: {name} is not the same in both, and neither has a "
                "tokenizer.json; only models that were trained with one vocabulary merge"
            )


def _config(folder: Path) -> dict[str, Any]:
    """What a folder says of its architecture; of another family all that config.json does, but for who wrote it."""
    if hub.is_ours(folder):
        return hub.read_config(folder).model_dump()
    return {key: value for key, value in config_json(folder).items() if key not in _WRITTEN}


def _check_tokenizers(first: Path, other: Path, config_of: Path | None) -> None:
    """Refuses tokenizers with other ids; with other rules, unless it is said whose hold."""
    ids, rule = tokenizers_differ(first / "tokenizer.json", other / "tokenizer.json")
    if ids:
        raise ValueError(
            f"cannot merge {first} and {other}: their tokenizers differ: {ids}; only models that were trained with one "
            "vocabulary merge"
        )
    if rule and config_of is None:
        raise ValueError(f"cannot merge {first} and {other}: {rule} of their tokenizers differs; {_CHOOSE}")
