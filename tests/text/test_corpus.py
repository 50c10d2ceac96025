"""Whatever stands in the files: good lines are read, bad ones counted with a reason, broken files named."""

import gzip
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.plan.corpus import Columns, Source
from tessera.text import corpus
from tessera.text.corpus import Document, Pair, Skipped, files, read
from tessera.text.languages import language_code, language_of_path


def source(path, **more):
    return Source(name="web", path=str(path), **more)


def all_of(path, skipped=None, limit=corpus.MAX_LINE_BYTES, **more):
    return list(read(source(path, **more), Skipped() if skipped is None else skipped, max_line_bytes=limit))


def texts(path, skipped=None, **more):
    return [document.text for document in all_of(path, skipped, **more)]


def reasons(skipped):
    return {reason: entry["count"] for reason, entry in skipped.by_reason().items()}


def lines(*rows):
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


GOOD = {"text": "Gott kvøld", "lang": "fao_Latn", "id": 7}


def store(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".zst"):
        data = zstandard.compress(data)
    elif name.endswith(".gz"):
        data = gzip.compress(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.jsonl.gz"])
def test_documents_are_read_from_jsonl(tmp_path, name):
    path = store(tmp_path, name, lines(GOOD, {"text": "Tú", "lang": "fo"}))
    assert all_of(path) == [Document("Gott kvøld", "fao_Latn", id="7"), Document("Tú", "fao")]


@pytest.mark.parametrize("name", ["fao_Latn.txt", "fao_Latn.txt.zst", "fao_Latn.txt.gz"])
def test_a_line_of_a_text_file_is_a_document(tmp_path, name):
    path = store(tmp_path, name, b"\xef\xbb\xbfeitt\r\n\r\n   \ntv\xc3\xa6r\nlast without an end")
    skipped = Skipped()
    assert [(d.text, d.language) for d in all_of(path, skipped)] == [
        ("eitt", "fao_Latn"),
        ("tvær", "fao_Latn"),
        ("last without an end", "fao_Latn"),
    ]
    assert not skipped.counts


def test_documents_are_read_from_parquet(tmp_path):
    table = pa.table({"body": ["eitt", "", None, "tvær"], "score": [0.1, 0.2, 0.3, 4.0], "other": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "fao_Latn.parquet")
    skipped = Skipped()
    found = all_of(tmp_path, skipped, columns=Columns(text="body", quality="score"))
    assert [(d.text, d.language, d.quality) for d in found] == [("eitt", "fao_Latn", 0.1), ("tvær", "fao_Latn", 4.0)]
    assert reasons(skipped) == {"no text": 1, "'body' is null": 1}


def test_pairs_are_read_and_a_pair_without_a_side_is_skipped(tmp_path):
    good = {"src": "hei", "tgt": "hello", "src_lang": "nob_Latn", "tgt_lang": "en"}
    path = store(tmp_path, "p.jsonl", lines(good, good, {**good, "tgt": " "}, {**good, "src_lang": None}))
    skipped = Skipped()
    assert all_of(path, skipped, kind="pairs") == [Pair("hei", "hello", "nob_Latn", "eng")] * 2
    assert sorted(reasons(skipped).values()) == [1, 1]


def test_a_folder_is_read_in_sorted_order_without_what_is_excluded(tmp_path):
    for name in ("b/fao_Latn/2.txt", "b/fao_Latn/1.txt", "a_deu_Latn.txt", "readme.md", ".hidden.txt", "x/skip.txt"):
        store(tmp_path, name, name.encode())
    assert texts(tmp_path, exclude=("skip*",), language="nob_Latn") == [
        "a_deu_Latn.txt",
        "b/fao_Latn/1.txt",
        "b/fao_Latn/2.txt",
    ]
    assert [d.language for d in all_of(tmp_path / "b" / "*" / "*.txt")] == ["fao_Latn"] * 2
    assert [d.language for d in all_of(tmp_path / "a_*", language="no")] == ["nor"]


# -------------------------------------------------------------------------------------------------------- bad lines


def test_each_bad_line_is_counted_with_its_reason_and_the_first_is_shown(tmp_path):
    bad = [
        b"{not json",
        b"{still not json",
        b"[1, 2]",
        b'"a string"',
        {"lang": "fao_Latn"},
        {**GOOD, "text": 12},
        {**GOOD, "text": None},
        {**GOOD, "text": ""},
        {**GOOD, "text": " \n\t"},
        {**GOOD, "lang": "klingon"},
        {**GOOD, "lang": 3},
        {"text": "no language"},
        b'{"text": "\xff\xfe", "lang": "fao_Latn"}',
        b'{"text": "\\ud800", "lang": "fao_Latn"}',
        b"[" * 100_000,
    ]
    path = store(tmp_path, "mixed.jsonl", lines(*[GOOD] * 16, *bad))
    skipped = Skipped()
    assert len(all_of(path, skipped)) == 16
    assert reasons(skipped) == {
        "not JSON": 3,
        "not a JSON object": 2,
        "no column 'text'": 1,
        "'text' is not a string": 1,
        "'text' is null": 1,
        "no text": 2,
        "unknown language": 1,
        "no language in a column, in the name of the file (fao_Latn.jsonl) or as `language` of the source": 2,
        "not UTF-8": 2,
    }
    assert skipped.examples["not JSON", str(path)] == "line 17: b'{not json'"
    assert "klingon" in skipped.examples["unknown language", str(path)]


def test_a_line_of_50_megabytes_is_skipped_and_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "fao_Latn.jsonl.zst"
    with zstandard.open(path, "wb") as out:
        out.write(lines(GOOD) + b'{"text": "')
        for _ in range(50):
            out.write(b"a" * 1_000_000)
        out.write(b'"}\n' + lines(GOOD))
    skipped = Skipped()
    tracemalloc.start()
    try:
        assert texts(path, skipped) == ["Gott kvøld"] * 2
        assert tracemalloc.get_traced_memory()[1] < 4 * corpus.MAX_LINE_BYTES
    finally:
        tracemalloc.stop()
    assert reasons(skipped) == {"longer than 16000000 bytes": 1}
    assert "line 2" in skipped.examples["longer than 16000000 bytes", str(path)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.binary(max_size=30).filter(lambda b: b"\n" not in b), max_size=20),
    chunk=st.integers(1, 50),
    limit=st.integers(1, 30),
)
def test_lines_are_the_same_whatever_the_size_of_a_reading(tmp_path, monkeypatch, rows, chunk, limit):
    monkeypatch.setattr(corpus, "_CHUNK", chunk)
    path = tmp_path / "fao_Latn.txt"
    path.write_bytes(b"\n".join(rows))
    bom = b"\xef\xbb\xbf"
    rows = [row.removeprefix(bom) if i == 0 else row for i, row in enumerate(rows)]
    expected = Counter()
    for row in rows:
        if len(row) > limit:
            expected["long"] += 1
        elif row and not row.isspace():
            try:
                row = row.removesuffix(b"\r").decode("utf-8")
                expected["no text" if row.isspace() else row] += 1
            except UnicodeDecodeError:
                expected["not UTF-8"] += 1
    found = Counter()
    skipped = Skipped()
    try:
        for document in read(source(path), skipped, max_line_bytes=limit):
            found[document.text] += 1
    except ValueError as error:
        assert "lines cannot be used" in str(error)  # noqa: PT017
    for reason, count in reasons(skipped).items():
        found["long" if reason.startswith("longer") else reason] += count
    assert found == expected


def test_a_source_of_which_more_than_half_is_bad_is_an_error_that_says_why(tmp_path):
    path = store(tmp_path, "a.jsonl", lines(GOOD, b"x", {"content": "hei"}))
    with pytest.raises(ValueError, match=r"source 'web': 2 of 3 lines cannot be used: .*not JSON.*no column 'text'"):
        all_of(path)
    path = store(tmp_path, "a.jsonl", lines(GOOD, b"x"))
    assert len(all_of(path)) == 1


def test_a_hopeless_file_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_HOPELESS", 10)
    path = store(tmp_path, "a.jsonl", lines(*[b"x"] * 1000))
    with pytest.raises(ValueError, match="10 of 10 lines cannot be used"):
        all_of(path)


# ------------------------------------------------------------------------------------------------------ broken files


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz"])
@pytest.mark.parametrize("cut", [0.5, 0.9, -1])
def test_a_truncated_file_is_named(tmp_path, name, cut):
    path = store(tmp_path, name, lines(*({**GOOD, "id": i * i} for i in range(20_000))))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)] if cut > 0 else data[:cut])
    with pytest.raises(ValueError, match=rf"{name}: broken .*copy it again"):
        all_of(path)


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz", "a.parquet"])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not compressed at all, but long enough to be read")
    with pytest.raises(ValueError, match=rf"{name}: broken"):
        all_of(tmp_path)


