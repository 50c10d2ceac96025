"""The report of a run folder: what it shows, what it survives, and that nothing in a file can take the page over."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import COUNTS, LANGUAGES, TOKENS, origin, write_run

from tessera.plan.loading import RecipeError
from tessera.report import style, summarize, write_report
from tessera.report.charts import figures, thin
from tessera.report.run_files import Run, group_mean, language_of, open_run
from tessera.report.tables import Cell, Columns, Table, best, duration, gap_cell, metric_cell, percent, tokens

EVIL = "</script></details><img src=x onerror=alert(1)>\"'"


class Elements(HTMLParser):
    """What a browser would build: every start tag with its attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text += data


def specs_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', page, re.DOTALL)
    assert found
    specs: dict[str, Any] = json.loads(found[1])
    return specs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo", every=10)


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return open_run(folder)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    path = write_report(folder)
    assert path == folder / "report.html"
    assert not list(folder.glob("*.tmp"))
    return path.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_page_asks_the_network_for_nothing(page: str) -> None:
    elements = Elements(page)
    for tag, attributes in elements.tags:
        assert tag not in ("link", "iframe", "img", "object", "base")
        assert "src" not in attributes
        assert not (attributes.get("href") or "#").strip("#").startswith(("http", "/"))
    policy = next(a["content"] for t, a in elements.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert not re.search(r"url\(|@import", page[: page.index("</style>")])


def test_every_place_for_a_chart_has_its_chart_and_every_chart_its_place(page: str) -> None:
    places = [a["data-chart"] for _, a in Elements(page).tags if "data-chart" in a]
    assert sorted(filter(None, places)) == sorted(specs_of(page))
    assert {p.split("-")[0] for p in places if p} == {
        "loss", "schedules", "mixture", "held_out", "languages", "merge", "throughput",
    }  # fmt: skip
    assert all(spec["width"] == "container" for spec in specs_of(page).values())


def test_a_finished_run_has_no_word_of_warning(page: str) -> None:
    text = Elements(page).text
    assert "not finished" not in text
    assert "damaged" not in text
    for word in ("Faroese", "tatoeba", "sib200", "merged: ties", "tessera run recipe.yaml", "temperature: 0.7"):
        assert word in text
    assert "Serbian (Cyrillic)" in text  # a language in two scripts is named with its script
    assert "Faroese (" not in text


def test_what_stands_in_files_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", notes=EVIL, every=50)
    bucket = {
        "key": EVIL,
        "source": EVIL,
        "language": EVIL,
        "tokens_available": 10,
        "share_planned": 0.5,
        "share_read": 0.5,
    }
    (run / "mid" / "mixture.json").write_text(json.dumps({"buckets": [bucket]}))
    result = {"model": EVIL, "task": EVIL, "kind": EVIL, "protocol": {EVIL: EVIL}, "seed": EVIL, "tessera": EVIL,
              "results": {EVIL: {EVIL: 0.5}}, "average": {EVIL: 0.5}}  # fmt: skip
    (run / "evaluation" / "evil.json").write_text(json.dumps(result))
    (run / "evaluation" / "evil2.json").write_text(json.dumps(result | {"kind": "held_out"}))
    page = write_report(run).read_text(encoding="utf-8")
    elements = Elements(page)
    assert [t for t, _ in elements.tags].count("script") == 3
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in elements.tags)
    assert elements.text.count(EVIL) >= 5  # it is there to be read
    specs_of(page)


def test_numbers_that_are_not_finite_never_reach_the_charts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", every=50)
    with (run / "mid" / "metrics.jsonl").open("a") as file:
        file.write('{"kind":"step","step":9999,"tokens":120000000,"total_tokens":520000000,"loss":NaN}\n')
        file.write(
            '{"kind":"held_out","step":9999,"total_tokens":520000000,"languages":{"eng_Latn":{"bits_per_byte":Infinity}}}\n'
        )
    page = write_report(run).read_text(encoding="utf-8")
    assert "NaN" not in json.dumps(specs_of(page))
    assert "Infinity" not in json.dumps(specs_of(page))


# -------------------------------------------------------------------------------------------------------- what it says


