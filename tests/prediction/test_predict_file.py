"""`tessera predict`: every row once, in order, with its id and what `Predictor.predict` says; the same bytes always."""

import csv
import gzip
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from task_models import TEXTS, bert, named
from typer.testing import CliRunner

from tessera import Predictor, files
from tessera.bulk import parts as part_files
from tessera.cli import app
from tessera.labelled.guess import guess
from tessera.prediction import predict_file as work
from tessera.prediction.predict_file import Roles, predict_file
from tessera.prediction.roles import columns_of, taking

ROWS = [{"id": f"doc {n % 20}", "text": f"{TEXTS[n % len(TEXTS)]} bread " * (n % 4), "other": n} for n in range(50)]
SURE = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bert(
        tmp_path_factory.mktemp("m") / "topics", "BertForSequenceClassification", **named("water", "food", "sky")
    )


@pytest.fixture(scope="module")
def due(model):
    return Predictor.from_pretrained(model, **SURE).predict([row["text"] for row in ROWS])


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def close(found, due):
    assert len(found) == len(due)
    for mine, theirs in zip(found, due, strict=True):
        assert mine["label"] == theirs["label"]
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-5)


def test_json_lines_hold_ids_in_order_and_what_the_predictor_says(model, due, tmp_path):
    source, said = write_jsonl(tmp_path / "in.jsonl", ROWS), []
    written = predict_file(model, source, tmp_path / "out.jsonl", part_rows=7, say=said.append, **SURE)
    found = read_jsonl(written)
    assert [row["id"] for row in found] == [row["id"] for row in ROWS]
    close(found, due)
    assert not (tmp_path / "out.jsonl.parts").exists()
    labels = Counter(one["label"] for one in due)
    assert said[-1] == ", ".join(f"{name} {count}" for name, count in labels.most_common())
    windowed = sum("windows" in one for one in due)
    assert windowed
    assert said[-2].startswith("50 rows (")
    assert said[-2].endswith(f"; {windowed} long texts were read in windows")
    assert said[-4] == "reads text from 'text'"
    about = json.loads((tmp_path / "out.jsonl.about.json").read_text())
    assert (about["rows"], about["windowed"], about["labels"]) == (50, windowed, labels)


def test_every_output_says_the_same(model, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    plain = predict_file(model, source, tmp_path / "out.jsonl", **SURE)
    rows = read_jsonl(plain)
    packed = predict_file(model, source, tmp_path / "out.jsonl.gz", **SURE)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    packed = predict_file(model, source, tmp_path / "out.jsonl.zst", **SURE)
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed.read_bytes()) == plain.read_bytes()
    table = pq.read_table(predict_file(model, source, tmp_path / "out.parquet", **SURE))
    columns = ["id", "label", "score", "windows", "truncated", "score:water", "score:food", "score:sky"]
    assert table.schema.names == columns
    flat = [
        [row["id"], row["label"], row["score"], row.get("windows", 1), False, *row["scores"].values()] for row in rows
    ]
    assert [list(row.values()) for row in table.to_pylist()] == flat
    with predict_file(model, source, tmp_path / "out.csv", **SURE).open(newline="", encoding="utf-8") as file:
        header, *cells = csv.reader(file)
    assert header == columns
    assert cells == [[*map(str, row[:4]), "false", *map(str, row[5:])] for row in flat]


def test_it_goes_on_where_it_was_stopped_wherever_that_was(model, tmp_path, monkeypatch):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    for name in ("out.parquet", "out.jsonl.gz", "out.csv"):
        due = predict_file(model, source, tmp_path / f"due{name}", part_rows=20, **SURE).read_bytes()
        out, inner, calls = tmp_path / name, files.atomic_file, []
        for stop in range(1, 4):  # after each file that is written, parts and output

            def stopping(path, stop=stop, calls=calls, inner=inner, **options):
                calls.append(path)
                if len(calls) > stop:
                    raise KeyboardInterrupt
                return inner(path, **options)

            calls.clear()
            for module in (part_files, work):
                monkeypatch.setattr(module, "atomic_file", stopping)
            with pytest.raises(KeyboardInterrupt):
                predict_file(model, source, out, part_rows=20, **SURE)
            assert not out.exists()
            for module in (part_files, work):
                monkeypatch.setattr(module, "atomic_file", inner)
            if stop != 1:  # else from what the last stop left
                predict_file(model, source, out, part_rows=20, **SURE)
                assert out.read_bytes() == due
                out.unlink()


