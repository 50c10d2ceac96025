"""In which numbers the matrix products run. Weights, norms' statistics, softmax and losses stay float32."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

_BY_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compute_dtype(name: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """The number format called `name`; auto is bfloat16 where the device multiplies in it, float32 elsewhere.

    Raises ValueError where bfloat16 is asked of a GPU that has none.
    """
    if name == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    if name == "bfloat16" and device.type == "cuda" and not _multiplies_bfloat16(device):
        raise ValueError("machine.dtype is bfloat16, but this GPU has none; set machine.dtype=float32")
    return _BY_NAME[name]


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Runs matrix products in `dtype`; float32 changes nothing."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        yield


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # oneDNN has fast bfloat16 products with AVX512_BF16 or AMX only; without them float32 is faster
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
