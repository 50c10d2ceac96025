"""Results side by side: what is read, what is certain, what is drawn, and that published tables were copied right."""

import csv
import json
import re
import statistics
import struct
from pathlib import Path

import pytest

from tessera.report.compare import SUITES, compare, differ, tables, write_csv
from tessera.results.published import AVERAGE, EUROPEAN, Score, read, read_published

CODES = ["deu_Latn", "eng_Latn", "fao_Latn", "hin_Deva", "rus_Cyrl", "swh_Latn", "tam_Taml"]


def result(folder, model, values, *, task="topics", metric="accuracy", **more):
    """A file as evaluation writes it; values {language: share}."""
    whole = {
        "model": model,
        "task": task,
        "kind": "classify",
        "metric": metric,
        "protocol": {"name": "quick"},
        "results": {code: {metric: value} for code, value in values.items()},
        "average": {metric: statistics.fmean(values.values())},
        "data": "d1",
        **more,
    }
    path = folder / f"{model}.{task}.{more.get('protocol', {}).get('name', '')}.json"
    path.write_text(json.dumps(whole))
    return path


def cells(comparison, task):
    (first, *_), notes = tables(comparison)
    _, columns, rows = first
    (row,) = (row for row in rows if row[0] == task)
    return dict(zip(columns, row, strict=True)), notes


# ---------------------------------------------------------------------------------------------------- published numbers


def test_every_published_row_says_what_it_is_and_where_it_is_from():
    folder = Path(compare.__code__.co_filename).parents[1] / "results" / "published"
    seen = set()
    for path in folder.glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                assert all(row[key] for key in ("model", "task", "language", "metric", "value", "source")), row
                assert float(row["value"]) >= 0
                key = tuple(row[k] for k in ("model", "size", "task", "language", "length", "metric", "source"))
                assert key not in seen, key
                seen.add(key)
    assert len(seen) > 600


def printed_and_computed(suite):
    """{model: (average as printed, mean of the printed tasks)}"""
    found = {(r.name, r.task): r.average for r in read_published() if r.source.startswith("mmBERT")}
    models = [name for name, task in found if task == f"{suite}, as printed"]
    assert len(models) >= 6
    return {m: (found[m, f"{suite}, as printed"], statistics.fmean(found[m, t] for t in SUITES[suite])) for m in models}


def test_printed_averages_are_those_of_the_printed_tasks():
    """So a digit that was copied wrong would show."""
    for model, (printed, computed) in printed_and_computed("xtreme").items():
        assert computed == pytest.approx(printed, abs=0.0501), model


def test_the_average_of_glue_is_computed_for_all_as_the_printed_one_is_of_other_metrics():
    gaps = [computed - printed for printed, computed in printed_and_computed("glue").values()]
    assert min(gaps) > 0.3
    assert max(gaps) < 1.2
    found, _ = cells(compare([], published=True, tasks=["glue"], models=["ModernBERT"]), "glue")
    assert found["ModernBERT 150M †"] == "87.83"


@pytest.mark.parametrize("benchmark", ["MTEB(eng, v2)", "MTEB(Multilingual, v2)"])
def test_averages_of_mteb_are_those_of_its_types_of_tasks(benchmark):
    rows = [r for r in read_published() if r.task == benchmark]
    assert len(rows) >= 6
    for one in rows:
        assert statistics.fmean(one.values.values()) == pytest.approx(one.average, abs=0.11), one.name


def test_eurobert_averages_over_the_languages_that_we_say_it_does():
    for one in read_published():
        languages = {code: value for code, value in one.values.items() if code != EUROPEAN}
        if one.task == "eurobert-xnli" and languages:
            assert statistics.fmean(languages.values()) == pytest.approx(one.average, abs=0.06)
            european = [languages[code] for code in ("eng_Latn", "deu_Latn", "spa_Latn", "fra_Latn")]
            assert statistics.fmean(european) == pytest.approx(one.values[EUROPEAN], abs=0.06)
            assert one.european == one.values[EUROPEAN]


