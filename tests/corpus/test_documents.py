"""Whatever stands in the files: good lines are read, bad ones counted with a reason, broken files named."""

import bz2
import gzip
import json
import lzma
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tessera.corpus import documents
from tessera.corpus.documents import (
    Document,
    Pair,
    check_usable,
    read,
    read_file,
)
from tessera.corpus.pairs import JoinedPair, directions, join_pair, why_not_pair
from tessera.data.languages import language_code, language_of_path
from tessera.plan.corpus import Columns, Source, TokenizerTraining
from tessera.sources import decompress
from tessera.sources.decompress import NUL
from tessera.sources.storage import files
from tessera.tokenizer.tokenizer import train


def source(path, **more):
    return Source(name="web", path=str(path), **more)


def all_of(path, **more):
    return list(read(source(path, **more)))


def texts(path, **more):
    return [document.text for document in all_of(path, **more)]


def unusable(path, limit=documents.MAX_LINE_BYTES, **more):
    """The rows that are skipped."""
    rows = (
        row
        for file in files(source(path, **more))
        for row in read_file(file, source(path, **more), max_line_bytes=limit)
    )
    return [row for row in rows if row.item is None]


def reasons(path, **more):
    return Counter(row.reason for row in unusable(path, **more))


def lines(*rows):
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


COMPRESSED = ["a.jsonl.zst", "a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz"]
GOOD = {"text": "Gott kvøld", "lang": "fao_Latn", "id": 7}


