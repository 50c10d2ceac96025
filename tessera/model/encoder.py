"""Bidirectional transformer encoder: EuroBERT, ModernBERT and mmBERT are values of one configuration.

Documents lie end to end and never see each other; nothing is ever padded here. Of three forward passes this is the one
with gradients, in training and on GPUs; packed/encoder.py fuses what a CPU computes without them, export/padded.py is
written in the operations of other runtimes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from tessera.model.attention import Layout, attend, choose
from tessera.plan.architecture import EncoderConfig

# Shapes: T tokens of N documents end to end, C hidden size, I intermediate size.

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": functional.gelu, "silu": functional.silu}


def pack(documents: Sequence[NDArray[np.integer]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Sequence packing: the ids of at least one document end to end, as every model here reads them.

    returns  tokens [T], starts [N+1] (0, ends of the documents), int64 on the device
    """
    tokens = torch.from_numpy(np.concatenate(documents).astype(np.int64))
    return tokens.to(device), torch.from_numpy(np.cumsum([0, *map(len, documents)])).to(device)


class Norm(nn.Module):
    """LayerNorm or RMSNorm, with a weight and without a bias."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.norm_eps
        self.centred = config.norm == "layernorm"

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]"""
        if self.centred:
            return functional.layer_norm(x, self.weight.shape, self.weight, eps=self.eps)
        return functional.rms_norm(x, self.weight.shape, self.weight, eps=self.eps)


class Attention(nn.Module):
    """Multi-head self-attention, grouped-query where the configuration says so, with one matrix for q, k and v."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.key_value_heads = config.num_attention_heads, config.num_key_value_heads
        self.window = config.window(layer)
        self.dropout = config.attention_output_dropout
        inner = (self.heads + 2 * self.key_value_heads) * config.head_dim
        self.qkv = nn.Linear(config.hidden_size, inner, bias=False)
        self.output = nn.Linear(self.heads * config.head_dim, config.hidden_size, bias=False)

    def forward(self, x: Tensor, layout: Layout, theta: float) -> Tensor:
        """[T, C] -> [T, C]"""
        heads, pairs = self.heads, self.key_value_heads
        mixed = attend(self.qkv(x), layout, heads=heads, key_value_heads=pairs, window=self.window, theta=theta)
        return functional.dropout(self.output(mixed), self.dropout, self.training)


class MLP(nn.Module):
    """Gated feed-forward network (GeGLU or SwiGLU)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.activation = config.hidden_act
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[T, C] -> [T, C]. Shazeer 2020, arXiv:2002.05202."""
        return self.down(_Gate.apply(self.gate_up(x), self.activation))


class Block(nn.Module):
    """Transformer layer with pre-normalization: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        normed = config.embedding_norm and layer == 0  # what comes in was normed a moment ago
        self.attention_norm = nn.Identity() if normed else Norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = Norm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, layout: Layout, theta: float) -> Tensor:
        """[T, C] -> [T, C]"""
        x = x + self.attention(self.attention_norm(x), layout, theta)
        return x + self.mlp(self.mlp_norm(x))


class Encoder(nn.Module):
    """Embedding, transformer layers and final norm: tokens to hidden states.

    attention  auto, reference, cpu or varlen; see model/attention.py. Raises ValueError at the first batch on a device
               for a backend that cannot run there.
    """

    def __init__(self, config: EncoderConfig, attention: str = "auto") -> None:
        super().__init__()
        if attention not in ("auto", "varlen"):  # whether these two run depends on the device of the batches
            choose(attention, "cpu")
        self.config = config
        self.backend = attention
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embedding_norm = Norm(config) if config.embedding_norm else nn.Identity()
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = Norm(config)

    def forward(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """tokens [T] integers, starts [N+1] (0, ends of the documents) -> hidden states [T, C].

        Positions restart at each document. Raises ValueError if starts does not fit.
        """
        layout = Layout.of(starts, len(tokens), self.backend)
        x = self.embedding_norm(self.embedding(tokens))
        for i, layer in enumerate(self.layers):
            local = self.config.window(i) is not None
            x = layer(x, layout, self.config.local_rope_theta if local else self.config.global_rope_theta)
        return self.norm(x)

    def set_rope_theta(self, global_: float, local: float) -> None:
        """Change the bases of the rotary frequencies; `config` is replaced. Raises ValueError if they do not fit it."""
        fields = {**self.config.model_dump(), "global_rope_theta": global_, "local_rope_theta": local}
        self.config = EncoderConfig.model_validate(fields)


class _Gate(torch.autograd.Function):
    """activation(first half) * second half, [T, 2 I] -> [T, I], keeping only the input for the way back.

    Halves are made contiguous first: the vector code of activations does not run on strided rows.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.activation = activation
        gate, up = x.chunk(2, dim=-1)
        return ACTIVATIONS[activation](gate.contiguous()).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        gate, up = (half.contiguous() for half in x.chunk(2, dim=-1))
        out = torch.empty_like(x)
        into_gate, into_up = out.chunk(2, dim=-1)
        back = torch.ops.aten.gelu_backward if ctx.activation == "gelu" else torch.ops.aten.silu_backward
        torch.mul(ACTIVATIONS[ctx.activation](gate), gradient, out=into_up)
        into_gate.copy_(back(up * gradient, gate))
        return out, None


class Transform(nn.Module):
    """The hidden layer of ModernBERT's heads, before its decoder or a classifier: dense, activation, norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.norm = Norm(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """[M, C] -> [M, C]"""
        return self.norm(self.activation(self.dense(hidden)))


class PartialEmbedding(nn.Module):
    """An embedding trained only in the tokens of the training data (R rows of V); what comes out is the same.

    A multilingual vocabulary of 256,000 tokens is most of a small model, and a data set holds a few thousand of them.
    The other rows get no gradient, so AdamW changes them by weight decay alone, the same factor for all: here that is
    one number, and optimizer, gradient and memory are those of the rows in use. Stands where an nn.Embedding stood.

    whole  [V, C], as it was; shared, never changed
    seen   [R] distinct tokens
    """

    whole: Tensor
    place: Tensor
    shrunk: Tensor

    def __init__(self, whole: Tensor, seen: Tensor) -> None:
        super().__init__()
        place = torch.full((len(whole),), -1, device=whole.device)
        place[seen] = torch.arange(len(seen), device=whole.device)
        self.register_buffer("whole", whole.detach(), persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("shrunk", torch.ones((), device=whole.device))  # what decay has left of the other rows
        self.weight = nn.Parameter(whole.detach()[seen].clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """[...] -> [..., C]"""
        places = self.place[tokens]
        found = functional.embedding(places.clamp(min=0), self.weight)
        if self.training:  # all of them are seen
            return found
        others = functional.embedding(tokens, self.whole) * self.shrunk
        return torch.where(places[..., None] < 0, others, found)

    def decay(self, factor: float) -> None:
        """What one step of the optimizer does to the rows that it does not hold."""
        self.shrunk *= factor

    @torch.no_grad()
    def embedding(self) -> Tensor:
        """The whole table as it is now, [V, C]."""
        table = self.whole * self.shrunk
        table[self.place >= 0] = self.weight[self.place[self.place >= 0]]
        return table
