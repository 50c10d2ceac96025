"""Self-attention over packed sequences with rotary position embeddings (RoPE): three backends that give one answer.

reference   a T x T mask: nothing clever, for tests and doubts
cpu         documents in groups of similar length, windows in blocks; see model/attention_cpu.py
varlen      torch.nn.attention.varlen, CUDA from compute capability 8.0 on, float16 or bfloat16; where Triton is, layers
            of a small window have a kernel of their own, see kernels/window_attention.py

Rotary positions (Su et al. 2021, arXiv:2104.09864, in the rotate-half layout of Llama) belong to attention here:
a backend may turn queries and keys where it touches them anyway. Only differences of positions matter.
"""

import functools
import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.model.attention_cpu import Plan, attend_in_tiles, cut
from tessera.model.precision import on_device

# Shapes: T tokens of N documents end to end, H query heads, K key/value heads, D head width.

BACKENDS = ("reference", "cpu", "varlen")

_DOCUMENTS = 128  # how many the kernel is told of at a time: batches of about as many look the same to a compiled layer
_STEP = 64  # positions: the angle of a token is that of whole steps and that of the rest


def choose(name: str, device: torch.device | str, dtype: torch.dtype | None = None) -> str:
    """The backend that `name` means on `device`: for `auto` varlen on CUDA, cpu on a CPU, reference on mps.

    dtype  of queries and keys, where that is settled
    Where a GPU or the dtype has no varlen kernel, `auto` is reference, whose memory grows with the square of a batch.
    Raises ValueError for a backend that does not exist or cannot run there.
    """
    kind = torch.device(device).type
    if name == "auto":
        fast = "reference" if kind == "cuda" and without_varlen(device, dtype) else "varlen"
        return {"cuda": fast, "mps": "reference"}.get(kind, "cpu")
    if name not in BACKENDS:
        raise ValueError(f"attention: unknown backend {name!r}; give auto, {', '.join(BACKENDS)}")
    if name == "varlen" and kind != "cuda":
        raise ValueError(
            f"attention: 'varlen' needs a CUDA device, this is {kind!r}; set machine.attention to auto or reference"
        )
    if name == "varlen" and (why := without_varlen(device, dtype)) is not None:
        raise ValueError(f"attention: 'varlen' {why}; set machine.attention to auto or reference")
    if name == "cpu" and kind not in ("cpu", "meta"):
        raise ValueError(f"attention: 'cpu' runs on CPUs, this is {kind!r}; set machine.attention to auto or reference")
    return name


def without_varlen(device: torch.device | str, dtype: torch.dtype | None) -> str | None:
    """Why the varlen kernel does not run on this GPU or in this dtype, or None where it does."""
    if dtype not in (None, torch.bfloat16, torch.float16):
        return f"computes in bfloat16 or float16, not {dtype}"
    if torch.cuda.is_available() and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            return f"needs a GPU of compute capability 8.0 (Ampere) or newer, this one has {major}.{minor}"
    return None


class Varlen(NamedTuple):
    """Sequence boundaries and rotary positions as GPUs' kernels take them: plain tensors, for torch.compile."""

    cos: Tensor  # [T, 1, D/2], float32
    sin: Tensor
    starts: Tensor  # [at least N+1] int32, documents without a token at its end
    longest: int  # a bound of their lengths
    grouped: bool  # whether the varlen kernel takes fewer keys than queries
    bounds: Tensor  # [T, 2] int32, the first and the last token of the document of each token
    whole: Tensor  # see Layout.turns
    rest: Tensor
    windows: bool  # whether small windows have a kernel of their own