# -------------------------------------------------------------------------------------------------------------- reading


def test_results_are_shown_in_percent_beside_published_ones_by_name_and_metric(tmp_path):
    path = result(tmp_path, "mine", {"eng_Latn": 0.8, "deu_Latn": 0.7}, task="xnli")
    found, notes = cells(compare([path], published=True, models=["mmBERT base", "XLM-R 280M"]), "xnli")
    assert found == {
        "task": "xnli",
        "metric": "accuracy",
        "mine": "75.00",
        "XLM-R 280M †": "74.60",
        "mmBERT base 307M †": "77.10",
    }
    assert any("without spread, so nothing is said of differences: mmBERT (arXiv:2509.06888)" in note for note in notes)
    assert not any("p=" in note for note in notes)


def test_files_of_the_old_suite_are_read_too(tmp_path):
    old = {
        "model": "merged",
        "task": "held_out",
        "kind": "held_out",
        "protocol": {"data": "abc"},
        "results": {"eng_Latn": {"bits_per_byte": 1.5, "loss": 3.0}},
        "average": {"bits_per_byte": 1.5, "loss": 3.0},
    }
    (tmp_path / "merged.held_out.json").write_text(json.dumps(old))
    (tmp_path / "notes.json").write_text("{}")
    (one,) = read(tmp_path)
    assert (one.metric, one.values, one.average, one.data) == ("bits_per_byte", {"eng_Latn": 1.5}, 1.5, "abc")
    (one,) = read(tmp_path, "loss")
    assert one.average == 3.0


def test_what_cannot_be_compared_is_said(tmp_path):
    path = result(tmp_path, "mine", {"eng_Latn": 0.8})
    (tmp_path / "other.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for arguments, says in (
        ({"paths": [tmp_path / "other.txt"]}, "other.txt: is no result of `tessera evaluate`"),
        ({"paths": [tmp_path / "empty"]}, "empty: holds no result"),
        ({"paths": [path], "tasks": ["topisc"]}, "no result is of task 'topisc'; did you mean 'topics'?"),
        ({"paths": [path], "models": ["mmBERT bse"], "published": True}, "did you mean 'mmBERT base'?"),
        ({"paths": [path], "reference": "XLM-R"}, "published results come without the spread"),
    ):
        with pytest.raises(ValueError, match=re.escape(says)):
            compare(**arguments)


def test_two_protocols_of_one_model_are_two_columns(tmp_path):
    for name in ("quick", "eurobert"):
        result(tmp_path, "mine", {"eng_Latn": 0.8}, protocol={"name": name})
    assert set(compare([tmp_path]).models) == {"mine (quick)", "mine (eurobert)"}


def test_protocols_that_share_a_name_and_nothing_else_are_told_apart(tmp_path):
    old, new = (
        {"name": "quick", "learning_rates": [5e-5]},
        {"name": "quick", "learning_rates": [3e-5, 1e-4], "notes": "x"},
    )
    result(tmp_path, "mine", {"fr": 0.5}, protocol=old)
    result(tmp_path, "same", {"fr": 0.5}, protocol={**old, "notes": "other words"})
    result(tmp_path, "other", {"fr": 0.6}, protocol=new)
    notes = tables(compare([tmp_path]))[1]
    (line,) = [line for line in notes if "protocols" in line]
    assert line == (
        "topics: mine and other were measured by two protocols called quick: learning_rates [5e-05] and [3e-05, 0.0001]"
    )


def test_two_results_of_one_name_are_shown_apart_and_the_same_file_once(tmp_path):
    for folder, value in (("a/one", 0.8), ("b/one", 0.6), ("two", 0.4)):
        (tmp_path / folder).mkdir(parents=True)
        result(tmp_path / folder, "mine", {"eng_Latn": value})
    found, _ = cells(compare([tmp_path / "a" / "one", tmp_path / "two"]), "topics")
    assert (found["mine (one)"], found["mine (two)"]) == ("80.00", "40.00")
    found, _ = cells(compare([tmp_path / "a" / "one", tmp_path / "b" / "one"]), "topics")
    assert (found["mine (a/one)"], found["mine (b/one)"]) == ("80.00", "60.00")
    (path,) = (tmp_path / "two").iterdir()
    assert compare([tmp_path / "two", path]).models == ["mine"]
    (tmp_path / "two" / "copy.json").write_text(path.read_text())
    with pytest.raises(ValueError, match=r"copy\.json and .* are both mine \(two\) on topics; leave one"):
        compare([tmp_path / "two"])


