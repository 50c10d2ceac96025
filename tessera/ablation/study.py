"""Ablation study: one phase from one checkpoint, the baseline and once for each value of each axis, over seeds.

    <out>/ablation.json         what was asked
    <out>/deltas.json           what came out, see ablation/deltas.py
    <out>/<variant>/seed-<n>/   a run folder of its own, see ablation/folders.py

A seed orders the text and draws the masks; the phase keeps its name in all variants, so that those with one mixture and
one seed read the same batches. What is finished is not done again, what was interrupted goes on.
"""

import ctypes
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tessera import __version__, lock
from tessera.ablation import folders
from tessera.ablation.axes import Ablation, Variant, label, value_at
from tessera.ablation.deltas import ABLATION, DELTAS, study
from tessera.ablation.folders import AblationError, Job, Start
from tessera.data.shards import Shards, verify
from tessera.evaluation.evaluate import check, evaluate_recipe
from tessera.files import LOCK, fingerprint, refuse_url, remove_leftovers, write_json
from tessera.plan import fit, token_counts
from tessera.plan.errors import did_you_mean
from tessera.plan.fields import is_folder
from tessera.plan.loading import load
from tessera.plan.mixture import mixture_of
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe
from tessera.progress import Progress, Say, Watcher, silent
from tessera.results.result import HELD_OUT
from tessera.signals import listen_in_child
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.train import checkpoint, distributed
from tessera.train.merge_models import merge_folders
from tessera.train.start import Text
from tessera.train.trainer import train

_CHECKED_TOKENS = 10**10  # a few seconds of reading


def ablate(
    ablation: Ablation,
    start: Start,
    out: str | Path,
    *,
    seeds: int = 3,
    tasks: Sequence[str] | None = None,
    jobs: int = 1,
    watcher: Watcher,
) -> Path:
    """Trains and evaluates what is not finished; returns the differences that came out, <out>/deltas.json.

    seeds   how many: the recipe's own and the next ones
    tasks   names of the recipe's evaluation tasks; None: all of them. Held-out bits per byte are always measured, on at
            most evaluation.max_tokens tokens of each language
    jobs    processes at the same time, each with its own variant

    Everything that can be refused is refused before anything is trained: AblationError for what does not fit together,
    ValueError for evaluation data that cannot be read, and lock.AtWork where another process is at work in `out`.
    """
    out = Path(out)
    refuse_url(out)
    with lock.hold(out / LOCK, str(out)):
        remove_leftovers(out)
        return _ablate(ablation, start, out, seeds, tasks, jobs, watcher)


def _ablate(
    ablation: Ablation, start: Start, out: Path, seeds: int, tasks: Sequence[str] | None, jobs: int, watcher: Watcher
) -> Path:
    wanted = _tasks(ablation.recipe, tasks)
    text = Shards.open(start.run / "shards" / "train")
    ablation, start = _settled(ablation, start)
    _check(ablation, start, text, seeds, jobs)
    check(ablation.recipe.evaluation.only(wanted), rows=True)
    identity = {"start": fingerprint(start.folder), "shards": text.identity}
    every = [
        Job(
            variant=variant,
            seed=seed,
            folder=out / variant.name / f"seed-{seed}",
            recipe=folders.recipe_of(ablation.recipe, variant.phase, start, seed, wanted),
        )
        for seed in range(ablation.recipe.seed, ablation.recipe.seed + seeds)
        for variant in ablation.variants
    ]
    for job in every:
        folders.refuse_other(job, identity)
    for job in every:
        folders.link_inputs(job, start, identity, ablation.recipe.seed)
    write_json(out / ABLATION, _summary(ablation, start, seeds, wanted), sealed=True)
    if text.tokens <= _CHECKED_TOKENS:
        verify(text.folder)
    else:
        watcher.warn(f"{text.folder}: too large to check at every start; see tessera verify")
    _all([job for job in every if not job.variant.merged], jobs, watcher, "train")
    _all([job for job in every if job.variant.merged], jobs, watcher, "merge")
    write_json(out / DELTAS, study(out), sealed=True)
    return out / DELTAS


