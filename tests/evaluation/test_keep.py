"""The chosen model of a sweep as a folder: the same bytes whenever it is asked for, the answers that were measured."""

import json
import random

import learnable
import pytest
from learnable import THINGS, protocol, sentence
from typer.testing import CliRunner

from tessera.cli.app import app
from tessera.evaluation import evaluate as evaluating
from tessera.evaluation import kept, sweep
from tessera.finetune import saved
from tessera.inference.encoder import Encoder
from tessera.json_files import read_json
from tessera.plan.recipe import Machine
from tessera.plan.task import Task
from tessera.prediction.predictor import Predictor

CALM = Machine(device="cpu", dtype="float32")
HOW = protocol(learning_rates=[1e-9, 5e-3], seeds=[0, 1], steps=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    for language in ("aaa_Latn", "bbb_Latn"):
        for split, count in (("train", 60), ("dev", 20), ("test", 20)):
            rng = random.Random(f"{language}{split}")
            rows = []
            for number in range(count):
                thing, other = rng.choice(THINGS), rng.choice(THINGS)
                text, second = sentence(rng, thing), sentence(rng, thing, other)
                rows.append({"id": f"{split}{number}", "text": text, "label": thing, "second": second})
            path = place / "rows" / language / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def task(**changes):
    given = {
        "name": "topics",
        "kind": "classify",
        "data": {
            "path": "rows/{language}/{split}.jsonl",
            "splits": {"train": "train", "validation": "dev", "test": "test"},
        },
        "columns": {"id": "id", "text": "text", "label": "label"},
        "labels": sorted(THINGS),
        "metric": "accuracy",
        "train": "aaa_Latn",
    }
    return Task.model_validate({**given, **changes})


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_finished_sweep_keeps_the_same_bytes_as_one_that_kept_at_once(folder, data, tmp_path):
    at_once = sweep.run(folder, task(), HOW, data, tmp_path / "a", CALM, name="m", keep=True)
    later = sweep.run(folder, task(), HOW, data, tmp_path / "b", CALM, name="m")
    assert not kept.place(later).exists()
    sweep.run(folder, task(), HOW, data, tmp_path / "b", CALM, name="m", keep=True)
    assert kept.place(later) == tmp_path / "b" / "models" / "m.topics.test"
    assert bytes_of(kept.place(later)) == bytes_of(kept.place(at_once))
    about, result = read_json(kept.place(later) / kept.ABOUT), read_json(later)
    assert about["settings"]["rate"] == result["chosen"]["aaa_Latn"]["rate"]
    best = max(one["validation"] for one in result["trials"])
    assert about["validation"] == {"aaa_Latn": best}
    card = (kept.place(later) / "README.md").read_text(encoding="utf-8")
    assert "for the task topics (kind classify) on aaa_Latn, by the protocol test: rate " in card
    assert f"accuracy on validation, on which it was chosen: aaa_Latn {best:.4f}" in card


def test_what_is_kept_answers_as_well_as_was_measured(folder, data, tmp_path):
    place = kept.place(sweep.run(folder, task(), HOW, data, tmp_path, CALM, name="m", keep=True))
    rows = [json.loads(line) for line in (data / "rows/bbb_Latn/test.jsonl").read_text().splitlines()]
    found = Predictor.from_pretrained(place, dtype="float32").predict([row["text"] for row in rows])
    right = sum(one["label"] == row["label"] for one, row in zip(found, rows, strict=True)) / len(rows)
    assert right == read_json(place / kept.ABOUT)["test"]["bbb_Latn"]["accuracy"]


def test_what_is_there_is_not_trained_again(folder, data, tmp_path, monkeypatch):
    path = sweep.run(folder, task(), HOW, data, tmp_path, CALM, name="m", keep=True)
    monkeypatch.setattr(saved, "save", lambda *_, **__: pytest.fail("it was there"))
    assert sweep.run(folder, task(), HOW, data, tmp_path, CALM, name="m", keep=True) == path
    (kept.place(path) / kept.ABOUT).unlink()
    monkeypatch.undo()
    with pytest.raises(FileExistsError, match="there already; remove it"):
        sweep.run(folder, task(), HOW, data, tmp_path, CALM, name="m", keep=True)


def test_a_trial_that_cannot_be_made_again_is_not_passed_off_as_it(folder, data, tmp_path):
    path = sweep.run(folder, task(), HOW, data, tmp_path, CALM, name="m")
    for file in (tmp_path / "trials").rglob("*.json"):
        text = json.loads(file.read_text())
        text.pop("sha256", None)
        text["validation_by_language"] = {"aaa_Latn": 0.123}
        file.write_text(json.dumps({k: v for k, v in text.items() if "checksum" not in k}))
    with pytest.raises(ValueError, match=r"nothing was written: trained once more, the model scores"):
        sweep.run(folder, task(), HOW, data, tmp_path, CALM, name="m", keep=True)
    assert not kept.place(path).exists()


def test_each_language_that_trains_its_own_has_its_own_folder(folder, data, tmp_path):
    how = protocol(learning_rates=[5e-3], seeds=[0], steps=3)
    place = kept.place(sweep.run(folder, task(train="own"), how, data, tmp_path, CALM, name="m", keep=True))
    assert sorted(one.name for one in place.iterdir() if one.is_dir()) == ["aaa_Latn", "bbb_Latn"]
    assert Predictor.from_pretrained(place / "bbb_Latn").labels == tuple(sorted(THINGS))


def test_a_retriever_is_kept_as_a_folder_of_vectors(folder, data, tmp_path):
    columns = {"id": "id", "query": "text", "positive": "second"}
    this = task(kind="retrieve", columns=columns, labels=None, metric="ndcg@10")
    how = protocol(learning_rates=[1e-3], seeds=[0], steps=3)
    place = kept.place(sweep.run(folder, this, how, data, tmp_path, CALM, name="m", keep=True))
    assert Encoder.from_pretrained(place).encode(["the river"]).shape == (1, 32)
    assert "Encoder.from_pretrained" in (place / "README.md").read_text(encoding="utf-8")


def test_the_flag_is_typed_and_what_trains_nothing_is_refused_before_anything_runs(folder, data, tmp_path):
    probe = task(kind="probe", train="own", labels=None)
    with pytest.raises(ValueError, match=r"task topics \(kind probe\) trains no model, so there is none to keep"):
        next(evaluating.evaluate(folder, [probe], tmp_path / "out", data=data, keep=True))
    assert not (tmp_path / "out").exists()
    words = ["evaluate", str(folder), "--keep", "--mteb", "x"]
    found = CliRunner().invoke(app, words)
    assert "--keep goes with --task" in str(found.exception)
