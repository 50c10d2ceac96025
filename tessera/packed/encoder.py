"""CPU inference: oneDNN-prepacked weights, with activations and residual adds fused into the matrix products.

A forward pass of its own beside model/encoder.py, because the fused products have no gradients and run on CPUs only:
activation, gate and residual are oneDNN's post-operations, by way of the functions that torch.compile uses for them,
and no compiler is needed. Hidden states stay in the precision of the products. Elsewhere weights are rounded once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera.huggingface.transformers_model import TransformersEncoder
from tessera.model.attention import Layout, attend, frequencies
from tessera.model.attention_cpu import cut
from tessera.model.encoder import Block, Encoder, Norm
from tessera.packed.attention import attend_still, still_tiles
from tessera.packed.bert import packed_bert, whole_table
from tessera.packed.products import can_pack, product, summed

# Shapes: T tokens of N documents end to end, C hidden size, I intermediate size.

_GROUP_TOKENS = 4096  # of documents that go through all layers together
_MLP_NUMBERS = 5_000_000  # inside a multilayer perceptron at once


def packed(encoder: nn.Module, dtype: torch.dtype, *, may_round: bool = False) -> nn.Module:
    """The form of an encoder that gives its answers fastest in inference.

    Packed weights, copied, on a CPU where `can_pack(dtype)`: `PackedEncoder` for one of ours, `PackedBert` for one of
    BERT's architecture. Else `encoder` itself, to be run under autocast; or with `may_round` and one of ours a
    `RoundedEncoder`, which changes its weights.
    """
    if isinstance(encoder, TransformersEncoder) and next(encoder.parameters()).device.type == "cpu" and can_pack(dtype):
        return packed_bert(encoder, dtype) or encoder
    if not isinstance(encoder, Encoder):
        return encoder
    if encoder.embedding.weight.device.type == "cpu" and can_pack(dtype):
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
class Layer:
    """A transformer layer as three functions of rows, what lies between norms and sums fused with its products."""

    window: int | None
    theta: float
    qkv: Callable[[Tensor], Tensor]  # hidden states -> queries, keys and values, norm included
    output: Callable[[Tensor, Tensor], Tensor]  # (answers of attention, hidden states) -> hidden states
    mlp: Callable[[Tensor], Tensor]  # hidden states -> hidden states, norm and sum included


class PackedEncoder(nn.Module):
    """CPU inference encoder: the answers of an `Encoder`, faster, without gradients.

    encoder  on a CPU; it is left as it is, and is not needed afterwards
    dtype    of weights and hidden states, float32 or bfloat16
    layer    makes one of (encoder, number, dtype); None: `float_layer`. packed/int8.py has another

    Raises ValueError for an encoder elsewhere and where the matrix library is not, or not in `dtype` (`can_pack`).
    """

    def __init__(
        self,
        encoder: Encoder,
        dtype: torch.dtype,
        layer: Callable[[Encoder, int, torch.dtype], Layer] | None = None,
    ) -> None:
        super().__init__()
        where = encoder.embedding.weight.device
        if where.type != "cpu" or not can_pack(dtype):
            name = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"weights are packed in {name} on CPUs for which PyTorch's oneDNN has such products; this encoder is "
                f"on {where}, and `tessera doctor` says what this processor has: take float32, or the encoder as it is"
            )
        self.config, self.backend, self.dtype = encoder.config, encoder.backend, dtype
        with torch.no_grad():
            self.embedding = nn.Embedding.from_pretrained(whole_table(encoder.embedding).to(dtype))
            self.embedding_norm = inference_norm(encoder.embedding_norm, dtype)
            self.layers = [(layer or float_layer)(encoder, number, dtype) for number in range(len(encoder.layers))]
            self.norm = inference_norm(encoder.norm, dtype)

    @torch.no_grad()
    def forward(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """tokens [T] integers, starts [N+1] (0, ends of the documents) -> hidden states [T, C] in `dtype`.

        Raises ValueError if starts does not fit.
        """
        with torch.autocast("cpu", enabled=False):
            whole = Layout.of(starts, len(tokens), self.backend)
            groups = [slice(first, last + 1) for first, last in _groups(starts.tolist())]
            if len(groups) < 2:
                return self._run(tokens, whole)
            parts = (starts[group] for group in groups)
            return torch.cat([self._run(tokens[part[0] : part[-1]], self._layout(part - part[0])) for part in parts])

    def _layout(self, starts: Tensor) -> Layout:
        return Layout.of(starts, int(starts[-1]), self.backend)

    def _run(self, tokens: Tensor, layout: Layout) -> Tensor:
        x, rows = self.embedding_norm(self.embedding(tokens)), max(256, _MLP_NUMBERS // self.config.intermediate_size)
        if not len(tokens):
            return x
        for layer in self.layers:
            x = layer.output(self._attend(layer.qkv(x), layout, layer), x)
            parts = [layer.mlp(part) for part in x.split(rows)]
            x = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.norm(x)

    def _attend(self, qkv: Tensor, layout: Layout, layer: Layer) -> Tensor:
        heads, pairs = self.config.num_attention_heads, self.config.num_key_value_heads
        if layout.backend != "cpu":
            return attend(qkv, layout, heads=heads, key_value_heads=pairs, window=layer.window, theta=layer.theta)
        window = layout.window(layer.window)
        stacks = layout.once(("stacks", window), lambda: cut(layout.starts.tolist(), window, heads))
        theta, width = layer.theta, self.config.head_dim
        tiles = layout.once(
            ("still", window, theta), lambda: still_tiles(stacks, len(qkv), frequencies(theta, width), qkv.dtype)
        )
        return attend_still(qkv, tiles, heads, pairs)


def _groups(starts: list[int]) -> Iterator[tuple[int, int]]:
    """Documents first to last that go through the layers together: what they need stays in the cache, and in memory."""
    first = 0
    for last in range(1, len(starts)):
        if last == len(starts) - 1 or starts[last + 1] - starts[first] > _GROUP_TOKENS:
            yield first, last
            first = last


def float_layer(encoder: Encoder, number: int, dtype: torch.dtype) -> Layer:
    """The layer of that number with its products in `dtype`."""
    block, config = encoder.layers[number], encoder.config
    assert isinstance(block, Block)
    window = block.attention.window
    gate_weight, up_weight = block.mlp.gate_up.weight.chunk(2)
    gate, up = product(gate_weight, None, dtype, config.hidden_act), product(up_weight, None, dtype)
    qkv = product(block.attention.qkv.weight, None, dtype)
    output, down = (summed(one.weight, None, dtype) for one in (block.attention.output, block.mlp.down))
    before, between = inference_norm(block.attention_norm, dtype), inference_norm(block.mlp_norm, dtype)

    def mlp(x: Tensor) -> Tensor:
        normed = between(x)
        # Fused with the second product the gate would be read in an order that costs more than this pass.
        return down(gate(normed).mul_(up(normed)), x)

    return Layer(
        window=window,
        theta=config.local_rope_theta if window is not None else config.global_rope_theta,
        qkv=lambda x: qkv(before(x)),
        output=output,
        mlp=mlp,
    )


def inference_norm(norm: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The norm in `dtype`, statistics in float32; nothing for what is no norm."""
    if not isinstance(norm, Norm):
        return lambda x: x
    weight, eps = norm.weight.detach().to(dtype), norm.eps
    if norm.centred:
        return lambda x: functional.layer_norm(x, weight.shape, weight, eps=eps)
    return lambda x: functional.rms_norm(x, weight.shape, weight, eps=eps)
