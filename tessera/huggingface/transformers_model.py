"""Wrapper around encoders of the transformers library: BERT, XLM-R, DeBERTa, MiniLM, mGTE ... behind our interface.

They are what ours are compared with, and may be fine-tuned and trained further as ours are. Documents come and go end
to end; inside they are padded, in groups of similar length, since their code knows no other way.
huggingface/transformers_folder.py loads them.
"""

import contextlib
import copy
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tessera.huggingface.hf_files import refuse_infinite
from tessera.model.dropout import dropout, replace_dropout

# Shapes: T tokens of N documents end to end, M scored positions, C hidden size, V vocabulary.

_SCORED = 1024  # positions whose scores are held at once
_CALL, _CALL_ON_GPU = 64, 16_384  # padding tokens that one more call is worth; of e5-small, the second on an H200
_SCORES = 1 << 28  # held at once; if there are more, the way back computes them again
_ENDLESS = 1 << 40  # bytes of a file of weights: a checkpoint is one file, whatever its size
_UNPADDED = ("bert", "electra")  # their code takes positions, and hands attention to the function that is named
_PACKED = "tessera_packed"  # its name
_HIDDEN = -1e4  # added to the score of a padding token


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersConfig:
    """Configuration of a wrapped model: what the rest of the house asks of one."""

    model_type: str  # as in config.json
    vocab_size: int  # rows of the embedding
    hidden_size: int
    num_hidden_layers: int
    max_position_embeddings: int  # usable tokens of a document: XLM-R's table has 514 rows, and room for 512
    positions: int | None  # the same, where positions are a table that ends; None: nothing ends
    pad_token_id: int
    bos_token_id: int | None
    eos_token_id: int | None
    mask_token_id: int | None
    segments: int  # rows of the table of segments, BERT's token types: the first and the second text of a pair
    parameters: int  # all that is trained
    products: int  # weights that a token is multiplied with on its way to its hidden state
    head_products: int  # and from there to its scores

    def step_flops(self, lengths: Mapping[int, int], masked: int) -> float:
        """FLOPs of the matrix products of a training step, as `plan.cost.step_flops` counts them for ours.

        lengths  how many documents have each length; every layer sees the whole of each
        masked   scored positions
        Padding is not counted, since it is no use, nor what DeBERTa adds to attention.
        """
        seen = sum(times * length * length for length, times in lengths.items())
        tokens = sum(times * length for length, times in lengths.items())
        forward = 2 * self.products * tokens + 4 * self.num_hidden_layers * self.hidden_size * seen
        return 3.0 * (forward + 2 * self.head_products * masked)


