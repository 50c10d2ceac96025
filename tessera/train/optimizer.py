"""The optimizers of the recipes, and their state as plain tensors."""

import functools
import json
from collections.abc import Iterable
from typing import Any

import torch
from optimi import StableAdamW
from optimi.utils import debias_beta
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from tessera.kernels.trial import failure
from tessera.model.encoder import Block
from tessera.model.precision import without_compiler
from tessera.plan.errors import one_line
from tessera.plan.phase import Optimizer
from tessera.train.distributed import DTensor, like, whole

_COUNTS = {"step", "setup"}  # of torch-optimi, which adds them to a group with the first step
_SCRATCH = {"mean_square", "kahan_comp"}  # of its Triton form; the other form knows the second, without a value


def build(
    model: nn.Module, settings: Optimizer, peak: float, learning: Iterable[nn.Parameter] | None = None
) -> torch.optim.Optimizer:
    """An optimizer over the parameters of `model`; norms and biases are not decayed.

    peak      the highest learning rate; fully decoupled weight decay is scaled by lr / peak
    learning  the parameters that are moved; None: all
    Raises ValueError for Muon where matrices are spread over processes: its update needs each whole.
    Source: ModernBERT (arXiv:2412.13663) for StableAdamW with fully decoupled weight decay, arXiv:2304.13013 for its
    clipping of each update; EuroBERT (arXiv:2503.05500, table 4) for AdamW.
    """
    moving = list(model.parameters() if learning is None else learning)
    spread = any(isinstance(p, DTensor) for p in moving)
    layers = [part for part in model.modules() if isinstance(part, Block)] if settings.name == "muon" else []
    matrices = [p for layer in layers for p in layer.parameters() if p.ndim == 2 and p.requires_grad]
    inside = {id(p) for p in matrices}
    decayed = [p for p in moving if p.ndim >= 2 and id(p) not in inside]
    plain = [p for p in moving if p.ndim < 2]
    decay = settings.weight_decay
    if settings.name != "stableadamw" and settings.fully_decoupled:
        decay /= peak  # torch multiplies by the learning rate
    both = ({"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0})
    groups: list[dict[str, Any]] = [group for group in both if group["params"]]  # rows alone may have nothing plain
    if settings.name == "stableadamw":
        at_once = in_triton(model) and works_at_once(next(model.parameters()).device)
        return (AtOnce if at_once else StableAdamW)(
            groups,
            lr=peak,
            betas=settings.betas,
            eps=settings.eps,
            decouple_lr=settings.fully_decoupled,
            max_lr=peak if settings.fully_decoupled else None,
            triton=in_triton(model) or None,
            foreach=not spread and not in_triton(model),  # its foreach path does not know how tensors are spread
        )
    adamw = torch.optim.AdamW(groups, lr=peak, betas=settings.betas, eps=settings.eps, fused=True)
    if settings.name == "adamw" or not matrices:  # Muon, where the layers are frozen
        return adamw
    if spread:
        raise ValueError(
            "optimizer.name is muon, which turns each matrix as a whole, but machine.parallel: fsdp2 spreads it over "
            "processes; set machine.parallel: ddp"
        )
    muon = torch.optim.Muon(
        matrices, lr=peak, weight_decay=decay, momentum=settings.momentum, adjust_lr_fn="match_rms_adamw"
    )
    return MuonAndAdamW(muon, adamw)


def in_triton(model: nn.Module) -> bool:
    """Whether StableAdamW's update of these weights, in float32, runs as Triton kernels.

    Its other forms read back from the GPU how far each tensor moves, 137 times a step for mmBERT-base.
    """
    weights = list(model.parameters())
    plain = all(p.dtype is torch.float32 and not isinstance(p, DTensor) for p in weights)
    return plain and without_compiler(weights[0].device) is None


@functools.cache
def works_at_once(device: torch.device) -> bool:
    """Whether the update of all tensors at once has torch-optimi's numbers on this GPU; tried once, else it is said."""
    return device.type != "cuda" or failure(lambda: try_at_once(device), "StableAdamW: tensor by tensor") is None


def try_at_once(device: torch.device) -> None:
    """Raises what is wrong with the update of all tensors at once there: two steps of three tensors."""
    ways = []
    for kind, options in ((AtOnce, {}), (StableAdamW, {"triton": False, "foreach": False})):
        weights = [torch.linspace(-1, 1, size, device=device) for size in (5000, 16, 3)]
        optimizer = kind([{"params": weights, "weight_decay": 1e-3}], lr=1e-2, **options)
        for _ in range(2):
            for weight in weights:
                weight.grad = weight.detach().cos()
            optimizer.step()
        ways.append(weights)
    torch.testing.assert_close(ways[0], ways[1], rtol=1e-4, atol=1e-6)


class AtOnce(StableAdamW):
    """StableAdamW in Triton, a few kernels for all tensors of a group (kernels/optimizer_kernel.py); its state is the
    same."""

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, **{**settings, "triton": True, "foreach": False})
        self._blocks: dict[tuple[int, ...], Any] = {}  # by the sizes of the tensors

    @torch.no_grad()
    def step(self, closure: None = None, param: None = None) -> None:
        """One update of all parameters that have a gradient."""
        from tessera.kernels.optimizer_kernel import Blocks, update

        assert closure is None
        assert param is None
        for group in self.param_groups:
            weights: list[Tensor] = []
            gradients: list[Tensor] = []
            moments: tuple[list[Tensor], list[Tensor]] = ([], [])
            self._init_group(group, weights, gradients, *moments, [], [], [])
            step = int(group["step"].add_(1))  # counted on the processor
            if not weights:
                continue
            sizes = tuple(weight.numel() for weight in weights)
            if sizes not in self._blocks:
                self._blocks[sizes] = Blocks.of(list(sizes), weights[0].device)
            update(
                (weights, [gradient.contiguous() for gradient in gradients], *moments), self._blocks[sizes],
                lr=group["lr"], eps=group["eps"],
                decay=group["weight_decay"] / (group["max_lr"] if group["decouple_lr"] else 1.0),
                beta1=debias_beta(group["beta1"], step), beta2=debias_beta(group["beta2"], step),
            )  # fmt: skip


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the matrices inside the layers, AdamW for what looks tokens up, scores them or scales.

    One learning rate serves both: Muon's update is scaled to the size that AdamW's has.
    Source: Jordan et al. 2024 (Muon); Liu et al. 2025, arXiv:2502.16982, section 2.2 (the scale).
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        self._muon, self._adamw = muon, adamw
        super().__init__([*muon.param_groups, *adamw.param_groups], {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters."""
        turned = len(self._muon.param_groups)
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:turned], self.param_groups[turned:]
        self._muon.state = self._adamw.state = self.state  # `load_state_dict` makes new ones
        self._muon.step()
        self._adamw.step()


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """The norm of the whole gradient, a number on the device; scales it down to `limit` where that is given."""
    moving = [p for p in parameters if p.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in moving if p.grad is not None]))
    if limit is not None and any(isinstance(p, DTensor) for p in moving):
        scale = (limit / (norm.double() + 1e-6)).clamp(max=1.0)
        for p in moving:
            assert p.grad is not None
            (p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad).mul_(scale)
    elif limit is not None:
        torch.nn.utils.clip_grads_with_norm_(moving, limit, norm)
    return norm


def pack_state(optimizer: torch.optim.Optimizer, *, keep: bool = True) -> tuple[dict[str, Tensor], str]:
    """The state as (tensors by name, JSON): what safetensors and a text file can hold, the same however it is spread.

    keep   False: tensors are only handed to the process that keeps them. Every process calls this where they are spread
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}

    def strip(place: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            full = whole(value.detach())
            if keep:
                tensors[place] = full.to("cpu", copy=True).contiguous()
            return {"tensor": place}
        return value

    moments = {i: {k: None if k in _SCRATCH else v for k, v in s.items() if k != "mean_square"} for i, s in
               state["state"].items()}  # fmt: skip
    plain = {
        "state": {str(i): {k: strip(f"{i}.{k}", v) for k, v in s.items()} for i, s in moments.items()},
        "groups": [
            {k: strip(f"group.{n}.{k}", v) for k, v in group.items()} for n, group in enumerate(state["param_groups"])
        ],
    }
    return tensors, json.dumps(plain)


def unpack_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: str) -> None:
    """Puts back what `pack_state` took. Raises ValueError if it is damaged, or of another kind or shape."""
    try:
        read = _Saved.model_validate_json(plain)
    except ValidationError as error:
        raise ValueError(f"the saved optimizer state is damaged: {one_line(error)[:400]}") from None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def fill(value: Any, of: Tensor | None = None) -> Any:
        if not isinstance(value, _Stored):
            return value
        if value.tensor not in tensors:
            raise ValueError(f"the saved optimizer state is damaged: {value.tensor[:100]!r} is missing")
        tensor = tensors[value.tensor]
        if of is None or (tensor.numel() == 1 and tensor.shape != of.shape):  # a count
            return tensor
        if tensor.shape != of.shape:
            raise ValueError(_OTHER)
        return like(tensor, of)

    groups = [{k: fill(v) for k, v in group.items()} for group in read.groups]
    own = optimizer.state_dict()["param_groups"]
    if [_shape(group) for group in own] != [_shape(group) for group in groups]:
        raise ValueError(_OTHER)
    if not read.state.keys() <= set(range(len(parameters))):
        raise ValueError(_OTHER)
    state = {i: {k: fill(v, parameters[i]) for k, v in s.items()} for i, s in read.state.items()}
    for mine, saved in zip(own, groups, strict=True):
        for key in mine.keys() - {"params", *_COUNTS}:
            saved[key] = mine[key]  # settings come from the recipe, moments and counts from the file
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _shape(group: dict[str, Any]) -> tuple[list[int], list[str]]:
    return group.get("params", []), sorted(group.keys() - _COUNTS)


_OTHER = "the saved optimizer state is of another optimizer or another model; set keep_optimizer: false"


class _Stored(BaseModel):
    """A tensor, by its name in the file of tensors."""

    model_config = ConfigDict(extra="forbid", strict=True)
    tensor: str


_Value = _Stored | bool | int | float | str | None


class _Saved(BaseModel):
    """optimizer.json."""

    model_config = ConfigDict(extra="forbid")
    state: dict[int, dict[str, _Value]]
    groups: list[dict[str, _Value | list[int] | list[float]]]