def test_other_settings_another_model_and_strange_files_are_refused_by_name(model, tmp_path):
    source, out, said = write_jsonl(tmp_path / "in.jsonl", ROWS), tmp_path / "out.csv", []
    predict_file(model, source, out, **SURE)
    before = out.read_bytes()
    predict_file(model, source, out, say=said.append, **SURE)
    assert said == [f"{out}: there already, with these settings"]
    with pytest.raises(FileExistsError, match="there already, with another top: it was None, now it is 2"):
        predict_file(model, source, out, top=2, **SURE)
    other = bert(tmp_path / "other", "BertForSequenceClassification", seed=1, **named("a", "b"))
    with pytest.raises(FileExistsError, match="there already, with another model"):
        predict_file(other, source, out, **SURE)
    out.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="there already, and not by this command; remove it"):
        predict_file(model, source, out, **SURE)
    assert before != out.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"in.jsonl:3: not JSON; mend it, or leave out such rows with --skip-bad"),
        ('{"id": "x", "txt": "one"}', r"in.jsonl:3: has no column 'text'; its columns are id, txt; mend it"),
        ('{"id": "x", "text": null}', r"in.jsonl:3: has nothing in column 'text'"),
        ('{"id": "x", "text": 7}', r"in.jsonl:3: 7 is a int; classify needs text"),
        ('{"text": "one"}', r"in.jsonl:3: has no id in column 'id'"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_computed_or_left_out(model, tmp_path, line, message):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS[:2])
    source.write_text(source.read_text() + line + "\n" + json.dumps(ROWS[2]) + "\n")
    with pytest.raises(ValueError, match=message):
        predict_file(model, source, tmp_path / "out.csv", **SURE)
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    said = []
    found = read_jsonl(predict_file(model, source, tmp_path / "out.jsonl", skip_bad=True, say=said.append, **SURE))
    assert [row["id"] for row in found] == [row["id"] for row in ROWS[:3]]
    assert "3 rows; 1 bad rows are left out" in said


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "txt", "json", "folder"])
def test_every_kind_of_input_is_read(model, tmp_path, kind):
    texts = ["the river", "bread", "clouds, nights"]
    rows, source = [{"text": text, "document": f"{n}.txt"} for n, text in enumerate(texts)], tmp_path / f"in.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), source)
    elif kind == "txt":
        source.write_text("\n".join(texts))
    elif kind == "json":
        source.write_text(json.dumps(rows))
    elif kind == "folder":
        source.mkdir()
        for n, row in enumerate(rows):
            write_jsonl(source / f"{n}.jsonl", [row])
    else:
        with source.open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), dialect="excel-tab" if kind == "tsv" else "excel")
            table.writeheader()
            table.writerows(rows)
    found = read_jsonl(predict_file(model, source, tmp_path / "out.jsonl", **SURE))
    close(found, Predictor.from_pretrained(model, **SURE).predict(texts))
    assert len({row["row"] for row in found}) == 3


def test_pairs_are_read_by_usual_names_or_as_asked_and_what_lost_its_end_is_said(model, tmp_path):
    rows = [{"premise": "the river " * 30, "hypothesis": "bread"}, {"premise": "clouds", "hypothesis": "nights"}]
    source, said = write_jsonl(tmp_path / "in.jsonl", rows), []
    found = read_jsonl(predict_file(model, source, tmp_path / "a.jsonl", say=said.append, **SURE))
    close(found, Predictor.from_pretrained(model, **SURE).predict([tuple(row.values()) for row in rows]))
    assert [row.get("truncated") for row in found] == [True, None]
    assert "reads text from 'premise', second from 'hypothesis'" in said
    assert said[-2].endswith("; 1 lost their end, at 32 tokens")
    turned = Roles(text="hypothesis", second="premise")
    found = read_jsonl(predict_file(model, source, tmp_path / "b.jsonl", roles=turned, **SURE))
    close(found, Predictor.from_pretrained(model, **SURE).predict([tuple(row.values())[::-1] for row in rows]))
    one = read_jsonl(predict_file(model, source, tmp_path / "c.jsonl", roles=Roles(text="hypothesis"), **SURE))
    assert len(one) == 2


