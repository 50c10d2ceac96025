"""Folders of an ablation: the checkpoint that all variants start from, and a run folder for each variant and seed.

    <out>/<variant>/seed-<n>/             a run folder of its own
        recipe.yaml variant.json          what it is, and what it was made from
        finished.json                     written last: which files are the results of which evaluation
        tokenizer shards <start>          links into the run that the checkpoint is of
        <phase>/                          metrics.jsonl, checkpoints, final
        evaluation/<phase>.<task>.json

So a process needs to be told nothing but the folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tessera.ablation.axes import Variant
from tessera.checksums import check_text, sealed_text
from tessera.files import link_folder, read_json, write_json, write_text
from tessera.plan.errors import did_you_mean
from tessera.plan.evaluation import Evaluation
from tessera.plan.fields import is_folder
from tessera.plan.loading import changes, dump, load, science
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe

MADE_OF, FINISHED = "variant.json", "finished.json"


class AblationError(ValueError):
    """An ablation that cannot be run as asked, with what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where all variants start."""

    run: Path  # whose tokenizer and shards are read
    folder: Path  # of the checkpoint
    phase: str | None  # of the run's recipe, whose optimizer state goes on; None: a folder with a model only
    recipe: Recipe  # the run's

    @property
    def chain(self) -> list[str]:
        """The phases of the run that went into the checkpoint, oldest first."""
        return self.recipe.chain(self.phase)

    @property
    def before(self) -> set[str]:
        """All stages that went into the checkpoint, also by merges."""
        return self.recipe.went_into(self.phase)


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
    known = folder.parent.parent == run and recipe.chain(folder.parent.name)
    return Start(run=run, folder=folder, phase=folder.parent.name if known else None, recipe=recipe)


def recipe_of(base: Recipe, phase: Phase, start: Start, seed: int, tasks: Sequence[str]) -> Recipe:
    """What a variant is as a run of its own: text, tokenizer and model of the run, the phase, evaluation and machine of
    the recipe."""
    origin = start.phase or (str(start.folder) if start.folder.is_absolute() else f"./{start.folder}")
    data = {
        **start.recipe.model_dump(by_alias=True),
        "name": f"{base.name}-{phase.name}",
        "seed": seed,
        "notes": "",
        "phases": [
            *(one.model_dump(by_alias=True) for one in start.recipe.phases if one.name in start.before),
            {**phase.model_dump(by_alias=True), "from": origin},
        ],
        "merges": [one.model_dump(by_alias=True) for one in start.recipe.merges if one.name in start.before],
        "evaluation": base.evaluation.only(tasks).model_dump(by_alias=True),
        "machine": base.machine.model_dump(by_alias=True),
    }
    return Recipe.model_validate(data)


def refuse_other(job: Job, identity: dict[str, str]) -> None:
    """Raises AblationError where the folder holds something else than this job."""
    if not (job.folder / MADE_OF).exists():
        strange = sorted(p.name for p in job.folder.glob("*") if p.name != "recipe.yaml" and not p.name.startswith("."))
        if strange:
            raise AblationError(f"{job.folder} holds no variant, but {strange[0]}; give another folder (--out)")
        return  # a kill may have left a recipe there
    check_text(job.folder / "recipe.yaml")
    before = load(job.folder / "recipe.yaml")
    found = fields(job.folder / MADE_OF)
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


def link_inputs(job: Job, start: Start, identity: dict[str, str], seed: int) -> None:
    """Makes the folder of a job, with links to the tokenizer, shards and checkpoints that all jobs share."""
    job.folder.mkdir(parents=True, exist_ok=True)
    write_text(job.folder / "recipe.yaml", sealed_text(dump(job.recipe)))
    write_json(
        job.folder / MADE_OF,
        {"variant": job.variant.label, "merged": job.variant.merged, "evaluation_seed": seed, **identity},
        sealed=True,
    )
    for name in ("tokenizer", "shards", *start.chain[:-1]):
        _link(job.folder / name, start.run / name)
    if start.phase is not None:
        (job.folder / start.phase).mkdir(exist_ok=True)
        _link(job.folder / start.phase / "final", start.folder)


def _link(link: Path, target: Path) -> None:
    if not link.exists():
        link_folder(link, target)


def fields(path: Path) -> dict[str, Any]:
    """What a JSON file of an ablation says. Raises AblationError naming one that is missing, damaged or another."""
    try:
        found = read_json(path)
    except OSError as error:
        raise AblationError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise AblationError(str(error)) from None
    if not isinstance(found, dict):
        raise AblationError(f"{path}: holds no JSON object; remove it so that it is made anew")
    return found


def finished(folder: Path, evaluation: Evaluation) -> bool:
    """Whether it was done to the end with this evaluation. Raises AblationError where what says so is damaged."""
    if not (folder / FINISHED).exists():
        return False
    found = fields(folder / FINISHED)
    files = found.get("files")
    if not isinstance(files, list) or not all(isinstance(name, str) and (folder / name).exists() for name in files):
        return False
    return bool(found.get("evaluation") == evaluation.model_dump(mode="json"))