def test_branches_begin_where_their_parent_ended(run: Run) -> None:
    assert [p.origin for p in run.phases] == [origin(name) for name in COUNTS] == [0, 400_000_000] + [520_000_000] * 3
    everything = figures(run)["held_out"][0].chart.to_dict()
    rows = next(layer["data"]["values"] for layer in everything["layer"] if "stage" in layer["data"]["values"][0])
    last_of_mid = [r for r in rows if r["stage"] == "mid"][-1]
    for branch in ("decay-eng", "decay-110", "decay-all"):
        first = next(r for r in rows if r["stage"] == branch)
        assert (first["x"], first["y"]) == (last_of_mid["x"], last_of_mid["y"])
    marks = next(layer["data"]["values"] for layer in everything["layer"] if "stage" not in layer["data"]["values"][0])
    assert marks == [{"x": 400_000_000}, {"x": 520_000_000}]


def test_a_language_belongs_to_the_phase_that_reads_it_first(run: Run) -> None:
    assert {group: len(codes) for group, codes in run.groups.items()} == {
        "all languages": 60,
        "from pretrain": 25,
        "added in mid": 20,
        "added in decay-all": 15,
        "code and math": 1,
    }
    assert "fao_Latn" in run.groups["added in decay-all"]
    assert "code" not in run.groups["all languages"]


def test_a_merge_has_read_what_its_parents_read(run: Run) -> None:
    assert run.recipe.chain("decay-eng") == ["pretrain", "mid", "decay-eng"]
    assert run.recipe.chain("merged") == run.recipe.chain("./folder") == run.recipe.chain(None) == []
    assert run.has_read("merged") == {*LANGUAGES, "code"}
    assert run.has_read("decay-eng") == {*LANGUAGES[:45], "code"}
    assert run.has_read("somebody-elses") is None


def test_a_phase_from_a_merge_holds_what_all_its_models_read(run: Run) -> None:
    last = run.recipe.phase("decay-eng").model_copy(update={"name": "after", "from_": "merged"})
    recipe = run.recipe.model_copy(update={"phases": (*run.recipe.phases, last)})
    assert recipe.went_into("after") == {"pretrain", "mid", "decay-eng", "decay-110", "decay-all", "merged", "after"}
    assert recipe.went_into("mid") == {"pretrain", "mid"}
    assert recipe.went_into("./folder") == recipe.went_into(None) == set()


def test_the_summary_marks_the_best_and_what_was_never_read(page: str) -> None:
    summary = page[page.index('id="summary"') : page.index('id="training"')]
    row = re.search(r"<tr><td[^>]*>pretrain</td>(.*?)</tr>", summary)
    assert row
    assert [bool(re.search("unseen", cell)) for cell in row[1].split("<td")[1:]] == [False, False, True, True, False]
    assert summary.count('class="best"') >= 9


def test_a_mean_over_a_group_counts_each_language_once() -> None:
    values = {"fao_Latn-eng_Latn": 0.2, "eng_Latn-isl_Latn": 0.4, "deu_Latn": 0.9}
    assert group_mean(values, ("fao_Latn", "isl_Latn")) == pytest.approx(0.3)
    assert group_mean(values, ("kal_Latn",)) is None
    assert [language_of(key) for key in ("fao_Latn", "eng_Latn-fao_Latn", "a-", "x-y-z")] == ["fao_Latn"] * 2 + [
        "a-",
        "x-y-z",
    ]


