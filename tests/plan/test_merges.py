"""What a recipe's merges may join is known before anything is trained."""

from pathlib import Path

import pytest

from tessera.plan.loading import RecipeError, load
from tessera.plan.recipe import Recipe

PHASE = "tokens: 1M, context: 64, batch_tokens: 4k, mask_ratio: 0.3, learning_rate: {peak: 1e-4}"


def recipe(
    place: Path, a: str = "", b: str = "", merge: str = "", preset: str = "mmbert-small", start: str = ""
) -> Path:
    place /= "recipe.yaml"
    place.write_text(f"""\
name: small
corpus:
  sources:
    - {{name: web, path: data/web}}
model: {{preset: {preset}}}
phases:
  - {{name: start, from: {start or "scratch"}, {PHASE}}}
  - {{name: a, from: start, {PHASE}{a}}}
  - {{name: b, from: start, {PHASE}{b}}}
merges:
  - {{name: m, method: linear, models: [a, b]{merge}}}
""")
    return place


THETA = ", rope_theta: {{global: {0}, local: {0}}}".format


@pytest.mark.parametrize(("a", "b"), [(THETA(160000), ""), ("", THETA(160000)), (THETA(250000), THETA(160000))])
def test_models_of_other_rotary_bases_do_not_merge_by_the_order_in_which_they_are_named(a, b, tmp_path):
    with pytest.raises(RecipeError, match=r"joins models of different rotary bases: a has global .*, b has global .*"):
        load(recipe(tmp_path, a, b))
    assert load(recipe(tmp_path, a, b, ", config_of: b")).merges[0].config_of == "b"


@pytest.mark.parametrize(("a", "b"), [("", ""), (THETA(160000), THETA("160_000")), ("", THETA(10000))])
def test_bases_that_are_the_same_merge_however_they_are_said(a, b, tmp_path):
    assert load(recipe(tmp_path, a, b)).merges[0].config_of is None


def test_bases_of_a_folder_are_looked_at_when_it_is_read(tmp_path):
    assert load(recipe(tmp_path, "", THETA(160000), start="./somewhere")).merges[0].models == ("a", "b")


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (", config_of: start", "config_of is 'start', which is none of its models"),
        (", weights: [-1, 2]", "numbers of at least 0 that are not all 0"),
        (", weights: [0, 0]", "numbers of at least 0 that are not all 0"),
        (", weights: [.nan, 1]", "finite number"),
        (", weights: [.inf, 1]", "finite number"),
        (", scale: .inf", "finite number"),
    ],
)
def test_numbers_and_names_of_a_merge_are_looked_at_before_training(more, text, tmp_path):
    with pytest.raises(RecipeError, match=text):
        load(recipe(tmp_path, merge=more))


def test_a_phase_merges_with_the_folder_that_it_started_from(tmp_path):
    given = load(recipe(tmp_path, "", "", ", weights: [0.5, 0.5]", start="./start"))
    both = {**given.model_dump(mode="json", by_alias=True)}
    both["merges"][0]["models"] = ["./start", "b"]
    found = Recipe.model_validate(both).merges[0]
    assert (found.trained, found.folders, found.stages) == (("b",), ("./start",), ("b",))
    both["merges"][0]["models"] = ["./start", "./other"]
    with pytest.raises(ValueError, match="is a phase; tessera merge joins folders alone"):
        Recipe.model_validate(both)
