"""Batched inference: token ids to sentence embeddings or hidden states, the only way there.

Texts of similar length share a batch and lie in it end to end. On a CPU the weights are packed (model/packed.py),
elsewhere they are rounded once, or matrix products run under autocast where the model is somebody else's.
"""

# Shapes: n texts, T tokens of all pieces of a batch end to end, C hidden size, h width of a vector.

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tessera.data.packing import by_length
from tessera.inference.tokenize import Ids, TextTokenizer, check_vocabulary, flat
from tessera.model.encoder import pack
from tessera.model.packed import PackedEncoder, packed
from tessera.model.pooling import Dense, Unit, average, pool
from tessera.model.precision import autocast, compute_dtype
from tessera.progress import Progress, silent
from tessera.tokenizer.tokenizer import Tokenizer

Vectors = NDArray[np.float32]
Pooling = str | Sequence[str]

_TEXTS = 16_384  # tokenized and sorted by length together: bounds the memory, not the result


class Options(TypedDict, total=False):
    """Keywords of `Encoder.encode`, which says what they mean."""

    pooling: Pooling | None
    normalize: bool | None
    prompt: str | None
    prompt_name: str | None
    dimensions: int | None
    max_length: int | None
    long: Literal["truncate", "chunk"]
    overlap: int
    max_tokens: int
    batch_invariant: bool


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """The options of one call, settled: from texts to vectors."""

    reading: TextTokenizer
    pooling: tuple[str, ...]
    skip: int  # tokens at the beginning of a piece that are not pooled
    normalize: bool
    dimensions: int  # that are kept
    max_tokens: int  # of a batch
    alone: bool  # each piece is its own batch, each text its own vector


class Tokens(NamedTuple):
    """Token embeddings of one text, special tokens included."""

    ids: NDArray[np.int32]  # [t]
    offsets: NDArray[np.int64]  # [t, 2], the characters of the text that each comes from; 0, 0 of special ones
    special: NDArray[np.bool_]  # [t]
    vectors: Vectors  # [t, hidden size]


def rows(
    compute: Callable[[Tensor, Tensor], Tensor],
    ids: Sequence[Ids],
    width: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_tokens: int = 16_384,
    report: Callable[[int], None] = silent,
) -> Tensor:
    """What `compute` makes of each text, float32 [n, width] on the device, without gradients.

    compute     (tokens [T], starts [N+1]) -> [N, width], of a batch
    dtype       of the matrix products, by autocast
    max_tokens  of a batch; a longer text makes a batch of its own. Changes speed and memory only
    report      hears how many texts are done
    """
    with torch.inference_mode(), autocast(device, dtype):
        found, done = torch.empty(len(ids), width, device=device), 0
        for batch in by_length([len(one) for one in ids], max_tokens):
            part = compute(*pack([ids[n] for n in batch], device))
            found[torch.tensor(batch, device=device)] = part.float()
            done += len(batch)
            report(done)
    return found


def each(
    model: nn.Module,
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
) -> Vectors:
    """What `compute` makes of each text, float32 [n, width], for models that are about to be used otherwise.

    model       with a `config`; it is not changed, and in training afterwards if it was before
    compute     as in `rows`
    max_length  tokens kept of a text, its closing special tokens included; None: what the model was made for
    dtype       of the matrix products; "auto" is bfloat16 where the hardware has it
    what        one word for what is done, for `on_progress`

    An empty text has special tokens to compute with. Raises ValueError for a max_length that leaves no room for text,
    and where the tokenizer knows tokens that the model does not.
    """
    config: Any = model.config
    check_vocabulary(tokenizer, config)
    device, training = next(model.parameters()).device, model.training
    longest = int(config.max_position_embeddings) if max_length is None else max_length
    reading = TextTokenizer(tokenizer=tokenizer, max_length=longest)
    how: dict[str, Any] = {"max_tokens": max_tokens, "device": device, "dtype": compute_dtype(dtype, device)}
    found, tell = np.empty((len(texts), width), np.float32), on_progress or silent
    model.eval()
    try:
        for first in range(0, len(texts), _TEXTS):

            def report(done: int, before: int = first) -> None:
                tell(before + done, len(texts), what)

            ids = reading.ids(texts[first : first + _TEXTS])
            found[first : first + _TEXTS] = rows(compute, ids, width, report=report, **how).cpu().numpy()
    finally:
        model.train(training)
    return found


