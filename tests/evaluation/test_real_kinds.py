"""Kinds that no sweep trains, and those that need rows made for them, from real text to a table, as people type it."""

import json
import re
from pathlib import Path

import learnable
import pytest
import zstandard
from typer.testing import CliRunner

from tessera.cli.app import app
from tessera.evaluation.evaluate import evaluate
from tessera.plan.languages import spelled

EVAL = Path(__file__).parents[2].parent / "shared" / "data" / "eval"
pytestmark = pytest.mark.skipif(
    not EVAL.is_dir(), reason="the real evaluation sets, in shared/data/eval beside the repository, are not here"
)
PROTOCOL = """
short: {steps: 4, batch_size: 8, learning_rates: [0.001], warmup_ratio: 0.1, weight_decay: 0.01, max_length: 64,
        train_examples: 32, test_examples: 16}
"""
SEARCH = """
search:
  kind: retrieve
  data:
    path: cosqa/dev.jsonl.zst
    splits: {train: {from: dev, share: 0.6}, validation: {from: dev, share: 0.1}, test: {from: dev, share: 0.3}}
    where: {label: "1"}
  columns: {id: id, query: query, positive: code}
  metric: ndcg@10
  languages: [code]
"""
STEPS = """
steps:
  kind: reward
  data: {path: "{split}.jsonl", splits: {train: train, test: test}}
  columns: {id: id, text: problem, steps: solution, label: right}
  metric: accuracy
  languages: [en]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"))


def result(model, task, data, out, **how):
    (path,) = evaluate(model, [str(task)], out, data=data, name="m", **how)
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("task", "language", "examples", "metrics"),
    [
        ("tatoeba", "fao", 262, {"accuracy", "margin_f1"}),
        ("sib200-probe", "swh_Latn", 204, {"accuracy", "macro_f1"}),
        ("sib200-probe-english", "fao_Latn", 204, {"accuracy", "macro_f1"}),
        ("cosqa", "code", None, {"ndcg@10", "recall@10", "mrr@10"}),
    ],
)
def test_a_model_as_it_is_goes_from_real_rows_to_a_result(model, tmp_path, task, language, examples, metrics):
    found = result(model, task, EVAL, tmp_path, languages=[language])
    (row,) = found["results"].values()
    assert metrics <= set(row), row
    assert all(0 <= value <= 1 for value in row.values())
    assert examples in (None, found["examples"][spelled(language)])


def test_a_search_is_trained_and_tested_on_real_code(model, tmp_path):
    (tmp_path / "search.yaml").write_text(SEARCH)
    (tmp_path / "short.yaml").write_text(PROTOCOL)
    found = result(model, tmp_path / "search.yaml", EVAL, tmp_path / "out", protocol=f"{tmp_path}/short.yaml:short")
    assert found["examples"] == {"code": 16}
    assert 0 <= found["average"]["ndcg@10"] <= 1
    assert found["trials"][0]["steps"] == 4


def test_steps_of_real_paragraphs_are_told_from_steps_of_others(model, tmp_path):
    """Sentences of a paragraph follow from its first one; one of another paragraph does not."""
    with zstandard.open(EVAL / "xquad" / "en" / "paragraphs.jsonl.zst", "rt", encoding="utf-8") as file:
        texts = [re.split(r"(?<=[.?!]) ", json.loads(line)["text"]) for line in file]
    texts = [sentences[:4] for sentences in texts if len(sentences) >= 4]
    rows = []
    for number, (problem, *steps) in enumerate(texts):
        right = [True, True, True]
        if number % 2:
            steps[2], right[2] = texts[number - 1][3], False
        rows.append({"id": number, "problem": problem, "solution": steps, "right": right})
    for split, some in (("train", rows[:60]), ("test", rows[60:90])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (tmp_path / "steps.yaml").write_text(STEPS)
    (tmp_path / "short.yaml").write_text(PROTOCOL)
    shown = CliRunner().invoke(
        app,
        ["evaluate", str(model), "--task", f"{tmp_path}/steps.yaml", "--protocol", f"{tmp_path}/short.yaml:short",
         "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--name", "m"],
    )  # fmt: skip
    assert shown.exit_code == 0, shown.exception
    found = json.loads((tmp_path / "out" / "m.steps.short.json").read_text())
    assert found["kind"] == "reward"
    assert found["examples"] == {"eng_Latn": 48}  # three steps of each of 16 rows
    assert f"{100 * found['average']['accuracy']:.2f}" in shown.output
