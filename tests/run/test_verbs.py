"""The command's own page, and options that mean the same in every verb."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tessera.cli import app
from tessera.cli.app import PANELS


def test_every_verb_is_listed_once_under_what_one_wants() -> None:
    listed = [name for names in PANELS.values() for name in names]
    verbs = typer.main.get_command(app)
    assert sorted(listed) == sorted(verbs.commands)
    page = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).stdout
    at = [page.index(f"─ {panel} ─") for panel in PANELS]
    assert at == sorted(at)
    for start, end, names in zip(at, [*at[1:], len(page)], PANELS.values(), strict=True):
        assert all(f"│ {name} " in page[start:end] for name in names)


@pytest.mark.parametrize("verb", [["export"], ["quantize", "--texts", "texts.txt"]])
@pytest.mark.parametrize("folders", [[], ["one", "--out", "two"]])
def test_the_folder_to_write_is_named_once(verb: list[str], folders: list[str]) -> None:
    done = CliRunner().invoke(app, [verb[0], "model", *folders, *verb[1:]])
    assert done.exit_code == 2
    assert "name the folder to write once" in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize("how", [[], ["--out"]])
def test_it_is_named_in_its_place_or_by_out(how: list[str], tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    done = CliRunner().invoke(app, ["quantize", "model", *how, str(taken), "--texts", "texts.txt"])
    assert "there already" in str(done.exception)
