"""What each test example adds to a result: that its mean is the result, and that two results are compared by it."""

import json
import random
import statistics

import learnable
import pytest
from learnable import THINGS, protocol, sentence
from typer.testing import CliRunner

from tessera.cli import app
from tessera.data.examples import Choices, Labelled, Question, Tagged
from tessera.evaluation import sweep
from tessera.evaluation.evaluate import evaluate
from tessera.evaluation.trial import HEADS, Group
from tessera.plan.recipe import Machine
from tessera.plan.task import Task

CALM = Machine(device="cpu", dtype="float32")
LANGUAGES = ("aaa_Latn", "bbb_Latn")
MEANS = {
    "classify": ["accuracy", "micro_f1"],
    "pair": ["accuracy", "micro_f1"],
    "reward": ["accuracy", "micro_f1"],
    "choose": ["accuracy"],
    "span": ["squad_f1", "exact_match", "mlqa_f1", "mlqa_exact_match"],
    "tag": [],  # its accuracy is of words
    "regress": [],
}
OTHERS = {"classify": ["macro_f1", "mcc"], "pair": ["f1"], "tag": ["accuracy", "micro_f1"], "regress": ["pearson"]}
COLUMNS = {
    "classify": {"text": "text", "label": "label"},
    "regress": {"text": "text", "label": "label"},
    "pair": {"text": "text", "second": "second", "label": "label"},
    "reward": {"text": "text", "steps": "steps", "label": "label"},
    "choose": {"text": "text", "options": "options", "label": "label"},
    "tag": {"words": "words", "tags": "tags"},
    "span": {"question": "question", "context": "context", "answers": "answers", "starts": "starts"},
}


def task(kind="classify", metric="accuracy", also=(), **changes):
    given = {
        "name": "topics",
        "kind": kind,
        "data": {
            "path": "topics/{language}/{split}.jsonl",
            "splits": {"train": "train", "validation": "dev", "test": "test"},
        },
        "columns": COLUMNS[kind],
        "metric": metric,
        "also": also,
        "train": "aaa_Latn",
    }
    return Task.model_validate({**given, **changes})


def group(this):
    return Group(task=this, name="aaa_Latn", labels=(), train=(), validation={}, test={}, fingerprint="")


def guessed(rng, example):
    """What a model might say, right about half the time."""
    match example:
        case Tagged():
            return tuple(rng.choice([tag, 0]) for tag in example.tags)
        case Question():
            return rng.choice([example.answers[0][0], "stone", "", "the river"])
        case Choices():
            return rng.choice([example.label, 0])
        case Labelled():
            return rng.choice([example.label, 0, 1])


@pytest.mark.parametrize("kind", MEANS)
def test_the_mean_over_examples_is_the_metric_and_a_metric_that_is_none_has_no_examples(kind):
    rng, rows = random.Random(kind), learnable.examples(kind, 40, 1)
    metrics = [*MEANS[kind], *OTHERS.get(kind, [])]
    this = task(kind, metrics[0], metrics[1:])
    found, rows = {"predictions": {"eng_Latn": [guessed(rng, example) for example in rows]}}, {"eng_Latn": rows}
    each = HEADS.outcomes(group(this), found, rows)["eng_Latn"]
    assert list(each) == MEANS[kind]
    whole = HEADS.measure(group(this), found, rows)["eng_Latn"]
    for metric, values in each.items():
        assert len(values) == 40
        assert statistics.fmean(values) == pytest.approx(whole[metric], abs=1e-12)
        assert 0 < whole[metric] < 1


def test_answers_to_questions_worked_out_by_hand():
    def asked(n, *answers):
        return Question(question="where", context="", answers=tuple((a, 0) for a in answers), id=str(n), row=f":{n}")

    rows = [asked(0, "a big stone", "river"), asked(1, "bread"), asked(2)]
    asking = group(task("span", "squad_f1", ["exact_match"]))
    each = HEADS.outcomes(asking, {"predictions": {"en": ["Stone", "the bread", "cloud"]}}, {"en": rows})["en"]
    # "stone" of "big stone": precision 1, recall 1/2, F1 2/3; articles do not count; where nothing is right, silence is
    assert each["squad_f1"] == pytest.approx([2 / 3, 1, 0])
    assert each["exact_match"] == [0, 1, 0]


def test_of_several_seeds_an_example_has_the_mean_to_six_digits():
    assert sweep.mean_outcomes([[1, 0, 1], [1, 1, 0], [1, 0, 0]]) == [1.0, 0.333333, 0.333333]


# ------------------------------------------------------------------------------------------------------ from end to end


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"))


def write(place, splits, row, seed=0):
    """Rows of two languages below a folder; row(rng, label)."""
    for language in LANGUAGES:
        for split, count in splits.items():
            rng = random.Random(f"{language}{split}{seed}")
            rows = [{"id": n, **row(rng, rng.randrange(4))} for n in range(count)]
            path = place / "topics" / language / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def labelled(rng, label):
    return {"text": sentence(rng, THINGS[label]), "label": THINGS[label]}


