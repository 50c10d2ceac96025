"""Preflight check of a run: what it needs last is looked for first, before anything is written or computed.

Source files, scorers and filters, the tokenizer, model folders, tasks with their rows, and the libraries of every stage
that is still to come. All that is wrong is said at once.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from tessera.corpus import decontaminate, language_id, quality
from tessera.evaluation import evaluate
from tessera.files import refuse_url
from tessera.huggingface import hub
from tessera.huggingface.hf_files import find_model, located
from tessera.plan.fields import is_folder
from tessera.plan.recipe import Recipe
from tessera.plan.shipped import pip_line
from tessera.sources import storage
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.train.freeze import new_rows
from tessera.train.start import architecture


class PreflightError(ValueError):
    """What a run needs and does not find, each in a line of its own."""


def check(recipe: Recipe, folder: Path, stages: Sequence[str]) -> None:
    """Raises PreflightError naming all that is missing for what `stages` have still to do in `folder`; ValueError where
    that is a URL."""
    refuse_url(folder)
    if len(found := problems(recipe, folder, stages)) == 1:
        raise PreflightError(found[0])
    if found:
        raise PreflightError("\n  ".join(["these are needed, and nothing has been written yet:", *found]))


def problems(recipe: Recipe, folder: Path, stages: Sequence[str]) -> list[str]:
    """All that is missing, in the order of the stages."""
    needed: list[tuple[str, bool, Callable[[Recipe], None]]] = [
        ("documents", not (folder / "shards").exists(), _documents),
        ("documents", not (folder / "shards").exists(), _filters),
        ("tokenizer", not (folder / "tokenizer").exists(), _tokenizer),
        ("shards", not (folder / "shards").exists(), _tokenize),
        ("train", not all((folder / phase.name / "final").exists() for phase in recipe.phases), _models),
        ("evaluate", not (folder / "summary.json").exists(), _evaluation),
        ("report", True, _report),
    ]
    found = []
    for stage, todo, look in needed:
        if stage in stages and todo:
            try:
                look(recipe)
            except (ValueError, ImportError, OSError) as error:
                found.append(str(error))
    return found


def _documents(recipe: Recipe) -> None:
    missing = []
    for source in recipe.corpus.sources:
        try:
            storage.files(source)  # elsewhere too: its file system remembers the list for when it is read
        except (ValueError, ImportError, OSError) as error:
            missing.append(str(error))
    if missing:
        raise ValueError("\n".join(missing))
    _library("daft", f"preparing text needs Daft; {pip_line('prepare')}")
    if recipe.machine.engine == "ray":
        _library("ray", f"machine.engine is ray; {pip_line('cluster')}")


def _filters(recipe: Recipe) -> None:
    filters = recipe.corpus.filters
    if filters.language is not None:
        language_id.check(filters.language.model)
    if filters.contamination is not None:
        decontaminate.found_files(filters.contamination)
    for source in recipe.corpus.sources:
        if source.score is not None and is_folder(source.score):
            _model_folder(source.score, f"corpus.sources.{source.name}.score")
        elif source.score is not None:
            quality.scorer(source.score)


def _tokenizer(recipe: Recipe) -> None:
    if recipe.tokenizer.path is not None:
        tokenizer = Tokenizer.load(located(recipe.tokenizer.path))
        if recipe.model.preset is not None:
            architecture(recipe, tokenizer)


def _tokenize(recipe: Recipe) -> None:
    if recipe.machine.tokenize == "gigatoken":
        _library("gigatoken", f"machine.tokenize is gigatoken; {pip_line('gigatoken')}")


def _models(recipe: Recipe) -> None:
    for phase in recipe.phases:
        if is_folder(phase.from_):
            found = _model_folder(phase.from_, f"phases.{phase.name}.from")
            if not hub.is_ours(found):
                _library("transformers", f"{found} is read by transformers; {pip_line('evaluate')}")
                if phase.kind != "masked":  # what is computed before the phase begins would be in vain
                    raise ValueError(
                        f"phases.{phase.name}.from: {found} is run by transformers, and {phase.kind} trains models of "
                        "tessera's own families; tessera finetune does it"
                    )
        if phase.freeze == "all_but_new_rows":
            new_rows(recipe, phase)
        if phase.distil is not None:
            teacher = _model_folder(phase.distil.teacher, f"phases.{phase.name}.distil.teacher")
            if not hub.is_ours(teacher):
                _library("transformers", f"{teacher} is read by transformers; {pip_line('evaluate')}")
    for merge in recipe.merges:
        for place in merge.folders:
            _model_folder(place, f"merges.{merge.name}")
    if recipe.model.resize is not None:
        hub.read_config(_model_folder(recipe.model.resize.from_, "model.resize.from"))
    _described(recipe)


def _described(recipe: Recipe) -> None:
    """Raises ValueError for a model that is described, but that no phase makes."""
    given = [name for name in ("preset", "override", "resize") if getattr(recipe.model, name)]
    if given and not any(phase.from_ == "scratch" for phase in recipe.phases):
        first = recipe.phases[0]
        raise ValueError(
            f"model.{given[0]} says what phases from scratch make, and there is none: {first.name} starts from "
            f"{first.from_}, whose config.json decides; leave `model` out"
        )


def _evaluation(recipe: Recipe) -> None:
    evaluate.check(recipe.evaluation, rows=True)


def _report(recipe: Recipe) -> None:
    for name in ("altair", "jinja2", "vl_convert"):
        _library(name, f"the report needs {name}; {pip_line('report')}")


def _model_folder(place: str, where: str) -> Path:
    """The folder with a model that `where` in the recipe names. Raises ValueError where it holds none."""
    try:
        folder = find_model(place)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not (folder / "config.json").is_file():
        raise ValueError(f"{where}: there is no model at {place!r} (config.json is missing; from {Path.cwd()})")
    return folder


def _library(name: str, else_: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise ImportError(else_)
