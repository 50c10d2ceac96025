"""Tiles of the Triton kernels of windows on the GPU at hand: each set is held against FlashAttention 2, then timed.

    PYTHONPATH=. python benchmarks/window_kernel.py   one line for each, and the fastest of each kernel at the end
    ... --rehearse                                    a few of them in Triton's interpreter on a CPU: measures nothing

mmBERT-base's local layers: 12 heads of 64, 64 tokens visible on either side, documents of at most 1,024 tokens. A set
that does not compile, finds too few resources or answers wrongly is said to, and the next one begins.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from unittest import mock

if "--rehearse" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch import Tensor
from torch.nn import functional

from tessera.kernels import window_attention, window_kernel
from tessera.kernels.window_kernel import TILES, Kernels, Shape, Tiles
from tessera.model.attention import Layout, attend

WIDTH, THETA = 64, 160_000.0
BOUNDS = {"forward": 1e-2, "queries": 2e-2, "keys": 2e-2}  # of what FlashAttention 2 says, in parts, by their norms
SETS = {
    "forward": [Tiles(64, 64, 4, 1), Tiles(64, 64, 4, 2, 168), Tiles(64, 32, 4, 1), Tiles(64, 128, 4, 1),
                Tiles(64, 32, 4, 2, 128), Tiles(64, 32, 4, 3), Tiles(64, 64, 8, 1), Tiles(128, 64, 8, 1),
                Tiles(128, 32, 8, 1), Tiles(128, 64, 8, 2, 128)],
    "queries": [Tiles(64, 64, 4, 1, 168), Tiles(64, 64, 4, 1, 128), Tiles(64, 64, 4, 2, 168), Tiles(64, 32, 4, 1, 128),
                Tiles(64, 32, 4, 2), Tiles(64, 32, 4, 2, 128), Tiles(64, 64, 8, 1), Tiles(128, 64, 8, 1),
                Tiles(128, 32, 8, 1, 128)],
    "keys": [Tiles(64, 32, 4, 2, 168), Tiles(64, 32, 4, 1), Tiles(64, 64, 4, 1),
             Tiles(64, 64, 4, 2), Tiles(64, 32, 8, 1), Tiles(64, 32, 4, 3, 168), Tiles(64, 16, 4, 2, 168),
             Tiles(128, 32, 8, 1)],
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One pack of documents, and what FlashAttention 2 makes of it."""

    shape: Shape
    layout: Layout
    qkv: Tensor  # [T, (H + 2 K) D]
    gradient: Tensor  # [T, H D], of the answers
    answers: Tensor
    into: Tensor  # the gradient of qkv
    seconds: tuple[float, float]  # FlashAttention's, positions and all, forward and both ways

    @property
    def where(self) -> tuple[Tensor, ...]:
        return self.layout.bounds(), *self.layout.turns(THETA, WIDTH)


def main(given: argparse.Namespace) -> int:
    """Prints the lines; the exit status is 1 where no set of a kernel is right."""
    device = torch.device("cpu" if given.rehearse else "cuda")
    if given.rehearse:
        for operation in (window_attention.window_attention, window_attention.window_attention_backward):
            operation.register_kernel("cpu")(operation._init_fn)
    else:
        print(torch.cuda.get_device_name(device), torch.__version__)
    case = drawn(device, 150 if given.rehearse else given.tokens, 2 if given.rehearse else 12)
    there, both = case.seconds
    print(f"{len(case.qkv):,} tokens; FlashAttention 2: {there * 1e3:.3f} ms forward, {both * 1e3:.3f} ms both ways")
    best: dict[str, Tiles] = {}
    for kernel, sets in SETS.items():
        found = dict(measured(case, kernel, sets[:2] if given.rehearse else sets))
        if not found:
            print(f"{kernel}: none is right")
            return 1
        best[kernel] = min(found, key=lambda tiles: found[tiles])
    print(f"{WIDTH}: {Kernels(**best)}")
    with mock.patch.dict(TILES, {WIDTH: Kernels(**best)}):
        there, both = both_ways(case.qkv, case.gradient, lambda qkv: own(case, qkv))[2]
    print(f"with these as an operation of PyTorch: {there * 1e3:.3f} ms forward, {both * 1e3:.3f} ms both ways")
    return 0


