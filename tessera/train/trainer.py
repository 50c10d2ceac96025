"""One phase of training: from where it starts to its last token, through any number of interruptions.

The loop knows the stream, the model, the optimizer and the clock, and no tasks. All it keeps is a `Position` of
integers; batches, masks, dropout and rates are computed from it.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tessera.data.packing import Batch
from tessera.data.stream import Stream
from tessera.files import write_json
from tessera.model.attention import choose
from tessera.model.hub import AnyMaskedLM
from tessera.model.precision import compute_dtype
from tessera.model.transformers_model import TransformersMaskedLM
from tessera.plan import schedule
from tessera.plan.architecture import parameters
from tessera.plan.fields import show_tokens
from tessera.plan.mixture import MixtureSchedule, mixture_of
from tessera.plan.recipe import Phase, Recipe
from tessera.progress import Progress, Silent, Watcher, silent
from tessera.train import bad_steps, checkpoint, distributed
from tessera.train.bad_steps import Fault
from tessera.train.checkpoint import CheckpointError, Position
from tessera.train.checkpoint_policy import CheckpointPolicy, whole_model
from tessera.train.gradient import backward
from tessera.train.held_out import bits_per_byte
from tessera.train.metrics import Metrics, mixture
from tessera.train.optimizer import clip_gradients, set_learning_rate
from tessera.train.start import Rollback, Text, TrainingError, TrainState, start
from tessera.train.throughput import ThroughputMeter, find_peak, passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A phase, and all that is needed to train it."""

    recipe: Recipe
    phase: Phase
    run: Path
    text: Text
    world: distributed.World
    stream: Stream
    shares: MixtureSchedule
    dtype: torch.dtype
    on_progress: Progress
    watcher: Watcher

    @property
    def folder(self) -> Path:
        return self.run / self.phase.name


def train(
    recipe: Recipe,
    phase: Phase,
    run: Path,
    text: Text,
    world: distributed.World,
    on_progress: Progress = silent,
    watcher: Watcher = Silent(),
) -> Path:
    """Trains one phase to its end and returns its last checkpoint, `<run>/<phase>/final`.

    Starts from the phase's own last whole checkpoint where there is one. Raises TrainingError where a step goes wrong
    and `blow_up` does not forgive it, CheckpointError on a full disk, LostProcess where another process of the world
    has ended; what was written before stays.
    """
    shares = mixture_of(phase, text.train.buckets)
    job = Job(
        recipe=recipe,
        phase=phase,
        run=run,
        text=text,
        world=world,
        stream=_stream(recipe, phase, text, shares),
        shares=shares,
        dtype=compute_dtype(recipe.machine.dtype, world.device),
        on_progress=on_progress,
        watcher=watcher if world.leads else Silent(),
    )
    try:
        with distributed.watched(world):
            back = _stretch(job, None)
            while back is not None:
                back = _stretch(job, back)
    except OSError as error:
        why = checkpoint.full(error)
        if why is None:
            raise
        raise CheckpointError(
            f"{job.folder}: the disk is full ({why}); free some space and run the same command again, it goes on from "
            "the last checkpoint"
        ) from error
    return job.folder / "final"


