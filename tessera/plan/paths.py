"""Paths on this machine that a recipe names and that are not there: sources, tokenizer, models, evaluation data."""

import glob
from collections.abc import Iterator
from pathlib import Path

from tessera.plan.fields import is_folder
from tessera.plan.recipe import Recipe


def missing(recipe: Recipe) -> list[str]:
    """Each as a place in the recipe, with what it names; addresses elsewhere (hf://, s3:// ...) are not looked at."""
    return [f"{place}: there is nothing at {path!r}" for place, path in _named(recipe) if not _there(path)]


def _named(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for source in recipe.corpus.sources:
        yield f"corpus.sources.{source.name}.path", source.path
        if source.score is not None and is_folder(source.score) and ":" not in source.score:
            yield f"corpus.sources.{source.name}.score", source.score
    filters = recipe.corpus.filters
    if filters.language is not None and is_folder(filters.language.model):
        yield "corpus.filters.language.model", filters.language.model
    for name, places in (filters.contamination.sets if filters.contamination is not None else {}).items():
        yield from ((f"corpus.filters.contamination.sets.{name}", place) for place in places)
    if recipe.tokenizer.path is not None:
        yield "tokenizer.path", recipe.tokenizer.path
    for phase in recipe.phases:
        if is_folder(phase.from_):
            yield f"phases.{phase.name}.from", phase.from_
    if recipe.model.resize is not None:
        yield "model.resize.from", recipe.model.resize.from_
    if recipe.evaluation.data is not None:
        yield "evaluation.data", recipe.evaluation.data


def _there(path: str) -> bool:
    path = path.removeprefix("file://")
    place = Path(path).expanduser()
    return "://" in path or place.exists() or any(glob.iglob(str(place), recursive=True))
