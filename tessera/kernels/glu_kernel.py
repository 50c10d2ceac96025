"""Gated linear units (GeGLU, SwiGLU) as two Triton kernels for GPUs: there, and both halves of the gradient at once.

Each reads and writes every number once, 6 and 10 bytes a product in bfloat16. torch.compile joins the two halves of the
gradient by computing both for every element of either, and takes more than twice as long. Triton is imported with this
file, so only model/glu.py imports it, where there is a GPU.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Shapes: T tokens, I intermediate size.

BLOCK, WARPS = 1024, 4  # products of a program: 8 of each of 128 threads, a load of 16 bytes in bfloat16


def gated(x: Tensor, activation: str, *, block: int = BLOCK, warps: int = WARPS) -> Tensor:
    """activation(first half) * second half, rounded once: [T, 2 I] -> [T, I].

    activation     gelu (by the error function) or silu
    block, warps   how many products a program makes, and with how many warps
    """
    half = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], half)
    _start(gate_and_multiply, (x, out), out.numel(), half, activation, block, warps)
    return out


def gated_backward(
    gradient: Tensor, x: Tensor, activation: str, *, block: int = BLOCK, warps: int = WARPS
) -> Tensor:  # fmt: skip
    """The gradient of x [T, 2 I], from that of what `gated` made of it [T, I]."""
    out = torch.empty_like(x)
    arrays = (gradient, x, out)
    _start(gate_and_multiply_backward, arrays, gradient.numel(), x.shape[-1] // 2, activation, block, warps)
    return out


def _start(
    kernel: Any, arrays: tuple[Tensor, ...], count: int, half: int, activation: str, block: int, warps: int
) -> None:  # fmt: skip
    for array in arrays:
        assert array.is_contiguous()
        assert array.dtype is not torch.float64  # numbers are worked on in float32
    if count:
        with torch.cuda.device_of(arrays[0]):  # Triton starts kernels on the current device
            kernel[(triton.cdiv(count, block),)](
                *arrays, count, HALF=half, EVEN=math.gcd(half, block), ACTIVATION=activation, BLOCK=block,
                num_warps=warps,
            )  # fmt: skip


# A width is a constant: only then does the compiler see that 16 bytes in a row are of one half.
@triton.jit
def places(count, HALF: tl.constexpr, EVEN: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the products of this program: their numbers, where their gates stand, and which of them there are."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    token = first // HALF
    column = tl.multiple_of((first % HALF).to(tl.int32), EVEN)  # numbers within a program need no 64 bits
    beside = column + tl.arange(0, BLOCK)
    gates = token * (2 * HALF) + (beside // HALF * (2 * HALF) + beside % HALF)
    here = first + tl.arange(0, BLOCK)
    return here, gates, here < count


# GELU's factor without erf, whose code is so long that the kernels would wait for it and not for memory.
@triton.jit
def normal(x):  # type: ignore[no-untyped-def]
    """The normal distribution's function and density: 7.5e-8 off at most. Abramowitz and Stegun 1964, 26.2.17."""
    density = 0.3989422804014327 * tl.exp2(x * x * -0.7213475204444817)
    t = 1.0 / (1.0 + 0.2316419 * tl.abs(x))
    series = 0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429)))
    above = density * (t * series)
    return tl.where(x < 0, above, 1.0 - above), density


@triton.jit
def gate_and_multiply(  # type: ignore[no-untyped-def]
    x, out, count, HALF: tl.constexpr, EVEN: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """x [T, 2 HALF] -> out [T, HALF], which has `count` elements."""
    here, gates, known = places(count, HALF, EVEN, BLOCK)
    gate = tl.load(x + gates, mask=known, other=0.0).to(tl.float32)
    up = tl.load(x + gates + HALF, mask=known, other=0.0).to(tl.float32)
    if ACTIVATION == "gelu":
        share, _ = normal(gate)
        active = gate * share
    else:
        active = gate * tl.sigmoid(gate)
    tl.store(out + here, (active * up).to(out.dtype.element_ty), mask=known)


@triton.jit
def gate_and_multiply_backward(  # type: ignore[no-untyped-def]
    gradient, x, out, count, HALF: tl.constexpr, EVEN: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """gradient [T, HALF] with `count` elements, x [T, 2 HALF] -> out [T, 2 HALF]."""
    here, gates, known = places(count, HALF, EVEN, BLOCK)
    back = tl.load(gradient + here, mask=known, other=0.0).to(tl.float32)
    gate = tl.load(x + gates, mask=known, other=0.0).to(tl.float32)
    up = tl.load(x + gates + HALF, mask=known, other=0.0).to(tl.float32)
    if ACTIVATION == "gelu":
        share, density = normal(gate)
        slope = share + gate * density
    else:
        share = tl.sigmoid(gate)
        slope = share * (1.0 + gate * (1.0 - share))
    tl.store(out + gates, (back * up * slope).to(out.dtype.element_ty), mask=known)
    tl.store(out + gates + HALF, (back * (gate * share)).to(out.dtype.element_ty), mask=known)
