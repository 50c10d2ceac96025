"""Parts of gpu_check.py: kernels alone, of attention, of gated units, of the loss."""

import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import training_gpu_heads as heads
import training_gpu_parts as training
from gpu_check_bench import PRESET, Bench, emptied, timed
from torch import Tensor

from tessera.kernels import window_attention
from tessera.model import attention, cross_entropy, glu

# Shapes: T tokens, M positions, V vocabulary.

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


BLOCKS = ((16_384, 32), (8192, 16), (4096, 8), (2048, 8), (2048, 4), (1024, 4))  # scores of a row at once, and warps


def scores_timed(bench: Bench, width: int) -> None:
    """Scores turned into their gradients: as the loss does it, then with other blocks and warps."""
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

    for block, warps in BLOCKS:
        sizes: dict[str, Any] = {"block": block, "warps": warps}
        say(f"{block}, {warps} warps", lambda sizes=sizes: losses_of(scores, bias, targets, gradient=True, **sizes))
