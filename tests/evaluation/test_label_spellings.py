"""Whoever answers rightly scores 100, however the files write the labels; few examples and folds from end to end."""

import csv
import json
import random

import learnable
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learnable import THINGS, sentence
from task_files import CLASSIFY, TAG, task, write

from tessera.evaluation import load, trial
from tessera.evaluation.evaluate import evaluate
from tessera.labelled.labels import spelled
from tessera.plan.recipe import Machine
from tessera.prediction import metrics
from tessera.results.result import read

CALM = Machine(device="cpu", dtype="float32")
SPELLINGS = [  # of the two or three classes of a set, each in several ways
    [[True, "true", "True", " TRUE "], [False, "false", "False"]],
    [[0, "0", 0.0, "0.0", " 0"], [1, "1", 1.0, "1.00"]],
    [[-1, "-1", -1.0], [0, "-0", "0"], [1, "1"]],
    [["good", " good", "good "], ["bad"], ["Bad"]],
    [["01"], [1, "1.0"], ["1e0"]],
    [["gut", "gut\n"], ["schön"], ["是", " 是"]],
]


@settings(max_examples=40)
@given(st.data())
def test_a_perfect_model_scores_one_hundred_whatever_the_spelling_of_the_labels(tmp_path_factory, data):
    classes = data.draw(st.sampled_from(SPELLINGS))
    drawn = st.integers(0, len(classes) - 1).flatmap(lambda n: st.sampled_from(classes[n]).map(lambda s: (n, s)))
    first = [(n, data.draw(st.sampled_from(several))) for n, several in enumerate(classes)]
    rows = [*first, *data.draw(st.lists(drawn, min_size=1, max_size=12))]
    declared = [spelled(several[0]) for several in classes] if data.draw(st.booleans()) else None
    place = tmp_path_factory.mktemp("rows")
    for split in ("train", "test"):
        write(place / f"{split}.jsonl", [{"id": n, "text": "x", "label": label} for n, (_, label) in enumerate(rows)])
    source = {"path": "{split}.jsonl", "splits": {"train": "train", "test": "test"}}
    this = task({**CLASSIFY, "labels": declared}, data=source)
    names = load.labels(this, place)
    found = load.load(this, "test", "fo", place)
    assert len(names) == len(classes)
    for metric in ("accuracy", "macro_f1", "mcc"):
        right = [example.label for example in found]
        assert metrics.score(metric, right, right, names=names) == pytest.approx(1.0), rows
    numbers = {n: {example.label for example, (of, _) in zip(found, rows, strict=True) if of == n} for n, _ in rows}
    assert all(len(same) == 1 for same in numbers.values()), "one class in two spellings is two"
    assert len(set.union(*numbers.values())) == len(classes), "two classes are one"


@pytest.mark.parametrize(("kind", "metric"), [("tag", "entity_f1"), ("tag", "run_f1"), ("tag", "accuracy")])
def test_perfect_tags_score_one_hundred_too(tmp_path, kind, metric):
    rows = [{"words": ["a", "b", "c"], "tags": tags} for tags in (["B-PER", "I-PER", "O"], [" B-PER", "O", "O "])]
    write(tmp_path / "test.jsonl", rows)
    this = task({**TAG, "metric": metric, "train": "none"}, data={"path": "test.jsonl", "splits": {"test": "test"}})
    right = [trial._right(example) for example in load.load(this, "test", "fo", tmp_path)]
    assert metrics.score(metric, right, right, names=TAG["labels"]) == 1.0


# --------------------------------------------------------------------------------------------- few examples, and folds


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"))


def run(model, place, yaml, how):
    (place / "tasks.yaml").write_text(yaml)
    (place / "how.yaml").write_text(how)
    found = evaluate(model, [f"{place}/tasks.yaml"], place / "out", protocol=f"{place}/how.yaml", data=place,
                     machine=CALM, name="m")  # fmt: skip
    return [read(path) for path in found]


def test_cross_validation_and_few_examples_train_from_end_to_end_and_learn(model, tmp_path):
    """A set of questions that has a test split alone, as XQuAD, and one of topics of which few are trained on."""
    rng = random.Random(0)
    with (tmp_path / "all.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, ["id", "text", "label"])
        out.writeheader()
        out.writerows({"id": n, "text": sentence(rng, THINGS[n % 4]), "label": THINGS[n % 4]} for n in range(160))
    asked = []
    for number in range(60):
        before, answer = sentence(rng), f"{THINGS[number % 4]} stone"
        found = {"text": [answer], "answer_start": [len(before) + 1]}
        context = f"{before} {answer} {sentence(rng)}"
        asked.append({"id": str(number), "question": "where", "context": context, "answers": found})
    (tmp_path / "xquad.json").write_text(json.dumps(asked))
    topics, questions = run(
        model,
        tmp_path,
        """
few:
  kind: classify
  data: {path: all.csv, splits: {train: {from: all, per_label: 20}, test: all}}
  columns: {id: id, text: text, label: label}
  metric: accuracy
  languages: [eng_Latn]
  train: all
folded:
  kind: span
  data: {path: xquad.json, splits: {test: all}}
  columns: {id: id, question: question, context: context, answers: answers.text, starts: answers.answer_start}
  metric: squad_f1
  languages: [eng_Latn]
  folds: 2
""",
        "brief: {steps: 50, batch_size: 16, learning_rates: [5e-3], warmup_ratio: 0.1, max_length: 64}",
    )
    assert topics.examples == {"eng_Latn": 80}  # the others are not tested
    assert topics.average["accuracy"] > 0.6  # of four classes
    assert questions.examples == {"eng_Latn": 60}
    assert questions.protocol["folds"] == 2
    assert len(questions.outcomes["squad_f1"]["eng_Latn"]) == 60
    assert questions.average["squad_f1"] > 0.3
    assert "out_of_reach" not in questions.about_data
