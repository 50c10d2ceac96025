"""What all parts of gpu_check.py stand on: where they run and whom they tell, stand-ins of a rehearsal, a clock."""

import contextlib
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.plan.cost import data_sheet

ROOT = Path(__file__).resolve().parents[1]
PRESET = "mmbert-base"


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
