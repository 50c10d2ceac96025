"""docs/encode.md shows code that runs."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import zstandard
from small_encoder import write_model

PAGE = (Path(__file__).parents[2] / "docs" / "encode.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    shutil.move(write_model(tmp_path / "model"), tmp_path / "final")
    (tmp_path / "runs" / "mine" / "decay").mkdir(parents=True)
    shutil.move(tmp_path / "final", tmp_path / "runs" / "mine" / "decay" / "final")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_search_takes_twenty_lines_and_runs(here, monkeypatch, capsys):
    (search,) = (block for block in BLOCKS if "sys.argv" in block)
    assert sum(bool(line.strip()) and not line.startswith("#") for line in search.splitlines()) <= 20
    lines = [json.dumps({"id": f"doc {n}", "text": f"{'one two three ' * 20}{n}\nshort"}) for n in range(9)]
    (here / "texts.jsonl.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
    monkeypatch.setattr(sys, "argv", ["search.py", "runs/mine/decay/final", "texts.jsonl.zst", "one two", "x"])
    exec(search, {})
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "3 passages, 32 dimensions, 0.0 MB"
    assert said[2] == "one two"
    assert [line.split("  ")[2].split(":")[0] for line in said[3:6]].count("doc 0") == 1
    assert len(said) == 1 + 2 * 5


def test_the_other_code_runs_in_its_order(here):
    names: dict[str, object] = {}
    for block in BLOCKS:
        if "sys.argv" not in block:
            exec(block, names)
    assert names["vectors"].shape == (2, 32)
    assert (here / "for-others" / "modules.json").is_file()
