"""What docs/shrink.md shows is run: each command and the Python, on a small folder and plain text."""

import json
import re
import runpy
import shlex
from pathlib import Path

import learnable
import pytest
import small
import task_files
import typer
import yaml
from typer.testing import CliRunner

from tessera.cli import app
from tessera.files import read_json
from tessera.inference.encoder import Encoder

PAGE = (Path(__file__).parents[2] / "docs" / "shrink.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^tessera (.*)$", re.sub(r"\\\n\s*", " ", PAGE), re.MULTILINE)
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A model, text and a task under the names of the page; seconds are enough for the training."""
    small.embedder(tmp_path, layers=6).rename(tmp_path / "minilm")
    (tmp_path / "models").mkdir()
    (tmp_path / "minilm").rename(tmp_path / "models" / "minilm")
    small.write_text(tmp_path / "text" / "eng_Latn.jsonl", 30)
    rows = [{"text": one.text, "label": one.label} for one in learnable.examples("classify", 60, 0)]
    for split, some in {"train": rows[:40], "test": rows[40:]}.items():
        task_files.write(tmp_path / "data" / "eng_Latn" / f"{split}.jsonl", some)
    task = {"kind": "probe", "metric": "accuracy", "labels": learnable.THINGS,
            "columns": {"text": "text", "label": "label"},
            "data": {"path": "{language}/{split}.jsonl", "splits": {"train": "train", "test": "test"}}}  # fmt: skip
    (tmp_path / "topics.yaml").write_text(yaml.safe_dump({"topics": task}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_does_what_it_says(here, command):
    words = shlex.split(command)
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0, (done.output, done.exception)
    out = Path(words[words.index("--out") + 1])
    points = read_json(out / "shrink.json")["points"]
    assert points[0]["name"] == "minilm"
    assert {point["layers"] for point in points[-1:]} <= {2, 3}
    for point in points[1:]:
        assert Encoder.from_pretrained(point["folder"]).encode("the river").shape == (32,)
    if "--task" in words:
        assert "topics" in str(points[1]["scores"])
        assert Path("curve.png").stat().st_size > 1000
        assert list((out / "evaluation").glob("*.json"))
    if "--json" in words:
        assert [json.loads(line)["layers"] for line in done.output.splitlines() if line.startswith("{")] == [6, 3]
    else:
        assert "3-layers" in done.output
    assert ("trimmed" in [point["name"] for point in points]) == ("--trim" in words)


def test_the_folders_of_the_page_are_those_that_are_made(here):
    shown = re.findall(r"small/(\d)-layers", PAGE)
    CliRunner().invoke(app, shlex.split(COMMANDS[0]), env={"COLUMNS": "200"})
    assert sorted(path.name for path in Path("small").glob("*-layers")) == sorted(f"{n}-layers" for n in shown)


def test_the_python_of_the_page_runs(here, capsys):
    (here / "it.py").write_text(CODE[0])
    runpy.run_path(str(here / "it.py"))
    assert capsys.readouterr().out.splitlines()[1].startswith("3-layers (")


def test_every_option_is_in_the_guide():
    command = typer.main.get_command(app).commands["shrink"]
    options = [parameter.opts[0] for parameter in command.params if parameter.opts[0].startswith("--")]
    known = {"--help", "--device", "--dtype", "--text-language", "--column", "--held-out"}
    assert [option for option in options if option not in PAGE and option not in known] == []
