"""Compatibility with sentence-transformers: what its `encode` gives for its own keywords, tensors and tokens alike.

    normalize_embeddings  to length 1; False leaves what the folder says
    truncate_dim          the first so many dimensions; they are normalized again with normalize_embeddings only
    precision             float32; int8 and uint8 (256 steps between the least and the largest of these texts, in each
                          dimension); binary and ubinary (the signs, eight in a byte)
    convert_to_tensor     a tensor on the Encoder's device; convert_to_numpy=False without it: a list of tensors
    output_value          sentence_embedding; token_embeddings: a tensor [t, C] of each text; None: a dict of each text,
                          with its tokens, padded as batches of batch_size would be, their embeddings and its own
    device                must be the one that the Encoder is on

Without any of them `encode` keeps to its own ways, which differ in one thing: no texts give [0, h], not [0].
"""

# Shapes: n texts, t tokens of a text, C hidden size, h width of a vector.

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from tessera.inference.engine import Tokens, Vectors

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
_OF_VECTORS = ("pooling", "normalize", "dimensions", "overlap", "batch_invariant")  # and not of tokens


def answer(
    encode: Callable[[], Vectors],
    encode_tokens: Callable[[], Sequence[Tokens]],
    given: Mapping[str, Any],
    ours: Mapping[str, Any],
    texts: Sequence[str],
    *,
    single: bool,
    prompt_length: int,
    device: torch.device,
) -> Any:
    """What SentenceTransformer.encode gives for the keywords `given`, with ours around both functions settled already.

    encode         the vectors of `texts`, float32 [n, h]
    encode_tokens  the tokens of `texts`
    single         whether it was one str: then there is one answer, not a list of one
    prompt_length  tokens at the beginning that are the prompt's; 0 without one

    Raises ValueError for what is not done here, or does not go together.
    """
    value, precision = given.get("output_value", "sentence_embedding"), given.get("precision", "float32")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; give {', '.join(PRECISIONS)}")
    if "device" in given and given["device"].type != device.type:
        raise ValueError(f"device is '{given['device']}', but this Encoder is on {device}; load another one there")
    if value == "sentence_embedding":
        found = _vectors(encode, given, precision, device)
        return found[0] if single else found
    if value not in ("token_embeddings", None):
        raise ValueError(f"output_value is {value!r}; give sentence_embedding, token_embeddings or None")
    if precision != "float32":
        raise ValueError(f"precision is {precision!r}, which is of sentence embeddings; output_value is {value!r}")
    if ours.get("long") == "chunk":
        raise ValueError(f'long is "chunk", but output_value={value!r} is of one piece; leave one of them out')
    if value is None:
        rows, tokens = _truncated(encode, given), encode_tokens()
        parts: list[Any] = _everything(rows, tokens, texts, given.get("batch_size", 32), prompt_length)
    elif odd := [name for name in _OF_VECTORS if name in ours]:
        raise ValueError(f"{odd[0]} is of sentence embeddings; leave it out where output_value is 'token_embeddings'")
    else:
        parts = [torch.from_numpy(tokens.vectors).to(device) for tokens in encode_tokens()]
    return parts[0] if single else parts


def _truncated(encode: Callable[[], Vectors], given: Mapping[str, Any]) -> torch.Tensor:
    rows = torch.from_numpy(encode())
    most = given.get("truncate_dim", rows.shape[1])
    if most > rows.shape[1]:
        raise ValueError(f"truncate_dim is {most}; a vector of this model has {rows.shape[1]} dimensions")
    return rows[:, :most]


def _vectors(encode: Callable[[], Vectors], given: Mapping[str, Any], precision: str, device: torch.device) -> Any:
    rows = _truncated(encode, given)
    if given.get("normalize_embeddings"):
        rows = functional.normalize(rows, dim=-1)
    if precision != "float32":
        rows = torch.from_numpy(quantized(rows.numpy(), precision))
    if given.get("convert_to_tensor"):
        return rows.to(device)
    return rows.numpy() if given.get("convert_to_numpy", True) else list(rows.to(device))


def quantized(rows: Vectors, precision: str) -> Any:
    """Embedding quantization as sentence-transformers does it: int8 or uint8 [n, h], binary or ubinary [n, h / 8].

    Raises ValueError for int8 of one vector alone, which has no range.
    """
    if precision in ("binary", "ubinary"):
        bits = np.packbits(rows > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if len(rows) == 1:
        raise ValueError(
            f"precision is {precision!r}, whose range is found among the texts, and there is one; give more of them, "
            "or binary"
        )
    least, most = (rows.min(0), rows.max(0)) if len(rows) else (rows.sum(0), rows.sum(0))
    steps = (most - least) / 255
    levels = np.clip(np.floor((rows - least) / np.where(steps == 0, 1, steps)), 0, 255)
    return levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)


def _everything(
    rows: torch.Tensor, tokens: Sequence[Tokens], texts: Sequence[str], batch_size: int, prompt_length: int
) -> list[dict[str, Any]]:
    """For each text what output_value=None gives; the longest texts share the first batch, and so on."""
    found: list[dict[str, Any]] = [{}] * len(tokens)
    order = np.argsort([-len(text) for text in texts])
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size].tolist()
        longest = max(len(tokens[n].ids) for n in batch)
        for n in batch:
            length = len(tokens[n].ids)
            ids, states = torch.from_numpy(tokens[n].ids).long(), torch.from_numpy(tokens[n].vectors)
            found[n] = {
                "input_ids": functional.pad(ids, (0, longest - length)),
                "attention_mask": (torch.arange(longest) < length).long(),
                "modality": "text",
                **({"prompt_length": prompt_length} if prompt_length else {}),
                "token_embeddings": functional.pad(states, (0, 0, 0, longest - length)),
                "sentence_embedding": rows[n],
            }
    return found
