"""What the processes of gpu_check.py do: one part each, a line `ROW {...}` for each figure.

    python benchmarks/gpu_check_parts.py PART OUT [--rehearse]

In a rehearsal shapes are tiny and torch's attention kernels are stood in for on the CPU (tests/varlen_on_cpu.py).
"""

import contextlib
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import training_gpu_heads as heads
import training_gpu_parts as training
from torch import Tensor

from tessera.kernels import window_attention
from tessera.model import attention, cross_entropy, glu
from tessera.plan.cost import data_sheet

ROOT = Path(__file__).resolve().parents[1]
PRESET = "mmbert-base"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where a part runs and whom it tells."""

    device: torch.device
    rehearse: bool
    say: Callable[[dict[str, Any]], None]  # a row: "row" is its name
    out: Path  # what is large is written there

    @property
    def peak_flops(self) -> float:
        """What MFU is a share of: the data sheet's FLOP/s; 1e12 in a rehearsal and for a GPU without a sheet."""
        sheet = data_sheet(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else None
        return sheet[1] if sheet else 1e12

    def shorter(self, count: int, rehearsed: int) -> int:
        """The count, or that of a rehearsal."""
        return rehearsed if self.rehearse else count


def main(part: str, out: Path, *, rehearse: bool, say: Callable[[dict[str, Any]], None]) -> None:
    """Runs one part."""
    import gpu_check_peers as beside
    import gpu_check_steps as whole

    if not rehearse and not torch.cuda.is_available():
        sys.exit("error: PyTorch sees no GPU, and nothing else is measured here; --rehearse shows that all of it runs")
    bench = Bench(device=torch.device("cpu" if rehearse else "cuda"), rehearse=rehearse, say=say, out=out)
    work = {"ceilings": ceilings, "parity": parity, "kernels": kernels, "loss": loss, "tests": tests,
            "steps": whole.steps, "profile": whole.profile, "encode": beside.encode, "peers": beside.peers}  # fmt: skip
    with stood_in(rehearse):
        work[part](bench)


@contextlib.contextmanager
def stood_in(rehearse: bool) -> Iterator[None]:
    """In a rehearsal the kernels of GPUs have stand-ins."""
    if not rehearse:
        yield
        return
    torch.set_num_threads(1)  # more would wait for one another over so little
    sys.path.insert(0, str(ROOT / "tests"))
    from varlen_on_cpu import standing_in

    with standing_in():
        yield


def timed(work: Callable[[], object], bench: Bench, *, repeat: int = 10, warm: int = 3) -> float:
    """Median seconds of `work`, by the device's clock."""
    if bench.device.type != "cuda":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    for _ in range(warm):
        work()
    spans = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(repeat)]
    for begin, end in spans:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in spans) / 1e3


def emptied(bench: Bench) -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def parts_off(found: Tensor, wanted: Tensor) -> float:
    """The difference as a part of what is wanted, by their norms; infinite where something is no number."""
    found, wanted = found.detach().float(), wanted.detach().float()
    off = float((found - wanted).norm() / wanted.norm())
    return off if off == off else float("inf")


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


# ------------------------------------------------------------------------------------------------------------- kernels


