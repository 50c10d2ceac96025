"""Stand-ins for the kernels of GPUs, on a CPU: the code path of CUDA runs in tests, backward too.

torch's private operations `torch_attn::_varlen_attn` and `_varlen_attn_backward` get a CPU kernel each that computes
with masks and first asserts what the CUDA kernel (FlashAttention 2 in PyTorch, flash_api.cpp: mha_varlen_fwd) asserts.
So do both operations of the kernel of windows, which are reduced to those. PyTorch's operations stand for the Triton
kernels of gated units, which run in Triton's interpreter elsewhere.
What they cannot show: speed, and whatever the real kernel gets wrong.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tessera.kernels import window_attention
from tessera.model import attention, glu
from tessera.packed import encoder as packed

# Shapes: T tokens of N documents end to end, H query heads, K key/value heads, D head width.

Window = list[int] | None

_GATES = "tessera.kernels.glu_kernel"


@contextmanager
def standing_in() -> Iterator[None]:
    """While it lasts, `varlen` runs on CPUs, `auto` chooses it there, and no weights are packed: all as on a GPU.

    Windows have a kernel of their own.
    """
    from torch.nn.attention import varlen

    real = attention.choose

    def as_on_a_gpu(name: str, device: torch.device | str, dtype: torch.dtype | None = None) -> str:
        if name not in ("auto", "varlen"):
            return real(name, device, dtype)
        return "reference" if name == "auto" and dtype is torch.float32 else "varlen"

    all_of_them = (
        (varlen._varlen_attn, _forward), (varlen._varlen_attn_backward, _backward),
        (window_attention.window_attention, _windows), (window_attention.window_attention_backward, _windows_backward),
    )  # fmt: skip
    for operation, kernel in all_of_them:
        if "cpu" not in operation._backend_fns:  # a kernel stays registered for good; it is switched off below
            operation.register_kernel("cpu")(kernel)
        operation._disabled_kernel.discard("cpu")
    before = sys.modules.get(_GATES)
    sys.modules[_GATES] = _Gates(_GATES)
    try:
        with (
            mock.patch.object(attention, "choose", as_on_a_gpu),
            mock.patch.object(window_attention, "without_kernel", return_value=None),
            mock.patch.object(packed, "can_pack", return_value=False),
            mock.patch.object(glu, "without_kernel", return_value=None),
        ):
            yield
    finally:
        for operation, _ in all_of_them:
            operation._disabled_kernel.add("cpu")
        del sys.modules[_GATES]
        if before is not None:
            sys.modules[_GATES] = before


@pytest.fixture
def varlen_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernels of GPUs are stood in for on this CPU."""
    with standing_in():
        yield
        monkeypatch.undo()  # what a test patched over a stand-in, which would else outlive it


class _Gates(ModuleType):
    """Stands for kernels/glu_kernel.py, which imports Triton."""

    calls = 0

    def gated(self, x: Tensor, activation: str) -> Tensor:
        return glu._forward(self._as_the_kernel(x), activation)

    def gated_backward(self, gradient: Tensor, x: Tensor, activation: str) -> Tensor:
        assert gradient.dtype == x.dtype, (gradient.dtype, x.dtype)
        return glu._backward(self._as_the_kernel(gradient), self._as_the_kernel(x), activation)

    def _as_the_kernel(self, x: Tensor) -> Tensor:
        assert x.is_contiguous()
        assert x.dtype is not torch.float64
        self.calls += 1
        return x