def store(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".zst"):
        data = zstandard.compress(data)
    elif name.endswith(".gz"):
        data = gzip.compress(data)
    elif name.endswith(".bz2"):
        data = bz2.compress(data)
    elif name.endswith(".xz"):
        data = lzma.compress(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", *COMPRESSED])
def test_documents_are_read_from_jsonl(tmp_path, name):
    path = store(tmp_path, name, lines(GOOD, {"text": "Tú", "lang": "fo"}))
    assert all_of(path) == [Document("Gott kvøld", "fao_Latn", id="7"), Document("Tú", "fao")]


@pytest.mark.parametrize("name", ["fao_Latn.txt", "fao_Latn.txt.zst", "fao_Latn.txt.gz"])
def test_a_line_of_a_text_file_is_a_document(tmp_path, name):
    path = store(tmp_path, name, b"\xef\xbb\xbfeitt\r\n\r\n   \ntv\xc3\xa6r\nlast without an end")
    assert [(d.text, d.language) for d in all_of(path)] == [
        ("eitt", "fao_Latn"),
        ("tvær", "fao_Latn"),
        ("last without an end", "fao_Latn"),
    ]
    assert unusable(path) == []


def test_documents_are_read_from_parquet(tmp_path):
    table = pa.table({"body": ["eitt", "", None, "tvær"], "score": [0.1, 0.2, 0.3, 4.0], "other": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "fao_Latn.parquet")
    columns = Columns(text="body", quality="score")
    found = all_of(tmp_path, columns=columns)
    assert [(d.text, d.language, d.quality) for d in found] == [("eitt", "fao_Latn", 0.1), ("tvær", "fao_Latn", 4.0)]
    assert reasons(tmp_path, columns=columns) == {"no text": 1, "'body' is null": 1}


def test_pairs_are_read_and_a_pair_without_a_side_is_skipped(tmp_path):
    good = {"src": "hei", "tgt": "hello", "src_lang": "nob_Latn", "tgt_lang": "en"}
    path = store(tmp_path, "p.jsonl", lines(good, good, {**good, "tgt": " "}, {**good, "src_lang": None}))
    assert all_of(path, kind="pairs") == [Pair("hei", "hello", "nob_Latn", "eng")] * 2
    assert sorted(reasons(path, kind="pairs").values()) == [1, 1]


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
    assert len(all_of(path)) == 16
    assert reasons(path) == {
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
    shown = {(row.place, row.shown) for row in unusable(path)}
    assert {("line 17", "{not json"), ("line 26", "'klingon'")} <= shown


def test_a_line_of_50_megabytes_is_skipped_and_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "fao_Latn.jsonl.zst"
    with zstandard.open(path, "wb") as out:
        out.write(lines(GOOD) + b'{"text": "')
        for _ in range(50):
            out.write(b"a" * 1_000_000)
        out.write(b'"}\n' + lines(GOOD))
    tracemalloc.start()
    try:
        assert texts(path) == ["Gott kvøld"] * 2
        assert tracemalloc.get_traced_memory()[1] < 4 * documents.MAX_LINE_BYTES
    finally:
        tracemalloc.stop()
    assert [(row.place, row.reason) for row in unusable(path)] == [("line 2", "longer than 16000000 bytes")]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.binary(max_size=30).filter(lambda b: not set(b"\n\xfe") & set(b)), max_size=20),
    chunk=st.integers(1, 50),
    limit=st.integers(1, 30),
)
def test_lines_are_the_same_whatever_the_size_of_a_reading(tmp_path, monkeypatch, lines, chunk, limit):
    monkeypatch.setattr(decompress, "CHUNK", chunk)
    path = tmp_path / "fao_Latn.txt"
    path.write_bytes(b"\n".join(lines))
    bom = b"\xef\xbb\xbf"
    lines = [row.removeprefix(bom) if i == 0 else row for i, row in enumerate(lines)]
    expected = Counter()
    for row in lines:
        if len(row) > limit:
            expected["long"] += 1
        elif row and not row.isspace():
            try:
                row = row.removesuffix(b"\r").decode("utf-8")
                expected["no text" if row.isspace() else NUL if "\0" in row else row] += 1
            except UnicodeDecodeError:
                expected["not UTF-8"] += 1
    found = Counter()
    try:
        for document in read(source(path), max_line_bytes=limit):
            found[document.text] += 1
    except ValueError as error:
        assert "lines cannot be used" in str(error)  # noqa: PT017
    for reason, count in reasons(path, limit=limit).items():
        found["long" if reason.startswith("longer") else reason] += count
    assert found == expected


def test_a_source_of_which_more_than_half_is_bad_is_an_error_that_says_why(tmp_path):
    path = store(tmp_path, "a.jsonl", lines(GOOD, b"x", {"content": "hei"}))
    with pytest.raises(ValueError, match=r"source 'web': 2 of 3 lines cannot be used: .*not JSON.*no column 'text'"):
        all_of(path)
    path = store(tmp_path, "a.jsonl", lines(GOOD, b"x"))
    assert len(all_of(path)) == 1


def test_a_hopeless_file_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_HOPELESS", 10)
    path = store(tmp_path, "a.jsonl", lines(*[b"x"] * 1000))
    with pytest.raises(ValueError, match="10 of 10 lines cannot be used"):
        all_of(path)


# ------------------------------------------------------------------------------------------------------ broken files


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("cut", [0.5, 0.9, -1])
def test_a_truncated_file_is_named(tmp_path, name, cut):
    path = store(tmp_path, name, lines(*({**GOOD, "id": i * i} for i in range(20_000))))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)] if cut > 0 else data[:cut])
    with pytest.raises(ValueError, match=rf"{name}: broken .*copy it again"):
        all_of(path)


@pytest.mark.parametrize(
    "name", ["a.jsonl.zst", "a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.parquet", "a.wet.gz", "a.wet"]
)
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not compressed at all, but long enough to be read")
    with pytest.raises(ValueError, match=rf"{name}: broken"):
        all_of(tmp_path)


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_compressed_file_of_several_parts_is_read_to_the_end(tmp_path, name):
    path = store(tmp_path, name, lines(GOOD))
    path.write_bytes(path.read_bytes() * 3)
    assert len(all_of(path)) == 3


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
    assert texts(tmp_path) == ["good", "too"]
    assert reasons(tmp_path) == {"not UTF-8": 1}


