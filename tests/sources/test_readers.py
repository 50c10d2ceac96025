"""Rows of any format, honest or made to do harm: read, or refused by name; memory and processes are bounded."""

import bz2
import codecs
import gzip
import json
import lzma
import random
import tracemalloc

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from damage import damaged_bytes

from tessera.corpus.documents import read
from tessera.plan.corpus import Columns, Source
from tessera.sources import decompress, parquet, readers
from tessera.sources.storage import File, files, listing

MOST = 10_000


def source(path, **more):
    return Source(name="web", path=str(path), **more)


def texts(path, **more):
    return [document.text for document in read(source(path, **more))]


def found(path, columns=None, most=MOST):
    (file,) = files(source(path))
    return [(number, values, reason) for number, values, reason, _ in readers.rows(file, columns, most)]


# ------------------------------------------------------------------------------------------------------- what is listed


SPELLED = [
    "fao_Latn.JSONL",
    "isl_Latn.ndjson",
    "dan_Latn.jsonl.zstd",
    "nob_Latn.TXT.GZ",
    "swe_Latn.csv",
    "fin_Latn.tsv",
]


def put(path, text):
    if path.name.endswith((".csv", ".tsv")):
        text = f"text\n{text}"
    elif ".txt" not in path.name.lower():
        text = json.dumps({"text": text})
    data = text.encode() + b"\n"
    ending = path.suffix.lower()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        gzip.compress(data) if ending == ".gz" else zstandard.compress(data) if ending == ".zstd" else data
    )


def test_a_folder_gives_every_spelling_of_every_kind(tmp_path):
    for name in SPELLED:
        put(tmp_path / name, name)
    assert sorted(texts(tmp_path)) == sorted(SPELLED)


def test_linked_folders_are_read_once_and_circles_end(tmp_path):
    put(tmp_path / "web/fao_Latn.txt", "here")
    put(tmp_path / "elsewhere/isl_Latn.txt", "there")
    (tmp_path / "web/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "web/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "web")
    assert sorted(texts(tmp_path / "web")) == ["here", "there"]
    assert "2 linked folders that are read already (back, more)" in str(listing(source(tmp_path / "web")))


def test_what_is_not_read_of_a_folder_is_said_by_name(tmp_path):
    for name in ("fao_Latn.jsonl", "README.md", "SHA256SUMS", ".hidden.jsonl", "settings.json", "no.txt"):
        put(tmp_path / name, name)
    listed = listing(source(tmp_path, exclude=("no.*",)))
    assert [file.name for file in listed.files] == ["fao_Latn.jsonl"]
    for part in ("1 hidden (.hidden.jsonl)", "2 of kinds that are not read (README.md, SHA256SUMS)", "(settings.json)"):
        assert part in str(listed)


