"""Bidirectional transformer encoder: EuroBERT, ModernBERT and mmBERT are values of one configuration.

Documents lie end to end and never see each other; nothing is ever padded here. Of three forward passes this is the one
with gradients, in training and on GPUs; packed/encoder.py fuses what a CPU computes without them, export/padded.py is
written in the operations of other runtimes.
"""

import functools
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tessera.model import glu
from tessera.model.attention import Layout, Varlen, attend, choose
from tessera.model.glu import ACTIVATIONS
from tessera.model.precision import on_device
from tessera.plan.architecture import EncoderConfig

# Shapes: T tokens of N documents end to end, C hidden size, I intermediate size.


def pack(documents: Sequence[NDArray[np.integer]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Sequence packing: the ids of at least one document end to end, as every model here reads them.

    returns  tokens [T], starts [N+1] (0, ends of the documents), int64 on the device
    """
    where = torch.device(device)
    starts = np.cumsum([0, *map(len, documents)])
    return on_device(np.concatenate(documents).astype(np.int64), where), on_device(starts, where)


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
        self.head_dim = config.head_dim
        self.window = config.window(layer)
        self.dropout = config.attention_output_dropout
        inner = (self.heads + 2 * self.key_value_heads) * config.head_dim
        self.qkv = nn.Linear(config.hidden_size, inner, bias=False)
        self.output = nn.Linear(self.heads * config.head_dim, config.hidden_size, bias=False)

    def forward(self, x: Tensor, layout: Layout | Varlen, theta: float) -> Tensor:
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
        """[T, C] -> [T, C]"""
        return self.down(glu.gated(self.gate_up(x), self.activation))


class Block(nn.Module):
    """Transformer layer with pre-normalization: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        normed = config.embedding_norm and layer == 0  # what comes in was normed a moment ago
        self.attention_norm = nn.Identity() if normed else Norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = Norm(config)
        self.mlp = MLP(config)
        self.layer = _layer  # or the same compiled; no module, so nothing is named otherwise

    def forward(self, x: Tensor, layout: Layout, theta: float) -> Tensor:
        """[T, C] -> [T, C]"""
        if layout.backend == "varlen":
            return self.layer(self, x, layout.varlen(theta, self.attention.head_dim))
        return _layer(self, x, layout, theta)


def _layer(block: Block, x: Tensor, layout: Layout | Varlen, theta: float = 0.0) -> Tensor:
    """[T, C] -> [T, C]; with a Varlen of plain tensors alone, which torch.compile sees through as a whole."""
    x = x + block.attention(block.attention_norm(x), layout, theta)
    return x + block.mlp(block.mlp_norm(x))


_MOST_GRAPHS = 64  # six for a model and a context: a process may see a few of each


@functools.cache
def _compiled(backend: str) -> Callable[..., Tensor]:
    """`_layer` as one graph of each kind of layer, whatever the number of tokens and documents.

    A part that cannot be compiled is an error (fullgraph), and so is a graph too many: torch.compile would otherwise
    go on uncompiled without a word.
    """
    dynamo = torch._dynamo
    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, _MOST_GRAPHS)
    torch.compiler.assume_constant_result(glu.in_kernels)  # not where it is defined: that loads half of PyTorch
    whole = torch.compile(_layer, fullgraph=True, backend=backend)

    def run(block: Block, x: Tensor, layout: Varlen) -> Tensor:
        for tensor in (x, layout.cos, layout.sin, layout.starts, layout.bounds, layout.whole):
            dynamo.maybe_mark_dynamic(tensor, 0)
        return whole(block, x, layout)

    return run


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
        self.residual: torch.dtype | None = None  # what layers add to, the residual stream; None: the embedding's own

    def forward(self, tokens: Tensor, starts: Tensor | Layout) -> Tensor:
        """tokens [T] integers, starts [N+1] (0, ends of the documents) or their layout -> hidden states [T, C].

        Positions restart at each document. Raises ValueError if starts does not fit.
        """
        layout = starts if isinstance(starts, Layout) else Layout.of(starts, len(tokens), self._chosen(starts.device))
        x = self.embedding_norm(self.embedding(tokens))
        if self.residual is not None:
            x = x.to(self.residual)
        for i, layer in enumerate(self.layers):
            local = self.config.window(i) is not None
            x = layer(x, layout, self.config.local_rope_theta if local else self.config.global_rope_theta)
        return self.norm(x)

    def compile_layers(self, tokens: int, longest: int, *, backend: str = "inductor") -> int:
        """Has torch.compile make one function of a whole layer, which all of them share; weights keep their names.

        tokens   of a usual batch, with which it is tried at once; later batches may have any number of them
        longest  no document of theirs is longer: `Layout.from_host` is told the same
        backend  of torch.compile
        returns  kinds of layers: the first without a norm, local ones, global ones; each is a graph in training, and
                 another one in evaluation

        What the compiler raises is raised, and the layers are as they were.
        """
        starts = np.minimum(np.arange(-(-tokens // longest) + 1) * longest, tokens)
        table = self.embedding.weight
        layout = Layout.from_host(starts, tokens, table.device, longest=longest)
        glu.without_kernel(table.device)  # tried here, not while layers are traced
        kinds = {(isinstance(layer.attention_norm, Norm), layer.attention.window): layer for layer in self._blocks()}
        try:
            for layer in self._blocks():
                layer.layer = _compiled(backend)
            with torch.random.fork_rng(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # products are in bfloat16
                for (_, window), layer in kinds.items():
                    x = torch.zeros(tokens, self.config.hidden_size, device=table.device)
                    x = x.to(self.residual or table.dtype).requires_grad_(torch.is_grad_enabled())
                    theta = self.config.global_rope_theta if window is None else self.config.local_rope_theta
                    answer = layer(x, layout, theta)
                    if answer.requires_grad:
                        answer.sum().backward()
        except Exception:
            for layer in self._blocks():
                layer.layer = _layer
            raise
        finally:
            self.zero_grad(set_to_none=True)
        return len(kinds)

    def _chosen(self, device: torch.device) -> str:
        """The backend on that device, on a GPU for the dtype that queries and keys are going to have."""
        if device.type != "cuda":
            return self.backend
        rounded = torch.is_autocast_enabled("cuda")
        dtype = torch.get_autocast_dtype("cuda") if rounded else self.embedding.get_parameter("weight").dtype
        return choose(self.backend, device, dtype)

    def _blocks(self) -> list[Block]:
        return [layer for layer in self.layers if isinstance(layer, Block)]

    def set_rope_theta(self, global_: float, local: float) -> None:
        """Change the bases of the rotary frequencies; `config` is replaced. Raises ValueError if they do not fit it."""
        fields = {**self.config.model_dump(), "global_rope_theta": global_, "local_rope_theta": local}
        self.config = EncoderConfig.model_validate(fields)


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
    all_seen = True  # by training; else the other tokens are read as they are

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
        if self.training and self.all_seen:
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