class TransformersEncoder(nn.Module):
    """An encoder of transformers that reads documents end to end.

    model   transformers' own module, without a head
    config  as `describe` reads it

    Like its class in transformers it is made ready for use: dropout is off until `.train()`.
    """

    def __init__(self, model: Any, config: TransformersConfig) -> None:
        super().__init__()
        replace_dropout(model)
        self.model = model
        self.config = config
        self.training = model.training

    def forward(self, tokens: Tensor, starts: Tensor, segments: Tensor | None = None) -> Tensor:
        """tokens [T] integers, starts [N+1] (0, ends of the documents) -> hidden states [T, C].

        segments  [T], of each token, from 0 on; None: 0 for all. A model that knows only one does not look at them

        Positions restart at each document. Raises ValueError if starts does not fit, or a document is longer than the
        table of positions.
        """
        lengths = self.check(tokens, starts)
        if self.training and self._may_pack(tokens):
            return self._unpadded(tokens, starts.tolist(), lengths, segments)
        places, parts = [starts.new_empty(0)], []
        for group in groups(lengths, _CALL if tokens.device.type == "cpu" else _CALL_ON_GPU):
            rows = starts[torch.tensor(group, device=starts.device)]
            counts = torch.tensor([lengths[i] for i in group], device=starts.device)
            column = torch.arange(int(lengths[group[0]]), device=starts.device)
            there = column < counts[:, None]  # [n, L]
            at = (rows[:, None] + column)[there]  # [tokens of the group]
            padded = tokens.new_full(there.shape, self.config.pad_token_id)
            padded[there] = tokens[at]
            more = {}
            if segments is not None and self.config.segments > 1:
                more["token_type_ids"] = torch.zeros_like(padded)
                more["token_type_ids"][there] = segments[at]
            hidden = self.model(input_ids=padded, attention_mask=there.long(), **more).last_hidden_state
            places.append(at)
            parts.append(hidden[there])
        if not parts:
            return torch.zeros(0, self.config.hidden_size, device=tokens.device)
        return torch.cat(parts).index_select(0, torch.cat(places).argsort())

    def check(self, tokens: Tensor, starts: Tensor) -> list[int]:
        """The lengths of the documents. Raises ValueError as `forward`."""
        edges = starts.tolist()
        lengths = [end - start for start, end in itertools.pairwise(edges)]
        if not edges or edges[0] != 0 or edges[-1] != len(tokens) or min(lengths, default=0) < 0:
            raise ValueError(
                f"starts must rise from 0 to the number of tokens ({len(tokens)}), with one entry more than documents; "
                f"it is {edges[:3]} ... {edges[-1:]}"
            )
        longest = max(lengths, default=0)
        if self.config.positions is not None and longest > self.config.positions:
            raise ValueError(
                f"document {lengths.index(longest)} has {longest} tokens; {self.config.model_type} has positions for "
                f"{self.config.positions}: cut it"
            )
        return lengths

    def _may_pack(self, tokens: Tensor) -> bool:
        """On a CPU, where it was measured, unless somebody asked for the plain attention."""
        known = self.config.model_type in _UNPADDED and self.model.config._attn_implementation == "sdpa"
        return known and tokens.device.type == "cpu" and len(tokens) > 0

    def _unpadded(self, tokens: Tensor, edges: list[int], lengths: list[int], segments: Tensor | None) -> Tensor:
        """The same with padding in attention alone, for training: all else sees each token once, in one call.

        A call of few tokens is dear on the way back, where the gradient of every weight is written anew.
        """
        grouped = groups(lengths)
        order = torch.cat([torch.arange(edges[i], edges[i + 1]) for group in grouped for i in group])
        more = {"position_ids": torch.cat([torch.arange(lengths[i]) for group in grouped for i in group])[None]}
        if segments is not None and self.config.segments > 1:
            more["token_type_ids"] = segments[order][None]
        tiles = [_Tile.of([lengths[i] for i in group]) for group in grouped]
        with _packed_attention(self.model.config):
            hidden = self.model(input_ids=tokens[order][None], **more, tiles=tiles).last_hidden_state[0]
        return hidden.index_select(0, order.argsort())


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Tile:
    """Documents that attention pads to one length: N of them, L tokens the longest."""

    documents: int
    longest: int
    tokens: int  # of all, without padding
    places: Tensor | None  # [tokens], where each stands among N x L; None: all are as long
    bias: Tensor | None  # [N, 1, 1, L] float32, what hides the padding

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "_Tile":
        documents, longest, tokens = len(lengths), max(lengths), sum(lengths)
        if tokens == documents * longest:
            return cls(documents=documents, longest=longest, tokens=tokens, places=None, bias=None)
        there = torch.arange(longest) < torch.tensor(lengths)[:, None]
        bias = torch.zeros(there.shape).masked_fill_(~there, _HIDDEN)[:, None, None]
        places = there.flatten().nonzero()[:, 0]
        return cls(documents=documents, longest=longest, tokens=tokens, places=places, bias=bias)

    def padded(self, rows: Tensor) -> Tensor:
        """[tokens, H, D] -> [N, H, L, D]."""
        if self.places is not None:
            rows = rows.new_zeros(self.documents * self.longest, *rows.shape[1:]).index_copy(0, self.places, rows)
        return rows.unflatten(0, (self.documents, self.longest)).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float, share: float) -> Tensor:
        """[tokens, H, D] of each -> the same."""
        q, k, v = map(self.padded, (query, key, value))
        scores = torch.matmul(q * scaling, k.transpose(-1, -2))
        if self.bias is not None:
            scores = scores + self.bias.to(scores.dtype)
        weights = dropout(scores.softmax(-1), share)
        mixed = torch.matmul(weights, v).transpose(1, 2).flatten(0, 1)
        return mixed if self.places is None else mixed.index_select(0, self.places)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, tiles: Sequence[_Tile],
    dropout: float = 0.0, scaling: float | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Scaled dot-product attention within each document, as transformers asks for it: [1, H, T, D] -> [1, T, H, D]."""
    sizes = [tile.tokens for tile in tiles]
    rows = (part[0].transpose(0, 1).split(sizes) for part in (query, key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = [tile.attend(q, k, v, scaling, dropout) for tile, q, k, v in zip(tiles, *rows, strict=True)]
    return torch.cat(mixed)[None], None


@contextlib.contextmanager
def _packed_attention(config: Any) -> Iterator[None]:
    """Has a model of transformers attend by `_attend`."""
    from transformers import AttentionInterface

    AttentionInterface.register(_PACKED, _attend)
    before = config._attn_implementation
    config._attn_implementation = _PACKED
    try:
        yield
    finally:
        config._attn_implementation = before


class TransformersMaskedLM(nn.Module):
    """An encoder of transformers with its masked-language-model head, as `mlm.MaskedLM`.

    model  transformers' own ...ForMaskedLM
    """

    def __init__(self, model: Any, config: TransformersConfig) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        # In a tuple: its weights are in `model` already.
        self._encoder = (TransformersEncoder(model.base_model, config),)

    @property
    def encoder(self) -> TransformersEncoder:
        """The same weights, without the head."""
        return self._encoder[0].train(self.training)

    @property
    def config(self) -> TransformersConfig:
        return self._encoder[0].config

    def forward(self, tokens: Tensor, starts: Tensor, positions: Tensor | None = None) -> Tensor:
        """tokens [T], starts [N+1] -> logits [T, V], or [M, V] of `positions` [M] only."""
        hidden = self.encoder(tokens, starts)
        return self.logits(hidden if positions is None else hidden.index_select(0, positions))

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [M, C] -> [M, V]: the class of transformers, with an encoder that gives back what it is given."""
        return after_encoder(self.model, inputs_embeds=hidden[None]).logits[0]

    def losses(self, tokens: Tensor, starts: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, in nats, of each masked position, without a gradient: [M] float32. As `MaskedLM.losses`."""
        with torch.no_grad():
            parts = [self._scores(*part) for part in self._parts(tokens, starts, positions, targets)]
        return torch.cat(parts)

    def loss(self, tokens: Tensor, starts: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """The sum of `losses`, with a gradient; with M = 0 it is 0 and still leads back to the weights."""
        parts = self._parts(tokens, starts, positions, targets)
        if len(parts) == 1:
            return self._scores(*parts[0]).sum()
        return torch.stack([checkpoint(self._scores, *part, use_reentrant=False).sum() for part in parts]).sum()

    def _parts(self, tokens: Tensor, starts: Tensor, positions: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Hidden states and targets of the positions, so many at a time that their scores may be held at once."""
        if positions.shape != targets.shape:
            raise ValueError(f"{len(positions)} positions but {len(targets)} targets; give one target per position")
        hidden = self.encoder(tokens, starts).index_select(0, positions)
        rows = max(1, _SCORES // self.config.vocab_size)
        return list(zip(hidden.split(rows), targets.long().split(rows), strict=True))

    def _scores(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(self.logits(hidden).float(), targets, reduction="none")


def after_encoder(model: Any, **given: Tensor) -> Any:
    """What a class of transformers with a head makes of hidden states (`inputs_embeds`): its encoder is passed over."""
    head = copy.copy(model)
    head.__dict__["_modules"] = {**model._modules, model.base_model_prefix: _Given(model.base_model)}
    return head(**given)


class _Given(nn.Module):
    """Stands in the place of an encoder and gives back the hidden states it is given; all else is the encoder's."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self._encoder = (encoder,)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._encoder[0], name)

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

        pooler = getattr(self._encoder[0], "pooler", None)
        pooled = None if pooler is None else pooler(inputs_embeds)
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=inputs_embeds, pooler_output=pooled)


def groups(lengths: Sequence[int], call: int = _CALL) -> list[list[int]]:
    """Length bucketing: documents that are padded to one length together, the longest first; empty ones are in none.

    The least padding, where one more group is worth `call` tokens of it: over the distinct lengths, each the end of a
    group or not, as the shortest way through a graph.
    """
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (lengths[i], i))
    ends = [n + 1 for n, i in enumerate(order) if n + 1 == len(order) or lengths[order[n + 1]] != lengths[i]]
    cost, before = [0.0], [0]
    for e, end in enumerate(ends):
        size = lengths[order[end - 1]]
        ways = [cost[b] + (end - begin) * size + call for b, begin in enumerate([0, *ends[:e]])]
        cost.append(min(ways))
        before.append(ways.index(cost[-1]))
    found: list[list[int]] = []
    here = len(ends)
    while here:
        begin = ends[before[here] - 1] if before[here] else 0
        found.append(order[begin : ends[here - 1]][::-1])
        here = before[here]
    return found


def write(theirs: Any, folder: Path, dtype: torch.dtype) -> None:
    """config.json and model.safetensors of a model of transformers, into a folder that is there.

    Raises ValueError as `hub.save`.
    """
    if any(p.dtype != dtype for p in theirs.parameters()):
        theirs = copy.deepcopy(theirs).to(dtype)
    for name, values in theirs.state_dict().items():
        refuse_infinite(name, values)
    with quietly():
        theirs.save_pretrained(folder, max_shard_size=_ENDLESS)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Silences logging and progress bars of transformers: what they tell is looked at and said in our words."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()
