"""Numerical parity of a checkpoint on this machine: packed, one at a time, padded in transformers.

Two kinds of questions. Numbers are compared with those of transformers reading one document at a time in float32 (where
it is not installed, with those of our reference backend). Laws are checked on the model's own layers without any
peer: how far a token sees, that documents do not touch, and attention worked out by hand.
"""

# Shapes: T tokens of N documents end to end, C hidden size, H query heads, K key/value heads, D head width.

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tessera.huggingface import hub
from tessera.huggingface.hf_files import find_model
from tessera.inference.runtime import padded
from tessera.model.attention import BACKENDS, Layout, attend, choose
from tessera.model.encoder import Attention, Encoder
from tessera.model.mlm import MaskedLM
from tessera.model.precision import autocast, compute_dtype
from tessera.plan.architecture import EncoderConfig
from tessera.plan.shipped import pip_line
from tessera.progress import Progress, Say, silent

_LENGTHS = (3, 300, 41, 1, 129, 17, 64, 128)  # below, at and above the sizes at which backends change their ways
_EVERY = 7  # of so many tokens of a document the logits of one are compared
_CHANGED = 1  # the document whose change must not be noticed by the others
_EXACT = 1e-3  # float32, through all layers of a trained model; random weights give a hundredth of it
_ROUNDED = 0.05  # bfloat16, through all layers; or three times what transformers loses by it
_LAYER = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # one attention; or four times what rounded scores lose


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison."""

    check: str
    where: str  # backend and device
    dtype: str
    of: str  # hidden states, logits, attention, or tokens (a distance)
    difference: float  # the largest |a - b| / (|b| + root mean square of b); of tokens, a count
    bound: float

    @property
    def ok(self) -> bool:
        """False also where something is not a number."""
        return self.difference <= self.bound


class Answer(NamedTuple):
    """What a model says about the documents, on the CPU."""

    hidden: Tensor  # [T, C]
    logits: Tensor | None  # [M, V] of a few places; None without a head


class Setting(NamedTuple):
    """How our model is run."""

    device: torch.device
    backend: str
    dtype: torch.dtype

    @property
    def named(self) -> tuple[str, str]:
        """`where` and `dtype` of a Row."""
        return f"{self.backend} on {self.device.type}", str(self.dtype).removeprefix("torch.")


def parity(folder: str | Path, *, seed: int = 0, on_progress: Progress = silent, say: Say = silent) -> list[Row]:
    """Every comparison for the model in `folder`, in every backend and number format that runs here.

    seed   of the documents, which are random tokens
    say    is told what is compared, and what is not and why

    Formats are float32 and the one that machine.dtype=auto chooses. Raises ValueError for a folder that is no model of
    either family.
    """
    folder = find_model(folder)
    head = hub.has_head(folder)
    model = hub.load(folder).eval() if head else hub.load_own_encoder(folder).eval()
    encoder = model.encoder if isinstance(model, MaskedLM) else model
    if not head:
        own = hub.task_weights(folder)
        say(
            f"its head ({own[0]}, {len(own)} weights) is that of a task, and left out: hidden states only"
            if own
            else "the folder holds no masked-language-model head: hidden states only"
        )
    tokens, starts = _documents(encoder.config, seed)
    settings = list(_settings(say))
    rows: list[Row] = []
    with torch.inference_mode():
        on_progress(0, len(settings) + 1, "transformers")
        formats = dict.fromkeys((torch.float32, *(setting.dtype for setting in settings)))
        known = _theirs(folder, head, list(formats), tokens, starts, rows, say)
        if known is None:
            plain = [Setting(torch.device("cpu"), "reference", dtype) for dtype in formats]
            known = {setting.dtype: _alone(model, setting, tokens, starts) for setting in plain}
        truth = known[torch.float32]
        worst = {
            dtype: max(row.difference for row in _differences("", ("", ""), answer, truth, 0))
            for dtype, answer in known.items()
        }
        bounds = {dtype: max(_ROUNDED, 3 * lost) for dtype, lost in worst.items()} | {torch.float32: _EXACT}
        for number, setting in enumerate(settings):
            on_progress(number + 1, len(settings) + 1, setting.named[0])
            model.to(setting.device)
            rows += _numbers(model, setting, tokens, starts, truth, bounds[setting.dtype])
            rows += _laws(encoder, setting, seed)
        on_progress(len(settings) + 1, len(settings) + 1, "done")
    return rows


def _documents(config: EncoderConfig, seed: int) -> tuple[Tensor, Tensor]:
    """tokens [T] of any kind but padding, starts [N + 1]."""
    starts = torch.tensor([0, *(min(length, config.max_position_embeddings) for length in _LENGTHS)]).cumsum(0)
    tokens = torch.randint(config.vocab_size, (int(starts[-1]),), generator=torch.Generator().manual_seed(seed))
    padding = -1 if config.pad_token_id is None else config.pad_token_id
    return tokens.where(tokens != padding, (tokens + 1) % config.vocab_size), starts


def _settings(say: Say) -> Iterator[Setting]:
    """What runs here."""
    for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        device = torch.device(kind)
        chosen = compute_dtype("auto", device)
        say(f"{kind}: auto chooses {choose('auto', device)} in {str(chosen).removeprefix('torch.')}")
        for backend in BACKENDS:
            try:
                choose(backend, device)
            except ValueError:
                continue
            for dtype in dict.fromkeys((torch.float32, chosen)):
                if backend != "varlen" or dtype is torch.bfloat16:
                    yield Setting(device, backend, dtype)
    if not torch.cuda.is_available():
        say("varlen is not compared: torch sees no CUDA device")


# ------------------------------------------------------------------------------------------------------ transformers


def _theirs(
    folder: Path, head: bool, formats: list[torch.dtype], tokens: Tensor, starts: Tensor, rows: list[Row], say: Say
) -> dict[torch.dtype, Answer] | None:
    """One document at a time, in each format; adds what transformers differs from itself. None where it is absent."""
    try:
        import transformers
        from transformers import AutoModel, AutoModelForMaskedLM
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        say(
            f"transformers is not compared ({error}); our reference backend, one document at a time, stands in for "
            f"it. To compare: {pip_line('evaluate')}"
        )
        return None
    transformers.logging.disable_progress_bar()
    kind = AutoModelForMaskedLM if head else AutoModel
    theirs = kind.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True, trust_remote_code=False
    ).eval()
    say(f"transformers {transformers.__version__}: {type(theirs).__name__}, eager one at a time, sdpa padded, on cpu")
    cpu, answers = torch.device("cpu"), {}
    documents = list(pairwise(starts.tolist()))
    for dtype in formats:
        with autocast(cpu, dtype):
            parts = [_padded(theirs, tokens, [document]) for document in documents]
        answers[dtype] = _joined(parts)
    theirs.set_attn_implementation("sdpa")
    together = _padded(theirs, tokens, documents)
    named = "transformers on cpu", "float32"
    rows += _differences("padded, beside one at a time", named, together, answers[torch.float32], _EXACT)
    return answers


def _padded(theirs: Any, tokens: Tensor, documents: list[tuple[int, int]]) -> Answer:
    """The documents as rows of one padded batch of transformers; what it says about padding is dropped."""
    ids, mask = map(torch.from_numpy, padded([tokens[start:end].numpy() for start, end in documents]))
    begins = (row * mask.shape[1] for row in range(len(documents)))
    places = _places([(begin, begin + end - start) for begin, (start, end) in zip(begins, documents, strict=True)])
    decoder = theirs.get_output_embeddings()
    # The vocabulary of every token of a padded batch would fill the memory.
    few = decoder and decoder.register_forward_pre_hook(lambda _, given: given[0].flatten(0, 1)[places])
    try:
        found = theirs(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    finally:
        if few:
            few.remove()
    return Answer(found.hidden_states[-1][mask.bool()], found.logits if decoder else None)


# -------------------------------------------------------------------------------------------------------------- ours


def _numbers(
    model: MaskedLM | Encoder, setting: Setting, tokens: Tensor, starts: Tensor, truth: Answer, bound: float
) -> Iterator[Row]:
    """Our model in one setting: beside the truth, and beside itself where documents move and change."""

    def itself(check: str, found: Tensor, same: Tensor, bound: float) -> Row:
        return Row(check, *setting.named, "hidden states", relative_difference(found, same), bound)

    yield from _differences("one at a time", setting.named, _alone(model, setting, tokens, starts), truth, bound)
    packed = _packed(model, setting, tokens, starts)
    yield from _differences("packed", setting.named, packed, truth, bound)
    spans = list(pairwise(starts.tolist()))
    turned = torch.cat([torch.arange(start, end) for start, end in reversed(spans)])
    edges = torch.cat((starts.new_zeros(1), starts.diff().flip(0).cumsum(0)))
    moved = torch.empty_like(packed.hidden)
    moved[turned] = _packed(model, setting, tokens[turned], edges).hidden
    yield itself("packed in another order", moved, packed.hidden, bound)

    first, last = spans[_CHANGED]
    others = torch.ones(len(tokens), dtype=torch.bool)
    others[first:last] = False
    changed = tokens.where(others, tokens.roll(1))
    hidden = _packed(model, setting, changed, starts).hidden
    yield itself("another document changed", hidden[others], packed.hidden[others], 0)


def _packed(model: MaskedLM | Encoder, setting: Setting, tokens: Tensor, starts: Tensor) -> Answer:
    """tokens [T], starts [N + 1] in one forward pass."""
    encoder = model.encoder if isinstance(model, MaskedLM) else model
    with autocast(setting.device, setting.dtype):
        encoder.backend = setting.backend
        hidden = encoder(tokens.to(setting.device), starts.to(setting.device))
        places = _places(pairwise(starts.tolist()))
        logits = model.logits(hidden[places.to(setting.device)]).cpu() if isinstance(model, MaskedLM) else None
    return Answer(hidden.cpu(), logits)


def _alone(model: MaskedLM | Encoder, setting: Setting, tokens: Tensor, starts: Tensor) -> Answer:
    """The same, each document in a forward pass of its own."""
    documents = [tokens[start:end] for start, end in pairwise(starts.tolist())]
    return _joined([_packed(model, setting, one, torch.tensor([0, len(one)])) for one in documents])


def _joined(parts: list[Answer]) -> Answer:
    logits = [part.logits for part in parts if part.logits is not None]
    return Answer(torch.cat([part.hidden for part in parts]), torch.cat(logits) if logits else None)


def _places(documents: Iterable[tuple[int, int]]) -> Tensor:
    """Where logits are compared, of documents from and to these tokens."""
    return torch.cat([torch.arange(start, end, _EVERY) for start, end in documents])


# -------------------------------------------------------------------------------------------------------------- laws


def _laws(encoder: Encoder, setting: Setting, seed: int) -> Iterator[Row]:
    """How far the first layer of each kind sees, and its attention beside arithmetic by hand."""
    config = encoder.config
    # Worked out here once more, so that a mistake where the model does it is seen.
    half = None if config.local_attention is None else config.local_attention // 2
    kinds: dict[str, tuple[int, int | None, float]] = {"global": (0, None, config.global_rope_theta)}
    if half is not None and config.num_hidden_layers > 1:
        kinds["local"] = (1, half, config.local_rope_theta)
    length = min(config.max_position_embeddings, max(300, (half or 0) + 140))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(17 + length + 5, config.hidden_size, generator=generator).to(setting.device)
    starts = torch.tensor([0, 17, 17 + length, 17 + length + 5], device=setting.device)
    for kind, (number, window, theta) in kinds.items():
        attention = encoder.layers[number].attention
        assert isinstance(attention, Attention)
        layout = Layout.of(starts, len(drawn), setting.backend)
        with autocast(setting.device, setting.dtype):
            qkv = attention.qkv(drawn)
            reach = max(_reach(attention, drawn, layout, theta, 17 + i) for i in (0, length // 2, length - 1))
        wanted = length - 1 if window is None else min(window, length - 1)
        name = f"layer {number}, {kind}: "
        sees = "its document" if window is None else f"{window} tokens either side"
        yield Row(f"{name}a token sees {sees}", *setting.named, "tokens", abs(reach - wanted), 0)
        shape = {"heads": attention.heads, "key_value_heads": attention.key_value_heads}
        found = attend(qkv, layout, **shape, window=attention.window, theta=theta).float().cpu()
        exact, rounded = (
            _by_hand(qkv.double().cpu(), starts.tolist(), attention, window, theta, scores)
            for scores in (torch.float64, setting.dtype)
        )
        bound = max(_LAYER[setting.dtype], 4 * relative_difference(rounded, exact))  # sharp attention loses more
        yield Row(f"{name}by hand", *setting.named, "attention", relative_difference(found, exact), bound)


def _reach(attention: Attention, x: Tensor, layout: Layout, theta: float, place: int) -> int:
    """How far from token `place` of x [T, C] the answer is another one when that token is."""
    other = x.clone()
    other[place] = -x[place]
    differs = (attention(x, layout, theta) != attention(other, layout, theta)).any(1).nonzero()
    return int((differs - place).abs().max()) if len(differs) else 0


def _by_hand(
    qkv: Tensor, starts: list[int], attention: Attention, window: int | None, theta: float, rounded: torch.dtype
) -> Tensor:
    """qkv [T, (H + 2 K) * D] float64 -> [T, H * D]: pairs of dimensions as complex numbers, one document at a time.

    rounded  the format that scores and weights pass through
    """
    heads, groups = attention.heads, attention.key_value_heads
    q, k, v = qkv.unflatten(1, (heads + 2 * groups, -1)).split((heads, groups, groups), dim=1)
    k, v = (x.repeat_interleave(heads // groups, dim=1) for x in (k, v))
    width = q.shape[2]
    speed = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    out = []
    for start, end in pairwise(starts):
        place = torch.arange(end - start, dtype=torch.float64)
        turn = torch.polar(torch.ones_like(speed), speed * place[:, None])[:, None]  # [L, 1, D/2]
        a, b = (torch.complex(x[start:end, :, : width // 2], x[start:end, :, width // 2 :]) * turn for x in (q, k))
        scores = torch.einsum("ihd,jhd->hij", a, b.conj()).real.to(rounded).double() / width**0.5
        if window is not None:
            scores[:, (place[:, None] - place).abs() > window] = -torch.inf
        out.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1).to(rounded).double(), v[start:end]).flatten(1))
    return torch.cat(out)


# ----------------------------------------------------------------------------------------------------------- numbers


def _differences(check: str, named: tuple[str, str], found: Answer, truth: Answer, bound: float) -> list[Row]:
    rows = [Row(check, *named, "hidden states", relative_difference(found.hidden, truth.hidden), bound)]
    if found.logits is not None and truth.logits is not None:
        rows.append(Row(check, *named, "logits", relative_difference(found.logits, truth.logits), bound))
    return rows


def relative_difference(found: Tensor, truth: Tensor) -> float:
    """The largest |a - b| / (|b| + root mean square of b): in parts of the number itself and of the usual size."""
    found, truth = found.double(), truth.double()
    return float(((found - truth).abs() / (truth.abs() + truth.square().mean().sqrt())).max())
