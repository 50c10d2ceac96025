"""Evaluation of a tiny model, by a recipe and by task: what is written, skipped, run again; that both ways are one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from learnable import COMMON
from typer.testing import CliRunner

from tessera import Encoder, __version__
from tessera.cli import app
from tessera.data.shard_writer import ShardWriter
from tessera.evaluation import frozen
from tessera.evaluation.evaluate import check, evaluate_recipe
from tessera.evaluation.rows import DataError
from tessera.huggingface import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.plan.evaluation import Evaluation
from tessera.plan.recipe import Machine
from tessera.plan.task import Task
from tessera.results.result import read
from tessera.tokenizer import tokenizer as tokenizers

WORDS = ["tree", "fish", "stone", "cloud", "bread", "night", "river", "king"]
CALM = Machine(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, held-out text and tasks."""
    place = tmp_path_factory.mktemp("evaluation")
    tokenizer = tokenizers.train({"a": [" ".join(WORDS)] * 9}, TokenizerTraining(vocab_size=300), place / "tokenizer")
    fields = {**COMMON, "vocab_size": tokenizer.vocab_size, "num_hidden_layers": 1}
    config = EncoderConfig.model_validate({**PRESETS["mmbert-small"].model_dump(), **fields})
    for name, seed in (("model", 0), ("other", 1)):
        model = MaskedLM(config, attention="auto")
        initialize(model, torch.Generator().manual_seed(seed))
        hub.save(model, place / name, place / "tokenizer", None)
    with ShardWriter(place / "held_out", tokenizer.fingerprint, tokenizer.vocab_size) as writer:
        for language, words in (("aaa_Latn", WORDS[:4]), ("bbb_Latn", WORDS[4:])):
            ids = tokenizer.encode_batch([" ".join(words * 20)] * 3)
            writer.add("web", language, None, ids, 1)
    pairs = [
        {"src": f"{word} {other}", "tgt": f"{word} {other}!", "src_lang": "aaa_Latn", "tgt_lang": "eng_Latn"}
        for word in WORDS
        for other in WORDS[:3]
    ]
    (place / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    for language, words in (("aaa_Latn", WORDS[:4]), ("bbb_Latn", WORDS[4:])):
        for split, ends in (("train", "abcdefgh"), ("test", "xyz")):
            rows = [{"text": f"{word} {end}", "label": word} for word in words for end in ends]
            path = place / "topics" / language / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture
def evaluation(folder):
    """Tasks as recipes of 0.1 wrote them."""
    topics = f"{folder}/topics/{{language}}"
    files = {"train": f"{topics}/train.jsonl", "test": f"{topics}/test.jsonl"}
    return Evaluation.model_validate(
        {
            "mask_ratio": 0.3,
            "tasks": [
                {"task": "bitext", "name": "mining", "path": str(folder / "pairs.jsonl")},
                {"task": "probe", "name": "topics", **files},
                {"task": "probe", "name": "transfer", **files, "transfer_from": "aaa_Latn"},
            ],
        }
    )


def evaluate(*given, **how):
    return list(evaluate_recipe(*given, **how))


def test_every_task_is_written_with_its_protocol_and_averages(folder, evaluation, tmp_path):
    files = evaluate(
        folder / "model", evaluation, tmp_path / "out", name="m", held_out=folder / "held_out", seed=5, machine=CALM
    )
    assert [path.name for path in files] == ["m.held_out.json", "m.mining.json", "m.topics.json", "m.transfer.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in files)
    found = {path.name.split(".")[1]: read(path) for path in files}
    for name, kind in (("held_out", "held_out"), ("mining", "bitext"), ("topics", "probe"), ("transfer", "probe")):
        whole = found[name]
        assert (whole.model, whole.task, whole.kind) == ("m", name, kind)
        assert whole.metric == ("bits_per_byte" if name == "held_out" else "accuracy")
        assert whole.tessera == __version__
        assert whole.data
        for metric, average in whole.average.items():
            values = [row[metric] for row in whole.results.values()]
            assert average == pytest.approx(np.mean(values))
            assert whole.spread[metric] == pytest.approx(np.std(values))
    assert len({whole.fingerprint for whole in found.values()}) == 1
    assert set(found["held_out"].results) == {"aaa_Latn", "bbb_Latn"}
    assert set(found["held_out"].average) == {"bits_per_byte", "loss"}
    assert (found["held_out"].seeds, found["held_out"].protocol["seed"]) == ((5,), 5)
    assert found["held_out"].examples["aaa_Latn"] > 10
    assert found["mining"].results["aaa_Latn"]["accuracy"] > 0.5  # even a random model sees equal words
    assert found["mining"].examples == {"aaa_Latn": 24}
    assert found["topics"].average["accuracy"] > 0.9
    assert found["topics"].chosen["bbb_Latn"]["rows"] == 4 * 8  # all of train, by cross-validation
    assert found["transfer"].chosen == {"aaa_Latn": found["topics"].chosen["aaa_Latn"]}
    # what was trained on the labels of one language knows none of another
    assert found["transfer"].results["bbb_Latn"]["accuracy"] == 0.0
    assert found["transfer"].results["aaa_Latn"] == found["topics"].results["aaa_Latn"]


def test_every_text_is_embedded_once(folder, evaluation, tmp_path, monkeypatch):
    seen = []

    def encode(self, texts, **how):
        seen.extend(texts)
        return np.random.default_rng(0).standard_normal((len(texts), 32)).astype(np.float32)

    monkeypatch.setattr(Encoder, "encode", encode)
    evaluate(folder / "model", evaluation, tmp_path, name="m", machine=CALM)
    assert len(seen) == len(set(seen)) == 2 * 24 + 2 * 4 * (8 + 3)


@pytest.mark.parametrize("task", ["mining", "topics"])
def test_a_text_whose_vector_is_not_finite_is_named_and_nothing_is_written(
    folder, evaluation, tmp_path, monkeypatch, task
):
    def encode(self, texts, **how):
        rows = np.ones((len(texts), 32), np.float32)
        rows[3, 5] = np.nan
        return rows

    monkeypatch.setattr(Encoder, "encode", encode)
    with pytest.raises(ValueError, match=r"the model's vector of '.+' of \d+ texts is not finite"):
        evaluate(folder / "model", evaluation.only([task]), tmp_path, name="m", machine=CALM)
    assert not list(tmp_path.glob("*.json"))


def test_finished_tasks_are_skipped_and_changed_ones_run_again(folder, evaluation, tmp_path, monkeypatch):
    arguments = {"name": "m", "held_out": folder / "held_out", "machine": CALM}
    files = evaluate(folder / "model", evaluation, tmp_path, **arguments)
    before = {path: path.read_text() for path in files}

    def load(*_, **__):
        raise AssertionError("the model was loaded again")

    with monkeypatch.context() as patch:
        for name in ("load", "load_any", "load_encoder"):
            patch.setattr(hub, name, load)
        assert evaluate(folder / "model", evaluation, tmp_path, **arguments) == files
        assert {path: path.read_text() for path in files} == before
        with pytest.raises(AssertionError, match="loaded again"):  # another seed hides other tokens
            evaluate(folder / "model", evaluation, tmp_path, **arguments, seed=1)
    changed = evaluation.model_copy(update={"mask_ratio": 0.5})
    evaluate(folder / "model", changed, tmp_path, **arguments)
    assert [path.read_text() == before[path] for path in files] == [False, True, True, True]
    pooled = changed.model_copy(update={"pooling": "cls"})
    between = {path: path.read_text() for path in files}
    evaluate(folder / "model", pooled, tmp_path, **arguments)
    assert [path.read_text() == between[path] for path in files] == [True, False, False, False]
    evaluate(folder / "other", changed, tmp_path, **arguments)
    assert not any(path.read_text() == before[path] for path in files)


def test_a_broken_result_is_written_again_and_an_interrupted_one_leaves_nothing(
    folder, evaluation, tmp_path, monkeypatch
):
    evaluation = evaluation.only(["mining"])
    (path,) = evaluate(folder / "model", evaluation, tmp_path, name="m", machine=CALM)
    whole = read(path)
    path.write_text(path.read_text()[:50])
    evaluate(folder / "model", evaluation, tmp_path, name="m", machine=CALM)
    assert read(path).results == whole.results

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(frozen, "_mine", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder / "model", evaluation, tmp_path / "new", name="m", machine=CALM)
    assert not list(tmp_path.glob("new/*"))


def test_a_folder_without_weights_or_tokenizer_is_named(folder, evaluation, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        evaluate(tmp_path, evaluation, tmp_path / "out", name="m")
    with pytest.raises(ValueError, match=r"no token store here \(index\.json is missing\)"):
        evaluate(folder / "model", evaluation, tmp_path / "out", name="m", held_out=tmp_path, machine=CALM)


# -------------------------------------------------------------------------- a recipe and a task are the same evaluation


TASKS = """
mining:
  kind: bitext
  data: {path: "pairs/{language}-eng.jsonl", splits: {test: test}}
  columns: {id: id, text: src, second: tgt}
  metric: accuracy
  also: [margin_f1]
  train: none
topics:
  kind: probe
  data: {path: "topics/{language}/{split}.jsonl", splits: {train: train, validation: dev, test: test}}
  columns: {id: id, text: text, label: label}
  metric: accuracy
  train: own
"""
OLD = """
name: small
corpus: {sources: [{name: web, path: web}]}
model: {preset: mmbert-small}
phases:
  - {name: p, from: scratch, tokens: 1000, context: 64, batch_tokens: 64, mask_ratio: 0.3, learning_rate: {peak: 1e-3}}
evaluation:
  tasks:
    - {task: bitext, name: mining, path: DATA/pairs}
    - task: probe
      name: topics
      train: DATA/topics/{language}/train.jsonl
      validation: DATA/topics/{language}/dev.jsonl
      test: DATA/topics/{language}/test.jsonl
machine: {device: cpu, dtype: float32}
"""
NEW = (
    OLD.partition("  tasks:")[0]
    + """  data: DATA
  tasks: [TASKS:mining, TASKS:topics]
machine: {device: cpu, dtype: float32}
"""
)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path):
    """Pairs and topics in two languages; the files of one set know them as deu, those of the other as deu_Latn."""
    place = tmp_path / "ev"
    for shift, code in enumerate(("deu", "fao")):
        pairs = [(f"{a} {b}", f"{b} {WORDS[(n + shift) % 8]}") for n, a in enumerate(WORDS) for b in WORDS[:3]]
        rows = [
            {"id": n, "src": src, "tgt": tgt, "src_lang": f"{code}_Latn", "tgt_lang": "eng_Latn"}
            for n, (src, tgt) in enumerate(pairs)
        ]
        write(place / "pairs" / f"{code}-eng.jsonl", rows)
        for split, ends in (("train", "abcdefgh"), ("dev", "ijk"), ("test", "xyz")):
            rows = [{"id": f"{w}{e}", "text": f"{e} {w} {WORDS[shift]}", "label": w} for w in WORDS[:4] for e in ends]
            write(place / "topics" / f"{code}_Latn" / f"{split}.jsonl", rows)
    (tmp_path / "tasks.yaml").write_text(TASKS)
    for name, text in (("old", OLD), ("new", NEW)):
        filled = text.replace("DATA", str(place)).replace("TASKS", str(tmp_path / "tasks.yaml"))
        (tmp_path / f"{name}.yaml").write_text(filled)
    return tmp_path


def typed(*words):
    shown = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output + repr(shown.exception)
    return shown.output


def test_a_recipe_and_a_task_give_one_result_and_compare_shows_both(folder, data):
    for name in ("old", "new"):
        words = ("--recipe", data / f"{name}.yaml", "--out", data / name, "--name", "m")
        typed("evaluate", folder / "model", *words)
    tasks = [word for name in ("mining", "topics") for word in ("--task", f"{data}/tasks.yaml:{name}")]
    typed("evaluate", folder / "model", *tasks, "--data", data / "ev", "--dtype", "float32", "--out", data / "task",
          "--name", "m")  # fmt: skip
    for task in ("mining", "topics"):
        one, *others = (read(data / out / f"m.{task}.json") for out in ("task", "old", "new"))
        assert set(one.results) == {"deu_Latn", "fao_Latn"}
        assert one.metric == "accuracy"
        for other in others:
            varies = {"seconds": 0, "tessera": ""}
            assert other.model_copy(update=varies) == one.model_copy(update=varies)
    output = typed("compare", data / "old", data / "task")
    lines = [[cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")] for line in output.splitlines()]
    assert ["task", "metric", "m (old)", "m (task)"] in lines
    for task in ("mining", "topics"):
        value = f"{100 * read(data / 'task' / f'm.{task}.json').average['accuracy']:.2f}"
        assert [task, "accuracy", value, f"{value} ="] in lines


# ----------------------------------------------------------------------------------------------- tasks of older recipes


def pair(source_language, source, target_language, target):
    return {"src": source, "tgt": target, "src_lang": source_language, "tgt_lang": target_language}


def old(task, **given):
    (one,) = Evaluation.model_validate({"tasks": [{"task": task, "name": "t", **given}]}).tasks
    assert isinstance(one, Task)
    return one


def test_pairs_are_turned_so_that_english_is_the_target(tmp_path):
    write(
        tmp_path / "a.jsonl", [pair("fao_Latn", "hon", "eng_Latn", "she"), pair("fao_Latn", "ein", "eng_Latn", "one")]
    )
    write(tmp_path / "b.jsonl", [pair("eng_Latn", "two", "fao_Latn", "tvey"), pair("fao_Latn", "ja", "isl_Latn", "já")])
    rows = frozen.read(old("bitext", path=str(tmp_path)), Path())
    assert rows.test == {
        "fao_Latn": [("hon", "she"), ("ein", "one"), ("tvey", "two")],
        "fao_Latn-isl_Latn": [("ja", "já")],
    }


def test_lines_that_cannot_be_used_are_counted_and_too_many_are_refused(tmp_path):
    good = [pair("fao_Latn", str(i), "eng_Latn", str(i)) for i in range(3)]
    write(tmp_path / "a.jsonl", [*good, {"src": "alone"}, pair("fao_Latn", " ", "eng_Latn", "x")])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("no JSON")
    task = old("bitext", path=str(tmp_path / "a.jsonl"))
    assert (frozen.read(task, Path()).skipped, len(frozen.read(task, Path()).test["fao_Latn"])) == (3, 3)
    with pytest.raises(DataError, match=r"a\.jsonl:6: not JSON"):
        frozen.read(task.model_copy(update={"skip": False}), Path())
    write(tmp_path / "a.jsonl", [*good[:1], {"src": "alone"}, {"src": "too"}])
    with pytest.raises(DataError, match=r"t: 2 of 3 rows cannot be used; the first is .*a\.jsonl:2: has no column"):
        frozen.read(task, Path())


def test_another_sentence_is_another_fingerprint(tmp_path):
    task = old("bitext", path=str(tmp_path / "a.jsonl"))
    write(tmp_path / "a.jsonl", [pair("fao_Latn", "hon", "eng_Latn", "she")])
    first = frozen.read(task, Path()).fingerprint()
    assert frozen.read(task, Path()).fingerprint() == first
    write(tmp_path / "a.jsonl", [pair("fao_Latn", "hon", "eng_Latn", "her")])
    assert frozen.read(task, Path()).fingerprint() != first


def rows(*labels, word="w"):
    return [{"topic": label, "text": f"{word} {i}", "lang": "??"} for i, label in enumerate(labels)]


@pytest.fixture
def topics(tmp_path):
    for language in ("eng_Latn", "fao_Latn"):
        write(tmp_path / "sib" / language / "train.jsonl", rows("a", "b", word=language))
        write(tmp_path / "sib" / language / "test.jsonl", rows("b", word="test " + language))
    write(tmp_path / "sib" / "isl_Latn" / "test.jsonl", rows("a", word="test isl"))
    path = str(tmp_path / "sib" / "{language}")
    return {"train": f"{path}/train.jsonl", "test": f"{path}/test.jsonl", "label": "topic"}


def test_all_languages_are_those_with_something_to_train_on_and_to_test_on(topics):
    found = frozen.read(old("probe", **topics), Path())
    assert found.test == {"eng_Latn": [("test eng_Latn 0", "b")], "fao_Latn": [("test fao_Latn 0", "b")]}
    assert found.train["fao_Latn"] == [("fao_Latn 0", "a"), ("fao_Latn 1", "b")]
    assert (found.trained_on, found.validation) == ({"eng_Latn": "eng_Latn", "fao_Latn": "fao_Latn"}, {})


def test_transfer_trains_on_one_language_and_tests_on_every(topics):
    found = frozen.read(old("probe", **topics, transfer_from="eng_Latn"), Path())
    assert list(found.test) == ["eng_Latn", "fao_Latn", "isl_Latn"]
    assert list(found.train) == ["eng_Latn"]


def test_what_the_penalty_is_chosen_on_goes_with_what_is_trained_on(tmp_path, topics):
    for language in ("eng_Latn", "fao_Latn"):
        write(tmp_path / "sib" / language / "dev.jsonl", rows("a", word="dev " + language))
    with_dev = {**topics, "validation": topics["train"].replace("train", "dev")}
    found = frozen.read(old("probe", **with_dev), Path())
    assert found.validation == {"eng_Latn": [("dev eng_Latn 0", "a")], "fao_Latn": [("dev fao_Latn 0", "a")]}
    # transfer looks at the language it trains on only
    assert list(frozen.read(old("probe", **with_dev, transfer_from="eng_Latn"), Path()).validation) == ["eng_Latn"]
    write(tmp_path / "sib" / "eng_Latn" / "dev.jsonl", rows("b", word="dev eng_Latn"))
    assert frozen.read(old("probe", **with_dev), Path()).fingerprint() != found.fingerprint()


def test_one_file_to_train_on_for_all_is_read_once(tmp_path, topics):
    write(tmp_path / "all.jsonl", rows("a", "b", word="all"))
    found = frozen.read(old("probe", **{**topics, "train": str(tmp_path / "all.jsonl")}), Path())
    assert found.train == {"all": [("all 0", "a"), ("all 1", "b")]}
    assert list(found.test) == ["eng_Latn", "fao_Latn", "isl_Latn"]


def test_languages_may_be_named_and_stand_in_the_path_twice(tmp_path, topics):
    assert list(frozen.read(old("probe", **topics, languages=["fao_Latn"]), Path()).test) == ["fao_Latn"]
    for language in ("eng_Latn", "fao_Latn"):
        for split in ("train", "test"):
            write(tmp_path / "x" / language / f"{language}.{split}.jsonl", rows("a", "b"))
    write(tmp_path / "x" / "eng_Latn" / "isl_Latn.test.jsonl", rows("a"))
    twice = {k: f"{tmp_path}/x/{{language}}/{{language}}.{k}.jsonl" for k in ("train", "test")}
    assert list(frozen.read(old("probe", label="topic", **twice), Path()).test) == ["eng_Latn", "fao_Latn"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": "no/{language}/dev.jsonl"}, "they belong at no/eng_Latn/dev.jsonl"),
        ({"test": "nowhere/{language}.jsonl"}, "they belong at nowhere/{language}.jsonl"),
        ({"languages": ["deu_Latn"]}, "they belong at .*deu_Latn"),
        ({"label": "lable"}, "rows cannot be used; the first is .*has no column 'lable'"),
        ({"text": "txet"}, "rows cannot be used; .*has no column 'txet'"),
    ],
)
def test_a_task_that_cannot_be_read_is_named_before_anything_is_run(topics, change, message):
    tasks = [{"task": "probe", "name": "sib", **topics, **change}]
    with pytest.raises(ValueError, match=f"task sib: .*{message}" if "belong" not in message else message):
        check(Evaluation.model_validate({"tasks": tasks}), rows=True)


def test_a_task_that_nobody_knows_is_named_before_anything_is_run():
    with pytest.raises(ValueError, match="no task is called 'tatoba'; did you mean 'tatoeba'"):
        check(Evaluation.model_validate({"tasks": ["tatoba"]}))
    with pytest.raises(ValueError, match="no protocol is called 'quik'"):
        check(Evaluation.model_validate({"tasks": ["tatoeba"], "protocol": "quik"}))