def test_buckets_of_one_language_are_added_up(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", every=50)
    buckets = [
        {
            "language": "eng_Latn",
            "tokens_available": 100,
            "share_planned": 0.2,
            "tokens_planned": 50,
            "share_read": 0.1,
        },
        {
            "language": "eng_Latn",
            "tokens_available": 300,
            "share_planned": 0.3,
            "tokens_planned": 150,
            "share_read": 0.4,
        },
        {"language": "deu_Latn", "tokens_available": 100, "share_planned": 0.5, "tokens_planned": 50},
    ]
    (run / "mid" / "mixture.json").write_text(json.dumps({"buckets": buckets}))
    mixture = open_run(run).phases[1].mixture
    assert (mixture["eng_Latn"].planned, mixture["eng_Latn"].read, mixture["eng_Latn"].epochs) == (0.5, 0.5, 0.5)
    assert mixture["deu_Latn"].read is None


# ------------------------------------------------------------------------------------------------- what it is asked for


def test_a_run_stopped_anywhere_still_has_its_report(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", every=50)
    (run / "mid" / "final").unlink()
    path = run / "mid" / "metrics.jsonl"
    whole = path.read_bytes()[:30_000]
    lines = whole.count(b"\n")
    for stop in range(0, len(whole), 997):
        path.write_bytes(whole[:stop])
        read = open_run(run)
        cut = stop > 0 and whole[stop - 1 : stop] != b"\n" and whole[stop : stop + 1] != b"\n"
        assert any("mid/metrics.jsonl is cut" in note for note in read.notes) == cut
        assert len(read.phases[1].steps["step"]) + len(read.phases[1].held_out) <= lines


def test_the_page_of_a_run_that_goes_on_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", every=50)
    for phase in ("decay-110", "decay-all"):
        (run / phase / "final").unlink()
        (run / phase / "metrics.jsonl").unlink()
    (run / "mid" / "final").unlink()
    (run / "merged" / "final").rmdir()
    for path in (run / "evaluation").iterdir():
        path.unlink()
    half = (run / "mid" / "metrics.jsonl").read_text()[:20_000]
    (run / "mid" / "metrics.jsonl").write_text(half)
    (run / "mid" / "mixture.json").write_text('{"buckets": [')
    text = Elements(write_report(run).read_text(encoding="utf-8")).text
    assert "This run is not finished." in text
    assert "of 120M tokens" in text
    assert "not there yet: decay-110, decay-all, merged" in text
    assert "the last line of mid/metrics.jsonl is cut" in text
    assert "mid/mixture.json is not whole JSON" in text
    assert "never read" not in text  # what a phase reads is known when it ends
    assert "pretrain *" in text  # its bits per byte is the sample taken in training


def test_a_folder_with_a_recipe_and_nothing_else_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", every=50)
    for path in sorted(run.rglob("*"), reverse=True):
        if path.name != "recipe.yaml":
            path.unlink() if path.is_file() or path.is_symlink() else path.rmdir()
    text = Elements(write_report(run).read_text(encoding="utf-8")).text
    assert "not there yet: pretrain, mid, decay-eng, decay-110, decay-all, merged" in text


def test_steps_written_again_after_a_resumption_count_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", every=50)
    path = run / "decay-eng" / "metrics.jsonl"
    before = open_run(run).phases[2]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines + lines[len(lines) // 2 :]))
    after = open_run(run).phases[2]
    assert after.steps == before.steps
    assert after.held_out == before.held_out
    assert after.tokens == pytest.approx(TOKENS["decay-eng"], rel=0.01)


def test_damage_in_the_middle_of_a_finished_phase_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", every=50)
    path = run / "decay-eng" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "{broken\n", *lines[1:]]))
    (run / "decay-all" / "metrics.jsonl").unlink()
    (run / "evaluation" / "list.json").write_text("[1, 2]")
    assert sorted(open_run(run).notes) == [
        "decay-all/metrics.jsonl is missing, though the phase is finished",
        "decay-eng/metrics.jsonl: 1 unreadable line(s) left out, the first is line 2",
        "evaluation/list.json is no result of an evaluation (it has no `model` or no `results`); left out",
    ]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"has no recipe.yaml, so it is no run folder; give the folder that `tessera run`"
    ):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="nowhere does not exist, so it is no run folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "recipe.yaml").write_text("name: x\nphasen: []\n")
    with pytest.raises(RecipeError, match="did you mean 'phases'"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_without_altair_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ImportError, match=r'pip install "tessera-encoders\[report\]"'):
        write_report(folder)


def test_the_report_imports_no_model() -> None:
    code = "import sys, tessera.report; print([m for m in ('torch', 'numpy', 'altair', 'jinja2') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def drawn_alone(path: Path) -> str:
    """A picture with texts that would like to be more."""
    alt = style.altair()
    chart = alt.Chart(alt.Data(values=[{"model": EVIL, "value": 1}]), title=EVIL).mark_bar().encode(x="model:N")
    return style.write_picture(chart, path).read_text(encoding="utf-8")


def test_a_picture_as_a_page_asks_for_nothing_and_holds_texts_as_texts(tmp_path: Path) -> None:
    page = drawn_alone(tmp_path / "new" / f"{EVIL.replace('/', '')}.html")
    elements = Elements(page)
    assert [t for t, _ in elements.tags].count("script") == 3
    assert not any(tag == "img" or "src" in attributes or "onerror" in attributes for tag, attributes in elements.tags)
    assert "default-src 'none'" in next(a["content"] or "" for t, a in elements.tags if "http-equiv" in a)
    assert specs_of(page)["title"] == EVIL
    assert next(iter(specs_of(page)["data"]["values"]))["model"] == EVIL


