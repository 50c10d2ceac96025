"""Ablations: one phase from one checkpoint, once as the recipe has it and once for each value of each axis, over seeds.

    <out>/ablation.json                   what was asked
    <out>/deltas.json                     what came out, see ablation/deltas.py
    <out>/<variant>/seed-<n>/             a run folder of its own
        recipe.yaml variant.json          what it is, and what it was made from
        finished.json                     written last
        tokenizer shards <start>          links into the run that the checkpoint is of
        <phase>/                          metrics.jsonl, checkpoints, final
        evaluation/<phase>.<task>.json

A seed orders the text and draws the masks; the phase keeps its name in all variants, so that those with one mixture and
one seed read the same batches. What is finished is not done again, what was interrupted goes on.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

import torch

from tessera import __version__
from tessera.ablation.axes import Ablation, Variant, label, value_at
from tessera.ablation.deltas import ABLATION, DELTAS, study
from tessera.ablation.variant import MADE_OF, Progress, finished, make
from tessera.data.shards import Shards, verify
from tessera.evaluation.evaluate import check
from tessera.files import fingerprint, write_json, write_text
from tessera.plan.course import shares_of
from tessera.plan.errors import did_you_mean
from tessera.plan.loading import changes, dump, load, science
from tessera.plan.recipe import Phase, Recipe
from tessera.plan.result import HELD_OUT
from tessera.plan.strict import is_folder
from tessera.train import checkpoint

_CHECKED_TOKENS = 10**10  # a few seconds of reading


class AblationError(ValueError):
    """An ablation that cannot be run as asked, with what to do."""


class Watcher(Protocol):
    """Who is told how far it is."""

    def say(self, text: str) -> None:
        """One line for people."""

    def progress(self, stage: str) -> Progress:
        """A stage begins; call the result with (done, total, what)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where all variants start."""

    run: Path  # whose tokenizer and shards are read
    folder: Path  # of the checkpoint
    phase: str | None  # of the run's recipe, whose optimizer state goes on; None: a folder with a model only
    recipe: Recipe  # the run's


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One variant with one seed."""

    variant: Variant
    seed: int
    folder: Path
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"


