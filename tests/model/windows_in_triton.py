"""Triton kernels of windows in Triton's interpreter, or compiled for GPUs that are not here: prints one JSON object.

A process of its own: TRITON_INTERPRET holds from the import of Triton on.

    python windows_in_triton.py interpret    attention and its gradient against the reference, case by case
    python windows_in_triton.py compile      what the kernels compile to
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

if sys.argv[1] == "interpret":
    os.environ["TRITON_INTERPRET"] = "1"

import torch
import triton
from torch import Tensor

from tessera.kernels import window_attention, window_kernel
from tessera.kernels.window_kernel import Kernels, Shape, Tiles
from tessera.model.attention import Layout, attend

# Queries, keys and values in float32, whose products the interpreter computes exactly, and in float16, which every
# kernel rounds to where bfloat16 is: that the interpreter multiplies as if its bits were whole numbers.
EDGES = {
    "edges of tiles": [63, 1, 64, 65],
    "one token each": [1] * 5,
    "longer than two tiles": [140, 0, 3],
    "one token": [1],
    "none": [0],
}
CASES = [
    *((name, 64, 4, 2, 32, torch.float32) for name in EDGES),
    *((name, window, 1, 1, 32, torch.float32) for name in list(EDGES)[:3] for window in (3, 16, 64)),
    ("edges of tiles", 100, 1, 1, 32, torch.float32), ("edges of tiles", 128, 2, 1, 32, torch.float32),
    ("longer than two tiles", 20, 2, 1, 64, torch.float32), ("longer than two tiles", 20, 1, 1, 128, torch.float32),
    ("edges of tiles", 64, 2, 1, 64, torch.float16), ("longer than two tiles", 3, 3, 1, 32, torch.float16),
]  # fmt: skip


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm().clamp(min=1e-3))


def drawn(lengths: list[int], heads: int, key_value_heads: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """qkv [T, (H + 2 K) * D], a weight of each answer [T, H * D], starts"""
    generator = torch.Generator().manual_seed(sum(lengths))
    qkv = torch.randn(sum(lengths), (heads + 2 * key_value_heads) * width, generator=generator)
    weight = torch.randn(sum(lengths), heads * width, generator=generator)
    return qkv, weight, torch.tensor([0, *lengths]).cumsum(0)


def exactly(qkv: Tensor, weight: Tensor, starts: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """The reference's answer and gradient, in float32."""
    given, layout = qkv.float().requires_grad_(), Layout.of(starts, len(qkv), "reference")
    answer = attend(given, layout, theta=1e4, **shape._asdict())
    (gradient,) = torch.autograd.grad((answer * weight.float()).sum(), given)
    return answer.detach(), gradient


def case(name: str, window: int, heads: int, key_value_heads: int, width: int, dtype: torch.dtype) -> dict[str, object]:
    """Through the operation that PyTorch knows, with the tiles that a GPU gets."""
    qkv, weight, starts = drawn(EDGES[name], heads, key_value_heads, width)
    shape, qkv, weight = Shape(heads, key_value_heads, window), qkv.to(dtype), weight.to(dtype)
    layout, given = Layout.of(starts, len(qkv), "reference"), qkv.clone().requires_grad_()
    answer, _ = window_attention.window_attention(given, layout.bounds(), *layout.turns(1e4, width), *shape)
    (gradient,) = torch.autograd.grad((answer * weight).sum(), given)
    wanted, wanted_gradient = exactly(qkv, weight, starts, shape)
    return {
        "case": f"{name}, window {window}, {heads}/{key_value_heads} x {width}, {dtype}",
        "dtypes": answer.dtype == gradient.dtype == dtype, "untouched": torch.equal(given, qkv),
        "answer_off": off(answer.detach(), wanted), "gradient_off": off(gradient, wanted_gradient),
    }  # fmt: skip


def tiled(block: int, tile: int) -> dict[str, object]:
    """With other tiles."""
    qkv, weight, starts = drawn([130, 60], 2, 1, 32)
    shape, layout = Shape(2, 1, 20), Layout.of(starts, 190, "reference")
    where, tiles = (layout.bounds(), *layout.turns(1e4, 32)), Kernels(*[Tiles(block, tile, 4, 1)] * 3)
    answer, sums = window_kernel.answers_of(qkv, *where, shape, tiles)
    gradient = window_kernel.gradient_of(weight, qkv, *where, answer, sums, shape, tiles)
    wanted, wanted_gradient = exactly(qkv, weight, starts, shape)
    return {
        "case": f"{block} x {tile}",
        "answer_off": off(answer, wanted),
        "gradient_off": off(gradient, wanted_gradient),
    }


def compiled(width: int) -> dict[str, object]:
    """The kernels for a layer of 12 heads and a window of 64 in bfloat16, as an H100 would get them."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    found: dict[str, object] = {}
    each = zip(("forward_kernel", "query_kernel", "key_kernel"), window_kernel.TILES[width], strict=True)
    for name, tiles in each:
        kernel = getattr(window_kernel, name)
        fixed = window_kernel.constants(Shape(12, 12, 64), width, 64, tiles)
        floats = {"whole", "rest", "sums", "deltas"}
        kinds = {argument: "constexpr" if argument in fixed else "*fp32" if argument in floats else "*bf16"
                 for argument in kernel.arg_names} | {"bounds": "*i32", "tokens": "i32", "stride": "i32"}  # fmt: skip
        pointers = [place for place, kind in enumerate(kinds.values()) if kind.startswith("*")]
        pointers.append(list(kinds).index("stride"))  # of most batches: they are filled up to sizes that recur
        source = ASTSource(kernel, kinds, fixed, {(place,): [["tt.divisibility", 16]] for place in pointers})
        options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
        if tiles.registers is not None:
            options["maxnreg"] = tiles.registers
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        registers, stack = used(made.asm["cubin"])
        shared, threads = made.metadata.shared, 32 * tiles.warps
        found[name] = {
            "registers": registers, "spilled": stack, "shared": shared,
            "programs": min(65_536 // (registers * threads), 227 * 1024 // (shared + 1024), 2048 // threads),
            "products": len(re.findall(r"wgmma\.mma_async", made.asm["ptx"])),
            "loads_of_16_bytes": len(re.findall(r"ld\.global[^;]*v4|cp\.async\.c\w\.[^;]*, 0x10,", made.asm["ptx"])),
        }  # fmt: skip
    return found


def used(binary: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack: what does not fit into them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert found is not None, told
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    assert window_attention._MARGIN == window_kernel.MARGIN
    if sys.argv[1] == "compile":
        print(json.dumps({width: compiled(width) for width in window_kernel.TILES}))
    else:
        for operation in (window_attention.window_attention, window_attention.window_attention_backward):
            operation.register_kernel("cpu")(operation._init_fn)
        tiles = [tiled(*sizes) for sizes in ((128, 64), (64, 32), (32, 128), (16, 16))]
        print(json.dumps({"cases": [case(*shape) for shape in CASES], "tiles": tiles}))