@dataclass(frozen=True, slots=True)
class Layout:
    """Sequence boundaries of one batch, and what its layers share: rotary tables, tiles. Made once per batch."""

    backend: str  # reference, cpu or varlen
    starts: Tensor  # [N+1], where each document starts, and T
    longest: int  # length of the longest document, or what bounds it
    shared: dict[Hashable, Any] = field(default_factory=dict)  # what one layer computed and the others reuse
    host: NDArray[np.int64] | None = None  # `starts` where it is known without asking the device

    @classmethod
    def of(cls, starts: Tensor, tokens: int, attention: str = "auto") -> "Layout":
        """starts [N+1], rising from 0 to `tokens`. Raises ValueError where it does not."""
        backend = choose(attention, starts.device)
        lengths = torch.cat((starts.diff(), starts.new_zeros(1)))
        edges = torch.stack((starts[0], starts[-1], lengths.min(), lengths.max())).tolist() if len(starts) else [-1] * 4
        _check_edges(edges, len(starts), tokens)
        return cls(backend, starts, edges[3])

    @classmethod
    def from_host(
        cls, starts: NDArray[np.int64], tokens: int, device: torch.device, attention: str = "auto",
        longest: int | None = None,
    ) -> "Layout":  # fmt: skip
        """The same for a batch whose `starts` are still on the host: nothing is ever read back from the device.

        longest  a bound that many batches share, so that a compiled layer serves them all; the longest document if None
        """
        lengths = np.append(np.diff(starts), 0)
        edges = [int(n) for n in (starts[0], starts[-1], lengths.min(), lengths.max())] if len(starts) else [-1] * 4
        _check_edges(edges, len(starts), tokens)
        assert longest is None or longest >= edges[3], (longest, edges[3])
        made = cls(choose(attention, device), on_device(starts, device), longest or edges[3], host=starts)
        if made.backend == "varlen":
            ends = np.full(-(-len(starts) // _DOCUMENTS) * _DOCUMENTS + 1, tokens, np.int32)
            ends[: len(starts)] = starts
            made.shared["int32"] = on_device(ends, device)
        numbers = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), lengths[:-1])
        made.shared["document"] = on_device(numbers, device)
        return made

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """What `compute` gave the first time."""
        if key not in self.shared:
            self.shared[key] = compute()
        return self.shared[key]

    def document(self) -> Tensor:
        """[T] int32, the document of each token."""

        def compute() -> Tensor:
            numbers = torch.arange(len(self.starts) - 1, dtype=torch.int32, device=self.starts.device)
            return torch.repeat_interleave(numbers, self.starts.diff())

        return self.once("document", compute)

    def bounds(self) -> Tensor:
        """[T, 2] int32, the first and the last token of the document of each token."""

        def compute() -> Tensor:
            document = self.document()
            return torch.stack((self.starts[document], self.starts[1:][document] - 1), dim=1).int()

        return self.once("bounds", compute)

    def varlen(self, theta: float, width: int) -> Varlen:
        """What the kernels of GPUs are given in layers of that rotary base."""
        from tessera.kernels import window_attention  # defining an operation takes PyTorch most of a second

        starts = self.once("int32", lambda: self.starts.to(torch.int32))
        windows = window_attention.without_kernel(starts.device) is None
        return Varlen(
            *self.rotary(theta, width), starts, self.longest, _takes_groups(), self.bounds(),
            *self.turns(theta, width), windows,
        )  # fmt: skip

    def rotary(self, theta: float, width: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T, 1, D/2], float32, of positions that restart at each document."""

        def compute() -> tuple[Tensor, Tensor]:
            document = self.document()
            position = torch.arange(len(document), device=document.device) - self.starts[document]
            angles = position[:, None, None].float() * frequencies(theta, width, document.device)
            return angles.cos(), angles.sin()

        return self.once(("rotary", theta), compute)

    def turns(self, theta: float, width: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines side by side of whole steps [T/S + 1, D] and of what is less than a step [S, D], float32.

        Of positions that do not restart at a document: only differences matter. A kernel adds the two angles of a
        token, so that what it reads of them is small enough for a cache. Never one step: to torch.compile 1 is no size.
        """

        def compute() -> tuple[Tensor, Tensor]:
            tokens, device = len(self.document()), self.starts.device
            places = torch.arange(0, tokens + _STEP, _STEP, device=device), torch.arange(_STEP, device=device)
            angles = (x[:, None] * frequencies(theta, width, device).double() for x in places)  # many turns
            whole, rest = (torch.cat((x.cos(), x.sin()), dim=1).float() for x in angles)
            return whole, rest

        return self.once(("turns", theta), compute)

    def window(self, window: int | None) -> int | None:
        """The window, or None where no document reaches beyond it."""
        return None if window is None or window >= self.longest - 1 else window


