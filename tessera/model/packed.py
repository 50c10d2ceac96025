"""CPU inference: oneDNN-prepacked weights, with activations and residual adds fused into the matrix products.

A forward pass of its own beside model/encoder.py, because the fused products have no gradients and run on CPUs only:
activation, gate and residual are oneDNN's post-operations, by way of the functions that torch.compile uses for them,
and no compiler is needed. Hidden states stay in the precision of the products. Elsewhere weights are rounded once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera.model.attention import Layout, attend
from tessera.model.encoder import Block, Encoder, Norm, PartialEmbedding

# Shapes: T tokens of N documents end to end, C hidden size, I intermediate size.

_ACTIVATIONS = {"gelu": ("gelu", "none"), "silu": ("swish", "")}  # as oneDNN calls them


def can_pack() -> bool:
    """Whether this build of PyTorch has the matrix library that is needed."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def packed(encoder: nn.Module, dtype: torch.dtype, *, may_round: bool = False) -> nn.Module:
    """The form of an encoder that gives its answers fastest in inference.

    `PackedEncoder`, a copy, for one of ours on a CPU with the matrix library. Else `encoder` itself, to be run under
    autocast; or with `may_round` and one of ours a `RoundedEncoder`, which changes its weights.
    """
    if not isinstance(encoder, Encoder):
        return encoder
    if encoder.embedding.weight.device.type == "cpu" and can_pack():
        return PackedEncoder(encoder, dtype)
    return RoundedEncoder(encoder, dtype) if may_round else encoder


class RoundedEncoder(nn.Module):
    """An `Encoder` whose weights are rounded to `dtype` once and for all; they are its own, not copies."""

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder, self.config, self.backend = encoder.to(dtype), encoder.config, encoder.backend

    @property
    def embedding(self) -> nn.Embedding:
        """Which a head tied to it needs."""
        return self.encoder.embedding

    def forward(self, tokens: Tensor, starts: Tensor | Layout) -> Tensor:
        """tokens [T] integers, starts [N+1] (0, ends of the documents) -> hidden states [T, C] in `dtype`."""
        with torch.autocast(tokens.device.type, enabled=False):  # which would take every norm to float32 and back
            return self.encoder(tokens, starts)


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: Callable[[Tensor], Tensor]
    qkv: Tensor  # matrices packed
    attend: Callable[[Tensor, Layout], Tensor]
    output: Tensor
    mlp_norm: Callable[[Tensor], Tensor]
    gate: Tensor
    up: Tensor
    down: Tensor


class PackedEncoder(nn.Module):
    """CPU inference encoder: the answers of an `Encoder`, faster, without gradients.

    encoder  on a CPU; it is left as it is, and is not needed afterwards
    dtype    of weights and hidden states, float32 or bfloat16

    Raises ValueError for an encoder elsewhere and on machines without the matrix library (`can_pack`).
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype) -> None:
        super().__init__()
        where = encoder.embedding.weight.device
        if where.type != "cpu" or not can_pack():
            raise ValueError(f"weights are packed on CPUs where PyTorch has oneDNN; this encoder is on {where}")
        self.config, self.backend, self.dtype = encoder.config, encoder.backend, dtype
        with torch.no_grad():
            self.embedding = nn.Embedding.from_pretrained(_table(encoder.embedding).to(dtype))
            self.embedding_norm = _norm(encoder.embedding_norm, dtype)
            self.layers = [self._layer(i, layer) for i, layer in enumerate(encoder.layers)]
            self.norm = _norm(encoder.norm, dtype)
        self.activation = _ACTIVATIONS[self.config.hidden_act]

    def _layer(self, number: int, block: nn.Module) -> _Layer:
        assert isinstance(block, Block)
        config, attention = self.config, block.attention
        theta = config.local_rope_theta if attention.window is not None else config.global_rope_theta
        heads, pairs, window = attention.heads, attention.key_value_heads, attention.window
        gate, up = block.mlp.gate_up.weight.chunk(2)
        return _Layer(
            attention_norm=_norm(block.attention_norm, self.dtype),
            qkv=self._pack(attention.qkv.weight),
            attend=partial(attend, heads=heads, key_value_heads=pairs, window=window, theta=theta),
            output=self._pack(attention.output.weight),
            mlp_norm=_norm(block.mlp_norm, self.dtype),
            gate=self._pack(gate),
            up=self._pack(up),
            down=self._pack(block.mlp.down.weight),
        )

    def _pack(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(self.dtype).contiguous(), None)

    @torch.no_grad()
    def forward(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """tokens [T] integers, starts [N+1] (0, ends of the documents) -> hidden states [T, C] in `dtype`.

        Raises ValueError if starts does not fit.
        """
        with torch.autocast("cpu", enabled=False):
            return self._run(tokens, Layout.of(starts, len(tokens), self.backend))

    def _run(self, tokens: Tensor, layout: Layout) -> Tensor:
        product, fused = torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._linear_pointwise.binary
        activation, how = self.activation
        x = self.embedding_norm(self.embedding(tokens))
        if not len(tokens):
            return x
        for layer in self.layers:
            mixed = layer.attend(product(layer.attention_norm(x), layer.qkv, None, "none", [], ""), layout)
            x = fused(mixed, x, layer.output, None, "add")
            normed = layer.mlp_norm(x)
            gated = fused(normed, product(normed, layer.gate, None, activation, [], how), layer.up, None, "mul")
            x = fused(gated, x, layer.down, None, "add")
        return self.norm(x)


def _table(embedding: nn.Module) -> Tensor:
    """[V, C], also of an embedding that is being trained in some of its rows."""
    if isinstance(embedding, PartialEmbedding):
        return embedding.embedding()
    return embedding.get_parameter("weight").detach()


def _norm(norm: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The norm in `dtype`, statistics in float32; nothing for what is no norm."""
    if not isinstance(norm, Norm):
        return lambda x: x
    weight, eps = norm.weight.detach().to(dtype), norm.eps
    if norm.centred:
        return lambda x: functional.layer_norm(x, weight.shape, weight, eps=eps)
    return lambda x: functional.rms_norm(x, weight.shape, weight, eps=eps)
