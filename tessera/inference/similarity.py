"""Similarity scores (cosine, dot, euclidean, manhattan), and the keywords of sentence-transformers' `encode`."""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypedDict

import numpy as np
import torch
from torch.nn import functional

from tessera.inference.engine import Options


class Theirs(TypedDict, total=False):
    """Keywords of SentenceTransformer.encode."""

    output_value: str | None
    precision: str | None
    device: Any
    normalize_embeddings: bool | None
    truncate_dim: int | None
    convert_to_tensor: bool
    convert_to_numpy: bool
    batch_size: int  # this and what follows changes nothing: batches are made by tokens, on_progress hears of progress
    chunk_size: int | None
    show_progress_bar: bool | None


class Keywords(Options, Theirs, total=False):
    """All keywords of `Encoder.encode`."""


def check_keywords(given: Iterable[str], known: Collection[str]) -> None:
    """Raises TypeError for a keyword that is not known, with one that is like it."""
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), 1)
            raise TypeError(f"encode has no keyword {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))


def as_sentence_transformers(
    encode: Callable[[], Any], encode_tokens: Callable[[], Any], given: Mapping[str, Any], device: torch.device
) -> Any:
    """What SentenceTransformer.encode gives for its own keywords, with ours around `encode` settled already.

    normalize_embeddings  to length 1; False leaves what the folder says
    truncate_dim          the first so many dimensions; they are normalized again with normalize_embeddings only
    convert_to_tensor     a tensor; convert_to_numpy=False without it: a list of tensors
    output_value          sentence_embedding, or token_embeddings: a list of tensors

    Raises ValueError for what is not done here.
    """
    if given.get("precision") not in (None, "float32"):
        raise ValueError(f"precision is {given['precision']!r}; vectors are float32 here: quantize what comes back")
    if given.get("device") is not None and torch.device(given["device"]).type != device.type:
        raise ValueError(f"device is {given['device']!r}, but this Encoder is on {device}; load another one there")
    value = given.get("output_value") or "sentence_embedding"
    if value == "token_embeddings":
        return [torch.from_numpy(tokens.vectors) for tokens in encode_tokens()]
    if value != "sentence_embedding":
        raise ValueError(f"output_value is {value!r}; give sentence_embedding or token_embeddings")
    rows = torch.from_numpy(encode())
    if given.get("truncate_dim") is not None:
        rows = rows[..., : given["truncate_dim"]]
    if given.get("normalize_embeddings"):
        rows = functional.normalize(rows, dim=-1)
    if given.get("convert_to_tensor"):
        return rows.to(device)
    return rows.numpy() if given.get("convert_to_numpy", True) else list(rows)


def scores(a: Any, b: Any, how: str, *, paired: bool = False) -> Any:
    """The similarity of every row of a [n, h] (or of one [h]) to every row of b: [n, m]. The higher, the more alike.

    paired   of each row of a to the same row of b: [n]
    returns  a tensor where a or b is one, else an array
    """
    x, y = (t if isinstance(t, torch.Tensor) else torch.from_numpy(np.asarray(t, np.float32)) for t in (a, b))
    found = (_each if paired else _all)(torch.atleast_2d(x), torch.atleast_2d(y.to(x.device)), how)
    return found if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor) else found.numpy()


def _all(x: torch.Tensor, y: torch.Tensor, how: str) -> torch.Tensor:
    if how == "cosine":
        return functional.normalize(x, dim=-1) @ functional.normalize(y, dim=-1).T
    return x @ y.T if how == "dot" else -torch.cdist(x, y, p=1.0 if how == "manhattan" else 2.0)


def _each(x: torch.Tensor, y: torch.Tensor, how: str) -> torch.Tensor:
    if how == "cosine":
        return functional.cosine_similarity(x, y, dim=-1)
    if how == "dot":
        return (x * y).sum(-1)
    return -(x - y).abs().sum(-1) if how == "manhattan" else -(x - y).norm(dim=-1)