class Engine:
    """A model for inference: on its device, in its number format. Calls do not change it.

    Raises ValueError for weights that are not numbers.
    """

    def __init__(
        self, model: nn.Module, steps: Sequence[Dense | Unit], device: torch.device, dtype: torch.dtype
    ) -> None:
        for name, weight in (pair for module in (model, *steps) for pair in module.named_parameters()):
            if not bool(weight.detach().sum().isfinite()):
                raise ValueError(f"{name} holds NaN or infinity; its training went wrong, or its file is broken")
        self.model = packed(model.to(device).eval(), dtype, may_round=True)
        self.packed = isinstance(self.model, PackedEncoder)
        config: Any = model.config
        self.hidden_size = int(config.hidden_size)
        self.steps = [step.to(device).eval() for step in steps]
        self.device, self.dtype = device, dtype

    def vectors(self, pieces: list[list[Ids]], how: EncodeOptions, report: Callable[[float], None]) -> Vectors:
        """One row for each text, [n, h], given its pieces; `report` hears the share that is done."""
        if how.alone:  # nothing that is computed has a shape that another text could change
            one, found = replace(how, alone=False, max_tokens=1), np.empty((len(pieces), how.dimensions), np.float32)
            with autocast(self.device, self.dtype):  # around all of them: it keeps weights that it has rounded
                for n, own in enumerate(pieces):
                    found[n] = self.vectors([own], one, silent)[0]
                    report((n + 1) / len(pieces))
            return found
        ids, first = flat(pieces)
        pooled = rows(
            lambda tokens, starts: pool(self.model(tokens, starts), starts, how.pooling, how.skip),
            ids,
            self.hidden_size * len(how.pooling),
            device=self.device,
            dtype=self.dtype,
            max_tokens=how.max_tokens,
            report=lambda done: report(done / len(ids)),
        )
        with torch.inference_mode():
            if len(ids) > len(pieces):
                pooled = average(pooled, [len(one) for one in ids], first.tolist())
            return self.finished(pooled, how)

    def finished(self, pooled: Tensor, how: EncodeOptions) -> Vectors:
        """Pooled hidden states [n, P] to vectors [n, h]: the steps of the folder, dimensions, length 1."""
        for step in self.steps:
            pooled = step(pooled)
        pooled = pooled[:, : how.dimensions]
        if how.normalize:
            pooled = nn.functional.normalize(pooled, dim=-1)
        return pooled.cpu().numpy()

    def tokens(self, texts: Sequence[str], how: EncodeOptions) -> list[Tokens]:
        """The token embeddings of each text, its prompt's among them."""
        before = how.reading.prompt
        read = how.reading.with_offsets([before + text for text in texts])
        rows = self.states([ids for ids, _, _ in read], how.max_tokens)
        return [
            Tokens(ids, np.maximum(offsets - len(before), 0), special, row)
            for (ids, offsets, special), row in zip(read, rows, strict=True)
        ]

    def states(self, ids: Sequence[Ids], max_tokens: int) -> list[Vectors]:
        """The hidden states of each piece, [t, C]."""
        found = [np.empty(0, np.float32)] * len(ids)
        with torch.inference_mode(), autocast(self.device, self.dtype):
            for batch in by_length([len(one) for one in ids], max_tokens):
                tokens, starts = pack([ids[n] for n in batch], self.device)
                hidden = self.model(tokens, starts).float().cpu().numpy()
                for n, part in zip(batch, np.split(hidden, starts[1:-1].cpu().numpy()), strict=True):
                    found[n] = part.copy()  # a view would keep the whole batch
        return found

    def check(self, found: Vectors, first: int) -> None:
        """Raises ValueError where a row is no vector; `first` is the place of the first row among the texts."""
        whole = np.isfinite(found).all(axis=1)
        if not whole.all():
            place = first + int(whole.argmin())
            raise ValueError(f"the vector of texts[{place}] is not finite: numbers grew too large for {self.dtype}")
