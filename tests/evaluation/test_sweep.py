"""Sweeps of a tiny model: what is chosen on what, what is written, what is run again after a kill, and what is not."""

import json
import random
import statistics
from pathlib import Path

import learnable
import pytest
from learnable import THINGS, protocol, sentence

from tessera.evaluation import catalogue, load, sweep
from tessera.evaluation import trial as trials
from tessera.evaluation.rows import DataError
from tessera.finetune import loop
from tessera.plan.languages import spelled
from tessera.plan.recipe import Machine
from tessera.plan.task import Task
from tessera.prediction.features import KINDS

CALM = Machine(device="cpu", dtype="float32")
LEARNS, NOTHING = 5e-3, 1e-9  # learning rates


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"))


def write(place, language, split, count, *, turned=0, seed=0):
    """Rows whose label follows from a word; `turned` gives each the label that comes so many after."""
    rng = random.Random(f"{language}{split}{seed}")
    rows = []
    for number in range(count):
        label = rng.randrange(4)
        name = THINGS[(label + turned) % 4]
        rows.append({"id": number, "text": sentence(rng, THINGS[label]), "label": name})
    path = place / "topics" / language / f"{split}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_all(place):
    """Two languages; in the test set of the second, and of no other set, labels are not what they were."""
    for language, turned in (("aaa_Latn", 0), ("bbb_Latn", 1)):
        write(place, language, "train", 80)
        write(place, language, "dev", 24)
        write(place, language, "test", 24, turned=turned)
    return place


@pytest.fixture
def data(tmp_path):
    return write_all(tmp_path / "data")


def task(**changes):
    given = {
        "name": "topics",
        "kind": "classify",
        "data": {
            "path": "topics/{language}/{split}.jsonl",
            "splits": {"train": "train", "validation": "dev", "test": "test"},
        },
        "columns": {"id": "id", "text": "text", "label": "label"},
        "labels": sorted(THINGS),
        "metric": "accuracy",
        "also": ["macro_f1"],
        "train": "aaa_Latn",
    }
    return Task.model_validate({**given, **changes})


def run(folder, data, out, this, how, on_progress=None):
    path = sweep.run(folder, this, how, data, out, CALM, on_progress, name="m")
    return json.loads(path.read_text())


def test_a_result_says_all_that_it_rests_on(folder, data, tmp_path):
    how = protocol(learning_rates=[NOTHING, LEARNS], seeds=[0, 1, 2], steps=40)
    path = sweep.run(folder, task(), how, data, tmp_path / "out", CALM, name="m")
    assert path == tmp_path / "out" / "m.topics.test.json"
    found = json.loads(path.read_text())
    assert {key: found[key] for key in ("model", "task", "kind", "metric", "oracle", "seeds")} == {
        "model": "m",
        "task": "topics",
        "kind": "classify",
        "metric": "accuracy",
        "oracle": False,
        "seeds": [0, 1, 2],
    }
    assert found["protocol"]["learning_rates"] == [NOTHING, LEARNS]
    assert set(found["results"]) == {"aaa_Latn", "bbb_Latn"}
    assert found["results"]["aaa_Latn"]["accuracy"] > 0.8
    assert found["results"]["bbb_Latn"]["accuracy"] < 0.1
    assert found["chosen"] == {"aaa_Latn": {"rate": LEARNS, "weight_decay": 0.01, "epochs": None}}
    for metric in ("accuracy", "macro_f1"):
        by_seed = [
            statistics.fmean(scores[metric] for scores in trial["test"].values())
            for trial in found["trials"]
            if trial["rate"] == LEARNS
        ]
        assert len(by_seed) == 3
        assert found["average"][metric] == pytest.approx(statistics.fmean(by_seed))
        width = 4.302653 * statistics.stdev(by_seed) / 3**0.5  # Student's t of two degrees of freedom
        assert found["interval"][metric] == pytest.approx(width, abs=1e-6)
    assert [(t["rate"], t["seed"]) for t in found["trials"]] == [(r, s) for r in (NOTHING, LEARNS) for s in (0, 1, 2)]
    assert found["examples"] == {"aaa_Latn": 24, "bbb_Latn": 24}