@pytest.mark.parametrize(
    "text", ['[{"text": "a"},\n {"text": "b"} ]', '{"text": "a"}\n{"text": "b"}\n', '[{"text":"a"},{"text":"b"}]']
)
def test_json_is_read_as_an_array_or_lines_where_it_is_all_there_is(tmp_path, monkeypatch, text):
    (tmp_path / "fao_Latn.json").write_text(text)
    for chunk in (1, 2, 7, 2**18):
        monkeypatch.setattr(decompress, "CHUNK", chunk)
        assert texts(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    "text", ['[{"text": "a"}', '[{"text": "a"} x]', '[{"text": "a"}]]', "[" * 5000, '[{"text": "' + "x" * 20_000]
)
def test_a_damaged_array_is_an_error_with_its_row(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: behind row [01]: not JSON, or a row longer"):
        found(tmp_path / "a.json")


# --------------------------------------------------------------------------------------------------------------- tables


def test_csv_has_quotes_and_tsv_has_none(tmp_path):
    (tmp_path / "fao_Latn.csv").write_text('id,text\n1,"two\nlines, ""quoted"""\n\n2,x,y\n3,z\n')
    (tmp_path / "isl_Latn.tsv").write_text('text\tid\n"open quote\t1\nnext\t2\n')
    (tmp_path / "dan_Latn.csv").write_text("text;lang\nhej, du;dan_Latn\n")
    assert texts(tmp_path) == ["hej, du", 'two\nlines, "quoted"', "z", '"open quote', "next"]
    assert found(tmp_path / "fao_Latn.csv")[1] == (5, None, "3 fields, not 2 as in the first line")


def test_a_quote_that_is_never_closed_is_an_error_and_no_memory(tmp_path):
    (tmp_path / "fao_Latn.csv").write_text('text\n"open\n' + "line\n" * 100_000)
    with pytest.raises(
        ValueError, match=r"fao_Latn\.csv: behind line \d+: a row longer than 10000 bytes; is a quote not"
    ):
        found(tmp_path)


def test_a_table_without_the_column_names_those_it_has(tmp_path):
    (tmp_path / "fao_Latn.csv").write_text("content,url\na,b\n")
    with pytest.raises(ValueError, match=r"has no column 'text'; it has content, url\. Name the right"):
        texts(tmp_path)


# ------------------------------------------------------------------------------------------------------------ encodings


@pytest.mark.parametrize("name", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "txt.gz"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, monkeypatch, name, kind):
    plain = {"jsonl": '{"text": "øl 😀"}\n', "csv": "text\nøl 😀\n"}.get(kind, "øl 😀\n")
    mark = getattr(codecs, "BOM_" + name.replace("-", "_").upper().replace("UTF_", "UTF"))
    data = mark + plain.encode(name)
    (tmp_path / f"fao_Latn.{kind}").write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    for chunk in (1, 3, 2**18):
        monkeypatch.setattr(decompress, "CHUNK", chunk)
        assert texts(tmp_path) == ["øl 😀"]


@pytest.mark.parametrize("data", ["bjór á\nøl\n".encode("latin-1"), "one\ntwo\n".encode("utf-16-le")])
def test_a_file_in_another_encoding_is_an_error_though_others_are_whole(tmp_path, data):
    put(tmp_path / "isl_Latn.txt", "\n".join(f"whole {n}" for n in range(9)))
    (tmp_path / "swe_Latn.txt").write_bytes(data)
    with pytest.raises(
        ValueError, match=r"nothing of 1 of its files can be used: .*swe_Latn\.txt: (not UTF-8|NUL).*iconv"
    ):
        texts(tmp_path)
    assert len(texts(tmp_path, allow_empty=True)) == 9


def test_half_of_a_character_is_an_error(tmp_path):
    (tmp_path / "fao_Latn.txt").write_bytes(codecs.BOM_UTF16_LE + "a".encode("utf-16-le") + b"x")
    with pytest.raises(ValueError, match=r"fao_Latn\.txt: begins as utf-16-le, but is not"):
        texts(tmp_path)


# ------------------------------------------------------------------------------------------------------- odd but honest


IDS = [
    pa.array([b"\xff\x00", None]),
    pa.array([1, None]),
    pa.array([{"a": [1]}, None]),
    pa.array([b"ab", None], pa.binary(2)),
]


@pytest.mark.parametrize(("ids", "name"), zip(IDS, ["ff00", "1", '{"a": [1]}', "ab"], strict=True))
def test_no_id_costs_a_row(tmp_path, ids, name):
    pq.write_table(pa.table({"text": ["eitt", "tvey"], "id": ids}), tmp_path / "fao_Latn.parquet")
    assert [(d.text, d.id) for d in read(source(tmp_path))] == [("eitt", name), ("tvey", None)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"eitt", b"tvey"]),
        pa.array([b"eitt", b"tvey"], pa.large_binary()),
        pa.array([b"eitt", b"tvey"], pa.binary(4)),
        pa.array(["eitt", "tvey"]).dictionary_encode(),
        pa.array([b"eitt", b"tvey"]).dictionary_encode(),
        pa.array(["eitt", "tvey"], pa.string_view()),
        pa.array(["eitt", "tvey"], pa.large_string()),
    ],
    ids=lambda column: str(column.type),
)
def test_text_is_text_however_parquet_holds_it(tmp_path, column):
    pq.write_table(pa.table({"text": column}), tmp_path / "fao_Latn.parquet")
    assert texts(tmp_path) == ["eitt", "tvey"]


def test_the_first_of_a_list_of_languages_counts(tmp_path):
    rows = [{"text": "a", "lang": ["fao_Latn", "dan_Latn"]}, {"text": "b", "lang": []}, {"text": "c", "lang": ""}]
    (tmp_path / "isl_Latn.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.table({"text": ["d"], "lang": [["fao_Latn"]]}), tmp_path / "x.parquet")
    assert [d.language for d in read(source(tmp_path))] == ["fao_Latn", "isl_Latn", "isl_Latn", "fao_Latn"]


def test_zstd_with_a_long_window_is_read_and_its_end_is_missed(tmp_path, monkeypatch):
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters)
    stream = packer.compressobj()  # without its size, as from a pipe
    words = "".join(f"orð {n}\n" for n in range(3000)).encode()
    data = stream.compress(words) + stream.flush()
    path = tmp_path / "fao_Latn.txt.zst"
    path.write_bytes(data + data)
    assert texts(tmp_path) == [f"orð {n}" for n in range(3000)] * 2
    path.write_bytes(data[:-9])
    with pytest.raises(ValueError, match=r"broken .it ends within a zstd frame"):
        texts(tmp_path)
    monkeypatch.setattr(decompress, "_memory", lambda: 2**29)
    with pytest.raises(ValueError, match=r"its zstd window is 256 MB, 128 MB are taken on this machine"):
        texts(tmp_path)


# ---------------------------------------------------------------------------------------------------- made to do harm


