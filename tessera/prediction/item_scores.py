"""Logits of a task head for items, with gradients in training and on packed weights without."""

# Shapes: D documents, T tokens of them end to end, M tokens that are asked for, K labels.

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tessera.bulk.nearest import Floats
from tessera.data.packing import by_length
from tessera.huggingface.task_heads import Head
from tessera.model.encoder import pack
from tessera.model.precision import autocast
from tessera.prediction.features import Item, Reader
from tessera.progress import Progress, silent


def item_scores(
    encoder: nn.Module, head: Head, items: Sequence[Item], reader: Reader, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """[D, K] float32 for documents and options, [M, K] for tags, [T, 2] for windows.

    encoder  (tokens [T], starts [N+1], segments [T] where the reader tells them) -> hidden states
    dtype    of the matrix products of the encoder
    """
    tokens, starts = pack([document for item in items for document in item.documents], device)
    segments: tuple[Tensor, ...] = ()
    if reader.segments:
        rows = [row for item in items for row in item.segments or map(np.zeros_like, item.documents)]
        segments = (torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(device),)
    with autocast(device, dtype):
        return head_scores(head, items, reader, encoder(tokens, starts, *segments), starts)


def head_scores(head: Head, items: Sequence[Item], reader: Reader, hidden: Tensor, starts: Tensor) -> Tensor:
    """`item_scores` of hidden states that are there already: [T, C], starts [D+1], of the documents of items."""
    if reader.kind == "tag":
        places = np.concatenate([item.places + at for item, at in zip(items, starts.tolist(), strict=False)])
        return head(hidden.index_select(0, torch.from_numpy(places).to(hidden.device)))
    if reader.kind == "span":
        return head(hidden)
    return head(hidden, starts)


def of_items(scores: Tensor, items: Sequence[Item], reader: Reader) -> list[Floats]:
    """What `item_scores` gives, cut into that of each item, as `predicted` gives it."""
    ends = np.cumsum([item.rows for item in items])
    parts = np.split(scores.float().cpu().numpy(), ends[:-1])
    return [rows if reader.kind in ("tag", "span") else rows.reshape(-1) for rows in parts]


@torch.inference_mode()
def predicted(
    encoder: nn.Module,
    head: Head,
    items: Sequence[Item],
    reader: Reader,
    device: torch.device,
    dtype: torch.dtype,
    *,
    max_tokens: int,
    on_progress: Progress | None = None,
) -> list[Floats]:
    """Of each item: [K] for a document, [options] for several, [m, K] for tokens asked for, [n, 2] for a window.

    encoder     as of `item_scores`; packed/encoder.py makes it faster
    max_tokens  of a batch; a longer item makes one of its own. Changes speed and memory only
    """
    found: list[Floats] = [np.zeros((0, 0), np.float32)] * len(items)
    done = 0
    with autocast(device, dtype):  # around all batches: it keeps weights that it has rounded
        for numbers in by_length([item.tokens for item in items], max_tokens):
            batch = [items[i] for i in numbers]
            scores = item_scores(encoder, head, batch, reader, device, dtype)
            for number, rows in zip(numbers, of_items(scores, batch, reader), strict=True):
                found[number] = rows
            done += len(batch)
            (on_progress or silent)(done, len(items), "predicting")
    return found
