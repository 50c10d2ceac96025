"""Throughput: tokens a second, MFU, waiting, packing, memory. All of it is of the machine, none of the science.

Of a step in which the busiest of G processes makes P passes, and the largest pass has S tokens:

    tokens_per_second   tokens of the batch over seconds, the wait for the batch included; measuring held-out text and
                        writing checkpoints are no part of a step
    mfu                 model FLOPs (plan/cost.py: step_flops) over the same seconds and over what the machine can do
    data_wait_seconds   how long the batch was not ready
    filled              tokens of the batch / tokens planned: sways around 1, since documents are drawn whole
    packing             tokens of the batch / (G * P * S): 1 where all processes make as many passes of the same size.
                        Nothing is padded, so what is missing is processes that wait and passes that could be longer;
                        on a GPU also what fills a pass up to a size that recurs, about a hundredth
    peak_memory_bytes   of the process that has most, since it began: resident memory on a CPU, mapped files among it;
                        what PyTorch holds on a GPU
"""

import functools
import itertools
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass

import torch

from tessera.data.packing import Batch
from tessera.huggingface.transformers_model import TransformersConfig
from tessera.plan.architecture import EncoderConfig
from tessera.plan.cost import data_sheet, step_flops
from tessera.train.distributed import World, gathered

_SIDES = {"cpu": 1024, "mps": 2048, "cuda": 8192}  # of the square matrices that are multiplied
_RECENT = 20.0  # seconds that the shown figures are means of


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What the matrix products of all processes together can reach."""

    flops: float  # each second
    source: str  # how that is known, for people


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """Steps added up."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    tokens: int = 0
    room: int = 0
    flops: float = 0.0

    def __add__(self, other: "_Sum") -> "_Sum":
        return _Sum(**{name: getattr(self, name) + getattr(other, name) for name in _Sum.__slots__})


class ThroughputMeter:
    """Turns the seconds of steps into figures."""

    def __init__(self, config: EncoderConfig | TransformersConfig, peak: Peak, world: World) -> None:
        self.peak, self.world = peak, world
        self._flops = (
            config.step_flops if isinstance(config, TransformersConfig) else functools.partial(step_flops, config)
        )
        self.memory = 0.0  # of all steps
        self._whole = _Sum()
        self._recent: deque[tuple[float, _Sum]] = deque()

    def step(self, batch: Batch, planned: int, sizes: list[int], spent: float, waited: float) -> dict[str, float]:
        """The figures of one step, by the names above. All processes come here together.

        planned   tokens of its window
        sizes     tokens of each pass of this process, with what fills them up
        spent     seconds from having the batch to having new weights
        waited    seconds before that
        """
        loads = gathered([len(sizes), max(sizes, default=0), used_memory(self.world.device)], self.world)
        most, largest, memory = (max(column) for column in zip(*loads, strict=True))
        lengths = (batch.starts[1:] - batch.starts[:-1]).tolist()
        now = _Sum(
            steps=1,
            seconds=spent + waited,
            waited=waited,
            tokens=len(batch.tokens),
            room=self.world.size * int(most) * int(largest),
            flops=self._flops(Counter(filter(None, lengths)), len(batch.positions)),
        )
        self.memory = max(self.memory, memory)
        self._whole += now
        clock = time.monotonic()
        self._recent.append((clock, now))
        while clock - self._recent[0][0] > _RECENT:
            self._recent.popleft()
        figures = {
            "tokens_per_second": now.tokens / now.seconds,
            "mfu": now.flops / now.seconds / self.peak.flops,
            "step_seconds": spent,
            "data_wait_seconds": waited,
            "filled": now.tokens / max(1, planned),
            "packing": now.tokens / max(1, now.room),
        }
        return figures | ({"peak_memory_bytes": memory} if memory else {})

    def recent(self) -> str:
        """The last seconds in words, for a line that is written again and again."""
        return self._in_words(sum((each for _, each in self._recent), _Sum()))

    def summary(self) -> str:
        """All steps since the start of this process, in words."""
        if not self._whole.steps:
            return "no step was left to make"
        of = self._whole
        return f"{of.tokens:,} tokens in {of.steps:,} steps and {of.seconds:,.1f} s, {self._in_words(of)}"

    def _in_words(self, of: _Sum) -> str:
        seconds = max(of.seconds, 1e-9)
        words = [
            f"{_rate(of.tokens / seconds)} tokens/s",
            f"MFU {of.flops / seconds / self.peak.flops:.1%}",
            f"data wait {of.waited / seconds:.0%}",
            f"packing {of.tokens / max(1, of.room):.0%}",
        ]
        return ", ".join([*words, f"{self.memory / 2**30:.1f} GiB"] if self.memory else words)


def _rate(value: float) -> str:
    return f"{value / 1e6:.2f}M" if value >= 1e6 else f"{value:,.0f}"


def used_memory(device: torch.device) -> float:
    """The most bytes this process has held so far; 0 where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))
    if device.type == "mps":
        return float(torch.mps.driver_allocated_memory())
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def find_peak(world: World, dtype: torch.dtype, seconds: float = 0.3) -> Peak:
    """What MFU is a share of: the GPU's data sheet where it has a row in plan/cost.py, else measured here and now.

    seconds   to measure for; every process does so at once, so that those of one machine share its cores as they will
    """
    row = None
    if world.device.type == "cuda" and dtype is torch.bfloat16:
        row = data_sheet(torch.cuda.get_device_name(world.device))
    own = row[1] if row else _measured(world.device, dtype, torch.get_num_threads(), seconds)
    every = [flops for (flops,) in gathered([own], world)]
    kind = f"{str(dtype).removeprefix('torch.')} matrix products"
    words = f"{kind} of {row[0]}, by its data sheet" if row else f"{kind} as measured here just now"
    each = f" ({world.size} x {_flops(sum(every) / world.size)})" if world.size > 1 else ""
    return Peak(flops=sum(every), source=f"{_flops(sum(every))}{each}, {words}")


@functools.cache
def _measured(device: torch.device, dtype: torch.dtype, threads: int, seconds: float) -> float:
    """Once for each process: all its phases are compared with the same figure."""
    return product_rate(device, dtype, seconds, best=True)


def product_rate(device: torch.device, dtype: torch.dtype, seconds: float, *, best: bool = False) -> float:
    """FLOP/s of square matrix products, a multiply-add counted as two: the mean over `seconds`, or the best one."""
    side = _SIDES[device.type]
    random = torch.Generator(device).manual_seed(0)  # nobody else's numbers are drawn by looking
    a, b = (torch.randn(side, side, device=device, generator=random).to(dtype) for _ in range(2))
    out = a @ b  # the first prepares the kernel
    _finish(device)
    times = [time.perf_counter()]
    while len(times) == 1 or times[-1] - times[0] < seconds:
        torch.mm(a, b, out=out)
        _finish(device)
        times.append(time.perf_counter())
    took = (times[-1] - times[0]) / (len(times) - 1)
    if best:
        took = min(after - before for before, after in itertools.pairwise(times))
    return 2 * side**3 / took


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _flops(rate: float) -> str:
    for unit, size in (("PFLOP/s", 1e15), ("TFLOP/s", 1e12)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}"
    return f"{rate / 1e9:.0f} GFLOP/s"