def test_results_by_different_metrics_are_not_put_into_one_row(tmp_path):
    one = result(tmp_path, "a", {"eng_Latn": 0.8})
    two = result(tmp_path, "b", {"eng_Latn": 0.5}, metric="f1", average={"f1": 0.5})
    with pytest.raises(ValueError, match=r"topics: .* by accuracy, .* by f1; name the one to compare by \(--metric\)"):
        compare([one, two])
    assert compare([one, two], metric="f1").models == ["b"]


def test_a_model_with_all_tasks_of_a_suite_has_its_average(tmp_path):
    for number, task in enumerate(SUITES["glue"]):
        result(tmp_path, "mine", {"eng_Latn": 0.5 + number / 100}, task=task)
    found, _ = cells(compare([tmp_path], published=True, models=["ModernBERT"]), "glue")
    assert found["mine"] == "53.50"
    assert found["ModernBERT 150M †"] == "87.83"


def test_averages_over_different_languages_are_pointed_out_and_can_be_made_equal(tmp_path):
    first = result(tmp_path, "a", {"eng_Latn": 0.8, "deu_Latn": 0.6})
    second = result(tmp_path, "b", {"eng_Latn": 0.7})
    found, notes = cells(compare([first, second]), "topics")
    assert (found["a"], found["b"]) == ("70.00", "70.00")
    assert any("averages are over different languages (a has 2, b has 1; 1 shared)" in note for note in notes)
    found, notes = cells(compare([first, second], common=True), "topics")
    assert (found["a"], found["b"]) == ("80.00", "70.00")
    assert not any("different languages" in note for note in notes)


def test_one_language_under_two_codes_is_one():
    old = Score(model="a", task="t", metric="f1", values={}, average=None)
    assert old.european is None
    tatoeba = next(r for r in read_published() if r.task == "Tatoeba")
    assert "als_Latn" in tatoeba.values
    assert "sqi_Latn" not in tatoeba.values
    assert len(tatoeba.values) == 112


# --------------------------------------------------------------------------------------------------------- significance


def test_examples_come_before_seeds_and_seeds_before_languages(tmp_path):
    values = dict.fromkeys(CODES, 0.5)
    gain = {code: 0.5 + 0.01 * (1 + n % 3) for n, code in enumerate(CODES)}
    each = {code: [0.0, 1.0] * 50 for code in CODES}
    more = {code: [1.0, 1.0] * 10 + [0.0, 1.0] * 40 for code in CODES}

    def judged(ours, theirs):
        (tmp_path / "x").mkdir(exist_ok=True)
        paths = [
            result(tmp_path / "x", "base", ours[0], **ours[1]),
            result(tmp_path / "x", "new", theirs[0], **theirs[1]),
        ]
        verdict = compare(paths, reference="base").verdicts.get(("topics", "new"))
        return (verdict.test, verdict.sign) if verdict else None

    both = {"interval": {"accuracy": 0.002}, "seeds": [0, 1, 2]}
    assert judged(
        (values, {"outcomes": {"accuracy": each}, **both}), (gain, {"outcomes": {"accuracy": more}, **both})
    ) == ("paired permutation test over 700 examples of 7 languages", 1)
    assert judged((values, both), (gain, both)) == ("Welch's t-test over 3 seeds and 3 seeds", 1)
    assert judged((values, {}), (gain, {})) == ("permutation test over 7 languages", 1)
    assert judged((gain, {}), (values, {})) == ("permutation test over 7 languages", -1)
    assert judged((values, {}), (gain, {"data": "d2"})) is None  # other rows
    few = {code: values[code] for code in CODES[:5]}
    assert judged((few, {}), ({code: gain[code] for code in few}, {})) is None