def test_a_zst_file_of_several_frames_is_read_to_the_end(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(lines(GOOD)) + zstandard.compress(lines(GOOD)))
    assert len(all_of(path)) == 2


def test_an_empty_file_has_no_documents(tmp_path):
    store(tmp_path, "a.jsonl", b"")
    store(tmp_path, "b.jsonl.zst", b"")
    store(tmp_path, "c.jsonl.gz", b"")
    assert all_of(tmp_path) == []
    (tmp_path / "d.jsonl.zst").touch()
    with pytest.raises(ValueError, match=r"d\.jsonl\.zst: broken \(0 bytes are no zstd file\)"):
        all_of(tmp_path)


def test_parquet_without_the_column_names_those_it_has(tmp_path):
    pq.write_table(pa.table({"content": ["a"], "url": ["b"]}), tmp_path / "fao_Latn.parquet")
    with pytest.raises(ValueError, match=r"parquet: has no column 'text'; it has content, url\. Name the right"):
        all_of(tmp_path)


def test_parquet_with_strings_that_are_not_utf8_loses_only_these(tmp_path):
    column = pa.array([b"good", b"\xff\xfe", b"too"]).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "fao_Latn.parquet")
    skipped = Skipped()
    assert texts(tmp_path, skipped) == ["good", "too"]
    assert reasons(skipped) == {"not UTF-8": 1}