def find_start(given: str, run: Path) -> Start:
    """The checkpoint that `--from` means: a phase of the finished run `run`, or a folder.

    A folder is one of a run (`runs/nano/mid/final`, `runs/nano/mid`), whose tokenizer and shards are then read, or any
    model, which takes those of `run`. Raises AblationError.
    """
    folder = Path(given)
    if is_folder(given):
        folder = folder if (folder / "config.json").exists() else folder / "final"
        above = folder.parent.parent
        if (above / "recipe.yaml").is_file() and (above / "shards").exists():
            run = above
    else:
        folder = run / given / "final"
    if not (run / "recipe.yaml").is_file():
        raise AblationError(f"{run} holds no run whose tokenizer and shards could be read; name one with --run")
    recipe = load(run / "recipe.yaml")
    if not (folder / "config.json").is_file():
        stages = [*(phase.name for phase in recipe.phases), *(merge.name for merge in recipe.merges)]
        done = [name for name in stages if (run / name / "final").exists()]
        hint = did_you_mean(folder.parent.name, done)
        raise AblationError(f"--from {given}: there is no model at {folder}; {hint} (finished in {run})")
    stage = folder.parent.name if folder.parent.parent == run else None
    phase = stage if stage in {p.name for p in recipe.phases} else None
    if phase is not None and (problem := checkpoint.damage(folder.resolve())) is not None:
        raise AblationError(f"--from {given}: {problem}")
    return Start(run=run, folder=folder, phase=phase, recipe=recipe)


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
    ValueError for evaluation data that cannot be read.
    """
    out = Path(out)
    wanted = _tasks(ablation.recipe, tasks)
    text = Shards.open(start.run / "shards" / "train")
    _check(ablation, start, text, seeds, jobs)
    check(ablation.recipe.evaluation.only(wanted), rows=True)
    identity = {"start": fingerprint(start.folder), "shards": text.identity}
    every = [
        Job(
            variant=variant,
            seed=seed,
            folder=out / variant.name / f"seed-{seed}",
            recipe=_recipe(ablation.recipe, variant.phase, start, seed, wanted),
        )
        for seed in range(ablation.recipe.seed, ablation.recipe.seed + seeds)
        for variant in ablation.variants
    ]
    for job in every:
        _refuse_other(job, identity)
    for job in every:
        _furnish(job, start, identity, ablation.recipe.seed)
    write_json(out / ABLATION, _summary(ablation, start, seeds, wanted))
    if text.tokens <= _CHECKED_TOKENS:
        verify(text.folder)
    _all([job for job in every if not job.variant.merged], jobs, watcher, "train")
    _all([job for job in every if job.variant.merged], jobs, watcher, "merge")
    write_json(out / DELTAS, study(out))
    return out / DELTAS


def _tasks(recipe: Recipe, names: Sequence[str] | None) -> list[str]:
    known = recipe.evaluation.names
    for name in names or ():
        if name not in (*known, HELD_OUT):
            hint = did_you_mean(name, [*known, HELD_OUT])
            raise AblationError(f"--evaluate {name}: the recipe has no such task; {hint}")
    return [name for name in known if names is None or name in names]


def _check(ablation: Ablation, start: Start, text: Shards, seeds: int, jobs: int) -> None:
    if seeds < 1 or jobs < 1:
        raise AblationError(f"--seeds {seeds} --jobs {jobs}: at least one of each")
    if ablation.phase.name in _chain(start):
        raise AblationError(
            f"--from {start.folder}: {ablation.phase.name} itself went into it; vary a phase that comes after"
        )
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise AblationError("ablate starts its own processes (--jobs); do not start it with torchrun")
    for axis in ablation.axes:
        for variant in axis.variants:
            try:
                shares_of(variant.phase, text.buckets)
            except ValueError as error:
                where = f"--vary phases.{variant.phase.name}.{axis.key}={variant.label}"
                raise AblationError(f"{where}: the text of {start.run} does not have it: {error}") from None


def _chain(start: Start) -> list[str]:
    """The phases of the run that went into the checkpoint, oldest first."""
    phases, name, chain = {p.name: p for p in start.recipe.phases}, start.phase, []
    while name is not None and name in phases:
        chain.append(name)
        name = phases[name].from_
    return chain[::-1]


def _recipe(base: Recipe, phase: Phase, start: Start, seed: int, tasks: Sequence[str]) -> Recipe:
    """What a variant is as a run of its own: text, tokenizer and model of the run, the phase, evaluation and machine of
    the recipe."""
    origin = start.phase or (str(start.folder) if start.folder.is_absolute() else f"./{start.folder}")
    data = {
        **start.recipe.model_dump(by_alias=True),
        "name": f"{base.name}-{phase.name}",
        "seed": seed,
        "notes": "",
        "phases": [
            *(start.recipe.phase(name).model_dump(by_alias=True) for name in _chain(start)),
            {**phase.model_dump(by_alias=True), "from": origin},
        ],
        "merges": [],
        "evaluation": base.evaluation.only(tasks).model_dump(by_alias=True),
        "machine": base.machine.model_dump(by_alias=True),
    }
    return Recipe.model_validate(data)


def _refuse_other(job: Job, identity: dict[str, str]) -> None:
    """Raises AblationError where the folder holds something else than this job."""
    if not (job.folder / MADE_OF).exists():
        strange = sorted(p.name for p in job.folder.glob("*") if p.name != "recipe.yaml" and not p.name.startswith("."))
        if strange:
            raise AblationError(f"{job.folder} holds no variant, but {strange[0]}; give another folder (--out)")
        return  # a kill may have left a recipe there
    before = load(job.folder / "recipe.yaml")
    found = json.loads((job.folder / MADE_OF).read_text(encoding="utf-8"))
    old, new = ({**science(r), "evaluation": None, "notes": ""} for r in (before, job.recipe))
    differing = changes(old, new) + [
        f"{what}: other bytes than before" for what, value in identity.items() if found.get(what) != value
    ]
    if differing:
        raise AblationError(
            f"{job.folder} was made otherwise; these differ (before -> now):\n  "
            + "\n  ".join(differing)
            + "\nGive another folder (--out)"
        )


def _furnish(job: Job, start: Start, identity: dict[str, str], seed: int) -> None:
    """The folder of a job with links to all that it shares."""
    job.folder.mkdir(parents=True, exist_ok=True)
    write_text(job.folder / "recipe.yaml", dump(job.recipe))
    write_json(
        job.folder / MADE_OF,
        {"variant": job.variant.label, "merged": job.variant.merged, "evaluation_seed": seed, **identity},
    )
    for name in ("tokenizer", "shards", *_chain(start)[:-1]):
        _link(job.folder / name, start.run / name)
    if start.phase is not None:
        (job.folder / start.phase).mkdir(exist_ok=True)
        _link(job.folder / start.phase / "final", start.folder)


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))


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


# ------------------------------------------------------------------------------------------------------------- the work


def _all(jobs: Sequence[Job], at_once: int, watcher: Watcher, verb: str) -> None:
    todo = [job for job in jobs if not finished(job.folder, job.recipe.evaluation)]
    if len(todo) < len(jobs):
        watcher.say(f"{verb}: {len(jobs) - len(todo)} of {len(jobs)} are finished")
    if not todo:
        return
    report = watcher.progress(verb)
    if at_once > 1 and len(todo) > 1:
        _side_by_side(todo, at_once, report, watcher.say)
        return
    for number, job in enumerate(todo):
        took = make(job.folder, partial(_within, report, number, len(todo), job.name))
        watcher.say(f"{job.name}: {took:.0f} s")
        report(number + 1, len(todo), job.name)


def _within(report: Progress, number: int, total: int, name: str, done: int, of: int, what: str) -> None:
    """Progress inside a job as progress of all of them."""
    report(number, total, f"{name}: {what}")


def _side_by_side(todo: Sequence[Job], at_once: int, report: Progress, say: Callable[[str], None]) -> None:
    """Each job in a process of its own."""
    context = multiprocessing.get_context("spawn")  # a forked process would lack the threads that it thinks it has
    threads = max(1, torch.get_num_threads() // at_once)
    waiting = list(todo)
    running: list[tuple[SpawnProcess, Job, Connection]] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                ear, mouth = context.Pipe(duplex=False)
                process = context.Process(target=_alone, args=(waiting[0].folder, threads, mouth))
                process.start()
                mouth.close()
                running.append((process, waiting.pop(0), ear))
            wait([process.sentinel for process, _, _ in running])
            for ended in [item for item in running if item[0].exitcode is not None]:
                running.remove(ended)
                process, job, ear = ended
                took, problem = _heard(ear, process.exitcode)
                if problem is not None:
                    raise AblationError(f"{job.name}: {problem}")
                say(f"{job.name}: {took:.0f} s")
                report(len(todo) - len(waiting) - len(running), len(todo), job.name)
    finally:
        for process, _, _ in running:
            process.terminate()
            process.join()


def _heard(ear: Connection, status: int | None) -> tuple[float, str | None]:
    """(seconds, what went wrong or None) that a process said before it ended."""
    try:
        took, problem = ear.recv()
        return float(took), problem
    except EOFError:
        why = f"its process ended with status {status}; what was finished stays, so run the same command again"
        return 0.0, why + " (with fewer --jobs if memory was short)"


def _alone(folder: Path, threads: int, mouth: Connection) -> None:
    """A job as a process: says how long it took, or in words what is wrong."""
    try:
        mouth.send((make(folder, threads=threads), None))
    except (ValueError, OSError, ImportError) as error:
        mouth.send((0.0, str(error)))
