"""Texts to vectors: tokenized, packed without padding, pooled, back in the order they came in."""

# Shapes: n texts, T tokens of all texts of a batch end to end, h embedding width.

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tessera.data.tokenizer import Tokenizer
from tessera.model.hub import AnyMaskedLM
from tessera.model.mlm import Regressor, pool
from tessera.model.packed import packed
from tessera.model.precision import autocast, compute_dtype
from tessera.progress import Progress

_TEXTS = 16_384  # tokenized and sorted by length together: bounds the memory, not the result


def embed(
    model: AnyMaskedLM,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    pooling: Literal["mean", "cls"] = "mean",
    normalize: bool = True,
    max_length: int | None = None,
    max_tokens: int = 16_384,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    on_progress: Progress | None = None,
) -> NDArray[np.float32]:
    """One vector for each text, float32 [n, h], on the device of the model.

    pooling      "mean" over all tokens, special ones included, or "cls": the first token
    normalize    to length 1
    max_length   tokens kept of a text, its closing special tokens included; None: what the model was made for
    max_tokens   of a batch; a longer text makes a batch of its own. Changes speed and memory only
    dtype        of the matrix products; "auto" is bfloat16 where the hardware has it

    An empty text has a vector too: that of its special tokens. Raises ValueError for a max_length that leaves no room
    for text, and where the tokenizer knows tokens that the model does not.
    """
    encoder = packed(model.encoder, compute_dtype(dtype, next(model.parameters()).device))

    def vectors(tokens: Tensor, starts: Tensor) -> Tensor:
        pooled = pool(encoder(tokens, starts), starts, pooling)
        return torch.nn.functional.normalize(pooled, dim=-1) if normalize else pooled

    return each(
        model,
        tokenizer,
        texts,
        vectors,
        model.config.hidden_size,
        max_length=max_length,
        max_tokens=max_tokens,
        dtype=dtype,
        on_progress=on_progress,
        what="embedding",
    )


def each(
    model: AnyMaskedLM | Regressor,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    compute: Callable[[Tensor, Tensor], Tensor],
    width: int,
    *,
    max_length: int | None = None,
    max_tokens: int = 16_384,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    on_progress: Progress | None = None,
    what: str,
) -> NDArray[np.float32]:
    """What `compute` makes of each text, float32 [n, width]; the rest is as for `embed`.

    compute  (tokens [T], starts [N+1]) -> [N, width], with the model as it is for use, without gradients
    what     one word for what is done, for `on_progress`
    """
    config, device = model.config, next(model.parameters()).device
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}; give the tokenizer "
            "that the model was trained with"
        )
    longest = config.max_position_embeddings if max_length is None else max_length
    if longest <= sum(map(len, tokenizer.template)):
        raise ValueError(f"max_length is {longest}; special tokens alone take {sum(map(len, tokenizer.template))}")
    result = np.empty((len(texts), width), np.float32)
    precision = compute_dtype(dtype, device)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(device, precision):
            done = 0
            for numbers, ids in _batches(tokenizer, texts, longest, max_tokens):
                tokens = torch.from_numpy(np.concatenate(ids).astype(np.int64)).to(device)
                starts = torch.from_numpy(np.cumsum([0, *map(len, ids)])).to(device)
                result[numbers] = compute(tokens, starts).cpu().numpy()
                done += len(numbers)
                if on_progress is not None:
                    on_progress(done, len(texts), what)
    finally:
        model.train(training)
    return result


def _batches(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int, max_tokens: int
) -> Iterator[tuple[list[int], list[NDArray[np.int32]]]]:
    """(numbers of the texts, their token ids), texts of similar length together, at most max_tokens unless alone."""
    for first in range(0, len(texts), _TEXTS):
        ids = [fit(one, tokenizer, max_length) for one in tokenizer.encode_batch(texts[first : first + _TEXTS])]
        for batch in by_length(ids, max_tokens):
            yield [first + i for i in batch], [ids[i] for i in batch]


def by_length(ids: Sequence[NDArray[np.int32]], max_tokens: int) -> Iterator[list[int]]:
    """Places in `ids`, the longest first, in batches of at most max_tokens unless alone."""
    batch: list[int] = []
    size = 0
    for place in sorted(range(len(ids)), key=lambda i: -len(ids[i])):
        if batch and size + len(ids[place]) > max_tokens:
            yield batch
            batch, size = [], 0
        batch.append(place)
        size += len(ids[place])
    if batch:
        yield batch


def fit(ids: NDArray[np.int32], tokenizer: Tokenizer, max_length: int) -> NDArray[np.int32]:
    """At most max_length tokens, closed by the template's last ones as any text is; never none."""
    if not len(ids):
        return np.array([tokenizer.bos_id], np.int32)
    if len(ids) <= max_length:
        return ids
    closing = len(tokenizer.template[1])
    return np.concatenate((ids[: max_length - closing], ids[len(ids) - closing :]))