def test_truncated_parquet_is_named(tmp_path):
    path = tmp_path / "fao_Latn.parquet"
    pq.write_table(pa.table({"text": ["a"] * 1000}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"fao_Latn\.parquet: broken"):
        all_of(path)


def test_no_file_is_an_error_that_lists_the_kinds(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    for path in (tmp_path, tmp_path / "*.jsonl", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"source 'web': no file at .*\.jsonl\.zst"):
            files(source(path))
    with pytest.raises(ValueError, match="unknown kind of file"):
        files(source(tmp_path / "notes.md"))


# --------------------------------------------------------------------------------------------------------- languages


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("fao_Latn", "fao_Latn"),
        ("deu", "deu"),
        ("de", "deu"),
        ("code", "code"),
        ("code_C++", "code_C++"),
        ("math", "math"),
    ],
)
def test_a_language_is_written_in_one_way(given, code):
    assert language_code(given) == code


@pytest.mark.parametrize("given", ["", "German", "en-US", "zh_CN", "xx", "FAO_Latn", "fao_latn", "fao_Latn\n"])
def test_an_unknown_language_is_refused(given):
    with pytest.raises(ValueError, match=r"unknown language .* write ISO 639-3"):
        language_code(given)


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("fao_Latn.jsonl.zst", "fao_Latn"),
        ("fo.txt", "fao"),
        ("deu.txt", "deu"),
        ("web.jsonl", None),
        ("train.jsonl", None),
        ("data/fao_Latn/train/000.parquet", "fao_Latn"),
        ("code.jsonl", "code"),
    ],
)
def test_a_path_says_its_language(path, language):
    assert language_of_path(Path(path)) == language


def test_a_column_says_more_than_a_file_and_a_file_more_than_the_source(tmp_path):
    store(tmp_path, "deu_Latn.jsonl", lines(GOOD, {"text": "Hallo"}))
    store(tmp_path, "part1.jsonl", lines({"text": "hei"}))
    assert [d.language for d in all_of(tmp_path, language="nob_Latn")] == ["fao_Latn", "deu_Latn", "nob_Latn"]


def test_a_score_that_is_no_number_is_skipped(tmp_path):
    rows = [{**GOOD, "q": q} for q in (1, 2.5, 3, 4, "high", None, True, float("nan"))]
    path = store(tmp_path, "a.jsonl", lines(*rows))
    skipped = Skipped()
    assert [d.quality for d in all_of(path, skipped, columns=Columns(quality="q"))] == [1.0, 2.5, 3.0, 4.0]
    assert reasons(skipped) == {"'q' is not a number": 4}


def test_reading_needs_no_more_than_the_first_lines_to_begin(tmp_path):
    path = store(tmp_path, "a.jsonl", lines(GOOD, GOOD))
    stream = read(source(path), Skipped())
    assert next(stream) == Document("Gott kvøld", "fao_Latn", id="7")
    stream.close()
