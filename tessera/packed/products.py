"""Linear layers for CPU inference: prepacked weights of oneDNN, or the BLAS library where its float32 GEMM is faster.

oneDNN does the activation or the sum with its product. On processors with AVX2 and no AVX512, MKL's products of 128
rows and more take less time in float32 (docs/results/cpu.md), although activation and sum are made beside them.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

FUSED_ACTIVATIONS = {  # as oneDNN calls them
    "gelu": ("gelu", "none"), "gelu_new": ("gelu", "tanh"), "gelu_pytorch_tanh": ("gelu", "tanh"), "silu": ("swish", "")
}  # fmt: skip
_IN_PLACE: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "gelu": torch.ops.aten.gelu_.default,
    "gelu_new": lambda x: torch.ops.aten.gelu_.default(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch.ops.aten.gelu_.default(x, approximate="tanh"),
    "silu": lambda x: functional.silu(x, inplace=True),
}


def can_pack(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this build of PyTorch has the matrix library, and that has products in `dtype` for this processor.

    In bfloat16 it needs AVX512 at least, which is emulation, but a fast one.
    """
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and (dtype is not torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())


def by_blas(dtype: torch.dtype) -> bool:
    """Whether the BLAS library is the faster one here."""
    if dtype is not torch.float32 or not torch.backends.mkl.is_available():
        return False
    return torch.cpu._is_avx2_supported() and not torch.cpu._is_avx512_supported()


def product(
    weight: Tensor, bias: Tensor | None, dtype: torch.dtype, activation: str | None = None
) -> Callable[[Tensor], Tensor]:
    """What makes act(x W^T + b) of rows x [T, K], in `dtype`; weight [O, K], bias [O].

    activation   a key of `FUSED_ACTIVATIONS`. Raises KeyError for another
    """
    if by_blas(dtype):
        turned, act = _turned(weight, dtype), _IN_PLACE[activation]
        if bias is None:
            return lambda x: act(torch.mm(x, turned))
        more = bias.detach().to(dtype)
        return lambda x: act(torch.addmm(more, x, turned))
    packed, added = pack_weight(weight, dtype), None if bias is None else bias.detach().to(dtype)
    fused, how = ("none", "") if activation is None else FUSED_ACTIVATIONS[activation]
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, added, fused, [], how)


def summed(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    """What makes y + x W^T + b of rows x [T, K] and y [T, O], which may be written over."""
    if by_blas(dtype):
        turned = _turned(weight, dtype)
        if bias is None:
            return lambda x, y: y.addmm_(x, turned)
        more = bias.detach().to(dtype)
        return lambda x, y: y.add_(more).addmm_(x, turned)
    packed, added = pack_weight(weight, dtype), None if bias is None else bias.detach().to(dtype)
    return lambda x, y: torch.ops.mkldnn._linear_pointwise.binary(x, y, packed, added, "add")


def pack_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix in the order that oneDNN reads."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous(), None)


def _turned(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.detach().to(dtype).t().contiguous()
