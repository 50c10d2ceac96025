"""StableAdamW's update of many tensors at once, as three Triton kernels for GPUs.

torch-optimi's Triton form starts three kernels for each tensor, 411 in a step of mmBERT-base, which takes the processor
longer than the GPU needs to run them. Here tensors are cut into blocks, each of which finds its own by its number. The
mean square of each update is summed in one order, so two runs are the same to the last bit. Triton is imported with
this file, so only train/optimizer.py imports it, where there is a GPU. Source: arXiv:2304.13013, algorithm 2.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

# Shapes: N tensors, B blocks of all of them.

BLOCK, WARPS = 4096, 8  # elements of a program: 16 of each of 256 threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """How tensors of some sizes are cut: made once."""

    owners: Tensor  # [B] int32, the tensor of each block
    starts: Tensor  # [N + 1] int32, the first block of each tensor
    sizes: Tensor  # [N] int64, elements
    whole: bool  # whether all sizes are multiples of 16 elements, as loads of 16 bytes want them
    block: int

    @classmethod
    def of(cls, sizes: list[int], device: torch.device, block: int = BLOCK) -> "Blocks":
        counts = [triton.cdiv(size, block) for size in sizes]
        starts = np.array(list(itertools.accumulate(counts, initial=0)), np.int32)
        owners = np.repeat(np.arange(len(sizes), dtype=np.int32), counts)
        return cls(
            owners=torch.from_numpy(owners).to(device), starts=torch.from_numpy(starts).to(device),
            sizes=torch.tensor(sizes, device=device), whole=all(n % 16 == 0 for n in sizes), block=block,
        )  # fmt: skip


def update(
    arrays: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]], blocks: Blocks, *, lr: float, decay: float,
    beta1: float, beta2: float, eps: float,
) -> None:  # fmt: skip
    """One update of N tensors, in place.

    arrays         parameters, gradients and both moments, float32 without gaps
    decay          of the weights, a factor of the learning rate
    beta1, beta2   those of this step, without bias
    """
    parameters = arrays[0]
    for tensor in itertools.chain(*arrays):
        assert tensor.dtype is torch.float32
        assert tensor.is_contiguous()
    device = parameters[0].device
    places = np.array([[tensor.data_ptr() for tensor in tensors] for tensors in arrays], np.int64)
    addresses = torch.from_numpy(places)  # [4, N]
    if device.type == "cuda":  # out of pinned memory, which the processor does not wait for
        addresses = addresses.pin_memory().to(device, non_blocking=True)
    count, number = len(parameters), len(blocks.owners)
    squares = torch.empty(number, dtype=torch.float32, device=device)
    scales = torch.empty(count, dtype=torch.float32, device=device)
    fixed = {"EVEN": blocks.whole and not (places % 16).any(), "BLOCK": blocks.block, "num_warps": WARPS}
    with torch.cuda.device_of(parameters[0]):  # Triton starts kernels on the current device
        move_moments[(number,)](
            addresses, blocks.owners, blocks.starts, blocks.sizes, squares, count, beta1, 1 - beta1, beta2, 1 - beta2,
            eps * eps, **fixed,
        )  # fmt: skip
        to_scales[(count,)](squares, blocks.starts, blocks.sizes, scales, BLOCK=1024, num_warps=4)
        move_weights[(number,)](
            addresses, blocks.owners, blocks.starts, blocks.sizes, scales, count, lr, decay, eps, **fixed
        )


@triton.jit
def elements(owners, starts, sizes, EVEN: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the block of this program: its tensor, the places of its elements there, and which of them there are."""
    block = tl.program_id(0)
    owner = tl.load(owners + block)
    size = tl.load(sizes + owner)
    if EVEN:
        size = tl.multiple_of(size, 16)
    at = (block - tl.load(starts + owner)).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return owner, at, at < size


@triton.jit
def array(addresses, which, EVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """The tensor whose address stands there."""
    place = tl.load(addresses + which).to(tl.pointer_type(tl.float32))
    if EVEN:
        place = tl.multiple_of(place, 16)
    return place


@triton.jit
def move_moments(  # type: ignore[no-untyped-def]
    addresses, owners, starts, sizes, squares, count, beta1, rest1, beta2, rest2, floor, EVEN: tl.constexpr,
    BLOCK: tl.constexpr
):  # fmt: skip
    """Both moments by the gradients; squares [B] are the sums of gradient ** 2 / second moment."""
    owner, at, here = elements(owners, starts, sizes, EVEN, BLOCK)
    gradient = tl.load(array(addresses, count + owner, EVEN) + at, mask=here, other=0.0)
    means, variances = array(addresses, 2 * count + owner, EVEN), array(addresses, 3 * count + owner, EVEN)
    mean = tl.load(means + at, mask=here, other=0.0) * beta1 + rest1 * gradient
    variance = tl.load(variances + at, mask=here, other=0.0) * beta2 + rest2 * gradient * gradient
    tl.store(means + at, mean, mask=here)
    tl.store(variances + at, variance, mask=here)
    square = tl.where(here, gradient * gradient / tl.maximum(variance, floor), 0.0)
    tl.store(squares + tl.program_id(0), tl.sum(square, 0))


@triton.jit
def to_scales(squares, starts, sizes, scales, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """By what the learning rate of each tensor is multiplied: 1 / its root mean square where that is above 1."""
    owner = tl.program_id(0)
    at, end = tl.load(starts + owner) + tl.arange(0, BLOCK), tl.load(starts + owner + 1)
    total = tl.zeros((BLOCK,), tl.float32)
    first = tl.load(starts + owner)
    while first < end:
        total += tl.load(squares + at, mask=at < end, other=0.0)
        at += BLOCK
        first += BLOCK
    mean = tl.sum(total, 0) / tl.load(sizes + owner).to(tl.float32)
    tl.store(scales + owner, 1.0 / tl.maximum(1.0, tl.sqrt(mean)))


@triton.jit
def move_weights(  # type: ignore[no-untyped-def]
    addresses, owners, starts, sizes, scales, count, lr, decay, eps, EVEN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The weights by the moments and the tensor's own learning rate."""
    owner, at, here = elements(owners, starts, sizes, EVEN, BLOCK)
    rate = lr * tl.load(scales + owner)
    weights = array(addresses, owner, EVEN)
    weight = tl.load(weights + at, mask=here, other=0.0)
    mean = tl.load(array(addresses, 2 * count + owner, EVEN) + at, mask=here, other=0.0)
    variance = tl.load(array(addresses, 3 * count + owner, EVEN) + at, mask=here, other=0.0)
    weight = weight * (1.0 - rate * decay) - rate * mean / (tl.sqrt(variance) + eps)
    tl.store(weights + at, weight, mask=here)