def _settled(ablation: Ablation, start: Start) -> tuple[Ablation, Start]:
    """Both with numbers in place of each `tokens: auto` that counts here, by the text of the run."""
    text = token_counts.from_shards(start.run / "shards" / "train")

    def fitted(phase: Phase) -> Phase:
        return fit.settled_phase(phase, text.buckets) if phase.auto and phase.kind == "masked" else phase

    def of(variant: Variant) -> Variant:
        return replace(variant, phase=fitted(variant.phase))

    axes = tuple(replace(axis, variants=tuple(map(of, axis.variants))) for axis in ablation.axes)
    before = tuple(fitted(one) if one.name in start.before else one for one in start.recipe.phases)
    recipe = start.recipe.model_copy(update={"phases": before})
    return replace(ablation, baseline=of(ablation.baseline), axes=axes), replace(start, recipe=recipe)


def _tasks(recipe: Recipe, names: Sequence[str] | None) -> list[str]:
    known = recipe.evaluation.names
    for name in names or ():
        if name not in (allowed := [*known, HELD_OUT]):
            raise AblationError(f"--evaluate {name}: the recipe has no such task; {did_you_mean(name, allowed)}")
    return [name for name in known if names is None or name in names]


def _check(ablation: Ablation, start: Start, text: Shards, seeds: int, jobs: int) -> None:
    if seeds < 1 or jobs < 1:
        raise AblationError(f"--seeds {seeds} --jobs {jobs}: at least one of each")
    if ablation.phase.kind != "masked":
        raise AblationError(
            f"phases.{ablation.phase.name} is {ablation.phase.kind}: what its teacher says, or its hard negatives, is "
            "computed by a run alone; vary a phase of masked language modelling, or run the recipe once for each value "
            "(tessera run --set)"
        )
    if ablation.phase.name in start.chain:
        raise AblationError(
            f"--from {start.folder}: {ablation.phase.name} itself went into it; vary a phase that comes after"
        )
    if start.phase is not None and (problem := checkpoint.damage(start.folder.resolve())) is not None:
        raise AblationError(f"--from {start.folder}: {problem}")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise AblationError("ablate starts its own processes (--jobs); do not start it with torchrun")
    for axis in ablation.axes:
        for variant in axis.variants:
            try:
                mixture_of(variant.phase, text.buckets)
            except ValueError as error:
                where = f"--vary phases.{variant.phase.name}.{axis.key}={variant.label}"
                raise AblationError(f"{where}: the text of {start.run} does not have it: {error}") from None