def test_less_is_better_of_bits_per_byte(tmp_path):
    low = {code: 1.0 + 0.01 * n for n, code in enumerate(CODES)}
    high = {code: value + 0.1 + 0.01 * n for n, (code, value) in enumerate(low.items())}
    paths = [
        result(tmp_path, "base", high, task="held_out", metric="bits_per_byte"),
        result(tmp_path, "new", low, task="held_out", metric="bits_per_byte"),
    ]
    found, notes = cells(compare(paths), "held_out")
    assert found["new"].endswith(" +")
    assert any("better, worse than, or not told apart from base" in note for note in notes)


def test_published_results_are_never_judged():
    results = [r for r in read_published() if r.task == "xnli"]
    assert len(results) > 3
    assert differ(results[0], results[1]) is None


# ------------------------------------------------------------------------------------------------------- what comes out


def test_the_csv_has_a_row_for_each_value(tmp_path):
    paths = [
        result(tmp_path, m, {code: 0.5 + n / 100 + k / 50 for n, code in enumerate(CODES)}) for k, m in enumerate("ab")
    ]
    write_csv(compare(paths), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (1 + len(CODES))
    assert {row["language"] for row in rows} == {AVERAGE, *CODES}
    judged = [row for row in rows if row["test"]]
    assert [(row["model"], row["test"], row["differs_from"]) for row in judged] == [
        ("b", "permutation test over 7 languages", "a")
    ]
    assert float(judged[0]["difference"]) == pytest.approx(2.0)
    assert float(rows[0]["value"]) == pytest.approx(53.0)


def size(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return struct.unpack(">II", data[16:24])


def test_pictures_by_language_group_length_and_task(tmp_path):
    pytest.importorskip("altair")
    from tessera.report.compare_charts import draw, group_of

    lengths = {"1000-5000": {"accuracy": 0.7}, "5000-9000": {"accuracy": 0.6}, ">151000": {"accuracy": 0.2}}
    paths = [result(tmp_path, m, {code: 0.5 + n / 100 for n, code in enumerate(CODES)}) for m in "ab"]
    long = result(tmp_path, "a", {"eng_Latn": 0.5}, task="long", by_length=lengths)
    bars = draw(compare(paths), tmp_path / "plots" / "languages.png")
    assert size(bars)[0] > 500
    for kind in ("groups", "tasks"):
        assert size(draw(compare(paths), tmp_path / f"{kind}.png", kind))[1] > 100
    page = draw(compare([long]), tmp_path / "length.html").read_text(encoding="utf-8")
    spec = json.loads(re.search(r'id="specs">(.*?)</script>', page)[1])
    assert spec["layer"][0]["encoding"]["x"]["sort"] == ["1K-5K", "5K-9K", "over 151K"]
    with pytest.raises(ValueError, match="nothing here has what a picture by length needs"):
        draw(compare(paths), tmp_path / "no.png", "length")
    with pytest.raises(ValueError, match=r"no.jpg cannot be written; give a name that ends in one of"):
        draw(compare(paths), tmp_path / "no.jpg")
    with pytest.raises(ValueError, match="models are more than 8"):
        draw(compare([], published=True, tasks=["xnli", "eurobert-xnli"]), tmp_path / "no.png")
    assert [group_of("fao_Latn", by) for by in ("family", "script", "european")] == ["Germanic", "Latn", "others"]
    assert group_of("deu_Latn", "european").startswith("European")
    assert group_of("qqq_Latn", "family") == "other families"


def test_many_languages_are_points_and_a_group_counts_only_what_all_have(tmp_path):
    pytest.importorskip("altair")
    from tessera.report.compare_charts import draw

    many = {f"{a}{b}x_Latn": 0.5 for a in "abcdefgh" for b in "abcdefgh"}
    page = draw(compare([result(tmp_path, "a", many)]), tmp_path / "many.html").read_text(encoding="utf-8")
    spec = json.loads(re.search(r'id="specs">(.*?)</script>', page)[1])
    assert spec["mark"]["type"] == "circle"
    assert len(spec["data"]["values"]) == 64
    paths = [
        result(tmp_path, "a", {"deu_Latn": 0.4, "nld_Latn": 0.8}),
        result(tmp_path, "b", {"deu_Latn": 0.2}),
    ]
    page = draw(compare(paths), tmp_path / "groups.html", "groups").read_text(encoding="utf-8")
    spec = json.loads(re.search(r'id="specs">(.*?)</script>', page)[1])
    values = {(row["group"], row["model"]): row["value"] for row in spec["data"]["values"]}
    assert values == {("Germanic (1)", "a"): 40.0, ("Germanic (1)", "b"): 20.0}


def test_a_models_name_cannot_become_part_of_the_picture(tmp_path):
    pytest.importorskip("altair")
    from tessera.report.compare_charts import draw

    evil = "</script><img src=x onerror=alert(1)>"
    path = result(tmp_path, "a", {"deu_Latn": 0.4, "nld_Latn": 0.8})
    path.write_text(path.read_text().replace('"a"', json.dumps(evil)))
    page = draw(compare([path]), tmp_path / "evil.html").read_text(encoding="utf-8")
    assert evil not in page
    spec = json.loads(re.search(r'id="specs">(.*?)</script>', page)[1])
    assert {row["model"] for row in spec["data"]["values"]} == {evil}


def test_a_task_of_ones_own_by_the_name_of_a_published_one_stands_beside_nothing_published(tmp_path):
    """Neither in its column nor in the average of a suite."""
    result(tmp_path, "mine", {"eng_Latn": 0.9}, task="xnli", defined="own")
    found = compare([tmp_path], published=True, models=["mmBERT base"])
    assert list(found.tasks) == ["xnli (yours)"]
    made, notes = cells(found, "xnli (yours)")
    assert set(made) == {"task", "metric", "mine"}
    assert any("a task of your own by the name of another" in note for note in notes)
    assert list(compare([tmp_path], tasks=["xnli"]).tasks) == ["xnli"]
    (tmp_path / "theirs").mkdir()
    result(tmp_path / "theirs", "other", {"eng_Latn": 0.8}, task="xnli", defined="tessera")
    both = compare([tmp_path, tmp_path / "theirs"])
    assert sorted(both.tasks) == ["xnli", "xnli (yours)"]
    for task in SUITES["glue"]:
        result(tmp_path / "theirs", "other", {"eng_Latn": 0.8}, task=task, defined="own")
    assert "glue" not in compare([tmp_path / "theirs"]).tasks


def test_a_result_on_some_examples_says_so_beside_published_ones(tmp_path):
    how = {"name": "quick", "test_examples": 500}
    result(tmp_path, "mine", {"eng_Latn": 0.9}, task="xnli", defined="tessera", protocol=how, dtype="bfloat16")
    _, notes = cells(compare([tmp_path], published=True, models=["mmBERT base"]), "xnli")
    assert "xnli mine: at most 500 examples of a language were tested, of published results all" in notes
    assert "computed in bfloat16" in notes
    assert not any("at most 500" in note for note in cells(compare([tmp_path]), "xnli")[1])


def test_results_are_compared_in_the_languages_that_are_asked_for(tmp_path):
    for model, share in (("a", 0.5), ("b", 0.6)):
        result(tmp_path, model, {code: share + n / 100 for n, code in enumerate(CODES)})
    found = compare([tmp_path], languages=["de", "fao_Latn"])
    assert [set(one.values) for one in found.tasks["topics"]] == [{"deu_Latn", "fao_Latn"}] * 2
    assert found.tasks["topics"][0].average == pytest.approx(51)
    with pytest.raises(ValueError, match="no result has a language of xyz"):
        compare([tmp_path], languages=["xyz"])
