"""docs/recipes.md explains every key that a recipe may have, and no other."""

import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from tessera.plan import corpus, evaluation, fields, phase, recipe, task, task_data
from tessera.plan.fields import Strict
from tessera.plan.recipe import Recipe

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
SECTIONS = {re.findall(r"\w+", part)[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that an annotation mentions, however deep: `tuple[A | B, ...]` gives A and B."""
    if inspect.isclass(annotation):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for inner in typing.get_args(annotation):
        yield from models_in(inner)


def keys(model: type[BaseModel], within: tuple[str, ...], seen: set[type[BaseModel]]) -> Iterator[tuple[str, ...]]:
    """The places of all keys below a model; those of a model that stands in two places, in the first."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        place = (*within, field.alias or name)
        yield place
        for inner in models_in(field.annotation):
            yield from keys(inner, place, seen)


PLACES = sorted(keys(Recipe, (), set()))


def words(text: str) -> set[str]:
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)  # an example explains nothing
    return {word for span in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", span)}


def test_no_model_of_the_recipe_is_overlooked():
    list(keys(Recipe, (), reached := set()))
    things = [
        thing
        for module in (recipe, phase, corpus, fields, evaluation, task, task_data)
        for thing in vars(module).values()
    ]
    models = {thing for thing in things if inspect.isclass(thing) and issubclass(thing, Strict)}
    assert reached == models - {Strict, task.Protocol, task.Sweep, task.Spaced}  # those are not of a recipe


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_every_key_of_a_recipe_is_explained_in_its_section(place):
    text = SECTIONS.get(place[0], PAGE.partition("\n## ")[0])  # `name`, `seed` and `notes` stand before all sections
    assert place[-1] in words(text), f"docs/recipes.md does not say what {'.'.join(place)} is"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_that_is_explained_is_a_key_of_a_recipe(section):
    known = {key for place in PLACES if place[0] == section for key in place}
    first_column = "\n".join(re.findall(r"^\| (`.*?`) \|", SECTIONS[section], re.MULTILINE))
    assert words(first_column) <= known
