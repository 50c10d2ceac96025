"""The training loop of one phase: from where it starts to its last token, through any number of interruptions.

It knows the stream, the model, the optimizer and the clock, and no tasks. All it keeps is a `Position` of
integers; batches, masks, dropout and rates are computed from it.
"""

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from tessera import signals
from tessera.data.packing import Batch
from tessera.data.pair_stream import EmbeddingStream
from tessera.data.stream import Stream
from tessera.huggingface.hub import AnyMaskedLM
from tessera.model.precision import compute_dtype
from tessera.plan import schedule
from tessera.plan.fields import show_tokens
from tessera.plan.mixture import MixtureSchedule
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe
from tessera.progress import Progress, Silent, Watcher, silent
from tessera.signals import Stopped
from tessera.train import bad_steps, checkpoint, distributed, embedding, gradient
from tessera.train.bad_steps import Fault
from tessera.train.checkpoint import CheckpointError, Position
from tessera.train.checkpoint_policy import CheckpointPolicy, whole_model
from tessera.train.embedding import Guide
from tessera.train.gradient import Cut, Passes, prepare
from tessera.train.held_out import bits_per_byte
from tessera.train.metrics import Metrics, write_mixture
from tessera.train.optimizer import set_learning_rate
from tessera.train.reading import Mined, Taught, reading
from tessera.train.start import Rollback, Text, TrainingError, TrainState, described, start
from tessera.train.throughput import ThroughputMeter, find_peak


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A phase, and all that is needed to train it."""

    recipe: Recipe
    phase: Phase
    run: Path
    text: Text
    world: distributed.World
    stream: Stream | EmbeddingStream
    teacher: Guide | None
    mixture: MixtureSchedule
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
    beforehand: Taught | Mined | None = None,
) -> Path:
    """Trains one phase to its end and returns its last checkpoint, `<run>/<phase>/final`.

    beforehand   what the teacher of a phase that distils said, or the hard negatives of one that contrasts

    Starts from the phase's own last whole checkpoint where there is one. Raises TrainingError where a step goes wrong
    and `blow_up` does not forgive it, CheckpointError on a full disk, LostProcess where another process of the world
    has ended, Stopped after a checkpoint where a signal asks for it; what was written before stays.
    """
    hard = phase.contrast is not None and phase.contrast.negatives
    assert not hard or isinstance(beforehand, Mined), "hard negatives are mined before a phase is trained"
    stream, planned = reading(recipe, phase, text, beforehand)
    job = Job(
        recipe=recipe,
        phase=phase,
        run=run,
        text=text,
        world=world,
        stream=stream,
        teacher=beforehand.guide(phase, world.device) if isinstance(beforehand, Taught) else None,
        mixture=planned,
        dtype=compute_dtype(recipe.machine.dtype, world.device),
        on_progress=on_progress if world.leads else silent,
        watcher=watcher if world.leads else Silent(),
    )
    try:
        with distributed.watched(world), signals.deferred():
            back = _train_from(job, None)
            while back is not None:  # a step went wrong, and the recipe has it go on from an earlier checkpoint
                back = _train_from(job, back)
    except OSError as error:
        why = checkpoint.full(error)
        if why is None:
            raise
        raise CheckpointError(
            f"{job.folder}: the disk is full ({why}); free some space and run the same command again, it goes on from "
            "the last checkpoint"
        ) from error
    return job.folder / "final"


def _train_from(job: Job, back: Rollback | None) -> Rollback | None:
    """Trains from the last checkpoint, or from where `back` leads, to the end: None; or to a step that leads back."""
    recipe, phase, world = job.recipe, job.phase, job.world
    # load or make the model, the optimizer and the position
    state = start(recipe, phase, job.run, job.text, world, job.watcher, back, len(job.stream.buckets))
    policy = CheckpointPolicy(recipe, phase, job.folder, job.text.tokenizer_folder, world)
    meter, stop = ThroughputMeter(state.model.config, find_peak(world, job.dtype), world), 0
    if world.leads:
        write_mixture(job.folder, phase, job.stream.buckets, job.mixture, None)
        _introduce(job, state, meter)
    with Metrics(job.folder, state.position.step, writes=world.leads, warn=job.watcher.warn) as log:
        # after a rollback: a checkpoint of what is left out, written before anything is built on it
        if back is not None:
            policy.write(state)
            log.left_out("rollback", state.position, *back.left_out[-1])
        # the training loop: one batch of the dataloader, one update of the weights
        for step, batch, passes, waited in _batches(job, state.cut, state.position.step):
            began = time.perf_counter()
            # forward, backward and, where nothing is wrong with the step, the update
            loss, norm, fault = _step(job, state, step, batch, passes)
            if fault is not None:
                # a step that went wrong: stop, go back, or leave it out, as the recipe says
                back = _answer(job, policy, state.position, fault)
                if back is not None:
                    return back
                state.position = _leave_out(state.position, phase, step)
                log.left_out("skip", state.position, step, step)
            else:
                # count what was read, and log the step
                state.position = _advance(state.position, phase, batch)
                planned = schedule.boundary(phase, step + 1) - schedule.boundary(phase, step)
                took = meter.step(batch, planned, passes.sizes, time.perf_counter() - began, waited)
                _log_step(job, log, state.position, step, batch, loss, norm, took)
                job.on_progress(state.position.tokens, phase.tokens, f"{_shown(batch, loss)}, {meter.recent()}")
            # once in a while: evaluate held-out bits per byte
            last = state.position.step == schedule.total_steps(phase)
            if last or schedule.passes_multiple(phase, state.position.step, recipe.evaluation.every):
                _measure(job, state, log)
            # by the clock, every checkpoint_every tokens, at the end, before stopping: save, if the weights are whole
            due, stop = policy.due(state.position)
            if due:
                if not _finite(state.model, world):
                    why = "its update left weights that are no numbers"
                    fault = Fault(step=step, why=why, loss=loss, gradient_norm=norm, made=True)
                    return _answer(job, policy, state.position, fault)
                policy.write(state)
            if stop and not last:
                distributed.wait(world)
                raise Stopped(stop, _stopped_at(phase, state.position), together=True)
    # the end of the phase: `final`, written last, says that it is whole
    if world.leads:
        write_mixture(job.folder, phase, job.stream.buckets, job.mixture, state.position)
        job.watcher.say(f"{phase.name}: {meter.summary()}")
    policy.finish(state.position)
    distributed.wait(world)
    if stop:
        raise Stopped(
            stop, f"{phase.name} is finished; run the same command again, it goes on from here", together=True
        )
    return None


def _shown(batch: Batch, loss: float) -> str:
    return f"loss {loss:.3f}" if _has_loss(batch) else "no token was masked"


def _has_loss(batch: Batch) -> bool:
    return batch.rows is not None or len(batch.positions) > 0


def _stopped_at(phase: Phase, position: Position) -> str:
    return (
        f"{phase.name}: stopped at step {position.step:,} of {schedule.total_steps(phase):,}, and its checkpoint is "
        "written; run the same command again, it goes on from there"
    )


def _step(job: Job, state: TrainState, step: int, batch: Batch, passes: Passes) -> tuple[float, float, Fault | None]:
    """(loss, norm of the gradient, what is wrong or None); the weights are moved where nothing is wrong."""
    phase, world = job.phase, job.world
    # the rate of this step, by the schedule
    set_learning_rate(state.optimizer, schedule.learning_rate_at(phase, step))
    # forward and backward, micro-batch by micro-batch: gradient accumulation
    seed = _seed(job.recipe.seed, phase.name, step)
    model, noise = state.objective, state.noise
    if phase.kind == "masked":
        sums = gradient.backward(model, passes, job.dtype, noise=noise, seed=seed)
    else:
        sums = embedding.backward(model, batch, passes, phase, job.teacher, job.dtype, noise=noise, seed=seed)
    length = state.clip(phase.optimizer.clip_norm)
    # the one place of a step where the processor waits for a GPU
    *own, norm = torch.cat((sums, length.to(sums.device).reshape(1))).tolist()
    # is the step sound? all processes judge the same two numbers
    loss, norm = distributed.total([sum(own) / max(1, passes.masked), norm / world.size], world)
    fault = bad_steps.find(phase, state.model.config.vocab_size, step, loss, norm)
    # update the weights
    if fault is None and passes.nothing is not None:  # a last step of a few tokens may hold no document
        state.update()
    state.optimizer.zero_grad(set_to_none=True)
    return loss, norm, fault


def _answer(job: Job, checkpoints: CheckpointPolicy, position: Position, fault: Fault) -> Rollback | None:
    """What `blow_up` says to do at a fault: None is to leave the step out. Raises TrainingError to stop."""
    policy = job.phase.blow_up.policy
    message = bad_steps.record(job.folder, job.phase, fault, job.stream) if job.world.leads else fault.why
    folder = checkpoints.before(fault.step) if policy == "rollback" else None
    first = fault.step if policy != "rollback" else checkpoint.step_of(folder) if folder is not None else 0
    left_out: list[bad_steps.Steps] = [(begin, end) for begin, end in position.left_out]
    refused = bad_steps.too_many(job.phase, left_out, first)
    if policy == "stop" or refused is not None or (policy == "skip" and fault.made):
        forgiven = f" {refused}." if refused is not None and policy != "stop" else ""
        raise TrainingError(
            f"{message}.{forgiven} Nothing of this step was written, and the last checkpoint is whole: lower "
            "learning_rate.peak, set optimizer.clip_norm, or have blow_up.policy leave such steps out"
        )
    job.watcher.warn(f"{message}; {'this update is not made' if policy == 'skip' else 'going back'}")
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
        total_tokens=position.total_tokens,
        **({"loss": loss} if _has_loss(batch) else {}),  # a step that predicts nothing has none
        learning_rate=schedule.learning_rate_at(phase, step),
        mask_ratio=schedule.mask_ratio_at(phase, step),
        batch_tokens=len(batch.tokens),
        gradient_norm=norm,
        documents=len(batch.starts) - 1,
        **took,
    )


def _measure(job: Job, state: TrainState, log: Metrics) -> None:
    """Logs the held-out loss, where there is held-out text; the leading process computes it, with the whole model."""
    if job.text.held_out is None or job.phase.kind != "masked":  # a vector of a text predicts no token
        return
    model, how = whole_model(state.model, job.world), job.recipe.evaluation
    if model is not None:
        bits = bits_per_byte(
            model.to(job.world.device), job.text.held_out, job.text.tokenizer, mask_ratio=how.mask_ratio,
            max_tokens=how.max_tokens, seed=job.recipe.seed, dtype=job.dtype,
        )  # fmt: skip
        log.held_out(state.position, bits)
    distributed.wait(job.world)


def _batches(job: Job, cut: Cut, first: int) -> Iterator[tuple[int, Batch, Passes, float]]:
    """(step, batch, its passes, seconds waited) from `first` on, with prefetch.

    A thread makes the next batch, cuts it and sends it to the device while one is trained on.
    """
    stream, phase, steps = job.stream, job.phase, schedule.total_steps(job.phase)

    def read(step: int) -> tuple[Batch, Passes]:
        begin, end = schedule.boundary(phase, step), schedule.boundary(phase, step + 1)
        if isinstance(stream, EmbeddingStream):
            batch = stream.read(begin, end)
        else:
            batch = stream.read(begin, end, schedule.mask_ratio_at(phase, step))
        return batch, prepare(batch, cut)

    with ThreadPoolExecutor(1, initializer=distributed.use_device, initargs=(job.world,)) as reader:
        prefetched = reader.submit(read, first) if first < steps else None
        for step in range(first, steps):
            assert prefetched is not None
            began = time.perf_counter()
            batch, passes = prefetched.result()
            waited = time.perf_counter() - began
            prefetched = reader.submit(read, step + 1) if step + 1 < steps else None
            yield step, batch, passes, waited


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


def _introduce(job: Job, state: TrainState, meter: ThroughputMeter) -> None:
    """Says out loud what this phase really uses."""
    phase, world, model = job.phase, job.world, state.model
    sources = sum(share > 0 for share in job.mixture.mean())
    kind = f" ({job.recipe.machine.parallel})" if world.size > 1 else ""
    network, packing, positions = described(model, world, job.dtype)
    job.watcher.say(
        f"{phase.name}: {network}, {str(job.dtype).removeprefix('torch.')} on "
        f"{world.device.type} x {world.size}{kind}, {show_tokens(phase.tokens)} tokens of {sources} sources and "
        f"languages, {packing}, at most {phase.context} tokens a document, {_objective(phase)}, {positions}"
    )
    job.watcher.say(f"{phase.name}: MFU counts as a share of {meter.peak.source}")


def _objective(phase: Phase) -> str:
    if phase.distil is not None:
        return f"{phase.distil.pairs:.0%} in pairs, distilling {phase.distil.teacher} ({phase.distil.loss})"
    if phase.contrast is None:
        return f"mask {phase.predicted:g}"
    hard = phase.contrast.negatives
    return "contrastive, in pairs" + (f" with {hard} hard negatives each" if hard else "")


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")
