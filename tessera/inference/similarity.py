"""Similarity scores: cosine, dot product, euclidean and manhattan distance of embeddings, all pairs or paired."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional


def scores(a: Any, b: Any, how: str, *, paired: bool = False) -> Any:
    """The similarity of every row of a [n, h] (or of one [h]) to every row of b: [n, m]. The higher, the more alike.

    paired   of each row of a to the same row of b: [n]
    returns  a tensor where a or b is one (or a list of them), else an array; in float64 where one of them is, else in
             float32: half precision would round scores of neighbours to the same

    Raises ValueError for what holds no vectors, and for shapes that do not fit.
    """
    tensors = any(isinstance(one[0] if isinstance(one, list) and one else one, torch.Tensor) for one in (a, b))
    x, y = _rows(a, "the first"), _rows(b, "the second")
    number = torch.promote_types(x.dtype, y.dtype)
    x, y = x.to(number), y.to(number).to(x.device)
    if x.shape[1] != y.shape[1] or (paired and len(x) != len(y)):
        raise ValueError(
            f"similarity of {list(x.shape)} with {list(y.shape)} vectors; give as many dimensions on both sides"
            + (", and as many vectors" if paired else "")
        )
    found = (_each if paired else _all)(x, y, how)
    return found if tensors else found.numpy()


def _rows(given: Any, which: str) -> torch.Tensor:
    """[n, h], in float32 or float64."""
    try:
        if isinstance(given, list) and given and isinstance(given[0], torch.Tensor):
            given = torch.stack(given)
        if not isinstance(given, torch.Tensor):
            array = np.asarray(given)
            named = isinstance(given[0] if isinstance(given, list) and given else given, np.ndarray | np.generic)
            keep = named and array.dtype == np.float64  # a list of Python's numbers names no format
            given = torch.from_numpy(np.ascontiguousarray(array, np.float64 if keep else np.float32))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"similarity is of vectors, but {which} argument holds none: {error}; encode texts first"
        ) from None
    rows = torch.atleast_2d(given if given.dtype is torch.float64 else given.float())
    if rows.ndim != 2:
        raise ValueError(f"similarity is of vectors [n, h]; {which} argument has the shape {list(rows.shape)}")
    return rows


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
