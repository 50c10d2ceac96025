"""The loss's Triton kernel in Triton's interpreter, or compiled for GPUs that are not here: prints one JSON object.

A process of its own: TRITON_INTERPRET holds from the import of Triton on.

    python loss_in_triton.py interpret      the kernel against PyTorch, case by case
    python loss_in_triton.py compile        what it compiles to
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

from tessera.kernels import loss_kernel
from tessera.model import cross_entropy

EDGES = (1, 2, 5, 8191, 8192, 8193, 20000)  # around the block of 8,192


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm().clamp(min=1e-9))


def by_pytorch(scores: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [m] and the gradient of their sum [m, V], in float32."""
    exact = (scores.float() + (0.0 if bias is None else bias)).requires_grad_()
    losses = functional.cross_entropy(exact, targets, reduction="none")
    losses.sum().backward()
    assert exact.grad is not None
    return losses.detach(), exact.grad


def case(width: int, dtype: torch.dtype, with_bias: bool, rows: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(width)
    wide = (torch.randn(rows, width + 3, generator=generator) * 4).to(dtype)
    scores = wide[:, :width]  # rows that do not touch each other
    bias = torch.randn(width, generator=generator) if with_bias else None
    targets = torch.randint(width, (rows,), generator=generator)
    wanted, gradient = by_pytorch(scores, bias, targets)
    before = wide.clone()
    alone = loss_kernel.losses_of(scores, bias, targets, gradient=False)
    untouched = torch.equal(wide, before)
    other = before[:, :width].clone()
    in_other_blocks = loss_kernel.losses_of(other, bias, targets, gradient=True, block=1024, warps=2)
    losses = loss_kernel.losses_of(scores, bias, targets, gradient=True)
    return {
        "off_in_other_blocks": max(float((in_other_blocks - losses).abs().max()), float((other - scores).abs().max())),
        "case": f"{rows} x {width}, {dtype}, {'with' if with_bias else 'without'} bias",
        "loss_off": float((losses - wanted).abs().max()),
        "gradient_off": off(scores, gradient),
        "untouched_without_gradient": untouched and torch.equal(alone, losses),
        "nothing_beside": torch.equal(wide[:, width:], before[:, width:]),
    }


def whole_loss() -> dict[str, float]:
    """Through summed_cross_entropy, in blocks of three rows: losses and all three gradients in parts of PyTorch's."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*s, generator=generator) for s in ((10, 8), (300, 8), (300,)))
    targets = torch.randint(300, (10,), generator=generator)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]
    wanted = functional.cross_entropy(functional.linear(*leaves), targets, reduction="sum")
    wanted_gradients = torch.autograd.grad(wanted, leaves)
    cross_entropy.without_kernel = lambda device: None  # type: ignore[assignment]
    cross_entropy._HELD["cpu"] = 3 * 300
    loss = cross_entropy.summed_cross_entropy(*leaves, targets)
    found = dict(zip(("hidden", "weight", "bias"), torch.autograd.grad(loss, leaves), strict=True))
    each = cross_entropy.cross_entropies(*(x.detach() for x in leaves), targets)
    parts = {name: off(x, y) for (name, x), y in zip(found.items(), wanted_gradients, strict=True)}
    return {"loss": off(loss.detach(), wanted.detach()), "losses": off(each.sum(), wanted.detach()), **parts}


def odd_values() -> dict[str, object]:
    """Losses where scores or targets are no ordinary ones."""

    def one(scores: Tensor, *targets: int) -> list[float | str]:
        losses = loss_kernel.losses_of(scores, None, torch.tensor(targets), gradient=True)
        return ["nan" if math.isnan(x) else x for x in losses.tolist()]

    first_block = torch.full((1, 9000), float("-inf"))
    first_block[0, 8999] = 1.0
    broken = torch.zeros(2, 16)
    broken[0, 3], broken[1, 3] = float("nan"), float("inf")
    return {
        "no such token": one(torch.zeros(3, 16), -100, 16, 15),
        "a first block of -inf": one(first_block, 8999),
        "nan and inf": one(broken, 1, 1),
        "a share of nothing": one(torch.tensor([[0.0, -200.0, 3.0]]), 1),
        "no rows": one(torch.zeros(0, 16)),
    }


def compiled(capability: int) -> dict[str, object]:
    """The kernel for mmBERT's vocabulary in bfloat16, as a GPU of that capability would get it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    width = 256_000
    constants = {
        "width": width,
        "HAS_BIAS": True,
        "GRADIENT": True,
        "BLOCK": loss_kernel.block_of(width),
    }
    kinds = {"scores": "*bf16", "bias": "*fp32", "targets": "*i64", "losses": "*fp32", "stride": "i32"}
    aligned = {(place,): [["tt.divisibility", 16]] for place in (0, 1, 4)}
    source = ASTSource(
        loss_kernel.rows_to_losses, {**kinds, **dict.fromkeys(constants, "constexpr")}, constants, aligned
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": loss_kernel.WARPS})
    return in_ptx(made)


if __name__ == "__main__":
    if sys.argv[1] == "compile":
        print(json.dumps({str(capability): compiled(capability) for capability in (80, 90)}))
    else:
        kinds = [
            (width, dtype, bias) for width in EDGES for dtype in (torch.bfloat16, torch.float32) for bias in (0, 1)
        ]
        cases = [case(width, dtype, bool(bias), rows=1 + width % 4) for width, dtype, bias in kinds]
        print(json.dumps({"cases": cases, "whole": whole_loss(), "odd": odd_values()}))
