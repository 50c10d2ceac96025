"""Gated linear units as operations of PyTorch, for torch.compile and autograd; glu_kernel.py computes them.

Imported where a GPU is, as window_attention.py is: to define an operation PyTorch loads half of itself.
"""

from typing import Any

import torch
from torch import Tensor

# Shapes: T tokens, I intermediate size.


@torch.library.custom_op("tessera::gated", mutates_args=())
def gated(x: Tensor, activation: str) -> Tensor:
    """activation(first half) * second half, [T, 2 I] -> [T, I]"""
    from tessera.kernels.glu_kernel import gated as by_kernel

    return by_kernel(x.contiguous(), activation)


@torch.library.custom_op("tessera::gated_backward", mutates_args=())
def gated_backward(gradient: Tensor, x: Tensor, activation: str) -> Tensor:
    """The gradient of x [T, 2 I], given that of the products [T, I]."""
    from tessera.kernels.glu_kernel import gated_backward as by_kernel

    return by_kernel(gradient.contiguous(), x.contiguous(), activation)


@gated.register_fake
def _(x: Tensor, activation: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


@gated_backward.register_fake
def _(gradient: Tensor, x: Tensor, activation: str) -> Tensor:
    return x.new_empty(x.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
    x, ctx.activation = inputs
    ctx.save_for_backward(x)


def _way_back(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors
    return gated_backward(gradient, x, ctx.activation), None


gated.register_autograd(_way_back, setup_context=_keep)