@pytest.mark.parametrize("ending", ["svg", "png", "html"])
def test_characters_that_no_picture_holds_are_marks_in_it(tmp_path: Path, ending: str) -> None:
    """vl-convert ends the whole process at one of them."""
    alt, name = style.altair(), "a\x1b[2J\x00b\ud800c\u202ed\ufffee"
    chart = alt.Chart(alt.Data(values=[{"model": name, "value": 1}]), title=name).mark_bar().encode(x="model:N")
    drawn = style.write_picture(alt.vconcat(chart, chart), tmp_path / f"plot.{ending}").read_bytes()
    if ending == "png":
        assert drawn.startswith(b"\x89PNG")
    else:
        assert "a\ufffd[2J" in drawn.decode().replace("\\ufffd", "\ufffd")


def test_json_in_a_page_is_written_in_one_place() -> None:
    """So that there is one place to escape it in."""
    folder = Path(style.__file__).parent
    templates = {path.name: path.read_text(encoding="utf-8") for path in (folder / "templates").iterdir()}
    assert [name for name, text in templates.items() if "|safe" in text.replace(" ", "")] == []
    assert sum(text.count("tojson") for text in templates.values()) == 1
    assert [path.name for path in folder.glob("*.py") if "<script" in path.read_text(encoding="utf-8")] == []


def test_a_picture_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"plot\.pdf cannot be written; give a name that ends in one of \.png, \.svg"):
        style.check_picture(tmp_path / "plot.pdf")


# ------------------------------------------------------------------------------------------------------ its small parts


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.integers(1, 20))
def test_a_thinned_line_keeps_its_end_and_its_range(values: list[float], points: int) -> None:
    x = [float(i) for i in range(len(values))]
    kept = thin(x, values, points)
    assert len(kept) == min(len(values), points)
    assert [a for a, _ in kept] == sorted({a for a, _ in kept})
    if values:
        assert kept[-1][0] == x[-1]
        assert all(min(values) - 1e-6 <= b <= max(values) + 1e-6 for _, b in kept)
        assert thin(x, values, points, last=True)[-1] == (x[-1], values[-1])


def test_a_thinned_line_leaves_out_what_is_not_finite() -> None:
    assert thin([1.0, 2.0, float("nan"), 4.0], [1.0, float("nan"), 3.0, float("inf")], 9) == [(1.0, 1.0)]


def test_numbers_are_written_as_people_read_them() -> None:
    assert [tokens(n) for n in (0, 999, 1000, 12_345, 2_345_678, 999_960, 1e9, 2.3e12)] == [
        "0", "999", "1k", "12.3k", "2.35M", "1M", "1B", "2.3T",
    ]  # fmt: skip
    assert [percent(s) for s in (0.41, 0.0312, 0.00123, 0.00004, 1e-9, 0)] == [
        "41.0",
        "3.12",
        "0.12",
        "0.004",
        "1e-07",
        "0.0",
    ]
    assert [duration(s) for s in (48, 720, 12_000, 360_000)] == ["48 s", "12 min", "3 h 20 min", "4 d 4 h"]
    assert metric_cell("accuracy", 0.8349).text == "83.5"
    assert metric_cell("margin_f1", 0.8349).text == "83.5"
    assert metric_cell("bits_per_byte", 1.23456).text == "1.235"
    assert metric_cell("accuracy", None).text == "–"
    assert [gap_cell("accuracy", g).text for g in (0.012, -0.012, -0.00001)] == ["+1.2", "−1.2", "0.0"]


def test_the_best_is_the_lowest_of_bits_and_the_highest_of_accuracy() -> None:
    assert best("bits_per_byte", [1.0, None, 2.0]) == 1.0
    assert best("accuracy", [1.0, None, 2.0]) == 2.0
    assert best("accuracy", [1.0, None]) is None
    assert best("accuracy", [0.5, 0.5]) is None


def test_columns_under_one_title_stand_under_it() -> None:
    groups = [Columns("a", ("x", "y")), Columns("b", ("z",))]
    shown = Table(words=("model",), numbers=groups, rows=[[Cell("m"), Cell("1"), Cell("2"), Cell("3")]])
    html = str(style._templates().get_template("parts.html").module.table(shown))
    head = html[html.index("<thead>") : html.index("</thead>")]
    assert re.findall(r"colspan=\"(\d)\">(\w)<", head) == [("2", "a"), ("1", "b")]
    assert re.findall(r"<td( class=\"[^\"]*\")?[^>]*>(\w)<", html) == [
        (' class="word first"', "m"),
        (' class="edge"', "1"),
        ("", "2"),
        (' class="edge"', "3"),
    ]