def _forward(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, is_causal: bool = False,
    scale: float | None = None, window_size: Window = None, enable_gqa: bool = False, *absent: None
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """q [T, H, D], k and v [T, K, D] -> answer [T, H, D], logarithms of the sums [H, T], a state of dropout."""
    _assert_as_the_kernel(q, k, v, cu_q, cu_k, max_q, max_k)
    assert not is_causal
    assert all(value is None for value in absent), absent  # cached keys and the like: never ours
    scores = _scores(q, k, cu_q, scale, window_size)
    sums = scores.logsumexp(-1)
    _, values = _repeated(k, v, q.shape[1])
    answer = torch.einsum("hij,jhd->ihd", (scores - sums[..., None]).exp(), values)
    return answer.to(q.dtype).contiguous(), sums, torch.zeros(2, dtype=torch.uint64)


def _backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, answer: Tensor, sums: Tensor, cu_q: Tensor, cu_k: Tensor,
    max_q: int, max_k: int, is_causal: bool, state: Tensor, scale: float | None = None, window_size: Window = None
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k and v, contiguous, in their dtypes. Dao 2023, arXiv:2307.08691, algorithm 2."""
    _assert_as_the_kernel(q, k, v, cu_q, cu_k, max_q, max_k)
    assert gradient.dtype == q.dtype, (gradient.dtype, q.dtype)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    keys, values = _repeated(k, v, q.shape[1])
    shares = (_scores(q, k, cu_q, scale, window_size) - sums[..., None]).exp()
    into_shares = torch.einsum("ihd,jhd->hij", gradient.float(), values)
    whole = (gradient.float() * answer.float()).sum(-1).T[..., None]
    into_scores = shares * (into_shares - whole) * scale
    into_q = torch.einsum("hij,jhd->ihd", into_scores, keys)
    into_k = torch.einsum("hij,ihd->jhd", into_scores, q.float())
    into_v = torch.einsum("hij,ihd->jhd", shares, gradient.float())
    groups = (-1, q.shape[1] // k.shape[1])
    into_k, into_v = (x.unflatten(1, groups).sum(2) for x in (into_k, into_v))
    tight = torch.contiguous_format
    return tuple(x.to(q.dtype).clone(memory_format=tight) for x in (into_q, into_k, into_v))  # type: ignore


def _assert_as_the_kernel(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> None:
    assert q.dtype in (torch.bfloat16, torch.float16), q.dtype
    assert q.dtype == k.dtype == v.dtype, (q.dtype, k.dtype, v.dtype)
    for x in (q, k, v):
        assert x.ndim == 3, x.shape
        assert x.stride(-1) == 1, x.stride()
        assert x.shape[2] <= 256, x.shape
        assert x.shape[2] % 8 == 0, x.shape
    assert k.shape == v.shape
    assert q.shape[1] % k.shape[1] == 0, (q.shape, k.shape)
    for cu, longest, x in ((cu_q, max_q, q), (cu_k, max_k, k)):
        assert cu.dtype == torch.int32, cu.dtype
        assert cu.is_contiguous()
        assert len(cu) >= 2, "the kernel wants at least one document"
        assert type(longest) is int, type(longest)
        # These the kernel does not look at: it leaves out tokens, or reads beyond the end.
        assert int(cu.diff().max()) <= longest, (cu.diff().max(), longest)
        assert int(cu.diff().min()) >= 0
        assert int(cu[0]) == 0
        assert int(cu[-1]) == len(x), (cu[-1], len(x))


def _repeated(k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values [T, H, D] float32, one for each query head."""
    times = heads // k.shape[1]
    return k.repeat_interleave(times, 1).float(), v.repeat_interleave(times, 1).float()


def _scores(q: Tensor, k: Tensor, cu: Tensor, scale: float | None, window_size: Window) -> Tensor:
    """[H, T, T] float32, -inf where a query does not see a key: windows include both of their ends."""
    place = torch.arange(len(q))
    document = torch.bucketize(place, cu[1:].long(), right=True)
    left, right = window_size or (-1, -1)
    ahead = place[None, :] - place[:, None]
    seen = document[:, None] == document[None, :]
    if left >= 0:
        seen &= ahead >= -left
    if right >= 0:
        seen &= ahead <= right
    keys, _ = _repeated(k, k, q.shape[1])
    scores = torch.einsum("ihd,jhd->hij", q.float(), keys) * (q.shape[2] ** -0.5 if scale is None else scale)
    return scores.masked_fill(~seen, float("-inf"))


def _windows(
    qkv: Tensor, bounds: Tensor, whole: Tensor, rest: Tensor, heads: int, key_value_heads: int, window: int
) -> tuple[Tensor, Tensor]:
    """Answers [T, H * D] of qkv [T, (H + 2 K) * D], logarithms to base 2 of the sums [H, T + 512]."""
    turned, v, cu, *_ = _as_varlen(qkv, bounds, whole, rest, heads, key_value_heads)
    answer, sums, _ = _forward(turned[:, :heads], turned[:, heads:], v, cu, cu, len(qkv), len(qkv),
                               window_size=[window, window])  # fmt: skip
    return answer.flatten(1), functional.pad(sums / math.log(2), (256, 256))


def _windows_backward(
    gradient: Tensor, qkv: Tensor, bounds: Tensor, whole: Tensor, rest: Tensor, answers: Tensor, sums: Tensor,
    heads: int, key_value_heads: int, window: int
) -> Tensor:  # fmt: skip
    """The gradient of qkv, turned back."""
    turned, v, cu, cos, sin = _as_varlen(qkv, bounds, whole, rest, heads, key_value_heads)
    gradient, answers = (x.unflatten(1, (heads, -1)) for x in (gradient, answers))
    natural = sums[:, 256:-256] * math.log(2)
    into_q, into_k, into_v = _backward(
        gradient, turned[:, :heads], turned[:, heads:], v, answers, natural, cu, cu, len(qkv), len(qkv),
        False, torch.empty(0), window_size=[window, window],
    )  # fmt: skip
    back = attention.rotate(torch.cat((into_q, into_k), 1), cos, -sin)
    return torch.cat((back, into_v), 1).flatten(1)


def _as_varlen(
    qkv: Tensor, bounds: Tensor, whole: Tensor, rest: Tensor, heads: int, key_value_heads: int
) -> tuple[Tensor, ...]:
    """Queries and keys after rotation [T, H + K, D], values [T, K, D], starts; cosines and sines [T, 1, D/2]."""
    assert bounds.dtype == torch.int32
    assert bounds.shape == (len(qkv), 2)
    width = qkv.shape[1] // (heads + 2 * key_value_heads)
    assert width in (32, 64, 128)
    assert whole.dtype == rest.dtype == torch.float32
    assert whole.shape == (-(-len(qkv) // len(rest)) + 1, width), whole.shape
    places = torch.arange(len(qkv))
    (c, s), (more_c, more_s) = (x[:, None].chunk(2, dim=-1) for x in (whole[places // 64], rest[places % 64]))
    cos, sin = c * more_c - s * more_s, s * more_c + c * more_s
    parts = qkv.unflatten(1, (-1, width))
    first = (bounds[:, 0] == places).nonzero()[:, 0]
    cu = torch.cat((first, first.new_tensor([len(qkv)]))).int()
    assert torch.equal(bounds[first, 1], cu[1:] - 1)
    return attention.rotate(parts[:, :-key_value_heads], cos, sin), parts[:, -key_value_heads:], cu, cos, sin