def kernels(bench: Bench) -> None:
    """The kernels of gated units, and those of attention, on which documents of 8,192 tokens hang."""
    gates_timed(bench)
    tokens = bench.shorter(65_536, 256)
    sets = {length: [min(length, tokens)] * max(1, tokens // length) for length in (256, 1024, 8192)}
    for length, lengths in sets.items():
        windows_timed(bench, f"{length:,} tokens, window 64, ours with positions", lengths, 64)
        attend_timed(bench, f"{length:,} tokens, window 64", lengths, 64)
        attend_timed(bench, f"{length:,} tokens, global", lengths, None)
    for length, lengths in ({} if bench.rehearse else sets).items():
        try:  # it knows no windows, but the global layers could run on it
            attend_timed(bench, f"{length:,} tokens, global, cuDNN", lengths, None, cudnn=True)
        except (RuntimeError, TypeError, ValueError) as error:
            bench.say({"row": f"{length:,} tokens, global, cuDNN", "absent": str(error)[:150]})


def windows_timed(bench: Bench, name: str, lengths: list[int], window: int) -> None:
    """The same of the kernels of windows, which take queries, keys and values before rotation."""
    queries, width = 12, 64
    starts = torch.tensor([0, *lengths], device=bench.device).cumsum(0)
    layout = attention.Layout.of(starts, sum(lengths), "varlen")
    where = (layout.bounds(), *layout.turns(1e4, width))
    qkv = torch.randn(sum(lengths), 3 * queries * width, device=bench.device).bfloat16().requires_grad_()
    into = torch.randn(sum(lengths), queries * width, device=bench.device).bfloat16()
    if (why := window_attention.without_kernel(bench.device)) is not None:
        bench.say({"row": f"attention kernel: {name}", "absent": why})
        return

    def forward() -> Tensor:
        return window_attention.window_attention(qkv, *where, queries, queries, window)[0]

    there, answer = timed(forward, bench), forward()
    back = timed(lambda: torch.autograd.grad(answer, qkv, into, retain_graph=True), bench)
    say_times(bench, name, there, back, 4 * queries * width * sum(pairs_seen(n, window) for n in lengths))


GATES = ((1024, 4), (2048, 4), (2048, 8), (4096, 8), (512, 4))  # products of a program, and its warps


def gates_timed(bench: Bench) -> None:
    """The kernels of gated units on mmBERT-base's shapes, beside the bytes that they have to move."""
    if glu.without_kernel(bench.device) is not None:
        bench.say({"row": "gated units", "absent": glu.without_kernel(bench.device)})
        return
    from tessera.kernels.glu_kernel import gated, gated_backward

    tokens, half = bench.shorter(65_536, 64), 1152
    x, into = (torch.randn(tokens, width, device=bench.device).bfloat16() for width in (2 * half, half))
    for block, warps in GATES:
        sizes = {} if bench.rehearse else {"block": block, "warps": warps}
        try:
            there = timed(lambda sizes=sizes: gated(x, "gelu", **sizes), bench)
            back = timed(lambda sizes=sizes: gated_backward(into, x, "gelu", **sizes), bench)
        except Exception as error:  # of the compiler: the next one may run
            bench.say({"row": f"gated units: {block} products, {warps} warps", "absent": str(error)[:150]})
            continue
        bench.say({
            "row": f"gated units: {block} products, {warps} warps",
            "forward_ms": there * 1e3, "forward_TB_s": 6 * into.numel() / there / 1e12,
            "backward_ms": back * 1e3, "backward_TB_s": 10 * into.numel() / back / 1e12,
        })  # fmt: skip


def attend_timed(bench: Bench, name: str, lengths: list[int], window: int | None, *, cudnn: bool = False) -> None:
    """One row: forward and backward of the kernel on mmBERT-base's heads."""
    from torch.nn.attention.varlen import varlen_attn

    queries, width = 12, 64
    starts = torch.tensor([0, *lengths], device=bench.device).cumsum(0).to(torch.int32)
    q, k, v, into = torch.randn(4, sum(lengths), queries, width, device=bench.device).bfloat16().unbind()
    leaves = tuple(x.detach().requires_grad_() for x in (q, k, v))
    longest, sides = max(lengths), (-1, -1) if window is None else (window, window)

    def forward() -> Tensor:
        return varlen_attn(*leaves, starts, starts, longest, longest, window_size=sides)  # type: ignore[return-value]

    if cudnn:
        there, back = cudnn_seconds(bench, leaves, into, starts, longest)
    else:
        there, answer = timed(forward, bench), forward()
        back = timed(lambda: torch.autograd.grad(answer, leaves, into, retain_graph=True), bench)
    say_times(bench, name, there, back, 4 * queries * width * sum(pairs_seen(n, window) for n in lengths))


def cudnn_seconds(
    bench: Bench, leaves: tuple[Tensor, ...], into: Tensor, starts: Tensor, longest: int
) -> tuple[float, float]:
    """Forward and backward of cuDNN's kernel, as PyTorch's operations take it.

    varlen_attn has it behind a constant and, in 2.11 to 2.13, gives its way back arguments in another order.
    """
    operations, given = torch.ops.aten, tuple(x.detach() for x in leaves)
    where = (starts, starts, longest, longest)

    def forward() -> tuple[Tensor, ...]:
        return operations._cudnn_attention_forward(*given, None, *where, True, 0.0, False, False)  # type: ignore[no-any-return]

    answer, sums, *_, seed, offset, _ = forward()
    kept = (*given, answer, sums, seed, offset, None)  # no bias
    back = timed(lambda: operations._cudnn_attention_backward(into, *kept, *where, 0.0, False), bench)
    return timed(forward, bench), back


def say_times(bench: Bench, name: str, there: float, back: float, flops: float) -> None:
    """The row of a kernel."""
    bench.say({
        "row": f"attention kernel: {name}", "forward_ms": there * 1e3, "forward_TFLOP_s": flops / there / 1e12,
        "backward_ms": back * 1e3, "backward_TFLOP_s": 2.5 * flops / back / 1e12,
    })  # fmt: skip


def pairs_seen(length: int, window: int | None) -> int:
    """Pairs of tokens of one document that see each other."""
    if window is None or window >= length - 1:
        return length * length
    return length * (2 * window + 1) - window * (window + 1)


# ---------------------------------------------------------------------------------------------------------------- loss


def loss(bench: Bench) -> None:
    """From hidden states at 30% of 65,536 tokens to the loss and back; ours with and without its kernel, and rivals."""
    config = training.shape(PRESET, bench.rehearse)
    count = bench.shorter(19_660, 64)
    ways = {"tessera": None, "tessera, PyTorch's operations": "switched off"}
    for name in (*ways, *heads.RIVALS):
        absent = training.missing(name, bench.device)
        if absent is not None:
            bench.say({"row": f"loss: {name}", "absent": absent})
            continue
        patch = mock.patch.object(cross_entropy, "without_kernel", return_value="switched off")
        with patch if ways.get(name) else contextlib.nullcontext():
            row = heads.head(name.partition(",")[0], config, count, bench.device, bench.peak_flops)
        seconds, used = row.pop("seconds", None), row.pop("peak_bytes", None)
        more = {} if seconds is None or used is None else {"ms": seconds * 1e3, "GiB": used / 2**30}
        if name not in ways and "error" in row:
            row["absent"] = row.pop("error")  # a rival that does not fit is no fault of ours
        bench.say({"row": f"loss: {name}", **more, **row})
        emptied(bench)
    table_timed(bench, config.vocab_size, config.hidden_size)
    scores_timed(bench, config.vocab_size)


def table_timed(bench: Bench, width: int, hidden: int) -> None:
    """The gradient of the table of a block of scores, added to that of the blocks before; and that of the bias."""
    rows = bench.shorter(4096, 16)
    scores, states = (torch.randn(rows, n, device=bench.device).bfloat16() for n in (width, hidden))
    total = torch.zeros(width, hidden, device=bench.device)
    for where in (True, False):
        if where and not cross_entropy.adds_in_float32(bench.device):
            bench.say({"row": "table: added in float32 by the product", "absent": "not in this torch"})
            continue
        with mock.patch.object(cross_entropy, "adds_in_float32", return_value=where):
            took = timed(lambda: cross_entropy._with_product(total, scores.T, states, torch.float32), bench)
        flops = 2 * rows * width * hidden
        name = "in float32 by the product" if where else "afterwards"
        bench.say({"row": f"table: added {name}", "ms": took * 1e3, "TFLOP_s": flops / took / 1e12})
    for times in (1, 8, 16):  # one row is a product of a vector for cuBLAS, which it makes with other kernels
        ones = scores.new_ones(times, rows)
        took = timed(lambda ones=ones: ones @ scores, bench)  # type: ignore[misc]
        rate = 2 * scores.numel() / took
        bench.say({"row": f"bias: a product with {times} x ones", "ms": took * 1e3, "TB_s": rate / 1e12})


SHAPES = ((1, 8192, 16), (1, 4096, 8), (1, 2048, 8), (1, 2048, 4), (2, 4096, 16), (2, 2048, 8), (4, 1024, 8))
PROGRAMS = (48, 64, 80, 96, 132, 264, 396)


def scores_timed(bench: Bench, width: int) -> None:
    """Scores turned into their gradients: as the loss does it, then with other rows, blocks, warps and programs."""
    rows = bench.shorter(4096, 16)
    scores = torch.randn(rows, width, device=bench.device).bfloat16()
    bias, targets = torch.zeros(width, device=bench.device), torch.arange(rows, device=bench.device)
    way = cross_entropy.without_kernel(bench.device) or "Triton"

    def say(name: str, work: Callable[[], object]) -> None:
        try:
            took = timed(work, bench, repeat=5, warm=1)
        except Exception as error:  # of the compiler: the next one may run
            bench.say({"row": f"scores to gradients alone: {name}", "absent": str(error)[:150]})
            return
        bench.say({
            "row": f"scores to gradients alone: {name}", "ms": took * 1e3, "TB_s": 6 * scores.numel() / took / 1e12
        })  # fmt: skip

    say(way, lambda: cross_entropy._losses(scores, bias, targets, gradient=True))
    say(f"{way}, no bias", lambda: cross_entropy._losses(scores, None, targets, gradient=True))
    if way != "Triton":
        return
    from tessera.kernels.loss_kernel import losses_of

    for some, block, warps in SHAPES:
        sizes: dict[str, Any] = {"rows": some, "block": block, "warps": warps}
        name = f"{some} x {block}, {warps} warps"
        say(name, lambda sizes=sizes: losses_of(scores, bias, targets, gradient=True, **sizes))
    for programs in PROGRAMS:
        for some, block, warps in (SHAPES[0], (1, 16_384, 32)):
            sizes = {"rows": some, "block": block, "warps": warps, "programs": programs}
            name = f"{programs} programs, {some} x {block}, {warps} warps"
            say(name, lambda sizes=sizes: losses_of(scores, bias, targets, gradient=True, **sizes))


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
