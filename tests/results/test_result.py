"""Result files: what is written is read back, what tessera 0.1 wrote is read as if it were written today."""

import json
import statistics
from pathlib import Path

import pytest

from tessera.results.result import Result, finished, hash_of, identity_of, read, read_all, write

OLD = Path(__file__).with_name("results_0.1")  # by the commands of 0.1, of tiny models and invented rows
FIELDS = {
    "model": "m", "task": "t", "kind": "bitext", "metric": "f1", "protocol": {"k": 4}, "fingerprint": "abc",
    "data": "rows", "results": {"de": {"f1": 0.5, "accuracy": 1.0}, "fao_Latn": {"f1": 0.1, "accuracy": 0.0}},
    "examples": {"de": 2, "fao_Latn": 2}, "outcomes": {"accuracy": {"de": [1.0, 1.0], "fao_Latn": [0.0, 0.0]}},
    "trials": [{"test": {"de": {"f1": 0.5}}}],
}  # fmt: skip


def test_what_is_written_is_read_back_with_averages_and_languages_in_one_spelling(tmp_path):
    result = Result(**FIELDS)
    assert read(write(tmp_path / "m.t.json", result)) == result
    assert result.average == {"f1": 0.3, "accuracy": 0.5}
    assert result.spread == {"f1": pytest.approx(0.2), "accuracy": 0.5}
    for by_language in (result.results, result.examples, result.outcomes["accuracy"], result.trials[0]["test"]):
        assert set(by_language) <= {"deu_Latn", "fao_Latn"}
    assert "lengths" not in json.loads((tmp_path / "m.t.json").read_text())


def test_a_result_names_a_metric_that_it_has_and_numbers_that_are_some():
    with pytest.raises(ValueError, match="names the metric 'mcc', but has accuracy, f1"):
        Result(**{**FIELDS, "metric": "mcc"})
    with pytest.raises(ValueError, match="finite"):
        Result(**{**FIELDS, "results": {"de": {"f1": float("nan")}}})


def test_a_result_is_finished_only_for_its_model_its_protocol_and_its_rows(tmp_path):
    path = write(tmp_path / "m.t.json", Result(**FIELDS))
    assert finished(path, identity_of("abc", {"k": 4}, "rows"))
    for other in (("abd", {"k": 4}, "rows"), ("abc", {"k": 5}, "rows"), ("abc", {"k": 4}, "other")):
        assert not finished(path, identity_of(*other))
    path.write_text(path.read_text()[:90])
    assert not finished(path, {})
    assert not finished(tmp_path / "none.json", {})


def test_words_of_a_protocol_change_nothing():
    assert (
        hash_of({"name": "a", "cite": "x", "notes": "", "steps": 1}) == hash_of({"steps": 1}) != hash_of({"steps": 2})
    )


# ------------------------------------------------------------------------------------------------ files of version 0.1


def test_every_file_of_the_last_version_is_read_and_says_what_it_said():
    found, left_out = read_all(OLD)
    assert left_out == []
    assert len(found) == len(list(OLD.iterdir())) == 10
    for path, result in found.items():
        given = json.loads(path.read_text())
        for key in ("model", "task", "kind", "interval", "examples", "seeds", "oracle", "chosen", "protocol_hash"):
            if key in given and key != "examples":
                assert json.loads(json.dumps(getattr(result, key))) == given[key], (path.name, key)
        for (code, row), (old_code, old) in zip(result.results.items(), given["results"].items(), strict=True):
            assert code[:3] == old_code[:3]
            assert row == {metric: value for metric, value in old.items() if metric not in ("tokens", "bytes")}
        for metric, value in given.get("average", {}).items():
            assert result.average[metric] == value
        assert result.metric in result.average
        assert {len(code) for code in result.results} <= {8} or result.kind == "mteb benchmark"


def old(name):
    return read(OLD / f"{name}.json")


def test_two_evaluators_of_one_task_are_of_one_metric_and_one_spelling_when_they_are_read():
    for recipe, task in (("recipe.first.mining", "task.first.same"), ("recipe.first.topics", "task.first.topic-probe")):
        one, other = old(recipe), old(task)
        assert one.metric == other.metric == "accuracy"
        assert one.results.keys() == other.results.keys() == {"deu_Latn", "ell_Grek", "fao_Latn"}
        assert one.average == pytest.approx({metric: other.average[metric] for metric in one.average})
        assert one.data != ""
        assert "data" not in one.protocol


def test_held_out_text_of_a_run_and_of_an_ablation():
    run, ablation = old("recipe.first.held_out"), old("ablation.second.held_out")
    assert run.metric == ablation.metric == "bits_per_byte"
    assert run.protocol == {"max_tokens": None, "seed": 7, "mask_ratio": 0.3, "replacement": "mask", "context": 512}
    assert ablation.protocol == {"mask_ratio": 0.3, "max_tokens": 200, "seed": 7}
    assert set(ablation.average) == {"bits_per_byte", "loss"}
    assert ablation.average["loss"] == pytest.approx(statistics.fmean(r["loss"] for r in ablation.results.values()))
    assert ablation.examples == {"deu_Latn": 54, "ell_Grek": 92, "fao_Latn": 60}


def test_held_out_text_that_0_1_has_measured_is_not_measured_again():
    run = old("recipe.first.held_out")
    protocol = {"mask_ratio": 0.3, "replacement": "mask", "context": 512, "max_tokens": None, "seed": 7}
    assert finished(OLD / "recipe.first.held_out.json", identity_of("6320c1ce0750cf99", protocol, run.data))


def test_settings_of_retrieval_are_part_of_the_protocol_and_what_is_known_of_mtebs_data_lies_apart():
    assert old("task.first.sought.short").protocol["contrast"]["pooling"] == "mean"
    assert set(old("task.first.sought.short").by_length) == set(
        next(iter(old("task.first.sought.short").lengths.values()))
    )
    mteb = old("mteb.first.SIB200Classification")
    assert set(mteb.about_data) == {"revision", "counts", "differs"}
    assert len(mteb.data) == 16
    assert old("mteb.first.MTEB-few").metric == "average"


def test_what_is_no_result_is_named(tmp_path):
    for name, text, says in (
        ("a", "{", "is not whole JSON"),
        ("b", "[1]", "has no `model` or no `results`"),
        ("c", '{"model": "m", "task": "t", "metric": "f1", "results": {"de": {"mcc": 1}}}', "names the metric 'f1'"),
    ):
        path = tmp_path / f"{name}.json"
        path.write_text(text)
        assert says in read_all(tmp_path)[1][-1]
        with pytest.raises(ValueError, match=f"{name}.json: is no result of `tessera evaluate`"):
            read(path)
