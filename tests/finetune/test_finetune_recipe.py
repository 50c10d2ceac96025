"""One schema of flags and keys: `tessera finetune` by flags, by a recipe, by a task of the catalogue."""

import inspect
import json
import re

import learnable
import pytest
import yaml
from learnable import THINGS
from typer.testing import CliRunner

from tessera.cli import app
from tessera.cli.tuning import finetune
from tessera.finetune import recipe
from tessera.finetune.recipe import FineTuning
from tessera.plan.task import Protocol

SHORT = ["--steps", "3", "--seeds", "1", "--device", "cpu", "--dtype", "float32"]
LEAST = {"model": "m", "data": "d", "out": "o"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"))


def ran(*words):
    return CliRunner().invoke(app, ["finetune", *map(str, words)], catch_exceptions=False)


def test_each_flag_is_a_key_and_each_key_a_flag():
    flags = set(inspect.signature(finetune).parameters) - {"context", "recipe", "rows"}
    assert flags == set(FineTuning.model_fields)


def test_a_recipe_and_the_same_flags_give_the_same_folder(model, tmp_path):
    rows = [f"{one.text},{THINGS[one.label]}" for one in learnable.examples("classify", 60, 0)]
    (tmp_path / "rows.csv").write_text("setningur,flokkur\n" + "\n".join(rows))
    data = str(tmp_path / "rows.csv")
    by_flags = ran(model, data, "--out", tmp_path / "a" / "out", "--rates", "1e-3,5e-3", "--batch", "8", *SHORT)
    asked = {"model": str(model), "data": data, "out": str(tmp_path / "b" / "out"), "rates": [1e-3, 5e-3], "batch": 8}
    asked |= {"steps": 3, "seeds": 1, "device": "cpu", "dtype": "float32"}
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(asked))
    by_keys = ran("--recipe", tmp_path / "f.yaml")
    assert by_flags.exit_code == by_keys.exit_code == 0, by_keys.output
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "a/out" / name).read_bytes() == (tmp_path / "b/out" / name).read_bytes()
    over = ran("--recipe", tmp_path / "f.yaml", "--out", tmp_path / "c", "--steps", "2", "--rates", "1e-3")
    assert over.exit_code == 0, over.output
    assert json.loads((tmp_path / "c.trials" / "0.001.seed-0.json").read_text())["steps"] == 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"rate": [1e-4]}, "unknown key 'rate'; did you mean 'rates'?"),
        ({"rates": [-1]}, "rates"),
        ({"rates": "fast"}, "rates"),
        ({"steps": 2.5}, "steps: a whole number is needed here (given: 2.5)"),
        ({"seeds": 0}, "seeds"),
        ({"steps": 2, "epochs": 1}, "--steps and --epochs both say for how long"),
        ({"frozen": True, "lora": True}, "give one of them"),
        ({"frozen": "maybe"}, "frozen"),
        ({"kind": "distil"}, "needs a teacher"),
        ({"kind": "tag", "teacher": "t"}, "--teacher is of kind distil, this is of kind tag"),
        ({"kind": "retrieve", "source_share": 0}, "--source-share is of kind distil, this is of kind retrieve"),
        ({"kind": "classify", "temperature": 0.5}, "--temperature is of kind distil, this is of kind classify"),
        ({"kind": "classify", "retriever": "r"}, "--retriever is of kind rerank, this is of kind classify"),
        ({"kind": "retrieve", "balance": True}, "--balance is of kinds with a head, this is of kind retrieve"),
        ({"task": "sib200", "label": "topic"}, "--label says how rows are read, and a task says that itself"),
        ({"language": ["fao_Latn"]}, "--language chooses what a --task is tested on"),
        ({"held_out": 1.5}, "held_out"),
        ({"dtype": "int8"}, "dtype"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_with_its_place(keys, said, tmp_path):
    place = tmp_path / "f.yaml"
    place.write_text(yaml.safe_dump(LEAST | keys))
    with pytest.raises(ValueError, match=f"{re.escape(str(place))}.*{re.escape(said)}"):
        recipe.read(place, {})


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="finetune: model: is missing\nfinetune: out: is missing"):
        recipe.read(None, {"data": "d"})
    with pytest.raises(ValueError, match="give DATA, a file or a folder of rows, or --task"):
        recipe.read(None, {"model": "m", "out": "o"})