def test_validation_chooses_and_not_the_test_set_unless_an_oracle_is_asked_for_which_is_marked(folder, data, tmp_path):
    write(data, "aaa_Latn", "test", 24, turned=1)  # who has learned the task is always wrong now
    how = protocol(learning_rates=[NOTHING, LEARNS], steps=40)
    honest = run(folder, data, tmp_path, task(languages=["aaa_Latn"]), how)
    assert honest["chosen"]["aaa_Latn"]["rate"] == LEARNS
    assert honest["average"]["accuracy"] < 0.1
    assert not honest["oracle"]
    asked = how.model_copy(update={"select": "oracle"})
    started = []
    oracle = run(folder, data, tmp_path, task(languages=["aaa_Latn"]), asked, lambda *said: started.append(said))
    assert started == []  # the same trials, looked at otherwise
    assert oracle["oracle"]
    assert oracle["chosen"]["aaa_Latn"]["rate"] == NOTHING
    assert oracle["average"]["accuracy"] > 0.1
    names = sorted(path.name for path in tmp_path.glob("*.json"))
    assert names == ["m.topics.test.json", "m.topics.test.oracle.json"]


def test_nobody_sees_labels_of_the_test_set_before_a_rate_is_chosen(folder, data, tmp_path, monkeypatch):
    order = []
    plain, read, choose = loop.predict, load.load, sweep._choose

    def predict(learner, rows, *more):
        order.append("labels" if any(row.label is not None for row in rows) else "no labels")
        return plain(learner, rows, *more)

    def loads(this, split, language, *rest, **how):
        if isinstance(language, str):  # several are asked for one by one
            order.append(split)
        return read(this, split, language, *rest, **how)

    monkeypatch.setattr(loop, "predict", predict)
    monkeypatch.setattr(load, "load", loads)
    monkeypatch.setattr(sweep, "_choose", lambda *given: order.append("chosen") or choose(*given))
    how = protocol(learning_rates=[NOTHING, LEARNS], steps=2)
    run(folder, data, tmp_path, task(languages=["aaa_Latn"]), how)
    one = ["labels", "no labels"]  # validation, test
    assert order == ["train", "validation", "test", *one, *one, "chosen", "test"]


def test_other_labels_of_the_test_set_change_scores_and_nothing_else(folder, data, tmp_path):
    how = protocol(learning_rates=[NOTHING, LEARNS], steps=40)
    before = run(folder, data, tmp_path, task(languages=["aaa_Latn"]), how)
    write(data, "aaa_Latn", "test", 24, turned=2)
    ran = []
    after = run(folder, data, tmp_path, task(languages=["aaa_Latn"]), how, lambda *said: ran.append(said))
    assert ran == []
    assert after["chosen"] == before["chosen"]
    assert (before["average"]["accuracy"] > 0.9, after["average"]["accuracy"] < 0.1) == (True, True)
    assert after["data"] != before["data"]


class Killed(BaseException):
    pass


FOUR = {"learning_rates": [1e-3, 2e-3], "seeds": [0, 1], "steps": 3, "patience": 1}  # trials


