"""Pieces of texts through the model, in batches of similar length or each alone, and what comes after pooling."""

# Shapes: n texts, T tokens of all pieces of a batch end to end, C hidden size, h width of a vector.

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tessera.data.packing import by_length
from tessera.inference.tokenize import Ids, TextTokenizer, flat
from tessera.model.encoder import Encoder as Moving
from tessera.model.encoder import pack
from tessera.model.packed import PackedEncoder, can_freeze
from tessera.model.pooling import Dense, Unit, average, pool
from tessera.model.precision import autocast

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """One call's way from texts to vectors, settled."""

    reading: TextTokenizer
    pooling: tuple[str, ...]
    skip: int  # tokens at the beginning of a piece that are not pooled
    normalize: bool
    dimensions: int  # that are kept
    max_tokens: int  # of a batch
    alone: bool  # each piece is its own batch, each text its own vector


class Tokens(NamedTuple):
    """The tokens of one text, special ones included."""

    ids: NDArray[np.int32]  # [t]
    offsets: NDArray[np.int64]  # [t, 2], the characters of the text that each comes from; 0, 0 of special ones
    special: NDArray[np.bool_]  # [t]
    vectors: Vectors  # [t, hidden size]


class Still(nn.Module):
    """The answers of an `Encoder` whose weights are rounded to `dtype` once and for all; they are its own, not copies.

    Raises ValueError as the encoder does.
    """

    def __init__(self, encoder: Moving, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder, self.config, self.backend = encoder.to(dtype), encoder.config, encoder.backend

    @property
    def embedding(self) -> nn.Embedding:
        """Which a head tied to it needs."""
        return self.encoder.embedding

    def forward(self, tokens: Tensor, starts: Tensor) -> Tensor:
        """tokens [T] integers, starts [N+1] (0, ends of the documents) -> hidden states [T, C] in `dtype`."""
        with torch.autocast(tokens.device.type, enabled=False):  # which would take every norm to float32 and back
            return self.encoder(tokens, starts)


def at_rest(encoder: Moving, device: torch.device, dtype: torch.dtype) -> PackedEncoder | Still:
    """The encoder on its device in the fastest form that gives its answers in `dtype` without gradients.

    On a CPU the weights are packed copies; elsewhere they are those of `encoder`, changed.
    """
    encoder = encoder.to(device).eval()
    return PackedEncoder(encoder, dtype) if device.type == "cpu" and can_freeze() else Still(encoder, dtype)


class Engine:
    """A model for use: on its device, in its number format. Calls do not change it.

    Raises ValueError for weights that are not numbers.
    """

    def __init__(
        self, model: nn.Module, steps: Sequence[Dense | Unit], device: torch.device, dtype: torch.dtype
    ) -> None:
        for name, weight in (pair for module in (model, *steps) for pair in module.named_parameters()):
            if not bool(weight.detach().sum().isfinite()):
                raise ValueError(f"{name} holds NaN or infinity; its training went wrong, or its file is broken")
        self.model = model.to(device).eval()
        if isinstance(self.model, Moving):
            self.model = at_rest(self.model, device, dtype)
        self.packed = isinstance(self.model, PackedEncoder)
        config: Any = model.config
        self.hidden_size = int(config.hidden_size)
        self.steps = [step.to(device).eval() for step in steps]
        self.device, self.dtype = device, dtype

    def vectors(self, pieces: list[list[Ids]], how: EncodeOptions, report: Callable[[float], None]) -> Vectors:
        """One row for each text, [n, h], given its pieces; `report` hears the share that is done."""
        if how.alone:  # nothing that is computed has a shape that another text could change
            one, rows = replace(how, alone=False, max_tokens=1), np.empty((len(pieces), how.dimensions), np.float32)
            with autocast(self.device, self.dtype):  # around all of them: it keeps weights that it has rounded
                for n, own in enumerate(pieces):
                    rows[n] = self.vectors([own], one, lambda share: None)[0]
                    report((n + 1) / len(pieces))
            return rows
        ids, first = flat(pieces)
        with torch.inference_mode():
            pooled, done = torch.empty(len(ids), self.hidden_size * len(how.pooling), device=self.device), 0
            with autocast(self.device, self.dtype):
                for batch in by_length([len(one) for one in ids], how.max_tokens):
                    tokens, starts = pack([ids[n] for n in batch], self.device)
                    found = pool(self.model(tokens, starts), starts, how.pooling, how.skip)
                    pooled[torch.tensor(batch, device=self.device)] = found
                    done += len(batch)
                    report(done / len(ids))
            if len(ids) > len(pieces):
                pooled = average(pooled, [len(one) for one in ids], first.tolist())
            for step in self.steps:
                pooled = step(pooled)
            pooled = pooled[:, : how.dimensions]
            if how.normalize:
                pooled = nn.functional.normalize(pooled, dim=-1)
            return pooled.cpu().numpy()

    def states(self, ids: Sequence[Ids], max_tokens: int) -> list[Vectors]:
        """The hidden states of each piece, [t, C]."""
        rows = [np.empty(0, np.float32)] * len(ids)
        with torch.inference_mode(), autocast(self.device, self.dtype):
            for batch in by_length([len(one) for one in ids], max_tokens):
                tokens, starts = pack([ids[n] for n in batch], self.device)
                hidden = self.model(tokens, starts).float().cpu().numpy()
                for n, part in zip(batch, np.split(hidden, starts[1:-1].cpu().numpy()), strict=True):
                    rows[n] = part.copy()  # a view would keep the whole batch
        return rows

    def check(self, rows: Vectors, first: int) -> None:
        """Raises ValueError where a row is no vector; `first` is the place of the first row among the texts."""
        whole = np.isfinite(rows).all(axis=1)
        if whole.all():
            return
        raise ValueError(
            f"the vector of texts[{first + int(whole.argmin())}] is not finite: numbers grew too large for {self.dtype}"
        )