@pytest.mark.parametrize("kind", ["jsonl", "txt", "csv", "json"])
def test_one_endless_line_takes_no_memory(tmp_path, kind):
    start = {"csv": b"text\n", "json": b'[{"text": "'}.get(kind, b"x")
    (tmp_path / f"fao_Latn.{kind}.zst").write_bytes(zstandard.compress(start + b"a" * 30_000_000))
    tracemalloc.start()
    try:
        rows = found(tmp_path, source(tmp_path))
        assert [reason for *_, reason in rows] == ["longer than 10000 bytes"]
    except ValueError as error:
        assert "longer than 10000 bytes" in str(error)  # noqa: PT017
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_a_file_that_grows_beyond_measure_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(decompress, "_LARGE", 2**20)
    (tmp_path / "fao_Latn.txt.zst").write_bytes(zstandard.compress(b"line\n" * 500_000))
    with pytest.raises(ValueError, match=r"fao_Latn\.txt\.zst: [\d,]+ bytes that become more than"):
        texts(tmp_path)


PACKERS = {"zst": zstandard.compress, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKERS)
def test_a_file_whose_size_no_server_says_is_refused_where_it_grows_beyond_measure(monkeypatch, ending):
    monkeypatch.setattr(decompress, "_LARGE", 2**18)
    place = fsspec.filesystem("memory")
    file = File(f"memory://fao_Latn.txt.{ending}", 0, "")
    place.pipe(f"/{file.name}", PACKERS[ending](b"line\n" * 400_000))
    with pytest.raises(ValueError, match=rf"fao_Latn\.txt\.{ending}: [\d,]+ bytes that become more than"):
        list(decompress.lines(file, 100))
    place.pipe(f"/{file.name}", PACKERS[ending]("".join(f"{n * n} of {n % 77}\n" for n in range(30_000)).encode()))
    assert len(list(decompress.lines(file, 100))) == 30_000


def test_a_process_that_dies_is_named_and_the_next_file_is_read(tmp_path, monkeypatch):
    pq.write_table(pa.table({"text": ["eitt"] * 100}), tmp_path / "fao_Latn.parquet")
    send = parquet._Process.send

    def killed(process, letter, content):
        process.popen.kill() if letter == b"C" else send(process, letter, content)

    monkeypatch.setattr(parquet._Process, "send", killed)
    with pytest.raises(ValueError, match=r"fao_Latn\.parquet: broken .*ended with SIGKILL"):
        texts(tmp_path)
    monkeypatch.undo()
    assert len(texts(tmp_path)) == 100


def test_parquet_that_decodes_to_more_than_there_is_memory_is_refused(tmp_path, monkeypatch):
    pq.write_table(
        pa.table({"text": pa.DictionaryArray.from_arrays([0] * 4000, ["x" * 400_000])}), tmp_path / "fao_Latn.parquet"
    )
    assert (tmp_path / "fao_Latn.parquet").stat().st_size < 2_000_000
    monkeypatch.setattr(parquet, "MEMORY", 2**30)
    monkeypatch.setattr(parquet, "_idle", [])
    with pytest.raises(ValueError, match=r"fao_Latn\.parquet: broken .it needs more than 1 GB of memory"):
        texts(tmp_path)
    while parquet._idle:
        parquet._idle.pop().end()


def test_a_reader_that_stops_early_leaves_no_process(tmp_path):
    pq.write_table(pa.table({"text": ["eitt"] * 100_000}), tmp_path / "fao_Latn.parquet")
    (file,) = files(source(tmp_path))
    rows = readers.rows(file, source(tmp_path), MOST)
    next(rows)
    before = len(parquet._idle)
    rows.close()
    assert len(parquet._idle) == before


def damaged(folder, inputs):
    """How many of many damaged files were read and refused; nothing else may happen."""
    rows = [{"text": f"orð {n}", "lang": "fao_Latn", "id": n} for n in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    (folder / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "c.json").write_text(json.dumps(rows))
    (folder / "d.csv").write_text("text,lang\n" + "a,b\n" * 5)
    (folder / "e.jsonl.zst").write_bytes(zstandard.compress((folder / "b.jsonl").read_bytes()))
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    rng, counts = random.Random(0), {"read": 0, "refused": 0}
    for number in range(inputs):
        path = sorted(whole)[number % len(whole)]
        path.write_bytes(damaged_bytes(whole[path], rng))
        (file,) = files(source(path))
        for columns in (None, source(path, columns=Columns())):
            try:
                list(readers.rows(file, columns, MOST))
                counts["read"] += 1
            except (ValueError, *readers.BROKEN):
                counts["refused"] += 1
        path.write_bytes(whole[path])
    return counts


def test_damaged_files_are_read_or_refused(tmp_path):
    assert min(damaged(tmp_path, 150).values()) > 20


@pytest.mark.slow
def test_many_damaged_files_are_read_or_refused(tmp_path):
    assert min(damaged(tmp_path, 20_000).values()) > 1000
