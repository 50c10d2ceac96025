"""Batched inference: token ids to sentence embeddings or hidden states, the only way there.

Texts of similar length share a batch and lie in it end to end. On a CPU the weights are packed (packed/encoder.py),
elsewhere they are rounded once, or matrix products run under autocast where the model is somebody else's.

On a GPU the processor only hands over work: what depends on lengths is made on the host, at most two batches are under
way, and one thing is read back, the vectors of a call. Layers are compiled once so much is read that it pays.
"""

# Shapes: n texts, T tokens of all pieces of a batch end to end, C hidden size, h width of a vector.

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tessera.data.packing import by_length
from tessera.inference.tokenize import Ids, TextTokenizer, check_vocabulary, flat
from tessera.model import attention
from tessera.model.attention import Layout
from tessera.model.encoder import pack
from tessera.model.pooling import Dense, Unit, average, pool
from tessera.model.precision import autocast, compute_dtype, on_device, without_compiler
from tessera.packed.bert import PackedBert
from tessera.packed.encoder import PackedEncoder, RoundedEncoder, packed
from tessera.progress import Progress, silent
from tessera.tokenizer.tokenizer import Tokenizer

Vectors = NDArray[np.float32]
Pooling = str | Sequence[str]

_TEXTS = 16_384  # tokenized and sorted by length together: bounds the memory, not the result
_AT_ONCE, _AT_ONCE_ON_A_GPU = 16_384, 65_536  # tokens of a batch
_WORTH_COMPILING = 32_000_000  # tokens: on a GPU half a minute of reading, about as long as the compiler takes
_UNDER_WAY = 2  # batches that a GPU has been given and not finished
_TILE = 128  # rows of a tile of a matrix product

Compile = Literal["auto", "on", "off"]


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
    max_tokens: int  # of a batch; 0: what suits the device
    alone: bool  # each piece is its own batch, each text its own vector
    cut_last: bool = False  # after length 1, as sentence-transformers does where its folder says so


class Tokens(NamedTuple):
    """Token embeddings of one text, special tokens included."""

    ids: NDArray[np.int32]  # [t]
    offsets: NDArray[np.int64]  # [t, 2], the characters of the text that each comes from; 0, 0 of special ones
    special: NDArray[np.bool_]  # [t]
    vectors: Vectors  # [t, hidden size]


def rows(
    compute: Callable[[Tensor, Any], Tensor],
    ids: Sequence[Ids],
    width: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_tokens: int = _AT_ONCE,
    report: Callable[[int], None] = silent,
    pad_id: int | None = None,
) -> Tensor:
    """What `compute` makes of each text, float32 [n, width] on the device, without gradients.

    compute     (tokens [T], starts [N+1]) -> [N, width], of a batch
    dtype       of the matrix products, by autocast
    max_tokens  of a batch; a longer text makes a batch of its own. Changes speed and memory only
    report      hears how many texts are done
    pad_id      for a model that reads layouts: `compute` is given them in place of starts, made by `laid_out`
    """
    with torch.inference_mode(), autocast(device, dtype):
        found, order = torch.empty(len(ids), width, device=device), np.empty(len(ids), np.int64)
        done, under_way = 0, deque[torch.cuda.Event]()
        for batch in by_length([len(one) for one in ids], max_tokens):
            documents = [ids[n] for n in batch]
            part = compute(*(pack(documents, device) if pad_id is None else laid_out(documents, device, pad_id)))
            found[done : done + len(batch)] = part[: len(batch)]  # behind them is what fills a batch up
            order[batch] = np.arange(done, done + len(batch))
            done += len(batch)
            _let_finish(under_way, device)
            report(done)
        return found.index_select(0, on_device(order, device))


def laid_out(documents: Sequence[Ids], device: torch.device, pad_id: int) -> tuple[Tensor, Layout]:
    """`pack` for the kernel of GPUs: filled up with documents of padding to a size that recurs, the layout from here.

    The size has five leading digits in base 2, and lengths are bounded by a power of 4: few of either come along.
    """
    lengths = [len(one) for one in documents]
    total, longest = sum(lengths), _TILE
    while longest < max(lengths):
        longest *= 4
    lack = -total % max(_TILE, 1 << max(0, total.bit_length() - 5))
    lengths += [min(longest, lack - begin) for begin in range(0, lack, longest)]
    tokens = np.concatenate([*documents, np.full(lack, pad_id)]).astype(np.int64)
    layout = Layout.from_host(np.cumsum([0, *lengths]), len(tokens), device, longest=longest)
    return on_device(tokens, device), layout


