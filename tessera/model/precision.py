"""Mixed precision (bfloat16 autocast), devices, pinned copies to them, and memory of large arrays kept for reuse.

Matrix products run in the number format that the device is fast in; weights, norms' statistics, softmax and losses stay
float32.
"""

import ctypes
import functools
import logging
import os
import platform
import shutil
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._triton import has_triton

log = logging.getLogger(__name__)

_BY_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)
_LARGEST = 2**31 - 1


_HERE = "give one that is here, as auto, cpu, cuda, cuda:1 or mps"


def find_device(name: str | torch.device) -> torch.device:
    """The device called `name` (auto, cpu, cuda, cuda:1, mps); auto is CUDA where torch sees a GPU, else the CPU.

    Apple's GPUs (mps) are taken where they are asked for. Raises ValueError for a device that is not there.
    """
    if isinstance(name, str) and name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = named_device(name)
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if (device.index or 0) >= there.get(device.type, 0):
        raise ValueError(f"device is {str(name)!r}, but PyTorch sees none here; {_HERE}")
    return device


def named_device(name: str | torch.device) -> torch.device:
    """The device of that name, whether it is there or not. Raises ValueError for what is no name of one."""
    try:
        if not isinstance(name, str | torch.device):
            raise TypeError("one device, as a str")
        return torch.device(name)
    except (RuntimeError, TypeError) as error:
        why = next(iter(str(error).splitlines()), "")
        raise ValueError(f"device is {name!r}; {_HERE} ({why})") from None


def compute_dtype(name: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """The number format called `name`; auto is bfloat16 where the device multiplies in it, float32 elsewhere.

    Where bfloat16 is asked of a processor that has none, a warning says what that costs: its products are emulated.
    Raises ValueError where it is asked of such a GPU.
    """
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    if name == "bfloat16" and not _multiplies_bfloat16(device):
        if device.type == "cuda":
            raise ValueError("machine.dtype is bfloat16, but this GPU has none; set machine.dtype=float32")
        _say_emulated()
    return _BY_NAME[name]


@functools.cache  # once a process is enough
def _say_emulated() -> None:
    log.warning(
        "bfloat16 is emulated on this processor, which has neither AVX512_BF16 nor AMX: slower than float32, and many "
        "times slower where AVX512 is missing too; dtype auto takes float32 here"
    )


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array as a tensor there. To a GPU it goes out of pinned memory, which the processor does not wait for."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def without_compiler(device: torch.device) -> str | None:
    """Why torch.compile does not serve this device here, or None where it does."""
    if device.type != "cuda":
        return f"it is for GPUs (CUDA), and this is {device.type}"
    if not has_triton():
        return "Triton is not installed, or does not know this GPU"
    if not (os.environ.get("CC") or any(shutil.which(name) for name in ("gcc", "clang", "cc"))):
        return "Triton needs a C compiler, and none is in PATH (gcc, clang)"
    return None


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Runs matrix products in `dtype`; float32 changes nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # oneDNN has fast bfloat16 products with AVX512_BF16 or AMX only; without them float32 is faster
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_memory() -> bool:
    """Disables glibc's trimming, so that the memory of large arrays is reused; False where libc is not glibc.

    By default it maps every large array anew, and the system fills each page with zeros at its first touch: an array
    of 64 MB costs as much again as the matrix product that writes it. The memory stays with the process until its end.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(
        mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _LARGEST) and mallopt(_TOP_PAD, 1 << 26)
    )
