"""`tessera evaluate --task` as people type it: invented sets of their own, what is printed, what is refused."""

import json
import random

import learnable
import pytest
from learnable import THINGS, sentence
from typer.testing import CliRunner

from tessera import Encoder
from tessera.cli.app import app
from tessera.evaluation.evaluate import _folder

TASKS = """
topics:
  kind: probe
  data: {path: "topics/{language}/{split}.jsonl", splits: {train: train, validation: dev, test: test}}
  columns: {id: id, text: text, label: label}
  metric: accuracy
  train: own
same:
  kind: bitext
  data: {path: "same/{language}.jsonl", splits: {test: test}}
  columns: {id: id, text: here, second: there}
  metric: accuracy
  train: none
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"))


def rows_of(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": number, **row}) + "\n" for number, row in enumerate(rows)))


def topics(place, *languages):
    """Sets whose label is a word of the text."""
    for language in languages:
        for split, count in (("train", 60), ("dev", 16), ("test", 16)):
            rng = random.Random(split)
            labels = [THINGS[number % 4] for number in range(count)]
            rows = [{"text": sentence(rng, label, label), "label": label} for label in labels]
            rows_of(place / "topics" / language / f"{split}.jsonl", rows)


@pytest.fixture
def data(tmp_path):
    topics(tmp_path, "aaa_Latn", "bbb_Latn")
    sentences = [sentence(random.Random(number), THINGS[number % 4]) for number in range(12)]
    rows_of(tmp_path / "same" / "aaa_Latn.jsonl", [{"here": text, "there": text} for text in sentences])
    (tmp_path / "tasks.yaml").write_text(TASKS)
    return tmp_path


def typed(model, data, *words):
    shown = CliRunner().invoke(
        app, ["evaluate", str(model), "--data", str(data), "--out", str(data / "out"), "--name", "small", *words]
    )
    return shown.exit_code, shown.output, shown.exception


def test_every_task_that_was_asked_for_is_in_the_table(model, data):
    both = ("--task", f"{data}/tasks.yaml:topics", "--task", f"{data}/tasks.yaml:same")
    code, output, error = typed(model, data, *both)
    assert code == 0, error
    probe, bitext = (json.loads((data / "out" / f"small.{name}.json").read_text()) for name in ("topics", "same"))
    assert bitext["results"]["aaa_Latn"]["accuracy"] == 1.0  # each sentence is its own translation
    assert set(probe["results"]) == {"aaa_Latn", "bbb_Latn"}
    assert probe["average"]["accuracy"] > 0.5  # of four classes
    said = [[cell.strip() for cell in line.split("│")] for line in output.splitlines()]
    assert ["", "same", "accuracy", "100.00", ""] in said
    assert ["", "topics", "accuracy", f"{100 * probe['average']['accuracy']:.2f}", ""] in said


def test_the_number_format_is_that_of_the_result(model, data):
    for dtype in ("float32", "bfloat16"):
        code, _, error = typed(model, data, "--task", f"{data}/tasks.yaml:same", "--dtype", dtype)
        assert code == 0, error
        found = json.loads((data / "out" / "small.same.json").read_text())
        assert found["protocol"]["dtype"] == f"torch.{dtype}"


def test_what_is_measured_already_is_not_measured_again(model, data, monkeypatch):
    how = ("--task", f"{data}/tasks.yaml:topics")
    first = typed(model, data, *how)
    written = (data / "out" / "small.topics.json").read_bytes()
    monkeypatch.setattr(Encoder, "encode", None)
    again = typed(model, data, *how)
    assert again[0] == 0, again[2]
    assert again[1].split("┏")[1] == first[1].split("┏")[1]
    assert (data / "out" / "small.topics.json").read_bytes() == written
    changed = data / "topics" / "aaa_Latn" / "test.jsonl"
    changed.write_text(changed.read_text().replace("house", "garden"))
    assert typed(model, data, *how)[0] == 1  # other rows have to be encoded


def test_a_task_in_one_of_its_languages_has_a_result_of_its_own(model, data):
    of_all = typed(model, data, "--task", f"{data}/tasks.yaml:topics")
    written = (data / "out" / "small.topics.json").read_bytes()
    code, output, error = typed(model, data, "--task", f"{data}/tasks.yaml:topics", "--language", "bbb_Latn")
    assert (of_all[0], code) == (0, 0), error
    found = json.loads((data / "out" / "bbb_Latn" / "small.topics.json").read_text())
    assert list(found["results"]) == ["bbb_Latn"]
    assert "aaa_Latn" not in output
    assert (data / "out" / "small.topics.json").read_bytes() == written
    code, _, error = typed(model, data, "--task", f"{data}/tasks.yaml:topics", "--language", "BBB-latn")
    assert code == 0, error
    assert [path.name for path in (data / "out").iterdir() if path.is_dir()] == ["bbb_Latn"]  # as it is spelled here


def test_results_of_some_languages_lie_apart():
    assert _folder(()) == []
    assert _folder(["b", "a", "b"]) == ["a+b"]
    assert _folder(["ro", "de"]) == _folder(["deu_Latn", "ron"]) == ["deu_Latn+ron_Latn"]
    four, others = _folder(["a", "b", "c", "d"]), _folder(["a", "b", "c", "e"])
    assert four[0].startswith("4-languages-")
    assert four != others


def test_a_language_that_a_task_lacks_is_refused_before_anything_is_run(model, data):
    code, _, error = typed(model, data, "--task", f"{data}/tasks.yaml:topics", "--language", "bbb_Lath")
    assert code == 1
    assert str(error) == "task topics has no language 'bbb_Lath'; did you mean 'bbb_Latn'?"
    assert not (data / "out").exists()


def test_many_languages_are_counted_instead_of_shown(model, data):
    codes = [f"a{x}{y}_Latn" for x in "bcdefg" for y in "bcdefg"]
    topics(data, *codes)
    code, output, error = typed(model, data, "--task", f"{data}/tasks.yaml:topics")
    assert code == 0, error
    assert codes[0] not in output
    assert "topics has 38 languages; tessera compare --languages shows each" in output


def test_options_that_nothing_would_heed_are_refused_by_name(model, data):
    recipe = data / "r.yaml"
    topics_of = ("--task", f"{data}/tasks.yaml:topics")
    for words, says in (
        ((*topics_of, "--set", "evaluation.pooling=cls"), "only machine.KEY can be set beside --task"),
        ((*topics_of, "--set", "machine.dtipe=float32"), "unknown key 'dtipe'; did you mean 'dtype'"),
        ((*topics_of, "--set", "machine.threads=[1"), "--set machine.threads: '[1' is not YAML"),
        ((*topics_of, "--available"), "--available goes with --mteb, not --task"),
        (("--mteb", "NTREX", "--set", "machine.threads=1"), "--set goes with --recipe and --task, not --mteb"),
        (("--mteb", "NTREX", "--oracle"), "--oracle goes with --task, not --mteb"),
        (("--mteb", "NTREX", "--held-out", "x"), "--held-out goes with --recipe and --task, not --mteb"),
    ):
        code, _, error = typed(model, data, *words)
        assert code == 1
        assert says in str(error)
    for option, says in (("--protocol", "evaluation.protocol"), ("--language", "names its languages"), ("--data", "")):
        shown = CliRunner().invoke(app, ["evaluate", str(model), "--recipe", str(recipe), option, "x"])
        assert f"{option} goes with --task" in str(shown.exception)
        assert says in str(shown.exception)
    assert not (data / "out").exists()


def test_the_machine_can_be_set_beside_a_task(model, data):
    words = ("--task", f"{data}/tasks.yaml:same", "--set", "machine.dtype=float32", "--set", "machine.threads=1")
    code, output, error = typed(model, data, *words)
    assert code == 0, error
    assert json.loads((data / "out" / "small.same.json").read_text())["dtype"] == "float32"
    assert "computed in float32" in output