def _summary(ablation: Ablation, start: Start, seeds: int, tasks: Sequence[str]) -> dict[str, Any]:
    return {
        "recipe": ablation.recipe.name,
        "phase": ablation.phase.name,
        "from": str(start.folder),
        "tokens": ablation.phase.tokens,
        "seeds": [ablation.recipe.seed + n for n in range(seeds)],
        "tasks": [HELD_OUT, *tasks],
        "axes": [
            {"key": axis.key, "reference": label(value_at(ablation.phase, axis.key)),
             "values": [{"label": v.label, "variant": v.name} for v in axis.variants]}
            for axis in ablation.axes
        ],
        "tessera": __version__,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------- one after another


def _all(jobs: Sequence[Job], at_once: int, watcher: Watcher, verb: str) -> None:
    todo = [job for job in jobs if not folders.finished(job.folder, job.recipe.evaluation)]
    if len(todo) < len(jobs):
        watcher.say(f"{verb}: {len(jobs) - len(todo)} of {len(jobs)} are finished")
    if not todo:
        return
    report = watcher.progress(verb)
    if at_once > 1 and len(todo) > 1:
        side_by_side(todo, at_once, report, watcher.say)
        return
    for number, job in enumerate(todo):

        def within(done: int, total: int, what: str, number: int = number, name: str = job.name) -> None:
            report(number, len(todo), f"{name}: {what}")

        watcher.say(f"{job.name}: {make(job.folder, within):.0f} s")
        report(number + 1, len(todo), job.name)


def _alone(folder: Path, threads: int) -> tuple[float, str | None]:
    """(seconds, what is wrong or None) of a job in a process of its own."""
    try:
        return make(folder, threads=threads), None
    except (ValueError, OSError, ImportError) as error:
        return 0.0, str(error)


def side_by_side(
    todo: Sequence[Job], at_once: int, report: Progress, say: Say,
    work: Callable[[Path, int], tuple[float, str | None]] = _alone,
) -> None:  # fmt: skip
    """Each job in a new process, so many at once; where one fails, or a signal asks to stop, the others are told to,
    write their checkpoints and end.

    Raises AblationError saying which, and why.
    """
    threads = max(1, torch.get_num_threads() // at_once)
    processes = _Processes()
    with ThreadPoolExecutor(at_once) as pool:
        waiting = {pool.submit(processes.run, work, job.folder, threads): job for job in todo}
        try:
            for future in as_completed(list(waiting)):
                took, problem = future.result()
                job = waiting.pop(future)
                if problem is not None:
                    raise AblationError(f"{job.name}: {problem}")
                say(f"{job.name}: {took:.0f} s")
                report(len(todo) - len(waiting), len(todo), job.name)
        except EOFError:
            running = " or ".join(job.name for job in list(waiting.values())[:at_once])
            raise AblationError(
                f"{running}: its process ended before its work did; what was finished stays, so run the same command "
                "again (with fewer --jobs if memory was short)"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()


class _Processes:
    """Jobs in processes of their own, started by several threads and stopped by one."""

    def __init__(self) -> None:
        self.lock, self.running, self.stopped = threading.Lock(), set[BaseProcess](), False

    def run(self, work: Callable[[Path, int], Any], folder: Path, threads: int) -> Any:
        """What `work` returns in a new process. Raises EOFError where that ends before, or is not begun any more."""
        context = multiprocessing.get_context("spawn")  # a forked process would lack the threads that it thinks it has
        near, far = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(far, work, folder, threads))
        with self.lock:
            if self.stopped:
                raise EOFError
            process.start()
            self.running.add(process)
        far.close()
        try:
            return near.recv()
        finally:
            near.close()
            process.join()
            self.running.discard(process)

    def stop(self) -> None:
        """Tells all that still run to end; who waits for them goes on waiting."""
        with self.lock:
            self.stopped = True
            for process in list(self.running):
                process.terminate()


def _send(to: Connection, work: Callable[[Path, int], Any], folder: Path, threads: int) -> None:
    listen_in_child()
    to.send(work(folder, threads))


# ---------------------------------------------------------------------------------------------------------- one variant


def make(folder: Path, on_progress: Progress | None = None, threads: int | None = None) -> float:
    """Trains, or merges, and evaluates the variant in `folder`; returns the seconds.

    threads   where the recipe's machine names none
    Raises what `trainer.train` and `evaluate` raise.
    """
    began = time.perf_counter()
    report = on_progress or silent
    recipe = load(folder / "recipe.yaml")
    made_of = folders.fields(folder / folders.MADE_OF)
    phase = recipe.phases[-1]
    world = distributed.join(recipe.machine)
    if threads is not None and recipe.machine.threads is None:
        torch.set_num_threads(threads)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    model = folder / phase.name / "final"
    if model.exists():
        pass  # an earlier call was stopped after it
    elif made_of["merged"]:
        _merge(phase, folder, made_of["merged"])
    else:
        text = Text(
            train=Shards.open(folder / "shards" / "train"),
            held_out=None,  # measured below, with masks that are the same for all seeds
            tokenizer=tokenizer,
            tokenizer_folder=folder / "tokenizer",
        )
        train(recipe, phase, folder, text, world, report)
    files = evaluate_recipe(
        model,
        recipe.evaluation,
        folder / "evaluation",
        name=phase.name,
        held_out=folder / "shards" / "held_out",
        max_tokens=recipe.evaluation.max_tokens,
        seed=made_of["evaluation_seed"],  # the same hidden tokens for every variant and seed
        machine=recipe.machine,
        on_progress=report,
    )
    names = [path.relative_to(folder).as_posix() for path in files]
    done = {"evaluation": recipe.evaluation.model_dump(mode="json"), "files": names}
    write_json(folder / folders.FINISHED, done, sealed=True)
    if platform.libc_ver()[0] == "glibc":
        # Frees what model/precision.py had it keep: it is in pieces by now, and each variant would add some more.
        ctypes.CDLL(None).malloc_trim(0)
    return time.perf_counter() - began


def _merge(phase: Phase, folder: Path, variants: Sequence[str]) -> None:
    """What models of other variants learned since the start, added to it by TIES, as in mmBERT (arXiv:2509.06888)."""
    base = Path(phase.from_) if is_folder(phase.from_) else folder / phase.from_ / "final"
    models = [folder.parent.parent / name / folder.name / phase.name / "final" for name in variants]
    text = f"Merged by TIES from {len(models)} variants.\n"
    target = folder / phase.name / "final"
    merge_folders(models, target, base=base, tokenizer=folder / "tokenizer", describe=lambda *_: text)
