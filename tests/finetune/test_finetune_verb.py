"""`tessera finetune`: rows of every kind in, a folder out that transformers loads and that Predictor answers with."""

import json
from types import SimpleNamespace

import learnable
import pytest
import transformers
from learnable import THINGS
from typer.testing import CliRunner

from tessera import lock
from tessera.cli import app
from tessera.data.examples import Question
from tessera.finetune import fit, scores, trials
from tessera.labelled import dataset
from tessera.labelled.dataset import Part
from tessera.plan.recipe import Machine
from tessera.prediction.predictor import Predictor
from tessera.tokenizer.tokenizer import Tokenizer

CALM = Machine(device="cpu", dtype="float32")
CLASSES = {"tag": "TokenClassification", "span": "QuestionAnswering", "choose": "MultipleChoice"}
TAGS = ["O", *(f"B-{thing}" for thing in THINGS), "B-unheard"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"))


def as_row(kind, one):
    """An example as people write it into a file."""
    match kind:
        case "tag":
            return {"tokens": list(one.words), "ner_tags": [TAGS[tag] for tag in one.tags]}
        case "span":
            ((text, start),) = one.answers
            return {
                "question": one.question,
                "context": one.context,
                "answers": {"text": [text], "answer_start": [start]},
            }
        case "choose":
            return {"text": one.text, "options": list(one.options), "label": one.label}
        case "reward":
            return {"text": one.text, "steps": [one.second], "label": [bool(one.label)]}
        case "rerank":
            return {"query": one.text, "document": one.second, "label": int(one.label)}
        case "multilabel":
            return {"text": one.text, "labels": [THINGS[n] for n in one.label]}
        case "regress":
            return {"sentence1": one.text, "sentence2": one.second, "score": one.label + 0.5}
        case "pair":
            return {"premise": one.text, "hypothesis": one.second, "label": bool(one.label)}
    return {"text": one.text, "label": THINGS[one.label]}


def written(place, kind, count=60):
    """A folder with rows of a kind, in three files."""
    place.mkdir(parents=True, exist_ok=True)
    for seed, (name, rows) in enumerate({"train": count, "dev": 20, "test": 20}.items()):
        lines = [json.dumps(as_row(kind, one)) for one in learnable.examples(kind, rows, seed)]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    return place


def quickly(**changes):
    return learnable.protocol(**{"steps": 3, "learning_rates": [1e-3, 5e-3], "seeds": [0, 1], **changes})


@pytest.mark.parametrize("kind", list(dataset.guessing.KINDS))
def test_rows_of_each_kind_are_recognized_and_become_a_folder_that_transformers_loads(kind, model, tmp_path):
    data = dataset.read(str(written(tmp_path / "rows", kind)))
    assert data.kind == kind
    assert [len(part) for part in data.parts] == [60, 20, 20]
    fitted = fit.finetune(model, data, tmp_path / "out", protocol=quickly(), machine=CALM, curve=kind == "classify")
    assert fitted.difference < 1e-5
    name = getattr(transformers, f"AutoModelFor{CLASSES.get(kind, 'SequenceClassification')}")
    their = name.from_pretrained(tmp_path / "out").config
    assert data.labels == () or [their.id2label[n] for n in range(len(data.labels))] == list(data.labels)
    predictor = Predictor.from_pretrained(tmp_path / "out", device="cpu")
    row = {"tag": {"words": ["river"]}, "span": ("where", "a stone"), "choose": {"text": "a", "options": ["b", "c"]}}
    pair = kind in ("pair", "regress", "rerank", "reward")
    (answer,) = predictor.predict([row.get(kind, ("the river", "the stone") if pair else "the river")])
    assert answer
    card = (tmp_path / "out" / "README.md").read_text()
    assert "AutoModelFor" in card
    assert fitted.metric in card


@pytest.mark.parametrize("kind", ["classify", "multilabel", "regress"])
def test_what_can_be_learned_is_learned_and_the_folder_answers_as_the_score_says(kind, model, tmp_path):
    data = dataset.read(str(written(tmp_path / "rows", kind, count=160)))
    fitted = fit.finetune(
        model, data, tmp_path / "out", protocol=quickly(steps=120, learning_rates=[5e-3]), machine=CALM
    )
    assert fitted.score[fitted.metric][0] > 0.75
    assert not any("always" in line for line in fitted.warnings)
    said = Predictor.from_pretrained(tmp_path / "out", device="cpu").predict(
        [one.text if one.second is None else (one.text, one.second) for one in data.test.examples]
    )
    if kind == "classify":
        right = [data.labels.index(one["label"]) == e.label for one, e in zip(said, data.test.examples, strict=True)]
        assert sum(right) / len(right) == pytest.approx(fitted.score["accuracy"][0], abs=0.15)  # that of all seeds
    if kind == "multilabel":
        assert len(fitted.thresholds) == len(THINGS)


def test_a_model_that_learned_nothing_says_so(model, tmp_path):
    for name in ("train", "dev", "test"):  # one text, whatever the label: there is nothing to learn
        rows = [{"text": "the river", "label": THINGS[n % 4]} for n in range(16)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fitted = fit.finetune(model, dataset.read(str(tmp_path)), tmp_path / "out", protocol=quickly(), machine=CALM)
    assert any("2 of 2 models always answer" in line and "--rates" in line for line in fitted.warnings)
    assert "they learned nothing" in (tmp_path / "out" / "README.md").read_text()


def test_answers_that_can_never_be_given_are_counted_before_anybody_asks_why_the_score_is_low(model):
    long = " ".join(["stone"] * 60)
    rows = [Question(question="where", context=long, answers=((text, 0),), id=text[:9], row="x")
            for text in (long, "stone", "stone stone")]  # fmt: skip
    reader = SimpleNamespace(tokenizer=Tokenizer.load(model), max_length=32, stride=4)
    data = SimpleNamespace(kind="span", train=Part(rows), validation=Part(rows[1:]), test=Part([]))
    assert list(fit._out_of_reach(data, SimpleNamespace(reader=reader))) == [
        "1 of 3 answers in train are too long to be given, or whole in no window of 32 tokens"
    ]


@pytest.mark.parametrize("stop", range(3))
def test_a_search_killed_after_any_trial_ends_with_the_same_folder(stop, model, tmp_path, monkeypatch):
    data = dataset.read(str(written(tmp_path / "rows", "classify")))
    whole = fit.finetune(model, data, tmp_path / "a" / "out", protocol=quickly(), machine=CALM)
    real, done = trials.run, []

    def run(*given):
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append(given)
        return real(*given)

    monkeypatch.setattr(trials, "run", run)
    with pytest.raises(KeyboardInterrupt):
        fit.finetune(model, data, tmp_path / "b" / "out", protocol=quickly(), machine=CALM)
    monkeypatch.setattr(trials, "run", real)
    assert not (tmp_path / "b" / "out").exists()
    again = fit.finetune(model, data, tmp_path / "b" / "out", protocol=quickly(), machine=CALM)
    assert again.score == whole.score
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "a" / "out" / name).read_bytes() == (tmp_path / "b" / "out" / name).read_bytes()


def test_classes_weigh_as_if_all_were_equally_common(tmp_path):
    rows = [{"text": f"a {n}", "label": "rare" if n % 4 == 0 else "common"} for n in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = dataset.read(str(tmp_path))
    common, rare = trials.class_weights(data).tolist()
    assert (common * 30, common * 30 + rare * 10) == (pytest.approx(rare * 10), pytest.approx(40))


def test_a_learning_curve_says_what_twice_the_rows_would_give():
    falls = [(n, 1 - n**-0.5) for n in (100, 200, 400, 800)]
    assert fit.twice(falls) == pytest.approx(1 - 1600**-0.5)
    assert fit.twice([(100, 0.5), (200, 0.4), (400, 0.3)]) is None


def test_the_verb_says_what_it_read_guessed_and_chose_and_what_comes_next(model, tmp_path):
    csv = tmp_path / "topics.csv"
    rows = [f"{one.text},{THINGS[one.label]}" for one in learnable.examples("classify", 100, 0)]
    csv.write_text("setningur,flokkur\n" + "\n".join(rows))
    out = str(tmp_path / "topics")
    flags = ["--steps", "3", "--rates", "1e-3,5e-3", "--seeds", "1", "--batch", "8", "--device", "cpu", "--balance"]
    ran = CliRunner().invoke(app, ["finetune", str(model), str(csv), "--out", out, *flags], catch_exceptions=False)
    said = " ".join(ran.output.split())
    assert ran.exit_code == 0
    for part in (
        "columns text: 'setningur', label: 'flokkur'",
        "held out of train for test and validation, by a hash of each row: 15% each",
        "chosen by macro_f1 on validation",
        f"next: tessera predict {out}",
    ):
        assert part in said, ran.output
    with pytest.raises(FileExistsError, match="there already"):
        CliRunner().invoke(app, ["finetune", str(model), str(csv), "--out", out], catch_exceptions=False)


@pytest.mark.parametrize("method", ["frozen", "lora"])
@pytest.mark.parametrize("kind", ["classify", "tag"])
def test_a_head_alone_or_with_low_rank_additions_becomes_the_same_kind_of_folder(kind, method, model, tmp_path):
    data = dataset.read(str(written(tmp_path / "rows", kind)))
    fitted = fit.finetune(model, data, tmp_path / "out", protocol=quickly(seeds=[0]), machine=CALM, method=method)
    assert fitted.difference <= 1e-5
    auto = getattr(transformers, f"AutoModelFor{CLASSES.get(kind, 'SequenceClassification')}")
    learned, before = (auto.from_pretrained(place).base_model.state_dict() for place in (tmp_path / "out", model))
    same = [name for name, values in before.items() if name.endswith("Wqkv.weight") and values.equal(learned[name])]
    assert bool(same) == (method == "frozen")


def test_two_ways_to_learn_at_once_are_refused(model, tmp_path):
    rows = written(tmp_path / "rows", "classify")
    done = CliRunner().invoke(
        app, ["finetune", str(model), str(rows), "--out", str(tmp_path / "o"), "--frozen", "--lora"]
    )
    assert "give one of them" in str(done.exception)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("kind", ["classify", "retrieve"])
def test_a_second_process_is_told_before_it_trains(model, tmp_path, kind):
    pairs = [{"query": f"{thing} {n}", "document": f"near {thing} of {n}"} for n in range(8) for thing in THINGS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    rows = written(tmp_path / "rows", "classify") if kind == "classify" else tmp_path / "pairs.jsonl"
    words = ["finetune", str(model), str(rows), "--out", str(tmp_path / "o"), "--kind", kind]
    with lock.hold(tmp_path / ".o.trials.lock", "o"):
        done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, lock.AtWork), done.output
    assert not (tmp_path / "o.trials").exists()


def test_pairs_become_a_retriever_by_the_same_verb(model, tmp_path):
    pairs = [{"query": f"{thing} the", "document": f"near {thing} stone of {n}"} for n in range(8) for thing in THINGS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    out = tmp_path / "retriever"
    done = CliRunner().invoke(
        app,
        ["finetune", str(model), str(tmp_path / "pairs.jsonl"), "--out", str(out), "--kind", "retrieve"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    assert (out / "modules.json").is_file()
    assert "before" in done.output
    assert f"tessera embed {out}"[:20] in done.output.replace("\n", "")


def test_several_labels_are_constant_by_their_thresholds_and_not_by_a_half(tmp_path):
    data = dataset.read(str(written(tmp_path / "rows", "multilabel")))
    low = [[0.3, 0.2, 0.2, 0.2] if n % 2 else [0.1, 0.2, 0.2, 0.2] for n in range(len(data.test))]
    assert scores.constant(data, data.test, low) == "no label"
    assert scores.constant(data, data.test, low, (0.2, 0.5, 0.5, 0.5)) == ""
    assert scores.constant(data, data.test, low, (0.1, 0.5, 0.5, 0.5)) == data.labels[0]