@pytest.fixture(scope="module")
def never_killed(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    return run(folder, write_all(place / "data"), place, task(), protocol(**FOUR))


@pytest.mark.parametrize("trial", range(4))
@pytest.mark.parametrize("moment", ["fine-tuning", "predicting", "writing"])
def test_a_sweep_killed_in_any_trial_goes_on_where_it_stood_and_ends_the_same(
    folder, data, tmp_path, trial, moment, never_killed
):
    how = protocol(**FOUR)

    def kill(done, total, what):
        if f"trial {trial + 1} of 4" in what and moment in what and done == total:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        if moment == "writing":
            plain, seen = trials.write_json, []

            def write_json(path, content):
                seen.append(path)
                if len(seen) == trial + 1:
                    raise Killed
                plain(path, content)

            patch.setattr(trials, "write_json", write_json)
        with pytest.raises(Killed):
            run(folder, data, tmp_path / "killed", task(), how, kill)
    written = sorted((tmp_path / "killed").rglob("*seed*.json"))
    assert len(written) == trial
    started = []

    def watch(done, total, what):
        started.append(what.split(":")[1].strip())

    resumed = run(folder, data, tmp_path / "killed", task(), how, watch)
    assert list(dict.fromkeys(name.split(",")[0] for name in started)) == [
        f"trial {n + 1} of 4" for n in range(trial, 4)
    ]
    assert timeless(resumed) == timeless(never_killed)


def timeless(result):
    trials = [{k: v for k, v in trial.items() if k != "seconds"} for trial in result["trials"]]
    return {**{k: v for k, v in result.items() if not k.startswith("seconds")}, "trials": trials}


def test_more_rates_and_seeds_run_only_what_is_new(folder, data, tmp_path):
    run(folder, data, tmp_path, task(), protocol(learning_rates=[1e-3], seeds=[0], steps=2))
    ran = []
    more = protocol(learning_rates=[1e-3, 2e-3], seeds=[0, 1], steps=2, name="wider")
    run(folder, data, tmp_path, task(), more, lambda d, n, what: ran.append(what))
    assert sorted({what.split(":")[1].split(",")[0].strip() for what in ran}) == [f"trial {n} of 4" for n in (2, 3, 4)]


@pytest.mark.parametrize("change", ["rows", "weights", "settings", "broken file"])
def test_a_trial_of_anything_else_is_run_again(folder, data, tmp_path, change):
    how = protocol(steps=2)
    run(folder, data, tmp_path, task(), how)
    if change == "rows":
        write(data, "aaa_Latn", "train", 80, seed=9)
    elif change == "weights":
        folder = learnable.model(tmp_path / "other", initializer_range=0.05)
    elif change == "settings":
        how = protocol(steps=3)
    else:
        (written,) = tmp_path.rglob("*seed-0.json")
        written.write_text(written.read_text()[:100])
    ran = []
    run(folder, data, tmp_path, task(), how, lambda *said: ran.append(said))
    assert ran


def test_each_language_by_itself_has_a_model_and_a_choice_of_its_own(folder, data, tmp_path):
    how = protocol(learning_rates=[NOTHING, LEARNS], steps=40)
    write(data, "bbb_Latn", "dev", 24, turned=1)  # there what learns nothing scores best
    found = run(folder, data, tmp_path, task(train="own"), how)
    assert found["chosen"]["aaa_Latn"]["rate"] == LEARNS
    assert found["chosen"]["bbb_Latn"]["rate"] == NOTHING
    assert found["results"]["aaa_Latn"]["accuracy"] > 0.9
    assert sorted({t["trained_on"] for t in found["trials"]}) == ["aaa_Latn", "bbb_Latn"]
    mean = statistics.fmean(row["accuracy"] for row in found["results"].values())
    assert found["average"]["accuracy"] == pytest.approx(mean)


def test_all_languages_together_are_one_model(folder, data, tmp_path):
    found = run(folder, data, tmp_path, task(train="all"), protocol(steps=2))
    assert [t["trained_on"] for t in found["trials"]] == ["2-languages"]
    assert set(found["trials"][0]["validation_by_language"]) == {"aaa_Latn", "bbb_Latn"}
    assert found["interval"] == {"accuracy": None, "macro_f1": None}  # one seed says nothing of its spread


def test_a_rate_at_which_training_diverges_is_written_down_and_not_chosen(folder, data, tmp_path):
    how = protocol(learning_rates=[1e30, LEARNS], steps=20)
    found = run(folder, data, tmp_path, task(), how)
    broken, whole = found["trials"]
    assert "the loss is" in broken["failed"]
    assert (broken["validation"], broken["test"], whole["failed"]) == (None, {}, None)
    assert found["chosen"]["aaa_Latn"]["rate"] == LEARNS
    with pytest.raises(
        ValueError, match=r"topics, aaa_Latn: of no settings did all seeds go well \(the loss is .*lower"
    ):
        run(folder, data, tmp_path, task(), protocol(learning_rates=[1e30], steps=20))


def test_a_choice_without_a_validation_set_is_refused_and_one_rate_needs_none(folder, data, tmp_path):
    bare = task(data={"path": "topics/{language}/{split}.jsonl", "splits": {"train": "train", "test": "test"}})
    assert run(folder, data, tmp_path, bare, protocol(steps=2))["trials"][0]["validation"] is None
    with pytest.raises(ValueError, match="2 settings are tried, but there is no validation set to choose on"):
        run(folder, data, tmp_path, bare, protocol(steps=2, learning_rates=[1e-3, 2e-3]))


def test_a_metric_that_is_not_for_the_labels_is_refused_before_anything_is_trained(folder, data, tmp_path):
    for metric, says in (("f1", "f1 is of the second of two classes, but here are 4"), ("entity_f1", "not of kind")):
        with pytest.raises(ValueError, match=says):
            run(folder, data, tmp_path, task(metric=metric), protocol())
        with pytest.raises(ValueError, match=says):
            run(folder, data, tmp_path, task(also=[metric]), protocol())
    assert not list(tmp_path.rglob("trials"))


def test_what_is_not_fine_tuned_is_refused(folder, data, tmp_path):
    with pytest.raises(ValueError, match="task topics: kind classify with train: none is not fine-tuned"):
        run(folder, data, tmp_path, task(train="none"), protocol())


def test_a_task_begins_with_what_another_has_learned(folder, data, tmp_path, monkeypatch):
    """With a rate at which nothing is learned, the score is that of the model it began with."""
    other = task(name="others", languages=["aaa_Latn"])
    monkeypatch.setattr(catalogue, "find", lambda name: {"others": other}[name])
    monkeypatch.setattr(catalogue, "protocols", lambda: ("two",))
    before = protocol(learning_rates=[NOTHING, LEARNS], steps=40)
    monkeypatch.setattr(catalogue, "protocol", lambda name, this: before)
    how = protocol(learning_rates=[NOTHING], steps=1, from_task="others", name="two")
    this = task(languages=["aaa_Latn"])
    found = run(folder, data, tmp_path, this, how)
    assert found["average"]["accuracy"] > 0.9
    ran = []
    again = run(folder, data, tmp_path, this, how, lambda *said: ran.append(said))
    assert ran == []
    assert again["average"] == found["average"]
    assert run(folder, data, tmp_path, this, protocol(learning_rates=[NOTHING], steps=1))["average"]["accuracy"] < 0.6
    (kept,) = tmp_path.rglob("best.safetensors")
    kept.unlink()
    for trial in tmp_path.glob("trials/m.topics/**/*.json"):
        trial.unlink()
    assert run(folder, data, tmp_path, this, how)["average"] == found["average"]  # trained again, to the same


def test_a_missing_set_says_so_before_anything_is_trained(folder, data, tmp_path):
    with pytest.raises(DataError):
        run(folder, data, tmp_path, task(languages=["zzz_Latn"]), protocol())
    assert not (tmp_path / "trials").exists()


# ------------------------------------------------------------------------------------------------------------ real data

EVAL = Path(__file__).parents[2].parent / "shared" / "data" / "eval"
REAL = {
    "sib200": ("eng_Latn", "swh_Latn"),
    "cosqa-pairs": ("code",),
    "stsb-multilingual": ("en", "de"),
    "mlqe-da": ("en-de",),
    "xcopa-own": ("et", "th"),
    "masakhaner2": ("swa",),
    "udpos-treebanks": ("English-EWT", "Japanese-GSD"),
    "xquad-articles": ("en", "zh"),
}


@pytest.mark.parametrize("name", REAL)
def test_every_kind_goes_from_real_rows_to_a_result(folder, tmp_path, name):
    if not EVAL.is_dir():
        pytest.skip(f"{EVAL} is not here: the real evaluation sets are no part of the repository")
    this = catalogue.find(name).model_copy(update={"languages": REAL[name]})
    how = protocol(steps=3, batch_size=4, train_examples=24, test_examples=12, learning_rates=[1e-3])
    found = run(folder, EVAL, tmp_path, this, how)
    languages = [spelled(code) for code in REAL[name]]
    assert set(found["results"]) == set(languages)
    assert found["examples"] == dict.fromkeys(languages, 12)
    metrics = {this.metric, *this.also}
    assert all(set(row) == metrics and all(-1 <= v <= 1 for v in row.values()) for row in found["results"].values())
    predictions = json.loads(next((tmp_path / "trials").rglob("*.json")).read_text())["predictions"]
    assert all(len(rows) == 12 for rows in predictions.values())


def test_real_sets_cover_every_kind_of_the_catalogue_but_reward():
    assert {catalogue.find(name).kind for name in REAL} == set(KINDS) - {"reward", "multilabel", "rerank"}
