"""Triton kernels of gated units in Triton's interpreter, or compiled for GPUs that are not here: prints a JSON object.

A process of its own: TRITON_INTERPRET holds from the import of Triton on.

    python glu_in_triton.py interpret      the kernels against PyTorch, case by case
    python glu_in_triton.py compile        what they compile to
"""

import json
import math
import os
import sys

if sys.argv[1] == "interpret":
    os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
from in_triton import in_ptx
from torch import Tensor
from torch.nn import functional

from tessera.kernels import glu_kernel
from tessera.model import glu

SHAPES = ((1, 1), (3, 5), (2, 88), (7, 1152), (1, 1024), (5, 600), (2, 2624))
ACTIVATIONS = {"gelu": functional.gelu, "silu": functional.silu}


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def case(tokens: int, half: int, dtype: torch.dtype, activation: str) -> dict[str, object]:
    generator = torch.Generator().manual_seed(half)
    x = (torch.randn(tokens, 2 * half, generator=generator) * 3).to(dtype)
    gradient = torch.randn(tokens, half, generator=generator).to(dtype)
    exact = x.float().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    wanted = ACTIVATIONS[activation](gate) * up
    (wanted_gradient,) = torch.autograd.grad(wanted, exact, gradient.float())
    found = glu_kernel.gated(x, activation)
    back = glu_kernel.gated_backward(gradient, x, activation)
    small = glu_kernel.gated_backward(gradient, x, activation, block=32, warps=1)
    assert found.dtype == back.dtype == dtype
    return {
        "case": f"{tokens} x {half}, {dtype}, {activation}", "off": off(found, wanted),
        "gradient_off": off(back, wanted_gradient), "blocks_agree": torch.equal(back, small),
    }  # fmt: skip


def through_autograd() -> dict[str, float]:
    """As layers call it: the operation that model/glu.py registers, its kernels chosen."""
    glu.without_kernel = lambda device: None  # type: ignore[assignment]
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = glu.gated(x, "gelu")
    gate, up = x.chunk(2, dim=-1)
    wanted = functional.gelu(gate) * up
    gradients = [torch.autograd.grad(answer.sin().sum(), x)[0] for answer in (found, wanted)]
    nothing = glu.gated(x[:0], "silu")
    return {"answer": off(found, wanted), "gradient": off(*gradients), "of_no_tokens": nothing.numel()}


def compiled(capability: int, name: str, half: int) -> dict[str, object]:
    """A kernel for mmBERT-base in bfloat16, as a GPU of that capability would get it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(glu_kernel, name)
    constants = {
        "HALF": half,
        "EVEN": math.gcd(half, glu_kernel.BLOCK),
        "ACTIVATION": "gelu",
        "BLOCK": glu_kernel.BLOCK,
    }
    pointers = [word for word in kernel.arg_names if word in ("gradient", "x", "out")]
    kinds = {**dict.fromkeys(pointers, "*bf16"), "count": "i32", **dict.fromkeys(constants, "constexpr")}
    aligned = {(place,): [["tt.divisibility", 16]] for place in range(len(pointers) + 1)}
    source = ASTSource(kernel, kinds, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": glu_kernel.WARPS})
    return in_ptx(made)


if __name__ == "__main__":
    if sys.argv[1] == "compile":
        found = {
            f"{name}, {half}, sm_{capability}": compiled(capability, name, half)
            for name in ("gate_and_multiply", "gate_and_multiply_backward") for half in (1152, 2624)
            for capability in (80, 90)
        }  # fmt: skip
        print(json.dumps(found))
    else:
        kinds = [(torch.bfloat16, "gelu"), (torch.bfloat16, "silu"), (torch.float32, "gelu"), (torch.float32, "silu")]
        cases = [case(*shape, *kind) for shape in SHAPES for kind in kinds]
        print(json.dumps({"cases": cases, "autograd": through_autograd()}))
