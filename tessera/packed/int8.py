"""Int8 inference on a CPU: oneDNN's int8 products on packed sequences, weights by output channel, activations smoothed.

    steps = calibrate(encoder, batches)
    fast = PackedEncoder(encoder, torch.bfloat16, int8_layer(steps))

Every input channel of a product has a step, found on real text; its numbers are divided by it, rounded to -127 ... 127,
and the weights multiplied by it (SmoothQuant, Xiao et al. 2023, arXiv:2211.10438). The division costs nothing: it lies
in the weights of the norm, or of the product, before. A product without steps stays as it is: so the few that int8
would hurt are kept. Attention, norms and sums stay as they are too.

A scale for every token instead was measured and left out: finding and applying it cost 1.7 times the rounding by fixed
steps, and the activation could not be fused with its product.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tessera.model.encoder import Block, Encoder, Norm
from tessera.packed.encoder import Layer, float_layer, inference_norm
from tessera.packed.products import FUSED_ACTIVATIONS, product, summed

# Shapes: T tokens, R of them kept as a sample, K inputs and O outputs of a product, C hidden size, I intermediate size.

PRODUCTS = ("qkv", "output", "gate_up", "down")
_MOST, _ZERO = 127, 128  # of a rounded number; what stands for 0 once it is unsigned
_ROUNDED = 512  # rows at once
_SAMPLE = 256  # rows of a product's input
_STRENGTHS = (0.5, 0.65, 0.8, 0.95)  # share of the unevenness of channels that moves into the weights

Steps = Mapping[str, Tensor]
"""Of "<layer>.<product>": the size [K] of one step of every input channel, float32."""


def can_int8() -> bool:
    """Whether this build of PyTorch has the products, and this processor is fast in them."""
    return hasattr(torch.ops.onednn, "qlinear_prepack") and torch.cpu._is_vnni_supported()


# --------------------------------------------------------------------------------------------------------- calibration


@dataclass(slots=True)
class _Seen:
    """What went into a product."""

    largest: Tensor  # [K]
    sample: Tensor  # [R, K]


@torch.no_grad()
def calibrate(encoder: Encoder, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Steps of all products, and the error of each: the size of what its outputs are off by, over their size.

    batches  (tokens [T], starts [N+1]) of real text, very short ones among it: the fewer tokens attention averages, the
             larger its answers, and what is larger than all that was seen is cut
    """
    seen: dict[str, _Seen] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: _look(seen, name, given[0]))
        for name, module in _products(encoder).items()
    ]
    try:
        for tokens, starts in batches:
            encoder(tokens, starts)
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: _best(seen[name], module.weight.float()) for name, module in _products(encoder).items()}
    return {name: steps for name, (steps, _) in found.items()}, {name: error for name, (_, error) in found.items()}


def _products(encoder: Encoder) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for number, block in enumerate(encoder.layers):
        assert isinstance(block, Block)
        modules = (block.attention.qkv, block.attention.output, block.mlp.gate_up, block.mlp.down)
        named |= {f"{number}.{name}": module for name, module in zip(PRODUCTS, modules, strict=True)}
    return named


