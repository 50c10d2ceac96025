"""One variant of an ablation in its folder: trained or merged, then measured, going on where it stands.

A file says what it was made from, so that a process needs to be told nothing but the folder; another, written last,
says that it is done.
"""

import ctypes
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tessera.data.shards import Shards
from tessera.data.tokenizer import Tokenizer
from tessera.evaluation.evaluate import evaluate_recipe
from tessera.files import atomic_folder, write_json
from tessera.model import hub, merging
from tessera.plan.evaluation import Evaluation
from tessera.plan.loading import load
from tessera.plan.recipe import Recipe
from tessera.plan.strict import is_folder
from tessera.train import checkpoint, distributed
from tessera.train.start import Text
from tessera.train.trainer import train

Progress = Callable[[int, int, str], None]
MADE_OF, FINISHED = "variant.json", "finished.json"


def finished(folder: Path, evaluation: Evaluation) -> bool:
    """Whether it was done to the end with this evaluation."""
    try:
        found = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        whole = all((folder / file).exists() for file in found["files"])
        return bool(whole and found["evaluation"] == evaluation.model_dump(mode="json"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def make(folder: Path, on_progress: Progress | None = None, threads: int | None = None) -> float:
    """Trains, or merges, and evaluates the variant in `folder`; returns the seconds.

    threads   where the recipe's machine names none
    Raises what `trainer.train` and `evaluate` raise.
    """
    began = time.perf_counter()
    report = on_progress or (lambda done, total, what: None)
    recipe = load(folder / "recipe.yaml")
    made_of = json.loads((folder / MADE_OF).read_text(encoding="utf-8"))
    phase = recipe.phases[-1]
    world = distributed.join(recipe.machine)
    if threads is not None and recipe.machine.threads is None:
        torch.set_num_threads(threads)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    model = folder / phase.name / "final"
    if made_of["merged"]:
        _merge(recipe, folder, made_of["merged"])
    elif not model.exists():
        text = Text(
            train=Shards.open(folder / "shards" / "train"),
            held_out=None,  # measured below, with masks that are the same for all seeds
            tokenizer=tokenizer,
            tokenizer_folder=folder / "tokenizer",
        )
        train(recipe, phase, folder, text, world, report, lambda line: None)
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
    write_json(folder / FINISHED, {"evaluation": recipe.evaluation.model_dump(mode="json"), "files": names})
    _give_back()
    return time.perf_counter() - began


def _give_back() -> None:
    """Frees what model/allocator.py had glibc keep: it is in pieces by now, and each variant would add some more."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _merge(recipe: Recipe, folder: Path, variants: Sequence[str]) -> None:
    """What models of other variants learned since the start, added to it by TIES, as in mmBERT (arXiv:2509.06888)."""
    phase = recipe.phases[-1]
    target = folder / phase.name / "final"
    if target.exists():
        return
    base = Path(phase.from_) if is_folder(phase.from_) else folder / phase.from_ / "final"
    models = [folder.parent.parent / name / folder.name / phase.name / "final" for name in variants]
    merged = hub.load(models[0])
    states = [merged.state_dict(), *(hub.load(path).state_dict() for path in models[1:])]
    merged.load_state_dict(merging.ties(hub.load(base).state_dict(), states))
    with atomic_folder(target) as staging:
        hub.save(merged, staging, folder / "tokenizer", f"Merged by TIES from {len(models)} variants.\n")
        checkpoint.seal(staging)