def _stretch(job: Job, back: Rollback | None) -> Rollback | None:
    """Trains from the last checkpoint, or from where `back` leads, to the end: None; or to a step that leads back."""
    recipe, phase, world = job.recipe, job.phase, job.world
    trainee = start(recipe, phase, job.run, job.text, world, job.watcher, back)
    keep = CheckpointPolicy(recipe, phase, job.folder, job.text.tokenizer_folder, world)
    meter = ThroughputMeter(trainee.model.config, find_peak(world, job.dtype), world)
    if world.leads:
        write_json(job.folder / "mixture.json", mixture(phase, job.stream.shards.buckets, job.shares, None))
        _introduce(job, trainee, meter)
    with Metrics(job.folder, trainee.position.step) if world.leads else contextlib.nullcontext() as log:
        if back is not None:  # written before anything is built on it
            keep.write(trainee)
            if log is not None:
                log.left_out("rollback", trainee.position, *back.left_out[-1])
        for step, batch, sizes, waited in _batches(job, trainee.position.step):
            began = time.perf_counter()
            loss, norm, fault = _step(job, trainee, step, batch)
            if fault is not None:
                back = _answer(job, keep, trainee.position, fault)
                if back is not None:
                    return back
                trainee.position = _leave_out(trainee.position, phase, step)
                if log is not None:
                    log.left_out("skip", trainee.position, step, step)
            else:
                trainee.position = _advance(trainee.position, phase, batch)
                planned = schedule.boundary(phase, step + 1) - schedule.boundary(phase, step)
                took = meter.step(batch, planned, sizes, time.perf_counter() - began, waited)
                if log is not None:
                    _log_step(job, log, trainee.position, step, batch, loss, norm, took)
                    job.on_progress(trainee.position.tokens, phase.tokens, f"loss {loss:.3f}, {meter.recent()}")
            if _due(recipe.evaluation.every, phase, trainee.position.step) and job.text.held_out is not None:
                _measure(job, trainee, log)
            if keep.due(trainee.position):
                if not _finite(trainee.model, world):
                    why = "its update left weights that are no numbers"
                    return _answer(
                        job, keep, trainee.position, Fault(step=step, why=why, loss=loss, gradient_norm=norm, made=True)
                    )
                keep.write(trainee)
    if world.leads:  # `final`, written next, says that the phase is whole
        write_json(job.folder / "mixture.json", mixture(phase, job.stream.shards.buckets, job.shares, trainee.position))
        job.watcher.say(f"{phase.name}: {meter.summary()}")
    keep.finish(trainee.position)
    distributed.wait(world)
    return None


def _step(job: Job, trainee: TrainState, step: int, batch: Batch) -> tuple[float, float, Fault | None]:
    """(loss, norm of the gradient, what is wrong or None); the weights are moved where nothing is wrong."""
    phase, world = job.phase, job.world
    set_learning_rate(trainee.optimizer, schedule.learning_rate_at(phase, step))
    seed = _seed(job.recipe.seed, phase.name, step)
    tokens = job.recipe.machine.micro_batch_tokens
    own = backward(trainee.objective, batch, tokens, world, job.dtype, noise=trainee.noise, seed=seed)
    norm = clip_gradients(trainee.model.parameters(), phase.optimizer.clip_norm)
    loss, norm = distributed.total([own, norm / world.size], world)  # all processes judge the same two numbers
    fault = bad_steps.find(phase, trainee.model.config.vocab_size, step, loss, norm)
    if fault is None:
        trainee.optimizer.step()
    trainee.optimizer.zero_grad(set_to_none=True)
    return loss, norm, fault


def _answer(job: Job, keep: CheckpointPolicy, position: Position, fault: Fault) -> Rollback | None:
    """What `blow_up` says to do at a fault: None is to leave the step out. Raises TrainingError to stop."""
    policy = job.phase.blow_up.policy
    told = bad_steps.record(job.folder, job.phase, fault, job.stream) if job.world.leads else fault.why
    folder = keep.before(fault.step) if policy == "rollback" else None
    first = fault.step if policy != "rollback" else checkpoint.step_of(folder) if folder is not None else 0
    left_out: list[bad_steps.Stretch] = [(begin, end) for begin, end in position.left_out]
    refused = bad_steps.too_many(job.phase, left_out, first)
    if policy == "stop" or refused is not None or (policy == "skip" and fault.made):
        forgiven = f" {refused}." if refused is not None and policy != "stop" else ""
        raise TrainingError(
            f"{told}.{forgiven} Nothing of this step was written, and the last checkpoint is whole: lower "
            "learning_rate.peak, set optimizer.clip_norm, or have blow_up.policy leave such steps out"
        )
    job.watcher.warn(f"{told}; {'this update is not made' if policy == 'skip' else 'going back'}")
    return None if policy == "skip" else Rollback(folder=folder, left_out=[*left_out, (first, fault.step)])


def _finite(model: AnyMaskedLM, world: distributed.World) -> bool:
    """Whether all weights are numbers, in every process."""
    own = [p.to_local() if isinstance(p, distributed.DTensor) else p for p in model.parameters()]
    bad = sum(not bool(part.isfinite().all()) for part in own)
    return distributed.total([float(bad)], world)[0] == 0


def _log_step(
    job: Job, log: Metrics, position: Position, step: int, batch: Batch, loss: float, norm: float,
    took: dict[str, float]
) -> None:  # fmt: skip
    phase = job.phase
    log.step(
        step=position.step,
        tokens=position.tokens,
        tokens_read=position.tokens_read,
        total_tokens=position.total_tokens_before + position.tokens,
        loss=loss,
        learning_rate=schedule.learning_rate_at(phase, step),
        mask_ratio=schedule.mask_ratio_at(phase, step),
        batch_tokens=len(batch.tokens),
        gradient_norm=norm,
        documents=len(batch.starts) - 1,
        **took,
    )


