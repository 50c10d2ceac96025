"""What the processes of gpu_check.py do: one part each, a line `ROW {...}` for each figure.

    python benchmarks/gpu_check_parts.py PART OUT [--rehearse]

In a rehearsal shapes are tiny and torch's attention kernels are stood in for on the CPU (tests/varlen_on_cpu.py).
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_check_kernels as alone
import gpu_check_peers as beside
import gpu_check_steps as whole
import torch
import training_gpu_parts as training
from gpu_check_bench import ROOT, Bench, parts_off, stood_in, timed

from tessera.kernels import window_attention
from tessera.model import attention, cross_entropy

PRODUCTS = {  # m, k, n of the products of mmBERT-base: for 65,536 tokens, and for a block of 4,096 scored positions
    "square": (8192, 8192, 8192), "qkv and gate_up": (65_536, 768, 2304), "attention output": (65_536, 768, 768),
    "down": (65_536, 1152, 768), "gradient of gate_up": (768, 65_536, 2304), "scores": (4096, 768, 256_000),
    "gradient of hidden": (4096, 256_000, 768), "gradient of the table": (256_000, 4096, 768),
}  # fmt: skip
ATTENTIONS = (  # lengths, window, heads, key and value heads, width
    ([5, 1, 300, 40], None, 4, 4, 64), ([5, 1, 300, 40], 64, 4, 4, 64), ([128, 129, 130, 65, 64, 63], 64, 4, 4, 64),
    ([300, 0, 40, 0], 3, 4, 4, 64), ([700], 64, 4, 2, 64), ([700, 33], None, 6, 2, 64), ([257], 16, 2, 1, 32),
    ([300, 500], None, 2, 2, 128),
)  # fmt: skip
BOUNDS = (1e-2, 2e-2)  # of an answer and of a gradient in bfloat16, in parts of those in float32

# Shapes: T tokens of N documents end to end, H query heads, K key/value heads, D head width, M positions, V vocabulary.


def main(part: str, out: Path, *, rehearse: bool, say: Callable[[dict[str, Any]], None]) -> None:
    """Runs one part."""
    if not rehearse and not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU, and nothing else is measured here; --rehearse shows that all of it runs")
    bench = Bench(device=torch.device("cpu" if rehearse else "cuda"), rehearse=rehearse, say=say, out=out)
    work = {"ceilings": ceilings, "parity": parity, "kernels": alone.kernels, "loss": alone.loss, "tests": tests,
            "steps": whole.steps, "profile": whole.profile, "encode": beside.encode, "peers": beside.peers}  # fmt: skip
    with stood_in(rehearse):
        work[part](bench)


# ------------------------------------------------------------------------------------------------------------ ceilings


def ceilings(bench: Bench) -> None:
    """What the device reaches when nothing is in its way."""
    device, cuda = bench.device, bench.device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30 if cuda else 0.0
    bench.say({
        "row": "machine", "device": torch.cuda.get_device_name(device) if cuda else "a CPU", "GiB": memory,
        "torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version(),
        "peak_TFLOP_s": bench.peak_flops / 1e12, "loss_kernel": cross_entropy.without_kernel(device) or "Triton",
        "window_kernel": window_attention.without_kernel(device) or "Triton",
    })  # fmt: skip
    copies(bench)
    for name, sides in PRODUCTS.items():
        m, k, n = (min(side, bench.shorter(side, 128)) for side in sides)
        x, y = torch.randn(m, k, device=device).bfloat16(), torch.randn(k, n, device=device).bfloat16()
        rate = 2 * m * k * n / timed(lambda x=x, y=y: x @ y, bench)  # type: ignore[misc]
        bench.say({"row": f"product: {name}", "TFLOP_s": rate / 1e12, "of_peak": rate / bench.peak_flops})


def copies(bench: Bench) -> None:
    """Bytes on the device and to it, and what starting an operation costs the processor."""
    size = bench.shorter(1 << 32, 1 << 20)
    here, there = (torch.empty(size, dtype=torch.uint8, device=bench.device) for _ in range(2))
    bench.say({"row": "copy on the device", "TB_s": 2 * size / timed(lambda: here.copy_(there), bench) / 1e12})
    host = torch.empty(size // 16, dtype=torch.uint8, pin_memory=bench.device.type == "cuda")
    took = timed(lambda: here[: len(host)].copy_(host, non_blocking=True), bench)
    bench.say({"row": "copy from pinned memory", "GB_s": len(host) / took / 1e9})
    few, count = torch.ones(1, device=bench.device), bench.shorter(1000, 10)
    began = time.perf_counter()
    for _ in range(count):
        few.add_(1)
    bench.say({"row": "a small operation", "microseconds": (time.perf_counter() - began) / count * 1e6})


# -------------------------------------------------------------------------------------------------------------- parity


def parity(bench: Bench) -> None:
    """bfloat16 on the device beside float32, forward and backward."""
    for number, case in enumerate(ATTENTIONS):
        answer, gradient = attention_off(bench, number, *case)
        lengths, window, queries, pairs, width = case
        bench.say({
            "row": f"attention {lengths}, window {window}, {queries}/{pairs} x {width}", "answer_off": answer,
            "gradient_off": gradient, "right": answer < BOUNDS[0] and gradient < BOUNDS[1],
        })  # fmt: skip
    with tempfile.TemporaryDirectory() as place:  # compiled ones are among the tests: that takes a minute
        bench.say({"row": "tiny models", **training.parity("tessera", bench.device, Path(place))})


def attention_off(
    bench: Bench, seed: int, lengths: list[int], window: int | None, queries: int, pairs: int, width: int
) -> tuple[float, float]:
    """How far answer and gradient of the varlen kernel are from those of the reference."""
    random = torch.Generator(bench.device).manual_seed(seed)
    starts = torch.tensor([0, *lengths], device=bench.device).cumsum(0)
    qkv = torch.randn(sum(lengths), (queries + 2 * pairs) * width, device=bench.device, generator=random)
    weight = torch.randn(len(qkv), queries * width, device=bench.device, generator=random)
    found = []
    for backend, dtype in (("varlen", torch.bfloat16), ("reference", torch.float32)):
        given = qkv.to(dtype).requires_grad_()
        layout = attention.Layout.of(starts, len(qkv), backend)
        answer = attention.attend(given, layout, heads=queries, key_value_heads=pairs, window=window, theta=1e4)
        (gradient,) = torch.autograd.grad((answer.float() * weight).sum(), given)
        found.append((answer, gradient))
    answer_off, gradient_off = (parts_off(*both) for both in zip(*found, strict=True))
    return answer_off, gradient_off


# --------------------------------------------------------------------------------------------------------------- tests


def tests(bench: Bench) -> None:
    """pytest -m gpu; in a rehearsal only whether the tests are found."""
    words = ["-m", "gpu", "-p", "no:cacheprovider", "-rfEs", "--color=no", *["--collect-only"] * bench.rehearse]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(ROOT / "tests" / "gpu")], cwd=ROOT, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    (bench.out / "gpu_check_tests.txt").write_text(done.stdout, encoding="utf-8")
    for line in done.stdout.splitlines():
        if re.match(r"(FAILED|ERROR|SKIPPED) ", line):
            bench.say({"row": line[:200], "right": line.startswith("SKIPPED")})
    last = next(iter(reversed(done.stdout.strip().splitlines())), "it said nothing")
    bench.say({"row": "pytest -m gpu", "says": last.strip("= "), "right": done.returncode == 0})


if __name__ == "__main__":
    main(
        sys.argv[1], Path(sys.argv[2]), rehearse="--rehearse" in sys.argv[3:],
        say=lambda row: print("ROW " + json.dumps(row), flush=True),
    )  # fmt: skip
