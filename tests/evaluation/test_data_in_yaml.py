"""Data sets as they lie, each said in a line of a task's YAML."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from task_files import CLASSIFY, task, write

from tessera.evaluation import catalogue, frozen, load
from tessera.evaluation.catalogue import find
from tessera.evaluation.groups import read_groups, read_labels
from tessera.evaluation.rows import DataError

SETS = Path(__file__).parents[2].parent / "shared" / "data" / "eval"
BITEXT = {"kind": "bitext", "metric": "accuracy", "train": "none"}
real = pytest.mark.skipif(not SETS.is_dir(), reason="the sets of ../shared/data/eval are not here")


def of_yaml(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    return find(str(tmp_path / "mine.yaml"))


def test_one_file_with_a_column_a_language(tmp_path):
    (tmp_path / "wide.csv").write_text("id,eng_Latn,fao_Latn,deu_Latn\n1,one,eitt,eins\n2,two,tvey,zwei\n")
    given = task(
        {**BITEXT, "columns": {"id": "id", "text": "eng_Latn", "second": "{language}"}},
        data={"path": "wide.csv", "splits": {"test": "all"}},
    )
    assert frozen.read(given, tmp_path).test == {
        "deu_Latn": [("one", "eins"), ("two", "zwei")],
        "fao_Latn": [("one", "eitt"), ("two", "tvey")],
    }
    write(tmp_path / "deep.jsonl", [{"text_en": "one", "other": {"fo": "eitt", "de": "eins"}}])
    given = task(
        {**BITEXT, "columns": {"text": "text_en", "second": "other.{language}"}},
        data={"path": "deep.jsonl", "splits": {"test": "all"}},
    )
    assert frozen.read(given, tmp_path).test == {"deu_Latn": [("one", "eins")], "fao_Latn": [("one", "eitt")]}


def test_columns_of_something_else_are_no_languages_and_translations_that_lack_are_named(tmp_path):
    given = task(
        {**BITEXT, "columns": {"text": "en", "second": "{language}"}},
        data={"path": "wide.csv", "splits": {"test": "all"}},
    )
    for rows, found in (
        ("id,en,fo,quz,label\n1,one,eitt,huk,a\n", ["fo", "quz"]),
        ("id,en,fo,de\nsatu,one,eitt,eins\n", ["de", "fo", "id"]),  # Indonesian
        ("id,en,fao_Latn\nx1,one,eitt\n", ["fao_Latn"]),
        ("id,en,Faroese,Title\n1,one,eitt,t\n", ["Faroese"]),
    ):
        (tmp_path / "wide.csv").write_text(rows)
        assert list(load.languages(given, tmp_path)) == found
    (tmp_path / "wide.csv").write_text("id,en,fo\n1,one,eitt\n2,two,\n3,three,trý\n")
    with pytest.raises(DataError, match=r"wide.csv:3: has no text of language 'fo'; .* \(skip: true in the task\)"):
        frozen.read(given, tmp_path)
    left = given.model_copy(update={"skip": True})
    assert frozen.read(left, tmp_path).test == {"fao_Latn": [("one", "eitt"), ("three", "trý")]}


def test_a_file_is_no_translation_of_itself_and_a_column_that_joins_is_in_both(tmp_path):
    for code, lines in (("en", "one\ntwo\n"), ("fo", "eitt\ntvey\n"), ("de", "eins\nzwei\n")):
        (tmp_path / f"{code}.txt").write_text(lines)
    data = {"path": "en.txt", "beside": {"path": "{language}.txt"}, "splits": {"test": "all"}}
    given = task({**BITEXT, "columns": {"text": "text", "second": "beside.text"}}, data=data)
    assert load.languages(given, tmp_path) == ("de", "fo")
    write(tmp_path / "a.jsonl", [{"key": 1, "t": "one"}])
    write(tmp_path / "fo.jsonl", [{"id": 1, "t": "eitt"}])
    data = {"path": "a.jsonl", "beside": {"path": "{language}.jsonl", "by": "key"}, "splits": {"test": "all"}}
    given = task({**BITEXT, "columns": {"text": "t", "second": "beside.t"}, "languages": ["fo"]}, data=data)
    with pytest.raises(DataError, match=r"fo.jsonl:1: has no column 'key'; .*both files call the same"):
        frozen.read(given, tmp_path)


def test_a_column_may_be_called_by_braces(tmp_path):
    (tmp_path / "odd.csv").write_text('id,"{text}",a{b},te xt,label\n1,x,y,z,good\n')
    for column, text in (("{text}", "x"), ("a{b}", "y"), ("{te xt}: {label}", "z: good"), ("{} {label}", "{} good")):
        columns = {"id": "id", "text": column, "label": "label"}
        given = task(
            {**CLASSIFY, "columns": columns},
            data={
                "path": "odd.csv",
                "splits": {"test": "all"},
            },
        )
        assert load.load(given, "test", "fo", tmp_path)[0].text == text


def test_languages_are_those_that_a_column_of_the_rows_tells(tmp_path):
    rows = [{**{"id": f"{lang}{n}", "text": "x", "label": n}, "lang": lang} for lang in ("fo", "is") for n in (0, 1)]
    write(tmp_path / "all.jsonl", rows)
    data = {"path": "all.jsonl", "where": {"lang": "{language}"}, "splits": {"train": "all"}}
    given = task({**CLASSIFY, "languages": "all", "train": "fo"}, data={**data, "splits": {"test": "all"}})
    assert load.languages(given, tmp_path) == ("fo", "is")


def test_pairs_from_two_files_line_by_line_or_by_an_id(tmp_path):
    for code, lines in (("en", "one\ntwo\n"), ("fo", "eitt\ntvey\n"), ("de", "eins\n\nzwei\n"), ("is", "einn\n")):
        (tmp_path / f"{code}.txt").write_text(lines)
    data = {"path": "en.txt", "beside": {"path": "{language}.txt"}, "splits": {"test": "all"}}
    given = task({**BITEXT, "columns": {"text": "text", "second": "beside.text"}}, data=data)
    fo = given.model_copy(update={"languages": ("fo",)})
    assert frozen.read(fo, tmp_path).test == {"fao_Latn": [("one", "eitt"), ("two", "tvey")]}
    for code, says in (("de", r"en.txt:2: stands beside .*de.txt:3; an empty line"), ("is", "1 rows stand beside")):
        with pytest.raises(DataError, match=says):
            frozen.read(given.model_copy(update={"languages": (code,)}), tmp_path)
    write(tmp_path / "a.jsonl", [{"id": 1, "t": "one"}, {"id": 2, "t": "two"}])
    write(tmp_path / "fo.jsonl", [{"id": 2, "t": "tvey"}, {"id": 1, "t": "eitt"}])
    data = {"path": "a.jsonl", "beside": {"path": "{language}.jsonl", "by": "id"}, "splits": {"test": "all"}}
    given = task({**BITEXT, "columns": {"text": "t", "second": "beside.t"}, "languages": ["fo"]}, data=data)
    assert frozen.read(given, tmp_path).test == {"fao_Latn": [("one", "eitt"), ("two", "tvey")]}
    write(tmp_path / "fo.jsonl", [{"id": 2, "t": "tvey"}])
    with pytest.raises(DataError, match=r"a.jsonl:1: no row of .*fo.jsonl has id '1'"):
        frozen.read(given, tmp_path)


def test_few_shots_by_number_share_no_row_and_leave_the_rest(tmp_path):
    write(tmp_path / "all.jsonl", [{"id": n, "text": f"x{n}", "label": n % 2} for n in range(40)])

    def ids(**splits):
        given = task(CLASSIFY, data={"path": "all.jsonl", "splits": splits})
        return [{e.id: e.label for e in load.load(given, s, "fo", tmp_path)} for s in ("train", "validation", "test")]

    train, held, test = ids(train={"from": "all", "rows": 10}, validation={"from": "all", "rows": 5}, test="all")
    assert (len(train), len(held), len(test)) == (10, 5, 25)
    assert len({*train, *held, *test}) == 40
    few, held, _ = ids(train={"from": "all", "per_label": 4}, validation={"from": "all", "per_label": 2}, test="all")
    assert sorted(few.values()) == [0] * 4 + [1] * 4
    assert sorted(held.values()) == [0, 0, 1, 1]
    assert not {*few} & {*held}
    with pytest.raises(DataError, match="ask for 21 rows of label '0' of 'all', which has 20; ask for fewer"):
        ids(train={"from": "all", "per_label": 21}, validation="all", test="other")
    with pytest.raises(ValidationError, match="one of `share`, `rows` and `per_label`"):
        ids(train={"from": "all", "rows": 3, "share": 0.5})


def test_every_row_is_tested_in_one_fold_and_groups_stay_together(tmp_path):
    write(tmp_path / "fo.csv.jsonl", [{"id": n, "text": f"x{n}", "label": n % 2, "g": n // 4} for n in range(400)])
    columns = {**CLASSIFY["columns"], "group": "g"}
    data = {"path": "fo.csv.jsonl", "splits": {"test": "all"}}
    given = task({**CLASSIFY, "columns": columns, "folds": 5}, data=data)
    groups = read_groups(given, catalogue.protocol("quick", given), tmp_path)
    assert [group.name for group in groups] == [f"fo.fold-{n}" for n in range(1, 6)]
    tested = [example.id for group in groups for rows in group.test.values() for example in rows]
    assert sorted(tested, key=int) == [str(n) for n in range(400)]
    for group in groups:
        sides = [group.train, *group.validation.values(), *group.test.values()]
        parts = [{int(example.id) // 4 for example in side} for side in sides]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 100
        assert sum(map(len, sides)) == 400
    labelled = read_labels(groups, catalogue.protocol("quick", given), tmp_path)
    assert {e.label for rows in labelled.values() for e in rows} == {0, 1}
    for wrong, says in (({"folds": 1}, "greater than or equal to 2"), ({"fold": 0}, "fold is one of `folds`")):
        with pytest.raises(ValidationError, match=says):
            task({**CLASSIFY, **wrong}, data=data)
    with pytest.raises(ValidationError, match="folds divides one split"):
        task({**CLASSIFY, "folds": 5})


def test_parts_that_cannot_be_say_so(tmp_path):
    write(tmp_path / "few.jsonl", [{"id": n, "text": f"x{n}", "label": n % 2} for n in range(3)])
    given = task({**CLASSIFY, "folds": 5}, data={"path": "few.jsonl", "splits": {"test": "all"}})
    with pytest.raises(DataError, match=r"falls into .* of one of 5 folds; .*, so say fewer folds, or give more rows"):
        read_groups(given, catalogue.protocol("quick", given), tmp_path)
    splits = {"train": {"from": "all", "rows": 3}, "test": "all"}
    given = task(CLASSIFY, data={"path": "few.jsonl", "splits": splits})
    with pytest.raises(DataError, match="the test part of split 'all' has no rows; give more rows, or take fewer"):
        load.load(given, "test", "fo", tmp_path)
    splits = {"train": {"from": "all", "per_label": 3}, "test": "all"}
    for kind, columns, metric in (
        ("regress", {"text": "text", "label": "label"}, "pearson"),
        ("tag", {"words": "w", "tags": "t"}, "accuracy"),
        ("span", {"question": "q", "context": "c", "answers": "a", "starts": "s"}, "squad_f1"),
    ):
        what = {"kind": kind, "columns": columns, "metric": metric, "languages": ["fo"]}
        with pytest.raises(ValidationError, match=f"per_label is of kinds .*, this is of kind {kind}; say rows"):
            task(what, data={"splits": splits})


def test_where_asks_for_cells_as_they_are_written_and_for_a_language_by_its_letters(tmp_path):
    rows = [{"id": n, "lang": lang, "ok": ok, "text": lang, "label": n % 2}
            for n, (lang, ok) in enumerate([("[fo]", True), ("f", 1.0), ("[fo]", 1), ("[fo]", False)])]  # fmt: skip
    write(tmp_path / "all.jsonl", rows)

    def found(**where):
        data = {"path": "all.jsonl", "splits": {"test": "all"}, "codes": {"fo": "[fo]"}, "where": where}
        return [example.id for example in load.load(task(CLASSIFY, data=data), "test", "fo", tmp_path)]

    assert found(lang="{language}") == ["0", "2", "3"]
    assert found(ok="true") == found(ok="True") == ["0"]
    assert found(ok="1") == ["1", "2"]
    with pytest.raises(DataError, match=r"`where` asks for column 'lan', which no row has; did you mean 'lang'"):
        found(lan="{language}")


def test_another_code_for_a_language_holds_for_paths_and_columns_and_rows(tmp_path):
    write(tmp_path / "nob/test.jsonl", [{"id": 1, "text": "godt", "label": "good"}])
    data = {"path": "{language}/{split}.jsonl", "codes": {"nb": "nob"}}
    given = task({**CLASSIFY, "languages": "all", "train": "none"}, data=data)
    assert load.languages(given, tmp_path) == ("nb",)
    assert load.load(given, "test", "nb", tmp_path)[0].text == "godt"


@real
def test_the_real_sets_are_said_in_a_line(tmp_path):
    pairs = """
