"""A retrieval task from its files to its result: what is chosen on what, what is run again, what is kept."""

import json
import random
from pathlib import Path

import pytest
import torch
from learnable import COMMON

from tessera.evaluation import catalogue, retrieve, sweep
from tessera.evaluation.groups import read_groups
from tessera.evaluation.trial import all_trials
from tessera.finetune.learner import pretrained
from tessera.finetune.loop import Diverged
from tessera.huggingface import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.plan.recipe import Machine
from tessera.plan.task import Protocol, Task
from tessera.report.compare import compare
from tessera.retrieval.retriever import Contrast
from tessera.tokenizer import tokenizer as tokenizers

ASKED = ["tree", "fish", "stone", "cloud", "bread", "night", "river", "king"]
ANSWERED = {
    "aaa": ["ka", "lo", "mi", "ne", "su", "ta", "bo", "du"],
    "bbb": ["fe", "gi", "ha", "ju", "pi", "ro", "ve", "wu"],
}
NOISE = ["gul", "hem", "jor", "wat", "zek", "yib"]
CALM = Machine(device="cpu", dtype="float32", micro_batch_tokens=512)
MEASURES = {"ndcg@10", "mrr@10", "recall@10", "recall@100", "average_precision"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and questions in two languages."""
    place = tmp_path_factory.mktemp("retrieve")
    words = [*ASKED, *ANSWERED["aaa"], *ANSWERED["bbb"], *NOISE]
    tokenizer = tokenizers.train({"a": [" ".join(words)] * 9}, TokenizerTraining(vocab_size=440), place / "tokenizer")
    fields = {**COMMON, "vocab_size": tokenizer.vocab_size, "num_hidden_layers": 1}
    model = MaskedLM(EncoderConfig.model_validate({**PRESETS["mmbert-small"].model_dump(), **fields}))
    initialize(model, torch.Generator().manual_seed(0))
    hub.save(model, place / "model", place / "tokenizer", None)
    for language, answers in ANSWERED.items():
        rng = random.Random(language)
        for split, count in (("train", 160), ("dev", 24), ("test", 24)):
            rows = [
                {
                    "id": f"{split}-{n}",
                    "query": f"{ASKED[n % 8]} {rng.choice(NOISE)} {rng.choice(NOISE)}",
                    "answer": " ".join([answers[n % 8], *rng.sample(NOISE, 1 + n % 3 * 2)]),
                }
                for n in range(count)
            ]
            path = place / "data" / "riddles" / language / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def task(**changes):
    given = {
        "name": "riddles",
        "kind": "retrieve",
        "data": {
            "path": "riddles/{language}/{split}.jsonl",
            "splits": {"train": "train", "validation": "dev", "test": "test"},
        },
        "columns": {"id": "id", "query": "query", "positive": "answer"},
        "metric": "mrr@10",
        "languages": ["aaa", "bbb"],
        **changes,
    }
    return Task.model_validate(given)


def protocol(**changes):
    given = {
        "name": "short",
        "steps": 40,
        "batch_size": 16,
        "learning_rates": [1e-2],
        "temperature": 0.1,
        "warmup_ratio": 0.1,
        "max_length": 16,
        **changes,
    }
    return Protocol.model_validate(given)


def run(folder, out, given=None, how=None, **more):
    path = sweep.run(folder / "model", given or task(), how or protocol(), folder / "data", out, CALM, **more)
    return path, json.loads(path.read_text())


def test_a_model_is_trained_for_each_language_and_all_are_in_one_result(folder, tmp_path):
    before = run(folder, tmp_path / "before", task(train="none"))[1]
    path, after = run(folder, tmp_path, how=protocol(seeds=[0, 1]), name="m")
    assert path == tmp_path / "m.riddles.short.json"
    assert (after["model"], after["task"], after["kind"], after["metric"]) == ("m", "riddles", "retrieve", "mrr@10")
    assert set(after["results"]) == {"aaa", "bbb"}
    for language in ("aaa", "bbb"):
        assert set(after["results"][language]) == MEASURES
        assert after["results"][language]["mrr@10"] > before["results"][language]["mrr@10"] + 0.2
        values = [t["test"][language]["mrr@10"] for t in after["trials"] if t["trained_on"] == language]
        assert len(values) == 2
        assert after["results"][language]["mrr@10"] == pytest.approx(sum(values) / 2)
    assert after["average"]["mrr@10"] == pytest.approx(sum(row["mrr@10"] for row in after["results"].values()) / 2)
    assert after["interval"]["mrr@10"] >= 0
    assert after["examples"] == {"aaa": 24, "bbb": 24}
    assert after["lengths"]["aaa"]["0-1000"]["queries"] == 24
    rows = [row["0-1000"]["ndcg@10"] for row in after["lengths"].values()]
    assert after["by_length"]["0-1000"]["ndcg@10"] == pytest.approx(sum(rows) / len(rows))
    assert (after["oracle"], after["seeds"]) == (False, [0, 1])
    assert [len(list(tmp_path.glob(f"trials/m.riddles/{language}/*.json"))) for language in ("aaa", "bbb")] == [2, 2]


def test_every_query_of_a_result_has_its_measures_the_mean_over_seeds(folder, tmp_path):
    how = protocol(seeds=[0, 1], steps=4)
    path, found = run(folder, tmp_path, how=how, name="m")
    assert set(found["outcomes"]) == MEASURES
    for metric, by_language in found["outcomes"].items():
        assert list(by_language) == ["aaa", "bbb"]
        for language, each in by_language.items():
            files = sorted(tmp_path.glob(f"trials/m.riddles/{language}/*.json"))
            seeds = [json.loads(file.read_text())["outcomes"][language][metric] for file in files]
            assert each == [round((a + b) / 2, 6) for a, b in zip(*seeds, strict=True)]
            assert sum(each) / 24 == pytest.approx(found["results"][language][metric], abs=1e-6)
    other = sweep.run(folder / "model", task(train="none"), how, folder / "data", tmp_path, CALM, name="untrained")
    assert set(json.loads(other.read_text())["outcomes"]) == MEASURES
    again, _ = run(folder, tmp_path, how=protocol(seeds=[0, 1], steps=5), name="longer")
    (verdict,) = compare([path, again]).verdicts.values()
    assert verdict.test == "paired permutation test over 48 examples of 2 languages"


def test_a_task_without_training_is_searched_with_the_model_as_it_is(folder, tmp_path):
    path, found = run(folder, tmp_path, task(train="none"), protocol(learning_rates=[1e-3, 1e-2]))
    assert path.name == "model.riddles.short.json"
    assert [(t["trained_on"], set(t["test"])) for t in found["trials"]] == [("untrained", {"aaa", "bbb"})]
    assert (found["seeds"], found["oracle"]) == ([], False)
    assert found["interval"]["mrr@10"] is None


def test_one_language_is_trained_on_and_all_are_tested(folder, tmp_path):
    _, found = run(folder, tmp_path, task(train="aaa"))
    assert [t["trained_on"] for t in found["trials"]] == ["aaa"]
    assert found["results"]["aaa"]["mrr@10"] > found["results"]["bbb"]["mrr@10"] + 0.2  # their answers share no word


def test_the_rate_is_chosen_on_validation_and_by_an_oracle_only_if_asked_for(folder, tmp_path, monkeypatch):
    """A stand-in for searching: the low rate is better on validation, the high rate better on the test set."""
    good = {("dev", 1e-3): 0.9, ("dev", 1e-2): 0.2, ("test", 1e-3): 0.3, ("test", 1e-2): 0.8}
    rates = []

    def train(retriever, triples, protocol, *, rate, seed, on_progress):
        rates.append(rate)
        return retrieving_course()

    def measured(one, ranked):
        split = next(iter(one.queries)).split("-")[0]
        return dict.fromkeys(one.queries, dict.fromkeys(MEASURES, good[split, rates[-1]]))

    monkeypatch.setattr(retrieve, "train", train)
    monkeypatch.setattr(retrieve, "rank", lambda *_: {})
    monkeypatch.setattr(retrieve, "measure", measured)
    both = {"learning_rates": [1e-3, 1e-2]}
    honest = run(folder, tmp_path, task(train="all"), protocol(**both))[1]
    assert honest["chosen"] == {"2-languages": {"rate": 1e-3, "weight_decay": 0.0, "epochs": None}}
    assert honest["average"]["mrr@10"] == pytest.approx(0.3)
    other, oracle = run(folder, tmp_path, task(train="all"), protocol(**both, select="oracle"))
    assert oracle["average"]["mrr@10"] == pytest.approx(0.8)
    assert (oracle["oracle"], other.name) == (True, "model.riddles.short.oracle.json")
    assert rates == [1e-3, 1e-2]  # nothing was trained again for it


def retrieving_course():
    from tessera.finetune.loop import TrainingSummary

    return TrainingSummary(steps=1, tokens=1, losses=(1.0,))


def test_finished_trials_are_not_run_again_and_changed_ones_are(folder, tmp_path, monkeypatch):
    ran = []
    train = retrieve.train

    def remember(retriever, triples, protocol, *, rate, **more):
        (language,) = {Path(triple.row).parent.name for triple in triples}
        ran.append((language, rate))
        return train(retriever, triples, protocol, rate=rate, **more)

    monkeypatch.setattr(retrieve, "train", remember)
    short = protocol(steps=2)
    first = run(folder, tmp_path, how=short)[1]
    assert ran == [("aaa", 1e-2), ("bbb", 1e-2)]
    ran.clear()
    again = run(folder, tmp_path, how=short)[1]
    assert ran == []
    assert again["results"] == first["results"]
    run(folder, tmp_path, how=protocol(steps=2, learning_rates=[1e-3, 1e-2]))
    assert ran == [("aaa", 1e-3), ("bbb", 1e-3)]
    ran.clear()
    monkeypatch.setattr(retrieve, "CONTRAST", Contrast(symmetric=True))
    run(folder, tmp_path, how=short)
    assert ran == [("aaa", 1e-2), ("bbb", 1e-2)]
    ran.clear()
    (file,) = (f for f in tmp_path.glob("trials/*/aaa/*.json") if json.loads(f.read_text())["identity"]["rate"] == 1e-2)
    file.write_text(file.read_text()[:99])
    run(folder, tmp_path, how=short)
    assert ran == [("aaa", 1e-2)]


def test_a_trained_retriever_is_saved_as_it_was_tested(folder, tmp_path):
    this, how = task(train="aaa"), protocol()
    _, found = run(folder, tmp_path, this, how)
    (group,), (trial,) = read_groups(this, how, folder / "data"), all_trials(this, how)
    retriever, _ = retrieve.RETRIEVAL.fit(group, trial, pretrained(folder / "model", CALM), lambda *_: None)
    retriever.save(folder / "model", tmp_path / "kept")
    again = sweep.run(tmp_path / "kept", task(train="none"), how, folder / "data", tmp_path / "again", CALM)
    assert json.loads(again.read_text())["average"] == pytest.approx(found["average"], abs=1e-6)


def test_retrieval_begins_with_what_another_task_has_learned_and_other_tasks_with_retrieval(
    folder, tmp_path, monkeypatch
):
    """The second one learns nothing, so it finds what the first has learned to find."""
    tasks = {"riddles": task(train="aaa", languages=["aaa"]), "more": task(name="more", train="aaa", languages=["aaa"])}
    hows = {"riddles": protocol(), "more": protocol(learning_rates=[1e-9], steps=1, from_task="riddles")}
    monkeypatch.setattr(catalogue, "find", lambda name: tasks[name])
    monkeypatch.setattr(catalogue, "protocols", lambda: ("short",))
    monkeypatch.setattr(catalogue, "protocol", lambda name, this: hows[this.name])
    before = run(folder, tmp_path / "before", tasks["riddles"], hows["riddles"])[1]["average"]
    after = run(folder, tmp_path, tasks["more"], hows["more"])[1]["average"]
    assert after["ndcg@10"] == pytest.approx(before["ndcg@10"], abs=0.02)
    bare = protocol(learning_rates=[1e-9], steps=1)
    assert run(folder, tmp_path / "bare", tasks["more"], bare)[1]["average"]["ndcg@10"] < before["ndcg@10"] - 0.2
    rows = [{"id": str(n), "query": f"{ASKED[n % 8]} {n}"} for n in range(20)]
    (folder / "data" / "riddles" / "aaa" / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = {name: {"from": "all", "share": 0.5} for name in ("train", "test")}
    given = {"kind": "regress", "columns": {"id": "id", "text": "query", "label": "id"}, "metric": "pearson"}
    given |= {"data": {"path": "riddles/{language}/{split}.jsonl", "splits": splits}, "train": "aaa"}
    tasks["numbers"] = Task.model_validate({"name": "numbers", "languages": ["aaa"], **given})
    hows["numbers"] = hows["more"]
    starts = []
    for how in (hows["numbers"], bare):
        run(folder, tmp_path / "numbers", tasks["numbers"], how)
        (file,) = (tmp_path / "numbers").glob("trials/model.numbers/aaa/*.json")
        starts.append(json.loads(file.read_text())["identity"]["start"])
    assert starts[0] != starts[1]
    tasks["riddles"] = task(train="none")
    with pytest.raises(ValueError, match="task more begins with a model trained on riddles, which trains none"):
        run(folder, tmp_path / "none", tasks["more"], hows["more"])


def test_what_cannot_be_run_is_said(folder, tmp_path, monkeypatch):
    without = {"path": "riddles/{language}/{split}.jsonl", "splits": {"train": "train", "test": "test"}}
    with pytest.raises(ValueError, match=r"2 settings are tried, but there is no validation set to choose on; give"):
        run(folder, tmp_path, task(data=without), protocol(steps=1, learning_rates=[1e-3, 1e-2]))
    assert not any(tmp_path.rglob("*.json"))  # said before anything is trained

    def fail(*_, **__):
        raise Diverged("the loss is nan after 3 steps")

    monkeypatch.setattr(retrieve, "train", fail)
    with pytest.raises(ValueError, match=r"of no settings did all seeds go well \(the loss is nan after 3 steps\)"):
        run(folder, tmp_path / "new")
