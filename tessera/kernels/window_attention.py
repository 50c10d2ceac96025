"""Sliding-window attention by its own Triton kernels, as an operation of PyTorch that torch.compile and autograd know.

The kernels are in kernels/window_kernel.py. On other GPUs than they are made for the varlen kernel serves windows too;
so it does where Triton is missing or does not work, and that is said once.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tessera.kernels.trial import failure

# Shapes: T tokens, H query heads, K key/value heads, D head width, S tokens of a step. The tensors of an operation:
#
#   qkv          [T, (H + 2 K) * D], queries, keys and values before rotation, in float16 or bfloat16
#   bounds       [T, 2] int32, the first and the last token of the document of each token
#   whole, rest  [T/S + 1, D] and [S, D] float32, cosines and sines side by side; see Layout.turns
#   sums         [H, T + 2 * MARGIN] float32, logarithms to base 2 of the sums of weights, for the way back

_WIDEST = 128  # window: beyond, the varlen kernel has enough to do
_WIDTHS = (32, 64, 128)  # of a head

_MARGIN = 256  # as in kernels/window_kernel.py, which only a GPU can import


def fits(window: int, width: int) -> bool:
    """Whether the kernel is for layers of that window and that width of a head."""
    return window <= _WIDEST and width in _WIDTHS


@lru_cache
def without_kernel(device: torch.device) -> str | None:
    """Why windows have no kernel of their own on this device, or None where they have; on a GPU tried once."""
    if device.type != "cuda":
        return f"there is none for {device.type}"
    if torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] != 9:
        return "it is made for the products of Hopper (H100, H200); elsewhere its registers do not suffice"

    def trial() -> None:
        from tessera.kernels import window_kernel  # noqa: F401  Triton comes with it

        _try(device)

    return failure(trial, "attention: windows by the varlen kernel, not by their own")


def _try(device: torch.device) -> None:
    """Raises what is wrong with the kernel on this device, forward or backward: two documents, nothing turned."""
    places = torch.arange(100)
    bounds = torch.where(places[:, None] < 90, torch.tensor([0, 89]), torch.tensor([90, 99])).int().to(device)
    seen = (bounds[:, :1] == bounds[:, 0]) & ((places[:, None] - places).abs() <= 16).to(device)
    unturned = torch.tensor([1.0, 0.0], device=device).repeat_interleave(32).repeat(64, 1)
    qkv = torch.randn(100, 4 * 64, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        given = qkv.clone().requires_grad_()
        answer, _ = window_attention(given, bounds, unturned[:3], unturned, 2, 1, 16)
        exact = qkv.float().requires_grad_()
        parts = exact.unflatten(1, (4, 64)).transpose(0, 1)
        k, v = parts[2:3].expand(2, -1, -1), parts[3:].expand(2, -1, -1)
        wanted = functional.scaled_dot_product_attention(parts[:2], k, v, seen).transpose(0, 1).flatten(1)
        gradients = (torch.autograd.grad(x.float().square().sum(), y)[0] for x, y in ((answer, given), (wanted, exact)))
    for mine, theirs in ((answer, wanted), tuple(gradients)):
        torch.testing.assert_close(mine.float(), theirs, rtol=0.05, atol=0.05)


@torch.library.custom_op("tessera::window_attention", mutates_args=(), device_types="cuda")
def window_attention(
    qkv: Tensor, bounds: Tensor, whole: Tensor, rest: Tensor, heads: int, key_value_heads: int, window: int
) -> tuple[Tensor, Tensor]:
    """Attention of each token to those of its document that are at most `window` away: answers [T, H * D] and sums."""
    from tessera.kernels.window_kernel import Shape, answers_of

    return answers_of(qkv, bounds, whole, rest, Shape(heads, key_value_heads, window))


@torch.library.custom_op("tessera::window_attention_backward", mutates_args=(), device_types="cuda")
def window_attention_backward(
    gradient: Tensor, qkv: Tensor, bounds: Tensor, whole: Tensor, rest: Tensor, answers: Tensor, sums: Tensor,
    heads: int, key_value_heads: int, window: int
) -> Tensor:  # fmt: skip
    """The gradient of qkv, given that of the answers [T, H * D]."""
    from tessera.kernels.window_kernel import Shape, gradient_of

    shape = Shape(heads, key_value_heads, window)
    return gradient_of(gradient, qkv, bounds, whole, rest, answers, sums, shape)


@window_attention.register_fake
def _shapes(
    qkv: Tensor, bounds: Tensor, whole: Tensor, rest: Tensor, heads: int, key_value_heads: int, window: int
) -> tuple[Tensor, Tensor]:
    tokens, width = qkv.shape[0], qkv.shape[1] // (heads + 2 * key_value_heads)
    return qkv.new_empty(tokens, heads * width), qkv.new_empty(heads, tokens + 2 * _MARGIN, dtype=torch.float32)


@window_attention_backward.register_fake
def _shape_backward(gradient: Tensor, qkv: Tensor, *others: Any) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, bounds, whole, rest, *ctx.shape = inputs
    ctx.save_for_backward(qkv, bounds, whole, rest, *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return window_attention_backward(gradient, *ctx.saved_tensors, *ctx.shape), *[None] * 6


window_attention.register_autograd(_backward, setup_context=_keep)
