"""The model with padding and an attention mask, as other runtimes expect it, written with operations that export.

A forward pass of its own beside model/encoder.py, because graphs have rows of one length and no documents end to end;
the weights are the same. Sliding windows cost what they should: rows are cut into blocks of one side of the window, and
a block sees itself and its two neighbours, so that a layer with a window is linear in the length.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tessera.huggingface.task_heads import DocumentHead, TaskModel, TokenHead, TransformersHead
from tessera.huggingface.transformers_model import TransformersConfig, TransformersEncoder
from tessera.inference.runtime import INPUTS, LOGITS, SEGMENTS, STATES, VECTORS
from tessera.model.attention import frequencies
from tessera.model.encoder import Block, Encoder
from tessera.model.glu import ACTIVATIONS
from tessera.model.mlm import MaskedLM
from tessera.model.pooling import POOLINGS
from tessera.plan.architecture import EncoderConfig

# Shapes: B rows, L tokens of a row, H query heads, K key/value heads, D head width, C hidden size, P width of a
# vector, V vocabulary, W tokens of a block, N blocks of a row, Z labels of a head.

_UNSEEN = -1e9  # added to a score; finite, or a row of nothing but padding would give what is no number


class PaddedEncoder(nn.Module):
    """input_ids and attention_mask [B, L], integers, 1 where there is a token -> hidden states [B, L, C].

    Padding may stand on either side; what is given for padding tokens means nothing. L is at most
    max_position_embeddings.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        # Tables, and not sines of products: a runtime that computes in bfloat16 rounds the angle of position 300 to
        # somewhere else on the circle, and the embedding of a trained model with it (cosine 0.995).
        config = encoder.config
        place = torch.arange(config.max_position_embeddings, dtype=torch.float32)
        for name, theta in (("global", config.global_rope_theta), ("local", config.local_rope_theta)):
            angles = place[:, None] * frequencies(theta, config.head_dim)
            self.register_buffer(f"cos_{name}", angles.cos(), persistent=False)  # [max_position_embeddings, D/2]
            self.register_buffer(f"sin_{name}", angles.sin(), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        encoder, seen, length = self.encoder, attention_mask != 0, input_ids.shape[1]
        config = encoder.config
        turns, masks = {}, {}
        for window in {config.window(layer) for layer in range(config.num_hidden_layers)}:
            kind = "global" if window is None else "local"
            turns[window] = tuple(self.get_buffer(f"{part}_{kind}")[:length] for part in ("cos", "sin"))
            masks[window] = torch.where(_visible(seen, window), 0.0, _UNSEEN)
        x = encoder.embedding_norm(encoder.embedding(input_ids))
        for number, block in enumerate(encoder.layers):
            assert isinstance(block, Block)
            window = config.window(number)
            x = x + self._attention(block, x, window, turns[window], masks[window])
            gate, up = block.mlp.gate_up(block.mlp_norm(x)).chunk(2, dim=-1)
            x = x + block.mlp.down(ACTIVATIONS[block.mlp.activation](gate) * up)
        states = encoder.norm(x)
        assert isinstance(states, Tensor)
        return states

    def _attention(self, block: Block, x: Tensor, window: int | None, turn: tuple[Tensor, ...], mask: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C]"""
        config = self.encoder.config
        heads, pairs, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        qkv = block.attention.qkv(block.attention_norm(x)).unflatten(-1, (-1, width))
        q, k, v = qkv.split((heads, pairs, pairs), dim=2)  # [B, L, heads, D]
        q, k = (_rotate(part, *turn) for part in (q, k))
        if window is not None:  # blocks become rows of their own: [B * N, W or 3 W, heads, D]
            q = _blocks(q.flatten(2), window).unflatten(-1, (-1, width))
            k, v = (_around(part.flatten(2), window).unflatten(-1, (-1, width)) for part in (k, v))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if heads > pairs:  # each key and value serves several queries
            k, v = (part.repeat_interleave(heads // pairs, dim=1) for part in (k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        if window is not None:
            mixed = mixed.flatten(0, 1).unflatten(0, (x.shape[0], -1))[:, : x.shape[1]]
        answer = block.attention.output(mixed)
        assert isinstance(answer, Tensor)
        return answer


class PaddedWrapped(nn.Module):
    """An encoder of transformers as it is, BERT and its like; as `PaddedEncoder`, but padding stands on the right."""

    def __init__(self, encoder: TransformersEncoder) -> None:
        super().__init__()
        self.model = encoder.model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        assert isinstance(states, Tensor)
        return states


class PaddedEmbedder(nn.Module):
    """input_ids and attention_mask [B, L] -> hidden states [B, L, C] and one vector a row [B, P].

    encoder  one of ours, or of transformers
    pooling  of POOLINGS in model/pooling.py, joined where there are several
    steps    modules [B, P] -> [B, P] after it
    """

    inputs, outputs = INPUTS, (STATES, VECTORS)

    def __init__(
        self, encoder: Encoder | TransformersEncoder, pooling: Sequence[str], steps: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.config: EncoderConfig | TransformersConfig = encoder.config
        self.padded = PaddedEncoder(encoder) if isinstance(encoder, Encoder) else PaddedWrapped(encoder)
        self.pooling, self.steps = tuple(pooling), nn.ModuleList(steps)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.padded(input_ids, attention_mask)
        vector = torch.cat([_pool(hidden, attention_mask != 0, how) for how in self.pooling], dim=1)
        for step in self.steps:
            vector = step(vector)
        return hidden, vector


class PaddedMaskedLM(nn.Module):
    """input_ids and attention_mask [B, L] -> logits [B, L, V]."""

    inputs, outputs = INPUTS, (LOGITS,)

    def __init__(self, model: MaskedLM) -> None:
        super().__init__()
        self.config = model.config
        self.padded, self.model = PaddedEncoder(model.encoder), model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.logits(self.padded(input_ids, attention_mask))


class PaddedTask(nn.Module):
    """One of our families with the head of a task: input_ids and attention_mask [B, L] -> logits.

    [B, Z] of documents (an option of a choice is one), [B, L, Z] of tokens: tags, or where an answer starts and ends.
    """

    inputs, outputs = INPUTS, (LOGITS,)

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        assert isinstance(model.encoder, Encoder)
        assert isinstance(model.head, (DocumentHead, TokenHead))
        self.config: EncoderConfig = model.encoder.config
        self.padded, self.head = PaddedEncoder(model.encoder), model.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden, seen, head = self.padded(input_ids, attention_mask), attention_mask != 0, self.head
        if isinstance(head, TokenHead):
            features = head.transform(hidden)
        elif head.pooling == "late":
            features = _pool(head.transform(hidden), seen, "mean")
        else:
            features = head.transform(_pool(hidden, seen, head.pooling))
        logits = head.classifier(features)
        assert isinstance(logits, Tensor)
        return logits


class PaddedTransformers(nn.Module):
    """A class of transformers with the head of a task, as it is; the same logits as of `PaddedTask`.

    segments  whether token_type_ids [B, L] are read as well
    """

    outputs = (LOGITS,)

    def __init__(self, model: TaskModel, *, segments: bool) -> None:
        super().__init__()
        assert isinstance(model.head, TransformersHead)
        assert isinstance(model.config, TransformersConfig)
        self.inputs = (*INPUTS, SEGMENTS) if segments else INPUTS
        self.config: TransformersConfig = model.config
        self.whole, self.choices = model.head.whole, model.head.choices

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        given = dict(zip(INPUTS, (input_ids, attention_mask), strict=True))
        if token_type_ids is not None:
            given[SEGMENTS] = token_type_ids
        if self.choices:  # each row the one option of its own
            given = {name: rows[:, None] for name, rows in given.items()}
        found = self.whole(**given)
        if "start_logits" in found:
            return torch.stack((found.start_logits, found.end_logits), dim=-1)
        logits = found.logits
        assert isinstance(logits, Tensor)
        return logits


def _visible(seen: Tensor, window: int | None) -> Tensor:
    """Which key a query sees: [B, 1, 1, L], or with a window [B * N, 1, W, 3 W]. seen: [B, L], where a token is."""
    if window is None:
        return seen[:, None, None, :]
    query = torch.arange(window, device=seen.device)[:, None] + window
    key = torch.arange(3 * window, device=seen.device)[None, :]
    there = _around(seen.to(torch.float32)[:, :, None], window)[..., 0] > 0  # [B * N, 3 W]
    return there[:, None, None, :] & ((query - key).abs() <= window)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, L, heads, D] turned by its place; cos, sin [L, D/2]."""
    cos, sin = cos[:, None, :], sin[:, None, :]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _blocks(x: Tensor, size: int) -> Tensor:
    """[B, L, C] -> [B * N, W, C], filled up with zeros."""
    return functional.pad(x, (0, 0, 0, _short(x, size))).unflatten(1, (-1, size)).flatten(0, 1)


def _around(x: Tensor, size: int) -> Tensor:
    """Each block between its neighbours, with zeros beyond the ends: [B, L, C] -> [B * N, 3 W, C]."""
    x = functional.pad(x, (0, 0, size, _short(x, size) + size))
    parts = (x[:, : -2 * size], x[:, size:-size], x[:, 2 * size :])
    return torch.cat([part.unflatten(1, (-1, size)) for part in parts], 2).flatten(0, 1)


def _short(x: Tensor, size: int) -> int:
    """What is missing to the next multiple of `size`; written without a remainder, which OpenVINO does not read."""
    return (x.shape[1] + size - 1) // size * size - x.shape[1]


def _pool(hidden: Tensor, seen: Tensor, how: str) -> Tensor:
    """hidden [B, L, C], seen [B, L] -> [B, C]; what each name means is in model/pooling.py."""
    assert how in POOLINGS
    weight = seen.to(hidden.dtype)
    if how in ("cls", "lasttoken"):  # the first token stands behind the padding where that is on the left
        place = torch.arange(seen.shape[1], device=seen.device)
        far = torch.where(seen, place if how == "lasttoken" else -place, -(2**30)).argmax(1)
        # A sum over one token: taking it by its index would fix batch and length when traced.
        return (hidden * (place == far[:, None]).to(hidden.dtype)[:, :, None]).sum(1)
    if how == "max":
        return torch.where(seen[:, :, None], hidden, _UNSEEN).amax(1)
    if how == "weightedmean":
        weight = weight * weight.cumsum(1)
    sums, count = (hidden * weight[:, :, None]).sum(1), weight.sum(1, keepdim=True).clamp(min=1.0)
    return sums / (count.sqrt() if how == "mean_sqrt_len_tokens" else count)