def _look(seen: dict[str, _Seen], name: str, x: Tensor) -> None:
    x = x.float()
    largest, sample = x.abs().amax(0), x[:: max(1, len(x) // _SAMPLE)][:_SAMPLE]
    if name in seen:
        largest = torch.maximum(largest, seen[name].largest)
        sample = torch.cat((seen[name].sample, sample))[-2 * _SAMPLE :]
    seen[name] = _Seen(largest, sample.clone())


def _best(seen: _Seen, weight: Tensor) -> tuple[Tensor, float]:
    exact = seen.sample @ weight.T
    tried = []
    for strength in _STRENGTHS:
        steps = _steps(seen.largest, weight, strength)
        rounded = (seen.sample / steps).round_().clamp_(-_MOST, _MOST)
        whole, scales = _rounded_weight(weight * steps)
        off = rounded @ (whole.float() * scales[:, None]).T - exact
        tried.append((float(off.norm() / exact.norm().clamp(min=1e-12)), steps))
    error, steps = min(tried, key=lambda one: one[0])
    return steps, error


def _steps(largest: Tensor, weight: Tensor, strength: float) -> Tensor:
    """[K], so that the largest number of a channel is 127 steps or fewer."""
    largest = largest.clamp(min=1e-6)
    smooth = largest**strength / weight.abs().amax(0).clamp(min=1e-6) ** (1 - strength)
    smooth /= smooth.mean()
    return smooth * (largest / smooth).max() / _MOST


def _rounded_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [O, K] and its scales [O]."""
    scales = weight.abs().amax(1).clamp(min=1e-12) / _MOST
    return (weight / scales[:, None]).round_().to(torch.int8), scales


# -------------------------------------------------------------------------------------------------------------- layers


def int8_layer(steps: Steps) -> Callable[[Encoder, int, torch.dtype], Layer]:
    """What makes a layer whose products are in int8 where they have steps; for `PackedEncoder`."""

    def layer(encoder: Encoder, number: int, dtype: torch.dtype) -> Layer:
        found = float_layer(encoder, number, dtype)
        own = {name: steps[f"{number}.{name}"] for name in PRODUCTS if f"{number}.{name}" in steps}
        block = encoder.layers[number]
        assert isinstance(block, Block)
        if "qkv" in own:
            before, product = (
                _Rounding.of(block.attention_norm, own["qkv"]),
                _Product.of(block.attention.qkv, own["qkv"]),
            )
            found = replace(found, qkv=lambda x: product(before(x), x.dtype))
        if "output" in own:
            after, last = _Rounding.of(None, own["output"]), _Product.of(block.attention.output, own["output"])
            found = replace(found, output=lambda mixed, x: last.add(after(mixed), x))
        if "gate_up" in own or "down" in own:
            found = replace(found, mlp=_mlp(block, encoder.config.hidden_act, own, dtype))
        return found

    return layer


def _mlp(block: Block, activation: str, own: Steps, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """norm, gate and up, down and sum; gate and up in int8, down, or both."""
    weight, narrow = block.mlp.gate_up.weight.detach().float(), own.get("down")
    gate, up = weight.chunk(2)
    if narrow is not None:
        up = up / narrow[:, None]  # what comes out of the gate is in steps of the next product
    if "gate_up" in own:
        between = _Rounding.of(block.mlp_norm, own["gate_up"])
        gated, upward = (_Product.make(half, own["gate_up"]) for half in (gate, up))

        def inner(x: Tensor) -> Tensor:
            rounded = between(x)
            return gated(rounded, dtype, activation).mul_(upward(rounded, dtype))
    else:
        norm = inference_norm(block.mlp_norm, dtype)
        acted, plain = product(gate, None, dtype, activation), product(up, None, dtype)

        def inner(x: Tensor) -> Tensor:
            normed = norm(x)
            return acted(normed).mul_(plain(normed))

    if narrow is None:
        down = summed(block.mlp.down.weight, None, dtype)
        return lambda x: down(inner(x), x)
    last = _Product.of(block.mlp.down, narrow)
    return lambda x: last.add(_unsigned(inner(x)), x)


@dataclass(frozen=True, slots=True)
class _Rounding:
    """Numbers in steps, the norm before them included: [T, K] -> uint8 [T, K], 128 for 0."""

    weight: Tensor  # [K] float32, of the norm if there is one, divided by the steps
    eps: float | None  # of the norm; None: there is none
    centred: bool

    @classmethod
    def of(cls, norm: Any, steps: Tensor) -> "_Rounding":
        if not isinstance(norm, Norm):
            return cls(1 / steps, None, False)
        return cls(norm.weight.detach().float() / steps, norm.eps, norm.centred)

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.empty(x.shape, dtype=torch.int8)
        for rows, into in zip(x.split(_ROUNDED), out.split(_ROUNDED), strict=True):
            _round(self._normed(rows.float()), into)
        return _shifted(out)

    def _normed(self, x: Tensor) -> Tensor:
        if self.eps is None:
            return x * self.weight
        if self.centred:
            return functional.layer_norm(x, self.weight.shape, self.weight, eps=self.eps)
        return functional.rms_norm(x, self.weight.shape, self.weight, eps=self.eps)


def _unsigned(x: Tensor) -> Tensor:
    """The same of numbers that are in steps already; they are changed."""
    out = torch.empty(x.shape, dtype=torch.int8)
    for rows, into in zip(x.split(_ROUNDED), out.split(_ROUNDED), strict=True):
        _round(rows, into)
    return _shifted(out)


def _round(x: Tensor, out: Tensor) -> None:
    out.copy_(x.clamp_(-_MOST, _MOST).round_())


def _shifted(signed: Tensor) -> Tensor:
    """What oneDNN is fast in: bytes with 128 for 0. PyTorch makes them from floats many times slower than int8."""
    return signed.bitwise_xor_(-128).view(torch.uint8)


@dataclass(frozen=True, slots=True)
class _Product:
    """x w^T of rounded x."""

    weight: Tensor  # int8, in the order of the matrix library
    scales: Tensor  # [O]
    zeros: Tensor  # [O]

    @classmethod
    def of(cls, linear: Any, steps: Tensor) -> "_Product":
        return cls.make(linear.weight.detach().float(), steps)

    @classmethod
    def make(cls, weight: Tensor, steps: Tensor) -> "_Product":
        whole, scales = _rounded_weight(weight * steps)
        return cls(torch.ops.onednn.qlinear_prepack(whole, None), scales, torch.zeros(len(scales), dtype=torch.int32))

    def __call__(self, x: Tensor, dtype: torch.dtype, activation: str | None = None) -> Tensor:
        """x uint8 [T, K] -> [T, O]"""
        fused, how = ("none", "") if activation is None else FUSED_ACTIVATIONS[activation]
        return torch.ops.onednn.qlinear_pointwise(
            x, 1.0, _ZERO, self.weight, self.scales, self.zeros, None, 1.0, 0, dtype, fused, [], how
        )

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """x uint8 [T, K], other [T, O] -> [T, O] in its dtype"""
        return torch.ops.onednn.qlinear_pointwise.binary(
            x, 1.0, _ZERO, self.weight, self.scales, self.zeros, other, None, 1.0, 0, other.dtype, 1.0, 0,
            "add", 1.0, "none", [], "",
        )  # fmt: skip
