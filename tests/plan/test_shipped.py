"""Recipes by name, from anywhere; and pip lines of errors that name extras which exist."""

import ast
import importlib.metadata
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from tessera.cli import _which_pip, app
from tessera.plan import shipped
from tessera.plan.loading import RecipeError, load

HOUSE = Path(__file__).parents[2]
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
SOURCES = sorted((HOUSE / "tessera").rglob("*.py"))
NAMES = sorted(path.stem for path in (HOUSE / "recipes").glob("*.yaml"))


def tessera(*words: str) -> str:
    shown = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, f"{shown.output}\n{shown.exception}"
    return shown.output


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_that_comes_with_tessera_is_read_by_its_name_from_an_empty_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(name) == load(HOUSE / "recipes" / f"{name}.yaml")


def test_every_verb_that_takes_a_recipe_takes_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "decay-cont" in tessera("plan", "mmbert-base")
    assert "mask_ratio" in tessera("plan", "mmbert-base", "--set", "phases.mid.mask_ratio=0.2", "--json")


def test_the_recipes_are_listed_shown_and_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first_words = [line.split()[0] for line in tessera("recipes").splitlines() if line.strip()]
    assert [word for word in first_words if word in NAMES] == NAMES
    text = (HOUSE / "recipes" / "nano.yaml").read_text(encoding="utf-8")
    assert tessera("recipes", "nano") == text
    tessera("recipes", "nano", "--out", "mine.yaml")
    assert Path("mine.yaml").read_text(encoding="utf-8") == text
    for words, says in (
        (("recipes", "nano", "--out", "mine.yaml"), "mine.yaml: there already"),
        (("recipes", "--out", "other.yaml"), "name the one to copy"),
        (("recipes", "nanno"), "nanno: not a recipe that comes with tessera; did you mean 'nano'?"),
    ):
        shown = CliRunner().invoke(app, words)
        assert says in str(shown.exception)
    assert sorted(path.name for path in Path().iterdir()) == ["mine.yaml"]


def test_a_file_or_folder_of_your_own_is_told_from_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # as a folder may well be called
    assert load("demo").name == "demo"
    (tmp_path / "nano").write_text((HOUSE / "recipes" / "demo.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert load("nano").name == "demo"
    for given, says in (
        ("mine.yaml", "mine.yaml: no such recipe"),
        ("recipes/nano.yaml", f"{Path('recipes/nano.yaml')}: no such recipe here; tessera brings it along"),
        ("mmbert", "mmbert: neither a file nor a recipe that comes with tessera; did you mean 'mmbert-"),
    ):
        with pytest.raises(RecipeError, match="^" + re.escape(says)):
            load(given)


def test_what_a_recipe_is_ends_with_its_first_sentence():
    said = {name: shipped.description(path) for name, path in shipped.recipes().items()}
    assert said["adapt"].startswith("A new language for a model that exists")
    assert "arXiv:2509.06888" in said["mmbert-base"]
    assert all(20 < len(text) < 300 for text in said.values()), said


# ----------------------------------------------------------------------------------------------------------- pip lines


def calls_of(source: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "pip_line"
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(HOUSE / "tessera")))
def test_no_file_writes_a_pip_line_of_tessera_by_hand_or_names_an_extra_that_does_not_exist(path):
    source = path.read_text(encoding="utf-8")
    if path.name != "shipped.py":
        assert "pip install -e" not in source
        assert "tessera-encoders[" not in source
    for call in calls_of(source):
        (argument,) = call.args
        extras = argument.value.split(",") if isinstance(argument, ast.Constant) else []
        assert set(extras) <= set(EXTRAS), f"line {call.lineno}"


def test_there_are_pip_lines_to_look_at():
    assert sum(len(calls_of(path.read_text(encoding="utf-8"))) for path in SOURCES) > 15


def test_the_line_asks_pip_for_what_is_installed_and_names_the_checkout_where_nothing_is(monkeypatch):
    assert shipped.pip_line("report") == 'pip install "tessera-encoders[report]"'

    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    assert shipped.pip_line("report") == f'pip install -e "{HOUSE}[report]"'


def test_what_the_readme_installs_is_enough_for_what_it_runs():
    readme = (HOUSE / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r'pip install -e "\.\[([\w,]+)\]"', readme)
    brought = {Requirement(one).name for extra in line.split(",") for one in EXTRAS[extra]}
    assert {"daft", "transformers", "scikit-learn", "altair", "jinja2", "django", "polib"} <= brought


def test_the_pip_of_another_python_is_told_from_that_of_this_one(tmp_path, monkeypatch):
    said = 'needs altair; pip install "tessera-encoders[report]"'
    own = Path(sys.executable).parent / "pip"
    for which, line in (
        (own, ""),
        (tmp_path / "pip", f"{sys.executable} -m pip)"),
        (None, f"{sys.executable} -m pip)"),
    ):
        monkeypatch.setattr(shutil, "which", lambda _, which=which: which and str(which))
        assert _which_pip(said).endswith(line)
        assert bool(_which_pip(said)) is bool(line)
        assert _which_pip("no such file") == ""