def test_keys_go_over_the_protocol_and_a_list_may_be_a_range():
    protocol = Protocol(name="p", epochs=2, batch_size=4, learning_rates=(1e-5,), seeds=(7,))
    asked = FineTuning(**LEAST, rates={"from": 1e-5, "to": 1e-3, "count": 3}, steps=5, seeds=2, batch=8, patience=1)
    found = asked.changed(protocol)
    assert found.rates() == (1e-5, 1e-4, 1e-3)
    assert (found.steps, found.epochs, found.seeds, found.batch_size, found.patience) == (5, None, (0, 1), 8, 1)
    assert FineTuning(**LEAST).changed(protocol) == protocol


TASK = """
things:
  kind: classify
  data: {path: "{language}/{split}.jsonl", splits: {train: train%s, test: test}}
  columns: {text: text, label: label}
  metric: accuracy
  languages: [fao, isl]
  train: %s
"""


@pytest.fixture
def task(tmp_path):
    def written(train="fao", validation=", validation: dev"):
        for seed, language in enumerate(("fao", "isl")):
            (tmp_path / "data" / language).mkdir(parents=True, exist_ok=True)
            for name in ("train", "dev", "test"):
                rows = [
                    {"text": one.text, "label": THINGS[one.label]} for one in learnable.examples("classify", 40, seed)
                ]
                (tmp_path / "data" / language / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / "my.yaml").write_text(TASK % (validation, train))
        return ["--task", f"{tmp_path / 'my.yaml'}:things", "--data", tmp_path / "data"]

    return written


def test_a_task_of_the_catalogue_becomes_a_folder_scored_in_all_its_languages(model, task, tmp_path):
    done = ran(model, *task(), "--out", tmp_path / "out", "--rates", "5e-3", *SHORT)
    assert done.exit_code == 0, done.output
    assert "kind classify; trained on fao" in done.output
    assert "scores on test, 80 examples" in done.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "fao" in card
    assert "isl" in card
    alone = ran(model, *task(), "--out", tmp_path / "two", "--language", "isl", "--rates", "5e-3", *SHORT)
    assert "scores on test, 40 examples" in alone.output


def test_a_task_without_validation_has_a_share_held_out_and_one_of_many_models_must_be_chosen(model, task, tmp_path):
    done = ran(model, *task(validation=""), "--out", tmp_path / "out", "--rates", "5e-3", *SHORT)
    assert "no split of it is for validation: 15% of the training rows are" in " ".join(done.output.split())
    with pytest.raises(ValueError, match="trains a model for each of fao, isl; say which with --train-language"):
        ran(model, *task("own"), "--out", tmp_path / "two", *SHORT)
    one = ran(model, *task("own"), "--out", tmp_path / "two", "--train-language", "isl", "--rates", "5e-3", *SHORT)
    assert "trained on isl" in one.output
    with pytest.raises(ValueError, match="a head is trained here, on rows for training"):
        ran(model, "--task", "sib200-probe", "--out", tmp_path / "three", *SHORT)


def test_flags_of_pairs_reach_their_training_and_those_of_heads_are_refused(model, tmp_path):
    pairs = [{"query": f"{thing} the", "document": f"near {thing} stone of {n}"} for n in range(8) for thing in THINGS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    words = [model, tmp_path / "pairs.jsonl", "--kind", "retrieve", "--out", tmp_path / "out"]
    done = ran(*words, "--steps", "2", "--rates", "1e-3", "--dimensions", "8,16", "--negatives", "1", *SHORT[4:])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out.trials" / "0.001.json").read_text())["summary"]["steps"] == 2
    card = (tmp_path / "out" / "README.md").read_text()
    assert "truncate_dim=8" in card
    with pytest.raises(ValueError, match="--curve is of kinds with a head"):
        ran(*words, "--curve")
    with pytest.raises(ValueError, match="--data is the folder of the data of a --task"):
        ran(*words, "--data", tmp_path)


def test_a_reranker_learns_from_the_mistakes_of_a_retriever_by_one_verb(model, tmp_path):
    pairs = [{"query": f"{thing} the", "document": f"near {thing} stone of {n}"} for n in range(8) for thing in THINGS]
    pairs += [{"query": f"{a} {b}", "document": f"near {a} {b}"} for a in learnable.FILLER for b in learnable.FILLER]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps({**one, "label": 1}) for one in pairs))
    words = [model, tmp_path / "pairs.jsonl", "--kind", "rerank", "--out", tmp_path / "out", "--rates", "1e-3", *SHORT]
    done = ran(*words, "--retriever", model, "--negatives", "2", "--candidates", "5")
    said = " ".join(done.output.split())
    assert done.exit_code == 0, done.output
    assert "2 of each query" in said
    assert "ndcg@10 of the retriever's own order on validation" in said
    assert "retriever's own order on test" in (tmp_path / "out" / "README.md").read_text()