def _check_edges(edges: list[int], entries: int, tokens: int) -> None:
    """Raises ValueError for (first start, last start, shortest, longest document) that are not those of `tokens`."""
    first, last, shortest, _ = edges
    if first != 0 or last != tokens or shortest < 0:
        raise ValueError(
            f"starts must rise from 0 to the number of tokens ({tokens}), with one entry more than documents; "
            f"it has {entries} entries, goes from {first} to {last} and its smallest step is {shortest}"
        )


def frequencies(theta: float, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Inverse frequencies of RoPE, [D/2]: by which angle a pair of dimensions turns from one position to the next."""
    return 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)


def attend(
    qkv: Tensor, layout: Layout | Varlen, *, heads: int, key_value_heads: int, window: int | None, theta: float
) -> Tensor:
    """Scaled dot-product attention of every token to the tokens of its own document.

    qkv      [T, (H + 2 K) * D], queries, keys and values before rotation; K divides H
    window   tokens visible on either side (|i - j| <= window), or None for the whole document
    theta    base of the rotary frequencies
    returns  [T, H * D], in the dtype of qkv
    """
    width = qkv.shape[1] // (heads + 2 * key_value_heads)
    if isinstance(layout, Layout) and layout.backend == "varlen":
        layout = layout.varlen(theta, width)
    if isinstance(layout, Varlen):
        if qkv.dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"attention: 'varlen' computes in bfloat16 or float16, not {qkv.dtype}; "
                'set machine.attention to "auto" or "reference", or machine.dtype to bfloat16'
            )
        from tessera.kernels import window_attention

        if layout.windows and window is not None and window_attention.fits(window, width):
            where = (layout.bounds, layout.whole, layout.rest)
            return window_attention.window_attention(qkv, *where, heads, key_value_heads, window)[0]
        turned, v = qkv.unflatten(1, (-1, width)).split((heads + key_value_heads, key_value_heads), dim=1)
        q, k = rotate(turned, layout.cos, layout.sin).split((heads, key_value_heads), dim=1)
        return _varlen(q, k, v, layout, window).flatten(1)
    window = layout.window(window)
    if layout.backend == "cpu":
        stacks = layout.once(("stacks", window), lambda: cut(layout.starts.tolist(), window, heads))
        rotary, shape = layout.rotary(theta, width), (heads, key_value_heads)
        plan = layout.once(("plan", window, theta, qkv.dtype), lambda: Plan.of(stacks, shape, rotary, qkv.dtype))
        return attend_in_tiles(qkv, plan)
    turned, v = qkv.unflatten(1, (-1, width)).split((heads + key_value_heads, key_value_heads), dim=1)
    q, k = rotate(turned, *layout.rotary(theta, width)).split((heads, key_value_heads), dim=1)
    return _reference(q, k, v, layout, window).flatten(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding: x [T, heads, D] turned by its position, cos, sin [T, 1, D/2] -> [T, heads, D].

    In float32; returns the dtype of x.
    """
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def _reference(q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None) -> Tensor:
    """q [T, H, D], k and v [T, K, D] -> [T, H, D]. Needs T x T memory for each head."""
    document = layout.document()
    seen = document[:, None] == document[None, :]
    if window is not None:
        place = torch.arange(len(document), device=document.device)
        seen &= (place[:, None] - place[None, :]).abs() <= window
    times = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(times, dim=1) for x in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k).float() / q.shape[2] ** 0.5
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1).to(v.dtype)
    return torch.einsum("hij,jhd->ihd", weights, v)


def _varlen(q: Tensor, k: Tensor, v: Tensor, layout: Varlen, window: int | None) -> Tensor:
    """q [T, H, D], k and v [T, K, D] -> [T, H, D], by the kernel that reads packed documents."""
    from torch.nn.attention.varlen import varlen_attn  # a second, for what a CPU never calls

    options: dict[str, Any] = {"window_size": (-1, -1) if window is None else (window, window)}
    if q.shape[1] != k.shape[1] and layout.grouped:
        options["enable_gqa"] = True
    elif q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    answer = varlen_attn(q, k, v, layout.starts, layout.starts, layout.longest, layout.longest, **options)
    assert isinstance(answer, Tensor)
    return answer


@functools.cache
def _takes_groups() -> bool:
    """Whether this version of PyTorch's kernel takes fewer keys than queries; it can take as many in any."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters
