"""Files that are damaged or made to do harm, given as labelled rows to every verb that takes some: refused by name."""

import gzip
import json

import learnable
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from damage import survives
from task_models import bert, named
from typer.testing import CliRunner

from tessera.cli import app
from tessera.labelled import tables
from tessera.sources import decompress, parquet

ROW = {"text": "the river", "label": "a"}
LINE = json.dumps(ROW).encode() + b"\n"
TASK = """
mine:
  kind: classify
  columns: {text: text, label: label}
  metric: accuracy
  languages: [fao_Latn]
  data: {path: "{language}/{split}-NAME"}
"""
ENDLESS = b"x" * 2**21
HARM = {
    "bomb.csv.zst": zstandard.compress(b"text,label\n" + b"the river,a\n" * 100_000),
    "bomb.jsonl.gz": gzip.compress(LINE * 40_000),
    "bomb.json.zst": zstandard.compress(b"[" + LINE.replace(b"\n", b",") * 40_000),
    "bomb.txt.zst": zstandard.compress(b"the river\n" * 150_000),
    "endless.csv.zst": zstandard.compress(b'text,label\n"' + ENDLESS),
    "endless.tsv": b"text\tlabel\n" + ENDLESS,
    "endless.jsonl": b'{"text": "' + ENDLESS,
    "endless.json": b'[{"text": "' + ENDLESS,
    "open.csv": b'text,label\n"the river,a\n' + b"the river,a\n" * 20,
    "cut.jsonl.zst": zstandard.compress(LINE * 1000)[:-9],
    "empty.csv.gz": b"",
    "latin.csv": "text,label\nréka,a\n".encode("latin-1") * 20,
    "utf16.tsv": "text\tlabel\nthe river\ta\n".encode("utf-16-le"),
    "half.csv": b"\xff\xfet\x00e\x00x",
    "no.parquet": b"PAR1" * 20,
}


def parquet_of_much(path):
    """Two megabytes that decode to more than a gigabyte at once."""
    texts = pa.DictionaryArray.from_arrays([0] * 4000, ["x" * 400_000])
    pq.write_table(pa.table({"text": texts, "label": ["a"] * 4000}), path)


@pytest.fixture(params=[*HARM, "much.parquet", "dies.parquet"])
def harmful(request, tmp_path, monkeypatch):
    """A file, with what is taken of one made small, so that little is enough to be too much."""
    path = tmp_path / request.param
    monkeypatch.setattr(tables, "LONGEST", 2**20)
    monkeypatch.setattr(tables, "_UNPACKED", 2**20)
    monkeypatch.setattr(tables, "_TIMES", 10)
    monkeypatch.setattr(decompress, "_LARGE", 2**20)
    monkeypatch.setattr(decompress, "_GROWTH", 10)
    monkeypatch.setattr("tessera.bulk.text_files._MAX_BYTES", 2**20)
    if path.name in HARM:
        path.write_bytes(HARM[path.name])
    elif path.name == "much.parquet":
        parquet_of_much(path)
        monkeypatch.setattr(parquet, "MEMORY", 2**30)
    else:
        pq.write_table(pa.Table.from_pylist([ROW] * 100), path)
        send = parquet._Process.send

        def killed(process, letter, content):
            process.popen.kill() if letter == b"C" else send(process, letter, content)

        monkeypatch.setattr(parquet._Process, "send", killed)
    monkeypatch.setattr(parquet, "_idle", [])
    yield path
    while parquet._idle:
        parquet._idle.pop().end()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return learnable.model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("m") / "topics", "BertForSequenceClassification", **named("a", "b"))


def refused(path, *words):
    shown = CliRunner().invoke(app, [str(word) for word in words])
    output = " ".join(shown.output.split())
    assert shown.exit_code not in (0, None), output
    assert isinstance(shown.exception, SystemExit | ValueError), repr(shown.exception)
    assert path.name in output + str(shown.exception)


def test_labelled_rows_of_it_are_refused_with_its_name(harmful):
    with pytest.raises(tables.DataError, match=harmful.name):
        list(tables.rows(harmful))


def test_finetune_refuses_it(harmful, model):
    refused(harmful, "finetune", model, harmful, "--out", harmful.parent / "out", "--kind", "classify")
    assert not (harmful.parent / "out").exists()


def test_finetune_of_pairs_refuses_it(harmful, model):
    refused(harmful, "finetune", model, harmful, "--out", harmful.parent / "out", "--kind", "retrieve")
    assert not (harmful.parent / "out").exists()


def test_predict_refuses_it(harmful, classifier):
    refused(harmful, "predict", classifier, harmful, harmful.parent / "out.jsonl")
    assert not (harmful.parent / "out.jsonl").exists()


def test_evaluate_refuses_it(harmful, model):
    (harmful.parent / "fao_Latn").mkdir()
    for split in ("train", "validation", "test"):
        (harmful.parent / "fao_Latn" / f"{split}-{harmful.name}").symlink_to(harmful)
    (harmful.parent / "tasks.yaml").write_text(TASK.replace("NAME", harmful.name))
    refused(harmful, "evaluate", model, "--task", f"{harmful.parent}/tasks.yaml", "--data", harmful.parent,
            "--out", harmful.parent / "out", "--dtype", "float32")  # fmt: skip


def test_damaged_files_of_rows_are_read_or_refused(tmp_path):
    rows = [{**ROW, "label": n, "words": ["a"]} for n in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_bytes(LINE * 5)
    (tmp_path / "c.json").write_text(json.dumps(rows))
    (tmp_path / "d.json").write_text(json.dumps({"data": rows}, indent=1))
    (tmp_path / "e.csv").write_text('text,label\n"a\nb",b\n' * 5)
    (tmp_path / "f.tsv").write_text('text\tlabel\n"a"\tb\n' * 5)
    (tmp_path / "g.conllu").write_text("1\tde\tde\tADP\t_\n2\tle\tle\tDET\t_\n\n" * 3)
    (tmp_path / "h.jsonl.zst").write_bytes(zstandard.compress(LINE * 5))
    files = sorted(tmp_path.iterdir())

    def read():
        for file in files:
            list(tables.rows(file))

    counts = survives(read, files, inputs=200, seconds=60)
    assert min(counts.values()) > 20