def _measure(job: Job, trainee: TrainState, log: Metrics | None) -> None:
    """Logs the held-out loss; the leading process computes it, with the whole model."""
    model, position = whole_model(trainee.model, job.world), trainee.position
    if model is not None and log is not None:
        bits = measure(model.to(job.world.device), job.text, job.recipe, job.dtype)
        log.held_out(position.step, position.tokens, position.total_tokens_before + position.tokens, bits)
    distributed.wait(job.world)


def measure(model: AnyMaskedLM, text: Text, recipe: Recipe, dtype: torch.dtype) -> dict[str, dict[str, float]]:
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


def _batches(job: Job, first: int) -> Iterator[tuple[int, Batch, list[int], float]]:
    """(step, batch, tokens of each pass, seconds waited) from `first` on; the next is made while one is trained on."""
    stream, phase, steps = job.stream, job.phase, schedule.total_steps(job.phase)

    def read(step: int) -> tuple[Batch, list[int]]:
        begin, end = schedule.boundary(phase, step), schedule.boundary(phase, step + 1)
        batch = stream.read(begin, end, schedule.mask_ratio_at(phase, step))
        return batch, passes(batch, job.world, job.recipe.machine.micro_batch_tokens)

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, first) if first < steps else None
        for step in range(first, steps):
            assert ahead is not None
            began = time.perf_counter()
            batch, sizes = ahead.result()
            waited = time.perf_counter() - began
            ahead = reader.submit(read, step + 1) if step + 1 < steps else None
            yield step, batch, sizes, waited


def _stream(recipe: Recipe, phase: Phase, text: Text, shares: MixtureSchedule) -> Stream:
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


def _leave_out(position: Position, phase: Phase, step: int) -> Position:
    return replace(
        position,
        step=step + 1,
        tokens=schedule.boundary(phase, step + 1),
        left_out=[*position.left_out, [step, step]],
    )


def _due(every: int | None, phase: Phase, step: int) -> bool:
    """Whether a multiple of `every` tokens, or the end, lies in the window that ended before `step`."""
    now, before = schedule.boundary(phase, step), schedule.boundary(phase, step - 1)
    return now == phase.tokens or (every is not None and now // every > before // every)


def _introduce(job: Job, trainee: TrainState, meter: ThroughputMeter) -> None:
    """Says out loud what this phase really uses."""
    phase, world, model = job.phase, job.world, trainee.model
    sources = sum(share > 0 for share in job.shares.mean())
    kind = f" ({job.recipe.machine.parallel})" if world.size > 1 else ""
    network, packing, positions = _network(model, world)
    job.watcher.say(
        f"{phase.name}: {network}, {str(job.dtype).removeprefix('torch.')} on "
        f"{world.device.type} x {world.size}{kind}, {show_tokens(phase.tokens)} tokens of {sources} sources and "
        f"languages, {packing}, at most {phase.context} tokens a document, mask {phase.mask_ratio:g}, {positions}"
    )
    job.watcher.say(f"{phase.name}: MFU counts as a share of {meter.peak.source}")


def _network(model: AnyMaskedLM, world: distributed.World) -> tuple[str, str, str]:
    """Size and attention, how documents go through, and positions, in words."""
    if isinstance(model, TransformersMaskedLM):
        return (
            f"{model.config.parameters / 1e6:.1f}M parameters, {type(model.model).__name__} run by transformers "
            f"(attention: {model.model.config._attn_implementation}, whole documents)",
            "padded in groups of similar length",
            f"positions for {model.config.max_position_embeddings} tokens",
        )
    config = model.config
    layers = range(config.num_hidden_layers)
    local = sum(config.window(layer) is not None for layer in layers)
    window = f"{config.local_attention} tokens in {local} of {len(layers)} layers" if local else "whole documents"
    return (
        f"{parameters(config)['total'] / 1e6:.1f}M parameters, attention "
        f"{choose(model.encoder.backend, world.device)} (window: {window})",
        "packed without padding",
        f"RoPE theta {config.global_rope_theta:g} global, {config.local_rope_theta:g} local",
    )


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")
