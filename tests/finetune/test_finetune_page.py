"""docs/finetune.md shows code that runs."""

import re
from pathlib import Path

import learnable
from learnable import THINGS

PAGE = (Path(__file__).parents[2] / "docs" / "finetune.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_code_of_the_guide_runs_in_its_order(tmp_path, monkeypatch, capsys):
    learnable.model(tmp_path / "models").rename(tmp_path / "models" / "mine")
    rows = [f"{one.text},{THINGS[one.label]}" for one in learnable.examples("classify", 60, 0)]
    (tmp_path / "topics.csv").write_text("setningur,flokkur\n" + "\n".join(rows))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(block, names)
    assert "label: 'flokkur'" in capsys.readouterr().out
    assert (tmp_path / "models" / "topics" / "config.json").is_file()
