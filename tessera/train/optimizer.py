"""The optimizers of the two recipes, and their state as plain tensors."""

import json
from collections.abc import Iterable
from typing import Any

import torch
from optimi import StableAdamW
from torch import Tensor, nn

from tessera.plan.recipe import Optimizer

_COUNTS = {"step", "setup"}  # of torch-optimi, which adds them to a group with the first step


def build(model: nn.Module, settings: Optimizer, peak: float) -> torch.optim.Optimizer:
    """An optimizer over the parameters of `model`; norms and biases are not decayed.

    peak   the highest learning rate; fully decoupled weight decay is scaled by lr / peak
    Source: ModernBERT (arXiv:2412.13663) for StableAdamW with fully decoupled weight decay, arXiv:2304.13013 for its
    clipping of each update; EuroBERT (arXiv:2503.05500, table 4) for AdamW.
    """
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    decay = settings.weight_decay
    if settings.name == "adamw" and settings.fully_decoupled:
        decay /= peak  # torch multiplies by the learning rate
    groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=peak, betas=settings.betas, eps=settings.eps, fused=True)
    return StableAdamW(
        groups,
        lr=peak,
        betas=settings.betas,
        eps=settings.eps,
        decouple_lr=settings.fully_decoupled,
        max_lr=peak if settings.fully_decoupled else None,
        foreach=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> float:
    """The norm of the whole gradient; scales it down to `limit` where that is given."""
    moving = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in moving if p.grad is not None])
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(moving, limit, norm)
    return float(norm)


def pack_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], str]:
    """The state as (tensors by name, JSON): what safetensors and a text file can hold."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}

    def strip(place: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[place] = value.detach().clone().contiguous()
            return {"tensor": place}
        return value

    plain = {
        "state": {str(i): {k: strip(f"{i}.{k}", v) for k, v in s.items()} for i, s in state["state"].items()},
        "groups": [
            {k: strip(f"group.{n}.{k}", v) for k, v in group.items()} for n, group in enumerate(state["param_groups"])
        ],
    }
    return tensors, json.dumps(plain)


def unpack_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: str) -> None:
    """Puts back what `pack_state` took. Raises ValueError if the optimizer is of another kind or shape."""
    read = json.loads(plain)

    def fill(value: Any) -> Any:
        return tensors[value["tensor"]] if isinstance(value, dict) and "tensor" in value else value

    groups = [{k: fill(v) for k, v in group.items()} for group in read["groups"]]
    state = {int(i): {k: fill(v) for k, v in s.items()} for i, s in read["state"].items()}
    own = optimizer.state_dict()["param_groups"]
    if [_shape(group) for group in own] != [_shape(group) for group in groups]:
        raise ValueError(
            "the saved optimizer state is of another optimizer or another model; set keep_optimizer: false"
        )
    for mine, saved in zip(own, groups, strict=True):
        for key in mine.keys() - {"params", *_COUNTS}:
            saved[key] = mine[key]  # settings come from the recipe, moments and counts from the file
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _shape(group: dict[str, Any]) -> tuple[list[int], list[str]]:
    return group["params"], sorted(group.keys() - _COUNTS)
