"""docs/serve.md shows code that runs, and names routes and options that are there."""

import re
from pathlib import Path

import httpx
import pytest
from typer.main import get_command

from tessera.batching.service import Limits
from tessera.cli import app as command_line

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_code_runs_in_its_order(server):
    names = {}
    for block in BLOCKS:
        here = block.replace("http://127.0.0.1:8080", server.url).replace("/models/model", "/models/small")
        exec(here.replace('model="model"', 'model="small"'), names)
    assert len(names["found"].data) == 2


def test_every_option_of_the_page_is_one_of_the_command():
    command = get_command(command_line).commands["serve"]
    known = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"--(?:max|auto|cors|api|host|timeout|stop|log|verbose)[\w-]*", PAGE)) <= known


def test_every_route_of_the_page_is_one_of_the_server(server):
    there = {
        (way.upper(), path)
        for path, ways in httpx.get(server.url + "/openapi.json").json()["paths"].items()
        for way in ways
    }
    table = PAGE.partition("| route |")[2].partition("\n\n")[0]
    named = set()
    for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        way = ""
        for word in re.findall(r"GET|POST|/[\w/]+", cell):
            way, path = (word, None) if word.isupper() and "/" not in word else (way, word)
            named |= {(way, path)} if path and "NAME" not in path else set()
    assert {(way, path) for way, path in there if path != "/v1/models/{name}" and path != "/ping"} == named


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("262,144", "queue_tokens"),
        ("2,048", "texts"),
        ("30 seconds", "read_seconds"),
        ("120 seconds", "answer_seconds"),
    ],
)
def test_limits_of_the_page_are_those_of_the_server(said, field):
    assert said in PAGE
    assert int(re.sub(r"\D", "", said)) == getattr(Limits(), field)
