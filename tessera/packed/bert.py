"""CPU inference of BERT, ELECTRA, RoBERTa and XLM-R (MiniLM, e5 ...): packed sequences, prepacked weights, no padding.

The weights are those of transformers' own module. Whether these are the operations of that module is tried on a few
tokens before they take its place.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera.huggingface.transformers_model import TransformersEncoder
from tessera.model.attention import Layout
from tessera.model.attention_cpu import cut
from tessera.model.encoder import PartialEmbedding
from tessera.packed.attention import attend_still, still_tiles
from tessera.packed.products import product, summed

# Shapes: T tokens of N documents end to end, C hidden size, I intermediate size.

_FAMILIES = ("bert", "electra", "roberta", "xlm-roberta")
_FROM_ZERO = ("bert", "electra")  # the first position of a document is 0
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh")
_TRIED = (7, 1, 12)  # tokens of the documents that are compared
_NEAR = 1e-3

Rows = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Rows
    output: Callable[[Tensor, Tensor], Tensor]  # (answers of attention, hidden states), norm included
    mlp: Rows


def packed_bert(encoder: TransformersEncoder, dtype: torch.dtype) -> "PackedBert | None":
    """The fast form of a wrapped model; None for one that is not BERT's architecture to the last operation."""
    config = getattr(encoder.model, "config", None)
    if encoder.config.model_type not in _FAMILIES or getattr(config, "hidden_act", None) not in _ACTIVATIONS:
        return None
    try:
        exact = PackedBert(encoder, torch.float32)
    except AttributeError:  # other modules than BERT's
        return None
    return (exact if dtype is torch.float32 else PackedBert(encoder, dtype)) if _agrees(exact, encoder) else None


@torch.no_grad()
def _agrees(ours: "PackedBert", theirs: TransformersEncoder) -> bool:
    training, longest = theirs.training, theirs.config.max_position_embeddings
    starts = torch.tensor([0, *itertools.accumulate(min(count, longest) for count in _TRIED)])
    tokens = torch.arange(int(starts[-1])) * 7919 % theirs.config.vocab_size
    try:
        with torch.autocast("cpu", enabled=False):
            exact = theirs.eval()(tokens % theirs.config.vocab_size, starts)
    finally:
        theirs.train(training)
    return torch.allclose(ours(tokens % theirs.config.vocab_size, starts), exact.float(), rtol=_NEAR, atol=_NEAR)


class PackedBert(nn.Module):
    """The answers of a `TransformersEncoder` around BERT's architecture, faster, without gradients.

    encoder  on a CPU; it is left as it is
    dtype    of weights and hidden states, float32 or bfloat16
    """

    def __init__(self, encoder: TransformersEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        model: Any = encoder.model
        self.config, self.dtype, self.theirs = encoder.config, dtype, (encoder,)
        self.heads = int(model.config.num_attention_heads)
        table = model.embeddings
        self.pad = None if self.config.model_type in _FROM_ZERO else int(model.config.pad_token_id)
        with torch.no_grad():
            self.embedding = nn.Embedding.from_pretrained(whole_table(table.word_embeddings).to(dtype))
            self.positions = table.position_embeddings.weight.detach().clone()
            self.segments = table.token_type_embeddings.weight.detach().clone()
            self.norm = _norm(table.LayerNorm, dtype)
            self.widen = _widen(getattr(model, "embeddings_project", None), dtype)
            self.layers = [_layer(one, self.heads, dtype, model.config.hidden_act) for one in model.encoder.layer]

    @torch.no_grad()
    def forward(self, tokens: Tensor, starts: Tensor, segments: Tensor | None = None) -> Tensor:
        """tokens [T] integers, starts [N+1] -> hidden states [T, C] in `dtype`; see `TransformersEncoder`."""
        self.theirs[0].check(tokens, starts)
        with torch.autocast("cpu", enabled=False):
            layout = Layout.of(starts, len(tokens), "cpu")
            document = layout.document()
            added = self.positions[self._places(tokens, starts, document)] + (
                self.segments[0] if segments is None else self.segments[segments]
            )
            x = self.widen(self.norm(self.embedding(tokens) + added.to(self.dtype)))
            if not len(tokens):
                return x
            stacks = cut(starts.tolist(), None, self.heads)
            tiles = still_tiles(stacks, len(tokens), None, self.dtype)
            for layer in self.layers:
                x = layer.mlp(layer.output(attend_still(layer.qkv(x), tiles, self.heads, self.heads), x))
            return x

    def _places(self, tokens: Tensor, starts: Tensor, document: Tensor) -> Tensor:
        """The position of each token, [T]: RoBERTa counts from its padding token on, and that one wherever it stands
        is no position of its own."""
        if self.pad is None:
            return torch.arange(len(tokens)) - starts[document]
        counts = tokens != self.pad
        before = functional.pad(counts.cumsum(0), (1, 0))
        return (before[1:] - before[starts[document]]) * counts + self.pad


def whole_table(embedding: nn.Module) -> Tensor:
    """[V, C], also of an embedding that is being trained in some of its rows."""
    if isinstance(embedding, PartialEmbedding):
        return embedding.embedding()
    return embedding.get_parameter("weight").detach()


def _layer(theirs: Any, heads: int, dtype: torch.dtype, activation: str) -> _Layer:
    inner = theirs.attention.self
    width = inner.query.weight.shape[0] // heads
    scale = torch.tensor(width**-0.5)  # of the scores: it lies in the queries
    weight = torch.cat((inner.query.weight * scale, inner.key.weight, inner.value.weight))
    bias = torch.cat((inner.query.bias * scale, inner.key.bias, inner.value.bias))
    middle, ends = theirs.intermediate.dense, (theirs.attention.output.dense, theirs.output.dense)
    wide = product(middle.weight, middle.bias, dtype, activation)
    output, narrow = (summed(one.weight, one.bias, dtype) for one in ends)
    after, last = _norm(theirs.attention.output.LayerNorm, dtype), _norm(theirs.output.LayerNorm, dtype)
    return _Layer(
        qkv=product(weight, bias, dtype),
        output=lambda mixed, x: after(output(mixed, x)),
        mlp=lambda x: last(narrow(wide(x), x)),
    )


def _widen(projection: nn.Linear | None, dtype: torch.dtype) -> Rows:
    """From the width of a factorized embedding to the hidden size; where they are the same there is nothing to do."""
    if projection is None:
        return lambda x: x
    return product(projection.weight, projection.bias, dtype)


def _norm(norm: Any, dtype: torch.dtype) -> Rows:
    weight, bias, eps = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype), norm.eps
    return lambda x: functional.layer_norm(x, weight.shape, weight, bias, eps)
