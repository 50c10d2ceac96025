"""StableAdamW's Triton kernels in Triton's interpreter, or compiled for GPUs that are not here: prints a JSON object.

A process of its own: TRITON_INTERPRET holds from the import of Triton on.

    python optimizer_in_triton.py interpret      some steps of some tensors, beside torch-optimi's plain form
    python optimizer_in_triton.py compile        what they compile to
"""

import json
import os
import sys
from unittest import mock

if sys.argv[1] == "interpret":
    os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
from in_triton import in_ptx
from optimi import StableAdamW
from torch import nn

from tessera.kernels import optimizer_kernel
from tessera.train.optimizer import AtOnce, try_at_once

EVEN, ODD = ((48, 32), (9000,), (16,), (64, 80)), ((5, 7), (4097,), (1,), (3, 16))


def weights(shapes: tuple[tuple[int, ...], ...]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def steps(shapes: tuple[tuple[int, ...], ...], decoupled: bool, spike: float) -> dict[str, float]:
    """The largest differences after each of five steps: of weights and of both moments."""
    how = {"betas": (0.9, 0.95), "eps": 1e-8, "decouple_lr": decoupled, "max_lr": 2e-3 if decoupled else None}
    mine, theirs = weights(shapes), weights(shapes)
    groups = [[{"params": w[:2], "weight_decay": 0.01}, {"params": w[2:], "weight_decay": 0.0}] for w in (mine, theirs)]
    ours, plain = AtOnce(groups[0], lr=1e-3, **how), StableAdamW(groups[1], lr=1e-3, foreach=False, triton=False, **how)
    generator, off = torch.Generator().manual_seed(1), dict.fromkeys(("weights", "exp_avg", "exp_avg_sq"), 0.0)
    for number in range(5):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator) * (spike if number == 3 else 1.0)
            other.grad = one.grad.clone()
        mine[3].grad = theirs[3].grad = None if number == 2 else mine[3].grad  # one that a step leaves alone
        before = theirs[0].detach().clone()
        for optimizer in (ours, plain):
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1e-3 * (number + 1)
            optimizer.step()
        off["moved"] = float((theirs[0] - before).abs().max())
        for one, other in zip(mine, theirs, strict=True):
            off["weights"] = max(off["weights"], float((one - other).abs().max()))
            for name in ("exp_avg", "exp_avg_sq"):
                a, b = ours.state[one][name], plain.state[other][name]
                off[name] = max(off[name], float(((a - b).abs() / b.abs().clamp(min=1e-3)).max()))
    return off


def refused() -> str:
    """Passes the trial with the kernel as it is, and says what the trial says of one that does nothing."""
    try_at_once(torch.device("cpu"))
    with mock.patch.object(optimizer_kernel, "update"):
        try:
            try_at_once(torch.device("cpu"))
        except AssertionError as error:
            return str(error)
    return ""


def compiled(capability: int, name: str) -> dict[str, int]:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(optimizer_kernel, name)
    kinds = {"addresses": "*i64", "owners": "*i32", "starts": "*i32", "sizes": "*i64", "squares": "*fp32",
             "scales": "*fp32", "count": "i32"}  # fmt: skip
    constants = {"EVEN": True, "BLOCK": optimizer_kernel.BLOCK}
    kinds = {word: kinds.get(word, "fp32") for word in kernel.arg_names if word not in constants}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(kinds.values()) if kind[0] == "*"}
    source = ASTSource(kernel, {**kinds, **dict.fromkeys(constants, "constexpr")}, constants, aligned)
    options = {"num_warps": optimizer_kernel.WARPS}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return in_ptx(made)


if __name__ == "__main__":
    if sys.argv[1] == "compile":
        names = ("move_moments", "move_weights")
        print(json.dumps({f"{name}, sm_{c}": compiled(c, name) for name in names for c in (80, 90)}))
    else:
        cases = [(shapes, decoupled, spike) for shapes in (EVEN, ODD) for decoupled in (True, False)
                 for spike in (1.0, 50.0)]  # fmt: skip
        print(json.dumps({"cases": [steps(*case) for case in cases], "refused": refused()}))
