"""Gated linear units (GeGLU, SwiGLU): activation(first half) * second half, with a way back that keeps the input alone.

On a GPU two Triton kernels do it (kernels/glu_kernel.py), where Triton is installed and works, in compiled layers and
in others; elsewhere PyTorch's operations do. Source: Shazeer 2020, arXiv:2002.05202.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from tessera.kernels.trial import failure

# Shapes: T tokens, I intermediate size.

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": functional.gelu, "silu": functional.silu}


def gated(x: Tensor, activation: str) -> Tensor:
    """activation(first half) * second half, [T, 2 I] -> [T, I]"""
    if in_kernels(x.device):
        from tessera.kernels import gated_units  # defining an operation takes PyTorch most of a second

        return gated_units.gated(x, activation)
    if torch.compiler.is_compiling():  # which computes it anew on the way back, in one kernel with what is around it
        gate, up = x.chunk(2, dim=-1)
        return ACTIVATIONS[activation](gate) * up
    return _Gate.apply(x, activation)


@lru_cache
def without_kernel(device: torch.device) -> str | None:
    """Why gated units do not run as Triton kernels on this device, or None where they do; on a GPU tried once.

    A GPU without them is told to the log: its numbers are the same, and it takes longer.
    """
    if device.type != "cuda":
        return f"there is none for {device.type}"
    return failure(lambda: _try(device), "gated units: in PyTorch's operations, not in kernels of their own")


def _try(device: torch.device) -> None:
    from tessera.kernels.glu_kernel import gated, gated_backward

    x, gradient = torch.linspace(-3, 3, 64, device=device).view(2, 32), torch.ones(2, 16, device=device)
    for activation in ACTIVATIONS:
        torch.testing.assert_close(gated(x, activation), _forward(x, activation))
        torch.testing.assert_close(gated_backward(gradient, x, activation), _backward(gradient, x, activation))


def in_kernels(device: torch.device) -> bool:
    """Whether they do; torch.compile takes the answer as it is, see encoder.py."""
    return without_kernel(device) is None


class _Gate(torch.autograd.Function):
    """The same in PyTorch's operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.activation = activation
        return _forward(x, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _backward(gradient, x, ctx.activation), None


# Halves are made contiguous first: the vector code of activations does not run on strided rows.


def _forward(x: Tensor, activation: str) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return ACTIVATIONS[activation](gate.contiguous()).mul_(up)


def _backward(gradient: Tensor, x: Tensor, activation: str) -> Tensor:
    gate, up = (half.contiguous() for half in x.chunk(2, dim=-1))
    out = torch.empty_like(x)
    into_gate, into_up = out.chunk(2, dim=-1)
    back = torch.ops.aten.gelu_backward if activation == "gelu" else torch.ops.aten.silu_backward
    into_up.copy_(ACTIVATIONS[activation](gate)).mul_(gradient)
    into_gate.copy_(back(up * gradient, gate))
    return out