def compared(*paths):
    """What `tessera compare` prints, on one line."""
    shown = CliRunner().invoke(app, ["compare", *map(str, paths)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    return " ".join(shown.output.split())


def test_two_fine_tuned_models_are_compared_by_the_examples_of_the_test_set(folder, tmp_path):
    data = write(tmp_path / "data", {"train": 80, "dev": 12, "test": 24}, labelled)
    this = task(also=["macro_f1"], labels=sorted(THINGS))
    hows = {
        name: protocol(learning_rates=[rate], seeds=[0, 1, 2], steps=30)
        for name, rate in (("lazy", 1e-9), ("keen", 5e-3))
    }
    paths = [sweep.run(folder, this, how, data, tmp_path / "out", CALM, name=name) for name, how in hows.items()]
    for path in paths:
        found = json.loads(path.read_text())
        assert list(found["outcomes"]) == ["accuracy"]
        for language in LANGUAGES:
            each = found["outcomes"]["accuracy"][language]
            assert statistics.fmean(each) == pytest.approx(found["results"][language]["accuracy"], abs=1e-6)
            rows = [json.loads(line) for line in (data / "topics" / language / "test.jsonl").read_text().splitlines()]
            right = [sorted(THINGS).index(row["label"]) for row in rows]
            trials_of = [
                json.loads(p.read_text()) for p in path.parent.glob(f"trials/{found['model']}.topics/**/*.json")
            ]
            predictions = [trial["predictions"][language] for trial in trials_of]
            assert each == [round(sum(one[n] == label for one in predictions) / 3, 6) for n, label in enumerate(right)]
    assert "paired permutation test over 48 examples of 2 languages: topics keen p=" in compared(*paths)
    write(data, {"test": 24}, labelled, seed=1)
    other = sweep.run(folder, this, hows["keen"], data, tmp_path / "other", CALM, name="keen")
    assert "paired" not in compared(paths[0], other)  # other examples: no pairs


def test_a_metric_that_is_no_mean_over_examples_is_compared_by_seeds(folder, tmp_path):
    data = write(tmp_path / "data", {"train": 80, "dev": 12, "test": 24}, labelled)
    this = task(metric="macro_f1", labels=sorted(THINGS))
    hows = {
        name: protocol(learning_rates=[rate], seeds=[0, 1], steps=4) for name, rate in (("lazy", 1e-3), ("keen", 5e-3))
    }
    paths = [sweep.run(folder, this, how, data, tmp_path, CALM, name=name) for name, how in hows.items()]
    assert json.loads(paths[0].read_text())["outcomes"] == {}
    assert "paired" not in compared(*paths)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("other"), initializer_range=0.5)


def test_probes_are_compared_by_examples(folder, other, tmp_path):
    data = write(tmp_path / "data", {"train": 40, "dev": 12, "test": 24}, labelled)
    this = task("classify", train="own").model_copy(update={"kind": "probe"})
    paths = [
        next(evaluate(model, [this], tmp_path / "out", data=data, machine=CALM, name=n))
        for n, model in (("a", folder), ("b", other))
    ]
    for path in paths:
        found = json.loads(path.read_text())
        for language in LANGUAGES:
            each = found["outcomes"]["accuracy"][language]
            assert len(each) == 24
            assert statistics.fmean(each) == pytest.approx(found["results"][language]["accuracy"])
    assert "paired permutation test over 48 examples of 2 languages: topics b p=" in compared(*paths)


def test_bitext_mining_is_compared_by_pairs(folder, other, tmp_path):
    def pair(rng, label):
        text = sentence(rng, THINGS[label])
        return {"text": text, "second": " ".join(reversed(text.split()))}

    data = write(tmp_path / "data", {"test": 20}, pair)
    this = Task.model_validate(
        {
            "name": "mining",
            "kind": "bitext",
            "data": {"path": "topics/{language}/{split}.jsonl"},
            "columns": {"text": "text", "second": "second"},
            "metric": "f1",
            "train": "none",
        }
    )
    paths = [
        next(evaluate(model, [this], tmp_path / "out", data=data, machine=CALM, name=n))
        for n, model in (("a", folder), ("b", other))
    ]
    for path in paths:
        found = json.loads(path.read_text())
        assert set(found["outcomes"]) == set(found["average"]) - {"margin_f1"}
        for metric, by_language in found["outcomes"].items():
            for language, each in by_language.items():
                assert len(each) == 20
                assert statistics.fmean(each) == pytest.approx(found["results"][language][metric], abs=1e-6)
    assert "paired permutation test over 40 examples of 2 languages: mining b p=" in compared(*paths)
