"""docs/export.md mentions every option of `tessera export` and `tessera quantize`."""

from pathlib import Path

import pytest
import typer

from tessera.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.mark.parametrize("verb", ["export", "quantize"])
def test_every_option_is_in_the_guide(verb):
    command = typer.main.get_command(app).commands[verb]
    options = [parameter.opts[0] for parameter in command.params if parameter.opts[0].startswith("--")]
    text = PAGE.read_text(encoding="utf-8")
    assert [option for option in options if option not in text] == []