sib:
  kind: bitext
  data: {path: "sib200/eng_Latn/{split}.jsonl.zst", beside: {path: "sib200/{language}/{split}.jsonl.zst", by: id}}
  columns: {id: id, text: text, second: beside.text}
  languages: [fao_Latn]
  train: none
  metric: accuracy
"""
    said = frozen.read(of_yaml(tmp_path, pairs), SETS).test
    assert {language: len(rows) for language, rows in said.items()} == {"fao_Latn": 204}
    few = """
few:
  kind: classify
  data: {path: "sib200/{language}/{split}.jsonl.zst", splits: {train: {from: train, per_label: 8}, test: test}}
  columns: {id: id, text: text, label: label}
  languages: [fo]
  metric: accuracy
"""
    given = of_yaml(tmp_path, few.replace("splits:", "codes: {fo: fao_Latn}, splits:"))
    found = load.load(given, "train", "fo", SETS)
    assert len(found) == 7 * 8
    folds = """
folds:
  kind: span
  data: {path: "xquad/{language}/{split}.jsonl.zst", splits: {test: test}}
  columns: {id: id, group: title, question: question, context: context, answers: answers.text, starts: answers.start}
  languages: [de]
  folds: 4
  metric: squad_f1
"""
    given = of_yaml(tmp_path, folds)
    parts = [load.load(given.model_copy(update={"fold": n}), "test", "de", SETS) for n in range(4)]
    assert sum(map(len, parts)) == 1190
    articles = [{example.context for example in part} for part in parts]
    assert not articles[0] & articles[1]
