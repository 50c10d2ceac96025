import bz2
import csv
import gzip
import io
import json
import lzma
import random

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from tessera.labelled import tables
from tessera.labelled.tables import DataError

ROWS = [
    {"text": 'Hon segði: "ja", so', "label": "góð"},
    {"text": "ein\n\nlinja", "label": "1"},
    {"text": "", "label": "x"},
]


def csv_of(rows, separator=","):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read(path):
    return [row for _, row in tables.rows(path)]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst", ".xz", ".ZST"])
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".ndjson", ".json", ".parquet", ".CSV"])
def test_the_same_rows_come_out_of_every_format(tmp_path, ending, packed):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    text = {".csv": csv_of(ROWS), ".json": json.dumps(ROWS, indent=1)}.get(ending.lower(), lines)
    path = tmp_path / f"rows{ending}{packed}"
    if ending == ".parquet":
        path = tmp_path / "rows.parquet"
        pa.parquet.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}.get(packed, zstandard.compress)
        if packed == ".ZST":
            path = tmp_path / f"rows{ending}.zst"
        path.write_bytes(pack(text.encode()))
    assert read(path) == ROWS


def test_a_csv_row_stands_where_it_begins(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"a\nb",1\n\nc,2\n')
    assert [place for place, _ in tables.rows(path)] == [f"{path}:2", f"{path}:5"]


def test_semicolons_and_tabs_separate_where_there_is_no_comma_and_a_byte_order_mark_is_no_text(tmp_path):
    for separator in ";\t":
        path = tmp_path / "a.csv"
        path.write_text("\ufeff" + csv_of([{"text": "gott", "label": "1"}], separator), encoding="utf-8")
        assert read(path) == [{"text": "gott", "label": "1"}]


def test_cells_of_tsv_are_plain_and_those_quoted_whole_are_unquoted(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"Ja", segði hon.\t1\n"He said ""no""."\t2\r\n"\t3\n')
    assert [row["text"] for row in read(path)] == ['"Ja", segði hon.', 'He said "no".', '"']


@pytest.mark.parametrize("seed", range(20))
def test_tsv_as_table_programs_write_it_may_have_tabs_and_lines_in_its_cells(tmp_path, seed):
    rng, path = random.Random(seed), tmp_path / "a.tsv"
    rows = [{k: "".join(rng.choices('ab "\t\n', k=rng.randint(0, 6))) + k for k in ("text", "label")} for _ in range(5)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    assert read(path) == rows


def test_quotes_of_speech_over_two_rows_of_tsv_are_no_quotes_of_a_cell(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\n1\t"I am here.\n2\tSo he said."\n3\t"\n')
    assert [row["text"] for row in read(path)] == ['"I am here.', 'So he said."', '"']
    path.write_text('id\ttext\n1\t"I am\n2\there."\n3\n')
    with pytest.raises(DataError, match=r"a.tsv:4: 1 fields, not 2"):
        read(path)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", b"text,label\na,b,c\n", "a.csv:2: 3 fields, not 2 as in the first line: 'a,b,c'"),
        ("a.csv", b"text,label\na\n", "a.csv:2: 1 fields, not 2"),
        ("a.csv", b"text,text\na,b\n", "a.csv: line 1 names the columns, each once; it has text twice"),
        ("a.csv", b"", "a.csv: is empty; the first line names the columns"),
        ("a.csv", b'text,label\n"a,b\n', "a.csv: line 2: unexpected end of data; is a quote not closed"),
        ("a.csv", b'text,label\n"a"b,c\n', "a.csv: line 2: ',' expected after '\"'"),
        ("a.csv", "text\ngóð\n".encode("latin-1"), "a.csv:2: not UTF-8; write it as UTF-8 .iconv .*: 'g"),
        ("a.csv", "góð,label\na,b\n".encode("latin-1"), "a.csv: line 1, .*: not UTF-8; write it as UTF-8"),
        ("a.tsv", "text\ngóð\n".encode("utf-16-le"), "a.tsv: line 1, .*: NUL characters, as in UTF-16 without its"),
        ("a.txt", "góð\n".encode("latin-1"), "a.txt:1: not UTF-8; write it as UTF-8"),
        ("a.conll", "góð O\n".encode("latin-1"), "a.conll:1: not UTF-8; write it as UTF-8"),
        ("a.tsv", b"a\tb\nc\n", "a.tsv:2: 1 fields, not 2"),
        ("a.json", b"[1]", "a.json:1: not a JSON object, where a row is a JSON object"),
        ("a.jsonl", b"[1]", "a.jsonl:1: not a JSON object, where a row is a JSON object on a line: '.1.'"),
        ("a.json", b'{"text": {"0": "a"}, "label": {"0": 1}}\n{', "a.json:2: not JSON, where a row"),
        ("a.json", b'{"text":\n{"0": "a"}}', "a.json: rows are a list of objects, or one object on each line"),
        ("a.json", b'{"text":\n"a"', "a.json: not JSON: .*; write an object on each line"),
        ("a.json", b'{"text":\n"\xff"}', "a.json:2: not UTF-8; write it as UTF-8"),
        ("a.json", b"[" * 100_000, "a.json: behind row 0: not JSON"),
        ("a.json", b'{"a":\n' * 50_000, "a.json: not JSON"),
        ("a.csv.gz", b"", "a.csv.gz: broken: 0 bytes are no gzip file; copy or download it again"),
        ("a.csv.zst", b"text", "a.csv.zst: broken: "),
        ("a.json.gz", gzip.compress(b"[" + b"1, " * 9999, mtime=0)[:-9], "a.json.gz: broken: Truncated"),
        ("a.parquet", b"PAR1", "a.parquet: broken: "),
    ],
)
def test_what_is_no_table_is_named_with_its_file(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=says):
        read(tmp_path / name)


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".csv", ".json", ".tsv", ".txt"])
def test_a_small_file_that_unpacks_into_a_very_large_one_is_refused(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(tables, "_UNPACKED", 2**20)
    monkeypatch.setattr(tables, "_WHOLE_FILE", 2**20)
    monkeypatch.setattr(tables, "LONGEST", 2**16)
    row = json.dumps({"text": "a" * 1000})
    text = "text\n" + ("b" * 1000 + "\n") * 5000
    text = {".json": f"[{', '.join([row] * 5000)}]", ".jsonl": f"{row}\n" * 5000, ".ndjson": f"{row}\n" * 5000}.get(
        ending, text
    )
    path = tmp_path / f"bomb{ending}.zst"
    path.write_bytes(zstandard.compress(text.encode()))
    assert path.stat().st_size < 5000
    with pytest.raises(DataError, match=r"bomb.*(unpack into more than|longer than)"):
        read(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt", "a.conll", "a.csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, name, encoding):
    plain = {".csv": "text\ngóð\n", ".tsv": "text\ngóð\n", ".txt": "góð\n", ".conll": "góð O\n"}
    data = plain.get(name[1:].removesuffix(".gz"), '{"text": "góð"}\n').encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read(tmp_path / name) == [{"words": ["góð"], "tags": ["O"]} if "conll" in name else {"text": "góð"}]


@pytest.mark.parametrize(
    "name", ["a.jsonlines", "a.ndjson.bz2", "A.JSONL", "a.jsonl.gzip", "a.jsonl.zstd", "a.jsonl.XZ"]
)
def test_every_spelling_of_an_ending_is_known(tmp_path, name):
    pack = {"bz2": bz2.compress, "gzip": gzip.compress, "zstd": zstandard.compress, "XZ": lzma.compress}
    (tmp_path / name).write_bytes(pack.get(name.split(".")[-1], bytes)(b'{"text": "a"}\n'))
    assert [row for file in tables.find(str(tmp_path)) for _, row in tables.rows(file)] == [{"text": "a"}]


def test_the_index_of_pandas_is_no_column_and_the_lines_of_an_old_mac_are_lines(tmp_path):
    (tmp_path / "a.csv").write_text(",text, label\n0,a,b\n1,c,d\n")
    (tmp_path / "b.csv").write_text("text,label,,\ra,b,,\rc,d,,")
    assert (
        read(tmp_path / "a.csv")
        == read(tmp_path / "b.csv")
        == [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}]
    )


