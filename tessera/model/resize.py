"""Initialization from a trained model of another size: weights subsampled for a smaller, tiled for a larger one.

strided   smaller: evenly spaced places of each dimension of the larger model, values as they are
tile      larger: the smaller model stands in the middle of each dimension and goes on around it

    strided, 6 -> 3    0 2 4            tile, 3 -> 7    1 2 [0 1 2] 0 1

Places are chosen once for the whole model, so that what reads from a place finds what is written there. A weight whose
input stands m times is divided by m: tiled to a multiple of its widths, a model computes what it did.
Source: mmBERT (arXiv:2509.06888) for strided sampling of the small model from the base; ModernBERT (arXiv:2412.13663)
for tiling from the centre with wrap-around, and for doing so in queries, keys, values and both halves of the gated MLP
one by one. The division is ours, after Chen et al. 2016, arXiv:1511.05641.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tessera.model.mlm import MaskedLM
from tessera.plan.architecture import EncoderConfig

# Shapes: n old and N new places of a dimension, H query heads, K key/value heads, D head width.

How = Literal["strided", "tile"]
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
_SAME = (
    *("vocab_size", "head_dim", "norm", "hidden_act", "embedding_norm", "mlm_transform", "decoder_bias"),
    *("tie_word_embeddings", "global_attn_every_n_layers"),
)


@dataclass(frozen=True, slots=True)
class Places:
    """Index map of one dimension: where each new place comes from."""

    index: Tensor  # [N] old places
    times: Tensor  # [N], how often that old place stands in the new dimension


def resize(source: MaskedLM, config: EncoderConfig, how: How) -> MaskedLM:
    """Initializes a model of `config` from the weights of `source`; float32, on the CPU.

    Raises ValueError where a size goes the wrong way, or the two differ in more than sizes, windows and bases.
    """
    old = source.config
    _check(old, config, how)
    hidden = places(old.hidden_size, config.hidden_size, how)
    heads, pairs = _heads(old, config, how)
    wide = places(old.intermediate_size, config.intermediate_size, how)
    both = torch.cat((wide.index, wide.index + old.intermediate_size))
    layers = _layers(old, config, how)
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in source.state_dict().items()}
    model = MaskedLM(config, source.encoder.backend)
    new: dict[str, Tensor] = {}
    matrices = {  # rows (None: all) and columns of what is multiplied with
        "qkv.weight": (pairs, hidden),
        "output.weight": (hidden.index, heads),
        "gate_up.weight": (both, hidden),
        "down.weight": (hidden.index, wide),
        "dense.weight": (hidden.index, hidden),
        "decoder_weight": (None, hidden),
    }
    for name, empty in model.state_dict().items():
        values, matrix = state.get(_old_name(name, layers)), ".".join(name.split(".")[-2:])
        if values is None:  # the first layer has no norm before its attention where the embedding has one
            new[name] = torch.ones_like(empty)
        elif matrix in matrices:
            new[name] = _cut(values, *matrices[matrix])
        elif name == "encoder.embedding.weight":  # rows that are looked up, not multiplied with: not divided
            new[name] = values[:, hidden.index]
        else:
            new[name] = values if name == "decoder_bias" else values[hidden.index]
    if config.tie_word_embeddings:  # what the embedding is multiplied with in the end is divided in its stead
        last = "transform.norm.weight" if config.mlm_transform else "encoder.norm.weight"
        new[last] = new[last] / hidden.times
    model.load_state_dict(new)
    return model


def places(old: int, new: int, how: How) -> Places:
    """Evenly spaced for fewer places than there were; centred and wrapped around for more."""
    place = torch.arange(new)
    return _counted(place * old // new if how == "strided" else (place - (new - old) // 2) % old)


def _counted(index: Tensor) -> Places:
    return Places(index, index.bincount()[index])


def _heads(old: EncoderConfig, new: EncoderConfig, how: How) -> tuple[Places, Tensor]:
    """Columns of the output projection, and rows of queries, keys and values. Heads stay whole, groups together."""
    width = torch.arange(old.head_dim)
    groups = places(old.num_key_value_heads, new.num_key_value_heads, how).index
    size, wanted = (config.num_attention_heads // config.num_key_value_heads for config in (old, new))
    within = places(size, wanted, "strided" if wanted < size else "tile").index
    queries = (groups[:, None] * size + within).flatten()
    keys = groups + old.num_attention_heads
    rows = torch.cat((queries, keys, keys + old.num_key_value_heads))
    mixed = _counted((queries[:, None] * old.head_dim + width).flatten())
    return mixed, (rows[:, None] * old.head_dim + width).flatten()


def _layers(old: EncoderConfig, new: EncoderConfig, how: How) -> list[int]:
    """The old layer of each new one: evenly spaced, the nearest that sees as far (its window or the whole document)."""
    chosen = []
    for layer in range(new.num_hidden_layers):
        wanted = layer * old.num_hidden_layers / new.num_hidden_layers
        wanted = int(wanted) if how == "strided" else min(round(wanted), old.num_hidden_layers - 1)
        whole, every = new.window(layer) is None, range(old.num_hidden_layers)
        alike = [i for i in every if (old.window(i) is None) == whole]
        chosen.append(min(alike or every, key=lambda i: (abs(i - wanted), i)))
    return chosen


def _old_name(name: str, layers: list[int]) -> str:
    parts = name.split(".")
    if parts[:2] == ["encoder", "layers"]:
        parts[2] = str(layers[int(parts[2])])
    return ".".join(parts)


def _cut(matrix: Tensor, rows: Tensor | None, columns: Places) -> Tensor:
    """The chosen rows (None: all) and columns; columns that share an input share its weight."""
    taken = matrix if rows is None else matrix[rows]
    return taken[:, columns.index] / columns.times


def _check(old: EncoderConfig, new: EncoderConfig, how: How) -> None:
    for field in _SAME:
        if getattr(old, field) != getattr(new, field):
            raise ValueError(
                f"{field} is {getattr(old, field)} in the model to start from and {getattr(new, field)} in the one to "
                "make; only sizes, windows and rotary bases may differ"
            )
    for field in _SIZES:
        was, is_ = getattr(old, field), getattr(new, field)
        if (is_ > was) if how == "strided" else (is_ < was):
            way, other = ("smaller", "tile") if how == "strided" else ("larger", "strided")
            raise ValueError(f"{field} goes from {was} to {is_}, but {how!r} makes a model {way}; use {other!r}")
