"""One phase of training: from where it starts to its last token, through any number of interruptions.

The loop knows the stream, the model, the optimizer and the clock, and no tasks. All it keeps is a `Position` of
integers; batches, masks, dropout and rates are computed from it.
"""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tessera.model import hub
from tessera.model.attention import choose
from tessera.model.heads import MaskedLM, initialize
from tessera.model.precision import autocast, compute_dtype
from tessera.plan import schedule
from tessera.plan.architecture import EncoderConfig, parameters
from tessera.plan.course import Course, mean_shares, shares_of
from tessera.plan.recipe import Curve, Phase, Recipe
from tessera.plan.strict import is_folder
from tessera.plan.units import show_tokens
from tessera.plan.whole import remove_folder, write_json
from tessera.text.packing import Batch, micro_batches, share
from tessera.text.shards import Shards
from tessera.text.stream import Stream
from tessera.text.tokenizer import Tokenizer
from tessera.train import checkpoint, distributed
from tessera.train.card import card
from tessera.train.checkpoint import Position
from tessera.train.held_out import bits_per_byte
from tessera.train.metrics import Metrics
from tessera.train.optimizer import build, clip_gradients, set_learning_rate

Progress = Callable[[int, int, str], None]
Say = Callable[[str], None]


class TrainingError(ValueError):
    """Training that cannot go on, with the step and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What a phase reads and how it is written down."""

    train: Shards
    held_out: Shards | None
    tokenizer: Tokenizer
    tokenizer_folder: Path


def train(
    recipe: Recipe, phase: Phase, run: Path, text: Text, world: distributed.World, on_progress: Progress, say: Say
) -> Path:
    """Trains one phase to its end and returns its last checkpoint, `<run>/<phase>/final`.

    Starts from the phase's own last whole checkpoint where there is one. Raises TrainingError on a loss that is not
    a number, CheckpointError on a full disk; what was written before stays.
    """
    folder = run / phase.name
    dtype = compute_dtype(recipe.machine.dtype, world.device)
    model, position, resumed = _start(recipe, phase, run, text, say if world.leads else _silent)
    model.to(world.device)
    optimizer = build(model, phase.optimizer, phase.learning_rate.peak)
    if resumed is not None:
        checkpoint.load_optimizer(resumed, optimizer)
    shares = shares_of(phase, text.train.buckets)
    stream = _stream(recipe, phase, text, shares)
    if world.leads:
        write_json(folder / "mixture.json", _mixture(phase, stream, shares, None))
        _introduce(phase, model, dtype, sum(share > 0 for share in mean_shares(shares)), world, say)
    objective = distributed.replicate(_Objective(model), world)
    steps = schedule.total_steps(phase)
    metrics = Metrics(folder, position.step) if world.leads else contextlib.nullcontext()
    keep = _Keeper(recipe, phase, folder, model, optimizer, text, world)
    with metrics as log:
        for step, batch, waited in _batches(stream, phase, position.step, steps):
            began = time.perf_counter()
            rate = schedule.learning_rate_at(phase, step)
            set_learning_rate(optimizer, rate)
            torch.manual_seed(_seed(recipe.seed, phase.name, step))  # of the dropout
            loss = _backward(objective, batch, recipe.machine.micro_batch_tokens, world, dtype)
            norm = clip_gradients(model.parameters(), phase.optimizer.clip_norm)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise TrainingError(_explain_loss(phase, step, loss, norm, batch, stream))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            position = _advance(position, phase, batch)
            spent = time.perf_counter() - began
            if log is not None:
                log.step(
                    step=position.step,
                    tokens=position.tokens,
                    tokens_read=position.tokens_read,
                    total_tokens=position.total_tokens_before + position.tokens,
                    loss=loss,
                    learning_rate=rate,
                    mask_ratio=schedule.mask_ratio_at(phase, step),
                    batch_tokens=len(batch.tokens),
                    gradient_norm=norm,
                    tokens_per_second=len(batch.tokens) / (spent + waited),
                    step_seconds=spent,
                    data_wait_seconds=waited,
                    documents=len(batch.starts) - 1,
                )
                on_progress(position.tokens, phase.tokens, f"loss {loss:.3f}")
            if _due(recipe.evaluation.every, phase, position.step) and log is not None and text.held_out is not None:
                log.held_out(position.step, position.tokens, position.total_tokens_before + position.tokens,
                             measure(model, text, recipe, dtype))  # fmt: skip
            if world.leads and position.step == steps:  # `final`, written next, says that the phase is whole
                write_json(folder / "mixture.json", _mixture(phase, stream, shares, position))
            keep(position, last=position.step == steps)
    return folder / "final"


