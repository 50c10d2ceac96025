"""What a result says of its data: answers out of reach, languages that are not tested, the class of f1, the dtype."""

import json

import learnable
import pytest
from learnable import THINGS
from task_files import write

from tessera.evaluation.catalogue import TaskError, find
from tessera.evaluation.evaluate import evaluate
from tessera.evaluation.rows import DataError
from tessera.plan.recipe import Machine
from tessera.report.compare import compare, tables
from tessera.results.result import read

CALM = Machine(device="cpu", dtype="float32")
HOW = "brief: {steps: 2, batch_size: 4, learning_rates: [1e-3], max_length: 256, stride: 64}"
THAI = "กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศไทย"
TASKS = """
answers:
  kind: span
  data: {path: "answers/{language}/{split}.jsonl", splits: {train: train, test: test}}
  columns: {id: id, question: question, context: context, answers: answers.text, starts: answers.answer_start}
  metric: squad_f1
  train: tha_Thai
topics:
  kind: probe
  data: {path: "topics/{language}/{split}.jsonl", splits: {train: train, test: test}}
  columns: {id: id, text: text, label: label}
  metric: accuracy
truths:
  kind: classify
  data: {path: "truths/{split}.csv", splits: {train: train, test: test}}
  columns: {text: text, label: label}
  metric: f1
  languages: [eng_Latn]
  train: all
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def data(tmp_path):
    (tmp_path / "tasks.yaml").write_text(TASKS)
    (tmp_path / "how.yaml").write_text(HOW)
    return tmp_path


def run(model, data, *names, **how):
    names = [f"{data}/tasks.yaml:{name}" for name in names]
    given = {"protocol": f"{data}/how.yaml", "data": data, "machine": CALM, "name": "m", **how}
    return [read(path) for path in evaluate(model, names, data / "out", **given)]


def notes(data):
    return "\n".join(tables(compare([data / "out"]))[1])


def question(number, context, answer):
    found = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"id": str(number), "question": "ที่ไหน", "context": context, "answers": found}


def test_answers_that_no_window_holds_are_counted_by_language_and_said(model, data):
    short = [question(n, THAI, THAI[n : n + 20]) for n in range(6)]
    long = [question(n, THAI * 3, (THAI * 3)[4 : 4 + 140]) for n in range(6, 8)]
    write(data / "answers" / "tha_Thai" / "train.jsonl", short)
    write(data / "answers" / "tha_Thai" / "test.jsonl", [*short, *long])
    write(data / "answers" / "eng_Latn" / "test.jsonl", [question(0, "the river near the house", "river")])
    (found,) = run(model, data, "answers")
    assert found.about_data["out_of_reach"] == {"tha_Thai": 2}
    said = "no answer of 2 of 9 questions can be given (22.2%, most in tha_Thai: 25%): all are too long, or whole in"
    assert said in notes(data)
    assert run(model, data, "answers")[0].about_data == found.about_data  # of a finished trial too


def topics(data, language, *splits, labels=THINGS):
    for split in splits:
        rows = [{"id": n, "text": f"the {labels[n % len(labels)]} {n}", "label": labels[n % len(labels)]}
                for n in range(24)]  # fmt: skip
        write(data / "topics" / language / f"{split}.jsonl", rows)


def test_languages_without_rows_to_train_on_are_said_and_an_error_where_they_are_asked_for(model, data):
    topics(data, "aaa_Latn", "train", "test")
    topics(data, "ron_Latn", "test")
    (found,) = run(model, data, "topics")
    assert set(found.results) == {"aaa_Latn"}
    assert found.about_data["without_training"] == ["ron_Latn"]
    assert "not tested, since there is nothing to train on: ron_Latn" in notes(data)
    with pytest.raises(DataError, match=r"ron_Latn: test rows, but none to train on, and `train: own`.*train: all"):
        run(model, data, "topics", languages=["ro"])
    (data / "topics" / "aaa_Latn" / "train.jsonl").unlink()
    with pytest.raises(DataError, match="aaa_Latn, ron_Latn: test rows, but none to train on"):
        run(model, data, "topics")


@pytest.mark.parametrize("code", ["ro", "ron", "ron_Latn", "ron-Latn"])
def test_a_language_is_asked_for_by_any_of_its_codes(model, data, code):
    topics(data, "aaa_Latn", "train", "test")
    topics(data, "ron_Latn", "train", "test")
    (found,) = run(model, data, "topics", languages=[code])
    assert set(found.results) == {"ron_Latn"}
    beside = compare([data / "out" / "ron_Latn"], languages=[code])  # one folder, however it was spelled
    assert [set(one.values) for one in beside.tasks["topics"]] == [{"ron_Latn"}]


def test_a_label_of_a_probe_that_is_only_tested_on_is_said(model, data):
    topics(data, "aaa_Latn", "train")
    topics(data, "aaa_Latn", "test", labels=[*THINGS[:3], "unheard"])
    (found,) = run(model, data, "topics")
    assert found.about_data["unseen_labels"] == {"aaa_Latn": ["unheard"]}
    assert "labels of aaa_Latn that no training row has, so always wrong: unheard" in notes(data)


def test_f1_says_which_class_it_is_of_and_a_result_in_which_number_format_it_was_computed(model, data):
    rows = "text,label\n" + "".join(f"the {word} {n},{n % 2 == 0}\n" for n, word in enumerate(THINGS * 4))
    for split in ("train", "test"):
        (data / "truths").mkdir(exist_ok=True)
        (data / "truths" / f"{split}.csv").write_text(rows)
    (found,) = run(model, data, "truths")
    assert found.about_data == {"f1_of": "true"}
    assert (found.dtype, found.defined) == ("float32", "own")
    assert "f1 is of the class 'true'" in notes(data)
    assert "computed in float32" in notes(data)


def test_rows_of_all_tasks_are_looked_through_before_the_first_is_trained(model, data):
    topics(data, "aaa_Latn", "train", "test")
    short = [question(n, THAI, THAI[n : n + 20]) for n in range(6)]
    for split in ("train", "test"):
        write(data / "answers" / "tha_Thai" / f"{split}.jsonl", short)
        (data / "truths").mkdir(exist_ok=True)
        (data / "truths" / f"{split}.csv").write_text("text,label\na,1\nb,0\nc,\n")
    with pytest.raises(DataError, match=r"test.csv|train.csv"):
        run(model, data, "answers", "topics", "truths")
    assert not list((data / "out").rglob("*.json"))


@pytest.mark.parametrize(
    ("kind", "metric", "columns"),
    [
        ("span", "accuracy", "{question: q, context: c, answers: a, starts: s}"),
        ("probe", "f1", "{text: text, label: label}"),
        ("regress", "accuracy", "{text: text, label: label}"),
        ("retrieve", "accuracy", "{query: q, positive: p}"),
        ("classify", "ndcg@10", "{text: text, label: label}"),
        ("tag", "squad_f1", "{words: w, tags: t}"),
    ],
)
@pytest.mark.parametrize("key", ["metric", "also"])
def test_a_metric_that_is_not_of_the_kind_is_refused_when_the_task_is_read(data, kind, metric, columns, key):
    own = {"span": "squad_f1", "regress": "pearson", "retrieve": "ndcg@10"}.get(kind, "accuracy")
    metrics = f"metric: {metric}" if key == "metric" else f"metric: {own}, also: [{metric}]"
    (data / "one.yaml").write_text(
        f'one: {{kind: {kind}, data: {{path: "{{language}}.jsonl"}}, columns: {columns}, {metrics}}}'
    )
    with pytest.raises(TaskError, match=f"one.yaml: one: metric {metric} is not of kind {kind}, which is measured by"):
        find(f"{data}/one.yaml")


def test_numbers_of_old_files_and_odd_ones_are_read_or_refused_in_words(data):
    whole = {"model": "m", "task": "t", "kind": "classify", "metric": "accuracy", "protocol": {},
             "results": {"eng_Latn": {"accuracy": 0.5}}, "data": "d"}  # fmt: skip
    path = data / "old.json"
    path.write_text(json.dumps(whole))
    assert (read(path).defined, read(path).dtype, read(path).warnings.f1_of) == ("", "", "")
    path.write_text(json.dumps({**whole, "about_data": {"out_of_reach": ["x"]}}))
    with pytest.raises(ValueError, match=r"old.json: is no result.*out_of_reach"):
        read(path)
