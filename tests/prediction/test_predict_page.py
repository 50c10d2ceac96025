"""docs/predict.md shows code that runs."""

import json
import re
import shutil
from pathlib import Path

import zstandard
from small_encoder import write_model
from task_models import bert, named

PAGE = (Path(__file__).parents[2] / "docs" / "predict.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_code_runs_in_its_order(tmp_path, monkeypatch, capsys):
    bert(tmp_path / "topics", "BertForSequenceClassification", **named("water", "food", "sky"))
    bert(tmp_path / "reranker", "BertForSequenceClassification", num_labels=1, sentence_transformers={"version": "5"})
    shutil.move(write_model(tmp_path / "made"), tmp_path / "model")
    lines = [json.dumps({"id": f"doc {n}", "text": f"one two three {n}"}) for n in range(30)]
    (tmp_path / "texts.jsonl.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(block, names)
    assert set(names["found"][0][0].__slots__) == {"id", "text", "score", "similarity"}
    assert len(names["found"][0]) == 20
    assert re.search(r"^doc \d+ 0\.\d+ one two three \d+$", capsys.readouterr().out, re.MULTILINE)


def test_the_columns_on_the_page_are_those_of_the_files():
    """Of each kind as the docstring of prediction_files.py has them."""
    text = (Path(__file__).parents[2] / "tessera" / "prediction" / "prediction_files.py").read_text(encoding="utf-8")
    due = re.findall(r"^    (\w+) +(\w.+)$", text.partition('"""')[2].partition('"""')[0], re.MULTILINE)
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", PAGE.partition("| kind | columns |")[2], re.MULTILINE)
    assert [(kind, columns.replace("`", "")) for kind, columns in rows] == [(a, b.replace("`", "")) for a, b in due]