# --------------------------------------------------------------------------------------- what a number is compared with


def test_an_untrained_model_and_chance_stand_beside_the_results(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", every=50)
    (folder / "pretrain" / "checkpoint-9" / "config.json").write_text('{"vocab_size": 1024}', encoding="utf-8")
    for path in (folder / "evaluation").glob("*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        if (
            result["kind"] == "held_out"
        ):  # nats of 10 bits, where one was measured: an untrained model needs ten times as many
            result["results"] = {code: {**row, "loss": math.log(2)} for code, row in result["results"].items()}
        if result["kind"] == "bitext":
            result["examples"] = dict.fromkeys(result["results"], 20)
        path.write_text(json.dumps(result), encoding="utf-8")
    run = open_run(folder)
    last = [result for result in run.results if result.kind == "held_out"][-1]
    measured = {code: row["bits_per_byte"] for code, row in last.results.items()}
    assert {code: run.untrained_bits()[code] for code in measured} == pytest.approx(
        {code: 10 * bits for code, bits in measured.items()}
    )
    held_out, bitext = summarize(folder)["tables"]
    assert held_out["rows"][0][0] == "untrained"
    assert bitext["rows"][0][:2] == ["chance", 5.0]
    assert "among 20 sentences a language" in bitext["title"]
    text = Elements(write_report(folder).read_text(encoding="utf-8")).text
    assert "Untrained: every token equally likely" in text
    assert "Chance: a sentence drawn blindly" in text


def test_without_a_vocabulary_nothing_is_said_of_an_untrained_model(folder: Path) -> None:
    tables = summarize(folder)["tables"]
    assert "untrained" not in [row[0] for row in tables[0]["rows"]]
    assert open_run(folder).untrained_bits() == {}


def test_few_languages_are_bars_with_names_and_many_are_points(tmp_path: Path, run: Run) -> None:
    def marks(run: Run, name: str) -> set[str]:
        return {spec["mark"]["type"] for f in figures(run)[name] for spec in [f.chart.to_dict()] if "mark" in spec}

    assert marks(run, "languages") == {"circle"}
    folder = write_run(tmp_path / "run", every=50)
    few = {"eng_Latn", "fao_Latn", "kat_Geor"}
    for path in folder.glob("*/mixture.json"):
        buckets = json.loads(path.read_text())["buckets"]
        path.write_text(json.dumps({"buckets": [one for one in buckets if one["language"] in few]}))
    for path in (folder / "evaluation").glob("*.json"):
        result = json.loads(path.read_text())
        result["results"] = {code: row for code, row in result["results"].items() if code in few}
        path.write_text(json.dumps(result))
    small = open_run(folder)
    for name in ("languages", "mixture"):
        (figure,) = figures(small)[name]
        spec = figure.chart.to_dict()
        assert spec["mark"]["type"] == "bar"
        assert set(spec["encoding"]["y"]["sort"]) <= few


def test_the_merge_is_drawn_above_its_parents_as_an_outline(run: Run) -> None:
    (figure,) = figures(run)["merge"]
    parents, merged = figure.chart.to_dict()["layer"]
    assert parents["mark"]["type"] == "circle"
    assert (merged["mark"]["shape"], merged["mark"]["filled"]) == ("diamond", False)
    assert merged["mark"]["size"] > parents["mark"]["size"]
    assert {row["stage"] for row in merged["data"]["values"]} == {"merged"}


def test_a_model_is_called_by_its_preset_only_where_it_has_its_shape(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", every=50)
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    assert "mmbert-small" in Elements(write_report(folder).read_text(encoding="utf-8")).text.split("Summary")[0]
    data = yaml.safe_load(recipe)
    data["model"] = {"preset": "mmbert-small", "override": {"num_hidden_layers": 4}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    top = Elements(write_report(folder).read_text(encoding="utf-8")).text.split("Summary")[0]
    assert "a shape of its own" in top
    (folder / "pretrain" / "checkpoint-9" / "config.json").write_text('{"vocab_size": 1024}', encoding="utf-8")
    top = Elements(write_report(folder).read_text(encoding="utf-8")).text.split("Summary")[0]
    assert re.search(r"parameters\s*[\d.]+[kM]", top)
    assert "mmbert-small" not in top


def test_a_table_that_goes_on_to_the_right_says_so(page: str) -> None:
    assert page.count("More to the right") == page.count("</table></div>") > 1
