"""Held-out loss as bits per byte: comparable between languages and between tokenizers, unlike loss per token."""

# Shapes: n blocks, L languages, T tokens of all blocks of a batch end to end, M masked positions.

import contextlib
import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tessera.data.hashing import keys
from tessera.data.masking import mask
from tessera.data.packing import by_length
from tessera.data.shards import Shards
from tessera.huggingface.hub import AnyMaskedLM
from tessera.model import attention
from tessera.model.attention import Layout
from tessera.model.mlm import MaskedLM
from tessera.model.precision import autocast, on_device
from tessera.progress import Progress
from tessera.tokenizer.tokenizer import Tokenizer

CONTEXT = 512  # longer documents are cut into blocks of this many tokens, so that models of any context compare

Integers = NDArray[np.int64]


def bits_per_byte(
    model: AnyMaskedLM,
    shards: Shards,
    tokenizer: Tokenizer,
    *,
    mask_ratio: float,
    max_tokens: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    batch_tokens: int = 16_384,
    on_progress: Progress | None = None,
) -> dict[str, dict[str, float]]:
    """How well the model predicts hidden tokens of each language.

    mask_ratio     share of the tokens hidden, all replaced by the mask token
    max_tokens     of each language, rounded up to whole blocks; None: all
    seed           which tokens are hidden, and which blocks are read under max_tokens: the same for every model
    dtype          of the matrix products
    batch_tokens   read at once; changes speed and memory only

    returns, by language:
        bits_per_byte   sum of -log2 p over the hidden tokens, divided by the UTF-8 bytes these stand for
        loss            nats for each hidden token
        tokens, bytes   how many were hidden

    A language so short that none of its tokens is hidden has no entry. Raises ValueError where the shards were written
    with another tokenizer.
    """
    if shards.tokenizer_fingerprint != tokenizer.fingerprint:
        raise ValueError(
            f"{shards.folder} was written with another tokenizer ({shards.tokenizer_fingerprint[:12]}, this one is "
            f"{tokenizer.fingerprint[:12]}); prepare the held-out text with this one"
        )
    languages = sorted({bucket.language for bucket in shards.buckets})
    starts, lengths, chance, language = _blocks(
        shards, languages, min(CONTEXT, model.config.max_position_embeddings), seed
    )
    chosen = _choose(lengths, chance, language, max_tokens)
    token_bytes = tokenizer.token_bytes().astype(np.int64)
    nats, tokens, n_bytes = np.zeros(len(languages)), *np.zeros((2, len(languages)), np.int64)
    done = 0
    with _reading(model):
        for blocks in (chosen[places] for places in by_length(lengths[chosen], batch_tokens)):
            ends = np.concatenate(([0], np.cumsum(lengths[blocks])))
            ids = shards.gather(starts[blocks], lengths[blocks])
            inputs, positions, targets = mask(
                ids, chance[blocks], ends, mask_ratio, "mask", tokenizer.mask_id, tokenizer.special_ids,
                tokenizer.vocab_size,
            )  # fmt: skip
            losses = _losses(model, dtype, inputs, ends, positions, targets)
            of = language[blocks][np.searchsorted(ends, positions, side="right") - 1]
            nats += np.bincount(of, losses, len(languages))
            tokens += np.bincount(of, minlength=len(languages))
            n_bytes += np.bincount(of, token_bytes[targets], len(languages)).astype(np.int64)
            done += len(blocks)
            if on_progress is not None:
                on_progress(done, len(chosen), "held-out text")
    return _results(languages, nats, tokens, n_bytes)


@contextlib.contextmanager
def _reading(model: AnyMaskedLM) -> Iterator[None]:
    """The model without dropout and gradients; afterwards it is as it was."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _losses(model: AnyMaskedLM, dtype: torch.dtype, *arrays: NDArray[Any]) -> NDArray[np.float64]:
    """Nats of each masked position [M]; `arrays` are tokens [T], starts [n + 1], positions [M] and targets [M]."""
    device = next(model.parameters()).device
    tokens, starts, positions, targets = (on_device(array.astype(np.int64), device) for array in arrays)
    with autocast(device, dtype):
        if isinstance(model, MaskedLM) and attention.choose(model.encoder.backend, device, dtype) == "varlen":
            layout = Layout.from_host(arrays[1].astype(np.int64), len(tokens), device, longest=CONTEXT)
            losses = model.losses(tokens, layout, positions, targets)
        else:
            losses = model.losses(tokens, starts, positions, targets)
    return losses.double().cpu().numpy()


def _results(
    languages: list[str], nats: NDArray[np.float64], tokens: Integers, n_bytes: Integers
) -> dict[str, dict[str, float]]:
    """Sums [L] as plain numbers by language, without the languages in which nothing was hidden."""
    return {
        code: {
            "bits_per_byte": float(nats[i] / math.log(2) / n_bytes[i]),
            "loss": float(nats[i] / tokens[i]),
            "tokens": int(tokens[i]),
            "bytes": int(n_bytes[i]),
        }
        for i, code in enumerate(languages)
        if n_bytes[i]
    }


def _blocks(
    shards: Shards, languages: list[str], context: int, seed: int
) -> tuple[Integers, Integers, NDArray[np.uint64], Integers]:
    """First token, length, key and language number of every block, all [n]. Keys do not depend on other buckets."""
    starts, lengths, chance, language = [], [], [], []
    for number, bucket in enumerate(shards.buckets):
        first = int(shards.first_document[number])
        begins = np.asarray(shards.offsets[first : first + bucket.documents], np.int64)
        sizes = shards.lengths(number)
        pieces = -(-sizes // context)
        document = np.repeat(np.arange(bucket.documents), pieces)
        inside = (np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * context
        name = hashlib.blake2b(f"{seed}/{bucket.key}".encode(), digest_size=8).digest()
        starts.append(begins[document] + inside)
        lengths.append(np.minimum(sizes[document] - inside, context))
        chance.append(keys(int.from_bytes(name, "big"), np.arange(len(document))))
        language.append(np.full(len(document), languages.index(bucket.language)))
    if not starts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.int64)
    return np.concatenate(starts), np.concatenate(lengths), np.concatenate(chance), np.concatenate(language)


def _choose(lengths: Integers, chance: NDArray[np.uint64], language: Integers, max_tokens: int | None) -> Integers:
    """The blocks to read: of each language those with the lowest keys, until it has max_tokens."""
    if max_tokens is None:
        return np.arange(len(lengths))
    order = np.lexsort((chance, language))
    before = np.cumsum(lengths[order]) - lengths[order]
    first = np.searchsorted(language[order], language[order])  # where the language of each block begins
    return order[before - before[first] < max_tokens]
