"""`tessera embed`: every row once, in order, with its id; the same bytes however often it was interrupted."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from small_encoder import TEXTS, write_model

from tessera import Encoder, files
from tessera.bulk import embed_file as stream
from tessera.bulk import parts as part_files
from tessera.bulk.embed_file import embed_file

ROWS = [{"id": f"doc {n % 20}", "text": f"{TEXTS[n % len(TEXTS)][:40]} {n}", "other": n} for n in range(50)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def expected(model):
    return Encoder.from_pretrained(model).encode([row["text"] for row in ROWS])


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path):
    table = pq.read_table(path)
    return table.column(0).to_pylist(), np.array(table["embedding"].to_pylist())


def test_rows_keep_their_order_and_ids_the_same_id_twice_too(model, expected, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    written = embed_file(model, source, tmp_path / "out.parquet", part_rows=7)
    ids, vectors = read(written)
    assert ids == [row["id"] for row in ROWS]
    assert vectors == pytest.approx(expected, abs=1e-2)
    table = pq.read_table(written)
    assert table.schema.names == ["id", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    assert not (tmp_path / "out.parquet.parts").exists()
    assert pq.ParquetFile(written).metadata.num_row_groups == math.ceil(len(ROWS) / 7)


@pytest.mark.parametrize("kind", ["jsonl.zst", "jsonl.gz", "parquet", "txt"])
def test_every_kind_of_input_gives_the_same_vectors(model, tmp_path, kind):
    plain = write_jsonl(tmp_path / "plain.jsonl", ROWS)
    source = tmp_path / f"in.{kind}"
    texts = [row["text"].replace("\n", " ").replace("\0", "") for row in ROWS]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), source)
    elif kind == "txt":
        source.write_text("\n".join(texts), encoding="utf-8")
        write_jsonl(plain, [row | {"text": text} for row, text in zip(ROWS, texts, strict=True)])
    elif kind == "jsonl.zst":
        source.write_bytes(zstandard.compress(plain.read_bytes()))
    else:
        with pa.output_stream(str(source), compression="gzip") as file:
            file.write(plain.read_bytes())
    ids, vectors = read(embed_file(model, source, tmp_path / "a.parquet", dtype="float32"))
    again, due = read(embed_file(model, plain, tmp_path / "b.parquet", dtype="float32"))
    assert (vectors == due).all()
    assert ids == (list(range(1, len(ROWS) + 1)) if kind == "txt" else again)


def test_npy_has_its_ids_beside_it(model, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    _, due = read(embed_file(model, source, tmp_path / "out.parquet", part_rows=9, output="float16"))
    written = embed_file(model, source, tmp_path / "out.npy", part_rows=9, output="float16")
    found = np.load(written, allow_pickle=False)
    assert found.dtype == np.float16
    assert (found == due).all()
    assert pq.read_table(tmp_path / "out.ids.parquet")["id"].to_pylist() == [row["id"] for row in ROWS]
    assert embed_file(model, source, tmp_path / "out.npy", part_rows=9, output="float16") == written  # done already


def test_columns_are_chosen_and_numbers_stay_numbers(model, tmp_path):
    rows = [{"body": row["text"], "number": row["other"]} for row in ROWS]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    ids, _ = read(embed_file(model, source, tmp_path / "a.parquet", text="body", id="number"))
    assert ids == list(range(50))
    assert pq.read_schema(tmp_path / "a.parquet").field("id").type == pa.int64()
    write_jsonl(source, [*rows, {"body": "x", "number": "fifty"}])
    ids, _ = read(embed_file(model, source, tmp_path / "b.parquet", text="body", id="number"))
    assert ids == [*map(str, range(50)), "fifty"]
    ids, _ = read(embed_file(model, source, tmp_path / "c.parquet", text="body"))
    assert ids == list(range(1, 52))  # no column `id`: the row's number
    assert pq.read_schema(tmp_path / "c.parquet").names[0] == "row"


def test_a_folder_is_read_file_by_file(model, tmp_path):
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "b.jsonl", [{"text": "two"}])
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"text": "one"}, {"text": "three"}])
    ids, _ = read(embed_file(model, tmp_path / "in", tmp_path / "out.parquet"))
    assert ids == [f"{tmp_path}/in/a.jsonl:1", f"{tmp_path}/in/a.jsonl:2", f"{tmp_path}/in/b.jsonl:1"]


def test_it_goes_on_where_it_was_stopped_wherever_that_was(model, tmp_path, monkeypatch):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    for name in ("parquet", "npy"):
        due = embed_file(model, source, tmp_path / f"due.{name}", part_rows=9).read_bytes()
        out = tmp_path / f"out.{name}"
        inner, calls = files.atomic_file, []
        for stop in range(1, 9):  # after each file that is written, parts and output

            def stopping(path, stop=stop, calls=calls, inner=inner, **options):
                calls.append(path)
                if len(calls) > stop:
                    raise KeyboardInterrupt
                return inner(path, **options)

            calls.clear()
            for module in (stream, part_files):
                monkeypatch.setattr(module, "atomic_file", stopping)
            try:
                embed_file(model, source, out, part_rows=9)
            except KeyboardInterrupt:
                assert not out.exists()
                assert not list(tmp_path.rglob("*.writing"))
            for module in (stream, part_files):
                monkeypatch.setattr(module, "atomic_file", inner)
            if stop % 2:  # each second time from what the last stop left
                embed_file(model, source, out, part_rows=9)
                assert out.read_bytes() == due
                out.unlink()
                (tmp_path / "out.ids.parquet").unlink(missing_ok=True)


def test_what_is_written_is_not_computed_again(model, tmp_path, monkeypatch):
    source, out = write_jsonl(tmp_path / "in.jsonl", ROWS), tmp_path / "out.parquet"
    inner, computed = Encoder.encode, []

    def counting(self, texts, **options):
        if len(computed) == 3:
            raise KeyboardInterrupt
        computed.append(texts)
        return inner(self, texts, **options)

    monkeypatch.setattr(Encoder, "encode", counting)
    said = []
    with pytest.raises(KeyboardInterrupt):
        embed_file(model, source, out, part_rows=10, say=said.append)
    assert said[-1].startswith("stopped after 30 of 50 texts, which are kept in ")
    del computed[0]
    with pytest.raises(KeyboardInterrupt):
        embed_file(model, source, out, part_rows=10)
    del computed[0]
    embed_file(model, source, out, part_rows=10)
    assert [len(texts) for texts in computed] == [10, 10, 10]
    assert [text for texts in computed for text in texts] == [row["text"] for row in ROWS[20:]]


@pytest.mark.slow
def test_a_kill_and_a_ctrl_c_leave_whole_parts(model, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", [row | {"text": row["text"] * 20} for row in ROWS] * 8)
    due = embed_file(model, source, tmp_path / "due.parquet", part_rows=10, threads=1).read_bytes()
    out = tmp_path / "out.parquet"
    code = (
        "import sys; from tessera.bulk.embed_file import embed_file; "
        "embed_file(*sys.argv[1:], part_rows=10, threads=1, say=lambda line: print(line, flush=True))"
    )
    for signal_number in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(model), str(source), str(out)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        before = len(list(tmp_path.glob("out.parquet.parts/*.parquet")))
        while len(list(tmp_path.glob("out.parquet.parts/*.parquet"))) < before + 2 and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal_number)
        said, _ = process.communicate()
        assert process.returncode != 0
        assert not out.exists()
        parts = sorted(tmp_path.glob("out.parquet.parts/*.parquet"))
        assert 0 < len(parts) < 40
        assert [pq.read_table(part).num_rows for part in parts] == [10] * len(parts)
    assert "which are kept in" in said
    assert embed_file(model, source, out, part_rows=10, threads=1).read_bytes() == due


def test_other_settings_or_another_model_are_refused_by_name(model, tmp_path, tmp_path_factory, monkeypatch):
    source, out = write_jsonl(tmp_path / "in.jsonl", ROWS), tmp_path / "out.parquet"
    monkeypatch.setattr(stream, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        embed_file(model, source, out, prompt="one: ")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"parts was begun with another prompt: it was 'one: ', now it is ''; go on"):
        embed_file(model, source, out)
    other = write_model(tmp_path_factory.mktemp("other"), "eurobert")
    with pytest.raises(ValueError, match="parts was begun with another model: it was"):
        embed_file(other, source, out, prompt="one: ")
    embed_file(model, source, out, prompt="one: ")
    said = []
    embed_file(model, source, out, prompt="one: ", say=said.append)
    assert said == [f"{out}: there already, with these settings"]
    with pytest.raises(FileExistsError, match="there already, with another pooling: it was 'mean', now it is 'cls'"):
        embed_file(model, source, out, prompt="one: ", pooling="cls")
    write_jsonl(source, ROWS[1:])
    with pytest.raises(FileExistsError, match="there already, with another input: it was "):
        embed_file(model, source, out, prompt="one: ")
    (tmp_path / "mine.npy").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="there already, and not by this command; remove it"):
        embed_file(model, source, tmp_path / "mine.npy")
    assert (tmp_path / "mine.npy").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"in.jsonl:3: not JSON; mend it, or leave out such rows with --skip-bad"),
        ('{"id": "x", "txt": "one"}', r"in.jsonl:3: has no text in column 'text'; its columns are id, txt; mend it"),
        ('{"id": "x", "text": null}', r"in.jsonl:3: has no text in column 'text'"),
        ('{"text": "one"}', r"in.jsonl:3: has no id in column 'id'"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_computed_or_left_out(model, expected, tmp_path, line, message):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS[:2])
    source.write_text(source.read_text() + line + "\n" + json.dumps(ROWS[2]) + "\n")
    with pytest.raises(ValueError, match=message):
        embed_file(model, source, tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    said = []
    ids, _ = read(embed_file(model, source, tmp_path / "skipped.parquet", skip_bad=True, say=said.append))
    assert ids == [row["id"] for row in ROWS[:3]]
    assert said[-1] == "3 texts; 1 bad rows are left out"


def test_odd_texts_have_vectors_and_half_characters_are_mended_and_counted(model, tmp_path):
    texts = ["", "a\0b", "\N{THUMBS UP SIGN}", "half \ud83d", "long " * 300_000, "א ב", "x"]
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    said = []
    _, vectors = read(embed_file(model, source, tmp_path / "out.parquet", say=said.append, dtype="float32"))
    assert said[-2:] == [
        "7 texts; half characters are replaced in 1",
        "1 of 7 texts are longer than 64 tokens and were cut off there; --long chunk reads all of a text",
    ]
    due = Encoder.from_pretrained(model, dtype="float32").encode([text.replace("\ud83d", "\ufffd") for text in texts])
    assert vectors == pytest.approx(due, abs=1e-5)


def test_a_part_ends_early_where_texts_are_long(model, tmp_path, monkeypatch):
    monkeypatch.setattr("tessera.bulk.text_files._PART_CHARACTERS", 500)
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    written = embed_file(model, source, tmp_path / "out.parquet")
    groups = pq.ParquetFile(written).metadata
    sizes = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
    assert sum(sizes) == len(ROWS)
    assert max(sizes) < 50


def test_progress_counts_every_text_once(model, tmp_path):
    steps = []
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    embed_file(model, source, tmp_path / "o.parquet", part_rows=20, on_progress=lambda *step: steps.append(step))
    assert steps[-1] == (50, 50, "embedding")
    assert [done for done, *_ in steps] == sorted(done for done, *_ in steps)


def said_of(path):
    ids = path.with_suffix(".ids.parquet")
    return json.loads(pq.read_schema(path if path.suffix == ".parquet" else ids).metadata[b"tessera"])


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_texts_that_were_cut_are_counted_said_and_written_down(model, tmp_path, name):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in [*TEXTS, TEXTS[3], "one " * 500]])
    lines = []
    embed_file(model, source, tmp_path / name, part_rows=2, say=lines.append)
    assert said_of(tmp_path / name)["truncated"] == 3
    assert lines[-1].startswith("3 of 11 texts are longer than 64 tokens and were cut off there; --long chunk reads")
    lines.clear()
    embed_file(model, source, tmp_path / f"chunks_{name}", long="chunk", say=lines.append)
    assert said_of(tmp_path / f"chunks_{name}")["truncated"] == 0
    assert not any("cut off" in line for line in lines)


@pytest.mark.parametrize("older", [False, True], ids=["ours", "parts of an older version"])
def test_the_count_outlives_interruptions(model, tmp_path, monkeypatch, older):
    source = write_jsonl(tmp_path / "in.jsonl", [{"text": text} for text in [*TEXTS, TEXTS[3]]])
    with monkeypatch.context() as patch:
        patch.setattr(stream, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed_file(model, source, tmp_path / "out.parquet", part_rows=4)
    for part in sorted((tmp_path / "out.parquet.parts").glob("*.parquet"))[1:]:
        if older:
            pq.write_table(pq.read_table(part).replace_schema_metadata(None), part)
            part.with_name(f"{part.name}.sha256").unlink()
    embed_file(model, source, tmp_path / "out.parquet", part_rows=4)
    assert said_of(tmp_path / "out.parquet")["truncated"] == 2


def test_float16_holds_the_vectors_or_the_text_is_named(model, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS[:5])
    _, exact = read(embed_file(model, source, tmp_path / "exact.parquet"))
    _, half = read(embed_file(model, source, tmp_path / "half.parquet", output="float16"))
    assert np.abs(half - exact).max() < 1e-3
    large = np.array([[1, 2], [7e4, 0], [1, -65_530]], np.float32)
    assert np.isfinite(stream._as("float16", large[:1], ["a"], tmp_path)).all()
    assert stream._as("float32", large, [*"abc"], tmp_path) is not None
    for rows, name, number in ((large, "'b'", r"7e\+04"), (large[[0, 2]], "'c'", r"6\.553e\+04")):
        with pytest.raises(ValueError, match=rf"the vector of {name} has a number of {number}, and float16 holds none"):
            stream._as("float16", rows, ["a", "b", "c"] if len(rows) == 3 else ["a", "c"], tmp_path)


def test_what_cannot_be_read_or_written_is_said(model, tmp_path):
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(ValueError, match=r"out\.csv: unknown kind of output; name it \.parquet or \.npy"):
        embed_file(model, source, tmp_path / "out.csv")
    with pytest.raises(ValueError, match="no file at"):
        embed_file(model, tmp_path / "nothing.jsonl", tmp_path / "out.npy")
    (tmp_path / "in.wet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"in\.wet: embed reads jsonl, csv, tsv, txt and parquet"):
        embed_file(model, tmp_path / "in.wet", tmp_path / "out.npy")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"empty\.txt: holds no text"):
        embed_file(model, tmp_path / "empty.txt", tmp_path / "out.npy")
    (tmp_path / "cut.jsonl.zst").write_bytes(zstandard.compress(source.read_bytes())[:-20])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.zst: broken: .*; copy or download it again"):
        embed_file(model, tmp_path / "cut.jsonl.zst", tmp_path / "out.npy")
    pq.write_table(pa.table({"txt": ["a"]}), tmp_path / "in.parquet")
    with pytest.raises(ValueError, match=r"has no column 'text'; it has txt"):
        embed_file(model, tmp_path / "in.parquet", tmp_path / "out.npy")