def test_truncated_parquet_is_named(tmp_path):
    path = tmp_path / "fao_Latn.parquet"
    pq.write_table(pa.table({"text": ["a"] * 1000}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"fao_Latn\.parquet: broken"):
        all_of(path)


def test_no_file_is_an_error_that_lists_the_kinds(tmp_path):
    (tmp_path / "notes.md").write_text("x")
    for path in (tmp_path, tmp_path / "*.jsonl", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"source 'web': no file at .*\.jsonl, \.txt"):
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


def test_a_column_says_more_than_the_source_and_that_more_than_the_name_of_a_file(tmp_path):
    store(tmp_path, "deu_Latn.jsonl", lines(GOOD, {"text": "Hallo"}))
    store(tmp_path, "part1.jsonl", lines({"text": "hei"}))
    assert [d.language for d in all_of(tmp_path, language="nob_Latn")] == ["fao_Latn", "nob_Latn", "nob_Latn"]


def test_a_score_that_is_no_number_is_skipped(tmp_path):
    rows = [{**GOOD, "q": q} for q in (1, 2.5, 3, 4, "high", None, True, float("nan"))]
    path = store(tmp_path, "a.jsonl", lines(*rows))
    columns = Columns(quality="q")
    assert [d.quality for d in all_of(path, columns=columns)] == [1.0, 2.5, 3.0, 4.0]
    assert reasons(path, columns=columns) == {"'q' is not a number": 4}


def test_reading_needs_no_more_than_the_first_lines_to_begin(tmp_path):
    path = store(tmp_path, "a.jsonl", lines(GOOD, GOOD))
    stream = read(source(path))
    assert next(stream) == Document("Gott kvøld", "fao_Latn", id="7")
    stream.close()


# ------------------------------------------------------------------------------------------------------ rows of a file


def rows_of(path, limit=documents.MAX_LINE_BYTES, **more):
    (file,) = files(source(path, **more))
    return list(read_file(file, source(path, **more), max_line_bytes=limit))


def test_every_row_of_a_file_is_a_document_or_has_a_reason(tmp_path):
    rows = [
        GOOD,
        b"",
        b"{broken",
        {"text": "no language"},
        b"\xff" + b"x" * 999,
        b"y" * 2000,
        {**GOOD, "text": " "},
        GOOD,
    ]
    path = store(tmp_path, "a.jsonl", lines(*rows))
    found = rows_of(path, limit=1500)
    no_language = "no language in a column, in the name of the file (fao_Latn.jsonl) or as `language` of the source"
    assert [(row.number, row.item is not None, row.reason, row.shown) for row in found] == [
        (1, True, None, "Gott kvøld"),
        (3, False, "not JSON", "{broken"),
        (4, False, no_language, '{"text": "no language"}'),
        (5, False, "not UTF-8", "\\xff" + "x" * 76),
        (6, False, "longer than 1500 bytes", "y" * 80),
        (7, False, "no text", '{"text": " ", "lang": "fao_Latn", "id": 7}'),
        (8, True, None, "Gott kvøld"),
    ]
    assert [row.place for row in found[:2]] == ["line 1", "line 3"]
    assert [row.size for row in found[:2]] == [10, 7]


def test_rows_of_parquet_are_counted_from_one_and_shown_by_their_text(tmp_path):
    table = pa.table({"text": ["eitt", None, "tvey"], "lang": ["fao", "fao", "klingon"]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    assert [(row.place, row.reason, row.shown) for row in rows_of(tmp_path)] == [
        ("row 1", None, "eitt"),
        ("row 2", "'text' is null", "{'text': 'None', 'lang': 'fao'}"),
        ("row 3", "unknown language", "'klingon'"),
    ]


@given(st.lists(st.text(st.characters(codec=None), max_size=9) | st.binary(max_size=9), max_size=9))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_found_can_be_written_down(tmp_path, texts):
    rows = [t if isinstance(t, bytes) else {"text": t, "lang": t, "id": t} for t in texts]
    rows += [t if isinstance(t, bytes) else {"text": "x" + t, "id": t} for t in texts]
    path = store(tmp_path, "a.jsonl", lines(*rows))
    for row in rows_of(path, language="fao_Latn"):
        written = [row.shown, row.reason or ""]
        if row.item is not None:
            written += [row.item.text, row.item.id or "", row.item.language]
        assert pa.array(written).to_pylist() == written


def test_a_file_that_begins_with_nothing_usable_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_HOPELESS", 10)
    path = store(tmp_path, "a.jsonl", lines(*[b"x"] * 9, GOOD, *[b"x"] * 20))
    assert len(rows_of(path)) == 30
    path = store(tmp_path, "a.jsonl", lines(*[b"x"] * 10, GOOD))
    with pytest.raises(
        ValueError, match=r"source 'web': 10 of 10 lines cannot be used: 10 x not JSON \(first: .*line 1"
    ):
        rows_of(path)


def test_whether_a_source_is_usable_is_a_matter_of_counts():
    examples = {"not JSON": "a.jsonl, line 3", "no text": "b.jsonl, line 1"}
    check_usable(source("x"), good=1, bad=1, examples=examples)
    check_usable(source("x"), good=0, bad=0, examples={})
    with pytest.raises(ValueError, match=r"3 of 5 lines .*: not JSON \(first: a\.jsonl, line 3\); no text \(first: b"):
        check_usable(source("x"), good=2, bad=3, examples=examples)


def test_a_parquet_file_of_one_large_row_group_does_not_fill_the_memory(tmp_path):
    words = [f"{n} " * 1000 for n in range(20_000)]  # 120 MB
    pq.write_table(pa.table({"text": words}), tmp_path / "fao_Latn.parquet", row_group_size=10**9)
    del words
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in read(source(tmp_path)))
    assert most < 40_000_000


# ---------------------------------------------------------------------------------------------------------------- WARC


def wet(*records, gzipped=True):
    """A file of (type, text, headers) as Common Crawl writes it: each record is a gzip file of its own."""
    parts = []
    for n, (kind, text, headers) in enumerate([("warcinfo", "Software-Info: a crawler\r\n", {}), *records]):
        text = text if isinstance(text, bytes) else text.encode()
        all_headers = {"WARC-Type": kind, "WARC-Target-URI": f"https://site.org/{n}"}
        all_headers |= {"WARC-Record-ID": f"<urn:uuid:{n}>", **headers, "Content-Length": str(len(text))}
        head = "".join(f"{key}: {value}\r\n" for key, value in all_headers.items())
        parts.append(f"WARC/1.0\r\n{head}\r\n".encode() + text + b"\r\n\r\n")
    return b"".join(map(gzip.compress, parts) if gzipped else parts)


PAGES = [("conversion", "Gott kvøld\nog vælkomin", {}), ("conversion", "Tú", {})]


@pytest.mark.parametrize("name", ["fao_Latn.warc.wet.gz", "fao_Latn.warc.gz", "fao_Latn.wet", "fao_Latn.warc"])
def test_the_text_of_a_crawl_is_read_from_wet(tmp_path, name):
    (tmp_path / name).write_bytes(wet(*PAGES, gzipped=name.endswith("gz")))
    assert all_of(tmp_path) == [
        Document("Gott kvøld\nog vælkomin", "fao_Latn", id="urn:uuid:1"),
        Document("Tú", "fao_Latn", id="urn:uuid:2"),
    ]
    assert [row.place for row in rows_of(tmp_path)] == ["record 2", "record 3"]
    by_address = all_of(tmp_path, columns=Columns(id="WARC-Target-URI"))
    assert [d.id for d in by_address] == ["https://site.org/1", "https://site.org/2"]


def test_a_crawler_s_guess_of_the_language_counts_where_nobody_says_better(tmp_path):
    guess = {"WARC-Identified-Content-Language": "fao,dan"}
    data = wet(("conversion", "Gott kvøld", guess), ("conversion", "Tú", {}))
    (tmp_path / "part-0.wet.gz").write_bytes(data)
    assert [d.language for d in all_of(tmp_path)] == ["fao"]
    assert list(reasons(tmp_path).values()) == [1]
    assert [d.language for d in all_of(tmp_path, language="isl_Latn")] == ["isl_Latn"] * 2
    named = Columns(language="WARC-Identified-Content-Language")
    assert [d.language for d in all_of(tmp_path, language="isl_Latn", columns=named)] == ["fao", "isl_Latn"]


def test_pages_that_are_not_text_say_to_extract_it_first(tmp_path):
    (tmp_path / "fao_Latn.warc.gz").write_bytes(wet(("response", "<html>", {}), *PAGES))
    with pytest.raises(ValueError, match=r"warc\.gz: record 2 is a response, .*extract it first.*take the WET files"):
        all_of(tmp_path)


def test_records_of_other_kinds_between_the_text_are_counted_or_nothing(tmp_path):
    others = [("response", "<html>", {}), ("metadata", "x", {}), ("conversion", b"\xff", {}), ("conversion", "", {})]
    (tmp_path / "fao_Latn.wet.gz").write_bytes(wet(*PAGES, PAGES[0], *others))
    assert len(all_of(tmp_path)) == 3
    assert reasons(tmp_path) == {"a response record is not text": 1, "not UTF-8": 1, "no text": 1}


@pytest.mark.parametrize("gzipped", [True, False])
def test_a_wet_file_that_breaks_off_is_named_wherever_it_does(tmp_path, gzipped):
    path = tmp_path / ("fao_Latn.wet.gz" if gzipped else "fao_Latn.wet")
    text = "Gott kvøld " * 40
    first, whole = wet(gzipped=gzipped), wet(("conversion", text, {}), gzipped=gzipped)
    end = 0 if gzipped else 4  # blank lines after a record are no loss
    for cut in range(8, len(whole) + 1):
        path.write_bytes(whole[:cut])
        if len(whole) - end <= cut:
            assert texts(path) == [text]
        elif len(first) - end <= cut <= len(first):
            assert texts(path) == []
        else:
            with pytest.raises(ValueError, match=r"fao_Latn\.wet.*: broken .*copy it again"):
                texts(path)


def test_a_record_that_is_too_long_is_skipped(tmp_path):
    (tmp_path / "fao_Latn.wet.gz").write_bytes(wet(*PAGES, ("conversion", "x" * 5000, {}), *PAGES))
    found = rows_of(tmp_path, limit=1000)
    assert [row.reason for row in found] == [None, None, "longer than 1000 bytes", None, None]
    assert found[2].shown == "x" * 80


def test_without_warcio_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "fao_Latn.wet.gz").write_bytes(wet(*PAGES))
    for module in [name for name in sys.modules if name.split(".")[0] == "warcio"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'WARC needs warcio; pip install "tessera-encoders\[prepare\]"'):
        all_of(tmp_path)


# ------------------------------------------------------------------------------------------ pairs as training documents


def pair(source, target, source_language="fao_Latn", target_language="eng_Latn"):
    return Pair(source, target, source_language, target_language)


def test_a_pair_with_english_is_joined_both_ways_and_counts_for_the_other_language():
    expected = [JoinedPair("hey", "hello", "fao_Latn"), JoinedPair("hello", "hey", "fao_Latn")]
    assert list(directions(pair("hey", "hello"))) == expected
    assert list(directions(pair("hello", "hey", "eng", "fao_Latn"))) == expected[::-1]


def test_a_pair_without_english_counts_for_the_language_it_leads_to():
    assert list(directions(pair("hei", "hey", "nob_Latn", "fao_Latn"))) == [
        JoinedPair("hei", "hey", "fao_Latn"),
        JoinedPair("hey", "hei", "nob_Latn"),
    ]


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("a fair translation of it", "ein sanniligur týðing", None),
        ("yes", "ja, tað er rætt", None),
        ("x" * 1000, "a short answer", "times as long"),
        ("same text", " same text", "the same text"),
        ("数据库管理系统" * 20, "a database management system " * 20, None),
    ],
)
def test_a_pair_of_very_different_lengths_is_not_trained_on(source, target, reason):
    found = why_not_pair(pair(source, target))
    assert (found is None) if reason is None else (reason in found)
    assert why_not_pair(pair(target, source)) == found


def test_a_pair_in_one_language_is_not_trained_on():
    assert why_not_pair(pair("a b", "c d", "eng_Latn", "eng_Latn")) == "both sides in one language"


def test_a_joined_pair_is_begin_source_separator_target_end(tmp_path):
    tokenizer = train({"eng_Latn": ["hello hey"] * 5}, TokenizerTraining(vocab_size=300), tmp_path)
    first, second = tokenizer.encode_plain(["hello", "hey"])
    found = join_pair(first, second, tokenizer)
    assert found.dtype == np.int32
    assert tokenizer.decode(found, special=True) == "<|begin_of_text|>hello<|parallel_sep|>hey<|end_of_text|>"