def drawn(device: torch.device, tokens: int, heads: int) -> Case:
    """Random vectors in documents of 1 to 1,024 tokens."""
    random = torch.Generator(device).manual_seed(0)
    dtype = torch.float16 if device.type == "cpu" else torch.bfloat16  # the interpreter knows no products of bfloat16
    shape = Shape(heads, heads, 64)
    ends = torch.randint(1, 1024, (tokens,), generator=torch.Generator().manual_seed(0)).cumsum(0)
    starts = torch.cat((ends.new_zeros(1), ends[ends < tokens], ends.new_tensor([tokens]))).to(device)
    qkv = torch.randn(tokens, 3 * heads * WIDTH, device=device, generator=random).to(dtype)
    gradient = torch.randn(tokens, heads * WIDTH, device=device, generator=random).to(dtype)
    layout = Layout.of(starts, tokens, "reference" if device.type == "cpu" else "varlen")
    with mock.patch.object(window_attention, "without_kernel", return_value="switched off"):
        answers, into, seconds = both_ways(qkv, gradient, lambda x: attend(x, layout, theta=THETA, **shape._asdict()))
    return Case(
        shape=shape, layout=layout, qkv=qkv, gradient=gradient, answers=answers, into=into, seconds=seconds
    )  # fmt: skip


def own(case: Case, qkv: Tensor) -> Tensor:
    """Answers of our kernels, through the operation."""
    return window_attention.window_attention(qkv, *case.where, *case.shape)[0]


def both_ways(
    qkv: Tensor, gradient: Tensor, answer: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Answers, the gradient of qkv; seconds forward, and of both ways."""
    given = qkv.detach().requires_grad_()

    def there_and_back() -> Tensor:
        return torch.autograd.grad(answer(given), given, gradient)[0]

    return answer(given).detach(), there_and_back(), (timed(lambda: answer(given)), timed(there_and_back))


def measured(case: Case, kernel: str, sets: Iterable[Tiles]) -> Iterable[tuple[Tiles, float]]:
    """Each set that is right, with its seconds; a line for each."""
    for tiles in sets:
        name = f"{kernel:<8} block {tiles.block:>3} tile {tiles.tile:>3} warps {tiles.warps} stages {tiles.stages}"
        name += f" registers {tiles.registers or 'any':<4}"
        try:
            run, off = prepared(case, kernel, tiles)
            run()
            parts = off()
            took = timed(run)
        except Exception as error:  # of the compiler, or of a GPU that has not enough of something
            print(f"{name} FAILED: {type(error).__name__}: {' '.join(str(error).split())[:120]}", flush=True)
            continue
        right = parts < BOUNDS[kernel]
        print(f"{name} {took * 1e3:8.3f} ms  off {parts:.1e}{'' if right else '  WRONG'}", flush=True)
        if right:
            yield tiles, took


def prepared(case: Case, kernel: str, tiles: Tiles) -> tuple[Callable[[], None], Callable[[], float]]:
    """What starts that kernel alone, and what then says how far off its answer is."""
    heads, keys = case.shape.heads, case.shape.key_value_heads
    answers, into = torch.zeros_like(case.answers), torch.zeros_like(case.into)
    _, sums = window_kernel.answers_of(case.qkv, *case.where, case.shape)
    deltas = (case.gradient.float() * case.answers.float()).unflatten(1, (heads, WIDTH)).sum(2).T
    deltas = functional.pad(deltas, (window_kernel.MARGIN, window_kernel.MARGIN)).contiguous()
    tensors = [case.qkv, *case.where]
    if kernel == "forward":
        tensors += [answers, torch.empty_like(sums)]
        function, count, found, wanted = window_kernel.forward_kernel, heads, answers, case.answers
    else:
        tensors += [case.gradient, case.answers, sums, deltas, into]
        queries = slice(0, heads * WIDTH) if kernel == "queries" else slice(heads * WIDTH, None)
        function = window_kernel.query_kernel if kernel == "queries" else window_kernel.key_kernel
        count, found, wanted = heads if kernel == "queries" else keys, into[:, queries], case.into[:, queries]
    return (
        lambda: window_kernel.start(function, count, tensors, case.shape, tiles),
        lambda: float((found.float() - wanted.float()).norm() / wanted.float().norm()),
    )


def timed(work: Callable[[], object], repeat: int = 20) -> float:
    """Median seconds by the device's clock."""
    if not torch.cuda.is_available():
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    spans = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeat)]
    for begin, end in spans:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in spans) / 1e3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=43_690, help="of the pack (43,690, a pass of mmBERT-base)")
    parser.add_argument("--rehearse", action="store_true")
    sys.exit(main(parser.parse_args()))