def test_thresholds_and_the_highest_scores(model, due, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    bound = sorted(one["score"] for one in due)[20]
    found = read_jsonl(predict_file(model, source, tmp_path / "out.jsonl", threshold=bound + 1e-4, top=2, **SURE))
    assert [row["label"] for row in found] == [one["label"] if one["score"] > bound + 1e-4 else None for one in due]
    assert all(len(row["scores"]) == 2 and max(row["scores"].values()) == row["score"] for row in found)
    with predict_file(model, source, tmp_path / "out.csv", top=2, **SURE).open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["id", "label", "score", "windows", "truncated", "label_2", "score_2"]
    assert [row["label_2"] for row in table] == [list(row["scores"])[1] for row in found]
    for wrong, message in (
        ({"threshold": 30}, "threshold is 30; it is a probability"),
        ({"top": 0}, "top is 0; it is"),
    ):
        with pytest.raises(ValueError, match=message):
            predict_file(model, source, tmp_path / "no.csv", **wrong, **SURE)


KINDS = {
    "multilabel": ("BertForSequenceClassification", {"problem_type": "multi_label_classification", **named("=a", "b")},
                   [{"text": "the river"}, {"text": "bread"}],
                   ["labels", "windows", "truncated", "score:=a", "score:b"]),
    "regress": ("BertForSequenceClassification", {"problem_type": "regression", "num_labels": 1},
                [{"text": "the river"}, {"text": "bread"}], ["score", "windows", "truncated"]),
    "rerank": ("BertForSequenceClassification", {"num_labels": 1, "sentence_transformers": {"version": "5.0.0"}},
               [{"query": "the river", "document": "bread"}], ["score", "truncated"]),
    "choose": ("BertForMultipleChoice", {}, [{"text": "the", "options": ["bread", "night"]}],
               ["choice", "scores", "truncated"]),
    "tag": ("BertForTokenClassification", named("O", "B-X", "I-X"), [{"text": "the river, of bread"}, {"text": ""}],
            ["entities"]),
    "words": ("BertForTokenClassification", named("O", "B-X", "I-X"), [{"tokens": ["the", "river"]}],
              ["entities", "tags"]),
    "span": ("BertForQuestionAnswering", {}, [{"question": "cloud", "context": "the river of bread"}],
             ["answer", "start", "end", "score", "truncated"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_has_its_columns(kind, tmp_path):
    head, config, rows, columns = KINDS[kind]
    folder = bert(tmp_path / "m", head, **config)
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    found = read_jsonl(predict_file(folder, source, tmp_path / "out.jsonl", **SURE))
    given = [{"words": row["tokens"]} if "tokens" in row else row for row in rows]
    due = Predictor.from_pretrained(folder, **SURE).predict(given)
    assert found == [{"row": n, **one} for n, one in enumerate(due, 1)]
    table = pq.read_table(predict_file(folder, source, tmp_path / "out.parquet", **SURE)).to_pylist()
    assert list(table[0]) == ["row", *columns]
    with predict_file(folder, source, tmp_path / "out.csv", **SURE).open(newline="") as file:
        header, *cells = csv.reader(file)
    assert header == ["row", *columns]
    for row, flat, one in zip(cells, table, due, strict=True):
        for name, cell in zip(header, row, strict=True):
            if isinstance(flat[name], list):
                assert json.loads(cell) == flat[name] == one[name]


def test_columns_of_a_table_hold_options_and_words(tmp_path):
    chooser = bert(tmp_path / "c", "BertForMultipleChoice")
    (tmp_path / "c.csv").write_text("text,one,two\nthe,bread,night\nof,river,\n")
    found = predict_file(chooser, tmp_path / "c.csv", tmp_path / "c.jsonl", roles=Roles(options="one,two"), **SURE)
    assert len(read_jsonl(found)) == 2
    tagger = bert(tmp_path / "t", "BertForTokenClassification", **named("O", "B-X"))
    (tmp_path / "t.csv").write_text('words\nthe river\n"[""the river"", ""of""]"\n')
    found = read_jsonl(predict_file(tagger, tmp_path / "t.csv", tmp_path / "t.jsonl", **SURE))
    assert [[tag["text"] for tag in row["tags"]] for row in found] == [["the", "river"], ["the river", "of"]]


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (Roles(question="q"), r"--question is given, but this model is of classify, which reads text and second"),
        (Roles(text="body"), r"has no column 'body' for --text; its columns are id, text, other"),
        (Roles(second="title"), r"has no column 'title' for --second"),
    ],
)
def test_columns_that_are_not_there_are_named(model, tmp_path, roles, message):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(ValueError, match=message):
        predict_file(model, source, tmp_path / "out.csv", roles=roles, **SURE)
    write_jsonl(source, [{"body": "x"}])
    with pytest.raises(ValueError, match=r"classify needs text; name its column with --text. The columns are body"):
        predict_file(model, source, tmp_path / "out.csv", **SURE)
    with pytest.raises(ValueError, match=r"out\.txt: unknown kind of output; name it \.jsonl, "):
        predict_file(model, source, tmp_path / "out.txt", **SURE)


def test_half_characters_are_mended_and_counted(model, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "the \\ud83d river"}\n')
    said = []
    predict_file(model, tmp_path / "in.jsonl", tmp_path / "out.csv", say=said.append, **SURE)
    assert "1 rows; half characters are replaced in 1" in said


def test_the_verb(model, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS[:3])
    command = ["predict", str(model), str(source), str(tmp_path / "out.csv"), "--id", "other", "--top", "1"]
    done = CliRunner().invoke(app, [*command, "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "row",
    [{"prompt": "a", "choice2": "y", "choice10": "z", "choice1": "x"}, {"question": "a", "choices": ["x", "y", "z"]}],
)
def test_options_of_a_choice_are_found_as_finetune_finds_them(row):
    columns = columns_of("choose", False, Roles(), row, "rows.jsonl")
    assert taking("choose", columns)(row) == {"text": "a", "options": ["x", "y", "z"]}
    assert guess([{**row, "label": 0}], "choose", {}).columns["text"] == columns["text"]