def measure(model: MaskedLM, text: Text, recipe: Recipe, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Held-out bits per byte of every language, on at most `evaluation.max_tokens` tokens of each."""
    assert text.held_out is not None
    return bits_per_byte(
        model,
        text.held_out,
        text.tokenizer,
        mask_ratio=recipe.evaluation.mask_ratio,
        max_tokens=recipe.evaluation.max_tokens,
        seed=recipe.seed,
        dtype=dtype,
    )


class _Objective(nn.Module):
    """The sum of the losses over masked positions, as the one forward pass that is replicated."""

    def __init__(self, model: MaskedLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, starts: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        return self.model.losses(tokens, starts, positions, targets).sum()


def _backward(
    objective: nn.Module, batch: Batch, micro_batch_tokens: int, world: distributed.World, dtype: torch.dtype
) -> float:
    """Adds the gradient of the mean loss over the masked positions of the whole batch; returns that loss.

    Every process knows the whole batch, so the mean needs no communication: the sum of each micro-batch is divided by
    the count of all, and the average over processes that DDP takes is undone.
    """
    masked = max(1, len(batch.positions))
    pieces = micro_batches(share(batch, world.rank, world.size), micro_batch_tokens)
    summed = 0.0
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        together: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if isinstance(objective, DistributedDataParallel) and not last:
            together = objective.no_sync()
        with together:
            with autocast(world.device, dtype):
                loss = objective(*_tensors(piece, world.device))
            (loss * (world.size / masked)).backward()
        summed += float(loss.detach())
    return distributed.total([summed], world)[0] / masked


def _tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    arrays = (batch.tokens, batch.starts, batch.positions, batch.targets)
    return tuple(torch.from_numpy(a.astype(np.int64)).to(device, non_blocking=True) for a in arrays)  # type: ignore[return-value]


def _batches(stream: Stream, phase: Phase, first: int, steps: int) -> Iterator[tuple[int, Batch, float]]:
    """(step, batch, seconds waited for it) from `first` on; the next batch is made while one is trained on."""

    def read(step: int) -> Batch:
        begin, end = schedule.boundary(phase, step), schedule.boundary(phase, step + 1)
        return stream.read(begin, end, schedule.mask_ratio_at(phase, step))

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, first) if first < steps else None
        for step in range(first, steps):
            assert ahead is not None
            began = time.perf_counter()
            batch = ahead.result()
            waited = time.perf_counter() - began
            ahead = reader.submit(read, step + 1) if step + 1 < steps else None
            yield step, batch, waited


def _start(recipe: Recipe, phase: Phase, run: Path, text: Text, say: Say) -> tuple[MaskedLM, Position, Path | None]:
    """(model, position, checkpoint whose optimizer state goes on or None)."""
    backend = recipe.machine.attention
    own, broken = checkpoint.latest(run / phase.name)
    for problem in broken:
        say(f"[yellow]{problem}; going back to the last whole checkpoint")
    if own is not None:
        say(f"{phase.name}: resuming at {own.name}")
        return hub.load(own, attention=backend), checkpoint.position(own), own
    buckets = [0] * len(text.train.buckets)
    fresh = Position(step=0, tokens=0, tokens_read=0, documents=0, total_tokens_before=0, tokens_by_bucket=buckets)
    if phase.from_ == "scratch":
        model = MaskedLM(architecture(recipe, text.tokenizer), attention=backend)
        initialize(model, torch.Generator().manual_seed(recipe.seed))
        carried = None
    elif is_folder(phase.from_):
        model, carried = hub.load(Path(phase.from_), attention=backend), None
        _check_vocabulary(model.config, text.tokenizer, phase.from_)
    else:
        parent = (run / phase.from_ / "final").resolve()
        model = hub.load(parent, attention=backend)
        before = checkpoint.position(parent)
        fresh = replace(fresh, total_tokens_before=before.total_tokens_before + before.tokens)
        carried = (
            parent
            if phase.keep_optimizer and recipe.phase(phase.from_).optimizer.name == phase.optimizer.name
            else None
        )
    if phase.rope_theta is not None:
        model.encoder.set_rope_theta(phase.rope_theta.global_, phase.rope_theta.local)
    return model, fresh, carried


def architecture(recipe: Recipe, tokenizer: Tokenizer) -> EncoderConfig:
    """The recipe's architecture with the tokenizer's vocabulary and special tokens.

    A tokenizer that the recipe trains sets the vocabulary size; one that it loads must fit into the preset's.
    """
    ids = {
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "mask_token_id": tokenizer.mask_id,
    }
    if recipe.tokenizer.path is None:
        return recipe.model.config(vocab_size=tokenizer.vocab_size, **ids)
    config = recipe.model.config(**ids)
    _check_vocabulary(config, tokenizer, f"model.preset {recipe.model.preset}")
    return config


def _check_vocabulary(config: EncoderConfig, tokenizer: Tokenizer, where: str) -> None:
    if config.vocab_size < tokenizer.vocab_size:
        raise TrainingError(
            f"{where} has {config.vocab_size} embeddings, but the tokenizer has {tokenizer.vocab_size} tokens; "
            "set model.override.vocab_size, or use the tokenizer of that model"
        )


def _stream(recipe: Recipe, phase: Phase, text: Text, shares: list[float] | Course) -> Stream:
    return Stream(
        text.train,
        shares,
        context=phase.context,
        seed=recipe.seed,
        phase_name=phase.name,
        replacement=phase.mask_replacement,
        crop=phase.crop,
        mask_id=text.tokenizer.mask_id,
        special_ids=text.tokenizer.special_ids,
        vocab_size=text.tokenizer.vocab_size,
    )


def _advance(position: Position, phase: Phase, batch: Batch) -> Position:
    lengths = np.diff(batch.starts)
    read = np.bincount(batch.sources, weights=lengths, minlength=len(position.tokens_by_bucket)).astype(np.int64)
    return replace(
        position,
        step=position.step + 1,
        tokens=schedule.boundary(phase, position.step + 1),
        tokens_read=position.tokens_read + len(batch.tokens),
        documents=position.documents + len(lengths),
        tokens_by_bucket=[a + int(b) for a, b in zip(position.tokens_by_bucket, read, strict=True)],
    )


def _due(every: int | None, phase: Phase, step: int) -> bool:
    """Whether a multiple of `every` tokens, or the end, lies in the window that ended before `step`."""
    now, before = schedule.boundary(phase, step), schedule.boundary(phase, step - 1)
    return now == phase.tokens or (every is not None and now // every > before // every)


class _Keeper:
    """Writes checkpoints: by the clock on the wall, at every `checkpoint_every` tokens, and at the end."""

    def __init__(
        self,
        recipe: Recipe,
        phase: Phase,
        folder: Path,
        model: MaskedLM,
        optimizer: torch.optim.Optimizer,
        text: Text,
        world: distributed.World,
    ) -> None:
        self.recipe, self.phase, self.folder, self.world = recipe, phase, folder, world
        self.model, self.optimizer, self.text = model, optimizer, text
        self.saved_at = time.monotonic()

    def __call__(self, position: Position, *, last: bool) -> None:
        machine = self.recipe.machine
        late = time.monotonic() - self.saved_at > 60 * machine.checkpoint_minutes
        wanted = self._lasting(position.step)
        if distributed.from_lead(not (last or late or wanted), self.world):
            return
        if self.world.leads:
            target = self.folder / f"checkpoint-{position.step}"
            checkpoint.save(
                target,
                self.model,
                self.optimizer,
                position,
                tokenizer_files=self.text.tokenizer_folder,
                card=card(
                    self.recipe, self.phase.name, self.model.config, position.total_tokens_before + position.tokens
                ),
            )
            self._drop_old(target, last)
            if last:
                checkpoint.point(self.folder / "final", target)
        self.saved_at = time.monotonic()
        distributed.wait(self.world)

    def _drop_old(self, newest: Path, last: bool) -> None:
        passing = [
            f for f in checkpoint.checkpoints(self.folder) if f != newest and not self._lasting(checkpoint.step_of(f))
        ]
        kept = 0 if last else self.recipe.machine.keep_checkpoints - 1
        for folder in passing[: len(passing) - kept]:
            remove_folder(folder)

    def _lasting(self, step: int) -> bool:
        every = self.phase.checkpoint_every
        if every is None or step == 0:
            return False
        now, before = schedule.boundary(self.phase, step), schedule.boundary(self.phase, step - 1)
        return now // every > before // every


def _introduce(
    phase: Phase, model: MaskedLM, dtype: torch.dtype, buckets: int, world: distributed.World, say: Say
) -> None:
    """Says out loud what this phase really uses."""
    config = model.config
    layers = range(config.num_hidden_layers)
    local = sum(config.window(layer) is not None for layer in layers)
    window = f"{config.local_attention} tokens in {local} of {len(layers)} layers" if local else "whole documents"
    say(
        f"{phase.name}: {parameters(config)['total'] / 1e6:.1f}M parameters, attention "
        f"{choose(model.encoder.backend, world.device)} (window: {window}), {str(dtype).removeprefix('torch.')} on "
        f"{world.device.type} x {world.size}, {show_tokens(phase.tokens)} tokens of {buckets} sources and languages, "
        f"packed without padding, at most {phase.context} tokens a document, mask {phase.mask_ratio:g}, "
        f"RoPE theta {config.global_rope_theta:g} global, {config.local_rope_theta:g} local"
    )


def _mixture(
    phase: Phase, stream: Stream, shares: list[float] | Course, position: Position | None
) -> dict[str, object]:
    """Planned beside realised shares of every bucket over the phase; `position` is None until it has ended."""
    rows: list[dict[str, object]] = []
    buckets, temperature = stream.shards.buckets, phase.mixture.temperature
    tokens = [None] * len(buckets) if position is None else position.tokens_by_bucket
    for bucket, planned, read in zip(buckets, mean_shares(shares), tokens, strict=True):
        rows.append(
            {
                "key": bucket.key,
                "source": bucket.source,
                "language": bucket.language,
                "tokens_available": bucket.tokens,
                "share_planned": planned,
                "share_read": None if read is None or position is None else read / max(1, position.tokens_read),
                "tokens_planned": round(planned * phase.tokens),
                "epochs": planned * phase.tokens / max(1, bucket.tokens),
            }
        )
    moves = temperature.model_dump(by_alias=True) if isinstance(temperature, Curve) else temperature
    return {"temperature": moves, "buckets": rows}


def _explain_loss(phase: Phase, step: int, loss: float, norm: float, batch: Batch, stream: Stream) -> str:
    keys = sorted({stream.shards.buckets[int(s)].key for s in np.unique(batch.sources)})
    shown = ", ".join(keys[:8]) + (" ..." if len(keys) > 8 else "")
    return (
        f"{phase.name}, step {step}: the loss is {loss} and the gradient norm {norm}. "
        f"The batch had {len(batch.starts) - 1} documents of {shown}. The weights of this step were not changed and "
        "the last checkpoint is whole; lower learning_rate.peak, or set optimizer.clip_norm"
    )


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


def _silent(_: str) -> None:
    pass