def _let_finish(under_way: "deque[torch.cuda.Event]", device: torch.device) -> None:
    """Notes that a GPU was given a batch, and waits for one where it has so many that more would only fill memory."""
    if device.type != "cuda":
        return
    given = torch.cuda.Event()
    given.record(torch.cuda.current_stream(device))
    under_way.append(given)
    if len(under_way) > _UNDER_WAY:
        under_way.popleft().synchronize()


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
        self,
        model: nn.Module,
        steps: Sequence[Dense | Unit],
        device: torch.device,
        dtype: torch.dtype,
        compile: Compile = "auto",
    ) -> None:
        for name, weight in (pair for module in (model, *steps) for pair in module.named_parameters()):
            if not bool(weight.detach().sum().isfinite()):
                raise ValueError(f"{name} holds NaN or infinity; its training went wrong, or its file is broken")
        self.model = packed(model.to(device).eval(), dtype, may_round=True)
        self.packed = isinstance(self.model, PackedEncoder | PackedBert)
        config: Any = model.config
        self.hidden_size = int(config.hidden_size)
        self.steps = [step.to(device).eval() for step in steps]
        self.device, self.dtype = device, dtype
        rounded = isinstance(self.model, RoundedEncoder)
        self.layouts = rounded and attention.choose(str(self.model.backend), device, dtype) == "varlen"
        self.pad_id = (config.pad_token_id or 0) if self.layouts else None
        self.compile, self._read = compile, 0  # how, until that is settled; tokens so far

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
        self._compile_where_it_pays(sum(map(len, ids)))
        pooled = rows(
            lambda tokens, starts: pool(self.model(tokens, starts), starts, how.pooling, how.skip),
            ids,
            self.hidden_size * len(how.pooling),
            device=self.device,
            dtype=self.dtype,
            max_tokens=how.max_tokens or (_AT_ONCE_ON_A_GPU if self.layouts else _AT_ONCE),
            report=lambda done: report(done / len(ids)),
            pad_id=self.pad_id,
        )
        with torch.inference_mode():
            if len(ids) > len(pieces):
                pooled = average(pooled, [len(one) for one in ids], first.tolist())
            return self.finished(pooled, how)

    def finished(self, pooled: Tensor, how: EncodeOptions) -> Vectors:
        """Pooled hidden states [n, P] to vectors [n, h]: the steps of the folder, dimensions, length 1."""
        for step in self.steps:
            pooled = step(pooled)
        pooled = pooled if how.cut_last else pooled[:, : how.dimensions]
        if how.normalize:
            pooled = nn.functional.normalize(pooled, dim=-1)
        return pooled[:, : how.dimensions].cpu().numpy()

    def _compile_where_it_pays(self, tokens: int) -> None:
        """Compiles the layers once this engine has read so much that it pays, or at once where that is asked for."""
        self._read += tokens
        if not self.layouts or self.compile == "off" or (self.compile == "auto" and self._read < _WORTH_COMPILING):
            return
        asked, self.compile = self.compile, "off"  # once
        log, why = logging.getLogger("tessera"), without_compiler(self.device)
        assert isinstance(self.model, RoundedEncoder)
        try:
            if why is None:
                with torch.inference_mode():
                    self.model.encoder.compile_layers(_AT_ONCE_ON_A_GPU, _TILE)
        except Exception as error:  # whatever the compiler says
            why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        if why is not None and asked == "on":
            raise ValueError(f"compile is on, but layers cannot be compiled here: {why}; give auto or off")
        if why is not None:
            log.warning("layers are not compiled, so a GPU takes about twice as long for many texts: %s", why)

    def tokens(self, texts: Sequence[str], how: EncodeOptions) -> list[Tokens]:
        """The token embeddings of each text, its prompt's among them."""
        before = how.reading.prompt
        read = how.reading.with_offsets([before + text for text in texts])
        rows = self.states([ids for ids, _, _ in read], how.max_tokens or _AT_ONCE)
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