def test_the_only_list_of_an_object_is_its_rows_on_one_line_or_on_many(tmp_path):
    for indent in (None, 2):
        (tmp_path / "a.json").write_text(json.dumps({"version": "1", "data": ROWS}, indent=indent))
        assert read(tmp_path / "a.json") == ROWS


def test_one_endless_line_is_refused_whatever_the_format(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LONGEST", 2**16)
    monkeypatch.setattr(tables, "_WHOLE_FILE", 2**17)
    for ending, before in ((".csv", "text\n"), (".tsv", "text\n"), (".jsonl", '{"a": "'), (".json", '["')):
        path = tmp_path / f"line{ending}.zst"
        path.write_bytes(zstandard.compress((before + "x" * 2**20).encode()))
        with pytest.raises(DataError, match="longer than"):
            read(path)


def test_class_names_that_parquet_of_datasets_brings_stand_for_their_numbers(tmp_path):
    features = {"label": {"names": ["good", "bad"], "_type": "ClassLabel"},
                "tags": {"feature": {"names": ["O", "B"], "_type": "ClassLabel"}, "_type": "Sequence"}}  # fmt: skip
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table({"label": [1, 0, -1], "tags": [[0, 1], [], [1]]}).replace_schema_metadata(about)
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    assert [row["label"] for row in read(tmp_path / "a.parquet")] == ["bad", "good", -1]
    assert [row["tags"] for row in read(tmp_path / "a.parquet")] == [["O", "B"], [], ["B"]]
    words = pa.table({"label": pa.array(["x", "y"]).dictionary_encode()})
    pa.parquet.write_table(words, tmp_path / "b.parquet")
    assert [row["label"] for row in read(tmp_path / "b.parquet")] == ["x", "y"]


def test_a_file_that_is_not_there_is_named_with_the_reason(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv: cannot be read: No such file or directory$"):
        read(tmp_path / "a.csv")


def test_a_folder_is_its_tables_and_not_its_notes(tmp_path):
    for name in ("b.csv", "a.jsonl", "README.md", "notes.txt", "dataset_info.json", ".hidden.csv", "in/c.tsv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "in/again").symlink_to(tmp_path)
    said = []
    assert [file.name for file in tables.find(str(tmp_path), said)] == ["a.jsonl", "b.csv", "c.tsv"]
    assert said == ["not read, as they are no tables of rows: README.md, dataset_info.json, notes.txt"]
    with pytest.raises(DataError, match=r"README.md: unknown kind of file; rows are read from .jsonl, .json"):
        tables.find(str(tmp_path / "README.md"))
    assert tables.find(str(tmp_path / "nothing")) == []


def test_sentences_of_conll_are_words_with_tags(tmp_path):
    (tmp_path / "a.conll").write_text(
        "-DOCSTART- -X- O O\n\nJógvan NNP B-PER\nsegði VB O\n\n\nHavn\tB-LOC\n", encoding="utf-8"
    )
    assert list(tables.rows(tmp_path / "a.conll")) == [
        (f"{tmp_path}/a.conll:3", {"words": ["Jógvan", "segði"], "tags": ["B-PER", "O"]}),
        (f"{tmp_path}/a.conll:7", {"words": ["Havn"], "tags": ["B-LOC"]}),
    ]
    lines = ["# text = du", "1-2\tdu\t_\t_", "1\tde\tde\tADP\t_", "2\tle\tle\tDET\t_", ""]
    (tmp_path / "a.conllu").write_text("\n".join(lines))
    assert read(tmp_path / "a.conllu") == [{"words": ["de", "le"], "tags": ["ADP", "DET"]}]
    (tmp_path / "b.bio").write_text("Havn B-LOC\nalone\n")
    with pytest.raises(DataError, match=r"b.bio:2: 'alone'; a word and its tag are needed on each line"):
        read(tmp_path / "b.bio")
