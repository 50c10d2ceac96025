"""Wherever the files lie, they are found in one order, known by what they hold, and read the same."""

import itertools
import json
import pickle
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.corpus.documents import read, read_file
from tessera.plan.corpus import Columns, Corpus, Source
from tessera.sources import storage
from tessera.sources.storage import files


def source(path, **more):
    return Source(name="web", path=str(path), **more)


def names(path, **more):
    return [file.url for file in files(source(path, **more))]


def texts(path, **more):
    return [document.text for document in read(source(path, **more))]


def line(text, **more):
    return json.dumps({"text": text, **more}).encode() + b"\n"


@pytest.fixture
def memory():
    system = MemoryFileSystem()
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def put(memory, path, data):
    memory.pipe_file(path, data)


PARQUET = ("text", "id", "dump", "url", "date", "file_path", "language", "language_score", "language_script")


def parquet(*rows):
    sink = pa.BufferOutputStream()
    columns = {name: [f"{name} of {row}" for row in rows] for name in PARQUET}
    table = {**columns, "text": list(rows), "language": ["fao"] * len(rows), "language_script": ["Latn"] * len(rows)}
    pq.write_table(pa.table(table), sink)
    return sink.getvalue().to_pybytes()


# ------------------------------------------------------------------------------------------------------ what is found


KNOWN = ["data/a.jsonl", "data/b/test/3.txt", "data/b/train/1.txt", "data/b/train/2.txt.zst", "data/c/6.parquet"]
KNOWN += ["data/c/train/x/4.jsonl.gz"]
OTHERS = ["data/readme.md", "data/.hidden.txt", "data/.cache/5.txt", "data/b/train/settings.json"]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("data", [0, 1, 2, 3, 4, 5]),
        ("data/", [0, 1, 2, 3, 4, 5]),
        ("data/a.jsonl", [0]),
        ("data/*/train", [2, 3, 5]),
        ("data/*/train/*.txt*", [2, 3]),
        ("data/**/*.txt", [1, 2]),
        ("data/[ab]*", [0, 1, 2, 3]),
        ("data/c/train/**", [5]),
    ],
)
def test_a_path_finds_the_same_files_here_and_elsewhere(tmp_path, memory, path, found):
    for name in KNOWN + OTHERS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
        put(memory, "/" + name, b"x")
    expected = [KNOWN[n] for n in found]
    assert names(tmp_path / path) == [str(tmp_path / name) for name in expected]
    assert names(f"file://{tmp_path}/{path}") == [str(tmp_path / name) for name in expected]
    assert names(f"memory://{path}") == [f"memory:///{name}" for name in expected]


@settings(max_examples=150)
@given(
    names=st.sets(st.lists(st.sampled_from(["a", "b", "ab", ".h"]), min_size=1, max_size=4).map(tuple), max_size=8),
    pattern=st.lists(st.sampled_from(["a", "*", "a*", "?", "[ab]", "**"]), min_size=1, max_size=4),
)
def test_a_glob_elsewhere_means_what_it_means_here(tmp_path_factory, names, pattern):
    files_here = {(*parts[:-1], parts[-1] + ".txt") for parts in names}
    pattern = [*pattern[:-1], pattern[-1] if pattern[-1] == "**" else pattern[-1] + ".txt"]
    root, system = tmp_path_factory.mktemp("tree"), MemoryFileSystem()
    system.store.clear()
    for parts in files_here:
        (root.joinpath(*parts)).parent.mkdir(parents=True, exist_ok=True)
        root.joinpath(*parts).touch()
        system.pipe_file("/root/" + "/".join(parts), b"")

    def found(path, start):
        try:
            return [file.url.removeprefix(start) for file in files(source(path + "/".join(pattern)))]
        except ValueError:
            return []

    assert found("memory://root/", "memory:///root/") == found(f"{root}/", f"{root}/")


def test_a_file_says_its_name_its_kind_and_its_compression(memory):
    put(memory, "/data/fao_Latn/train/00.warc.wet.gz", b"12345")
    (file,) = files(source("memory://data"))
    assert (file.name, file.kind, file.compression, file.size) == ("00.warc.wet.gz", ".wet", "gzip", 5)
    assert file.path == PurePosixPath("/data/fao_Latn/train/00.warc.wet.gz")
    query = storage.File("https://site.org/fao_Latn/a.parquet?download=true", 0, "")
    assert (query.name, query.kind, query.path.parent.name) == ("a.parquet", ".parquet", "fao_Latn")


def test_what_a_file_is_travels_to_another_process(tmp_path):
    (tmp_path / "fao_Latn.txt").write_text("hey")
    wanted = source(tmp_path)
    (file,) = files(wanted)
    sent, told = pickle.loads(pickle.dumps((file, wanted)))
    assert sent == file
    assert [row.item.text for row in read_file(sent, told)] == ["hey"]


def test_a_stamp_changes_when_a_file_does_and_only_then(tmp_path, memory):
    (tmp_path / "a.txt").write_text("one")
    put(memory, "/a.txt", b"one")
    for path in (tmp_path, "memory://a.txt"):
        (before,) = files(source(path))
        assert before.stamp == files(source(path))[0].stamp
        assert before.url in before.stamp
    (tmp_path / "a.txt").write_text("two")
    put(memory, "/a.txt", b"two")
    assert files(source(tmp_path))[0].stamp != before.stamp
    assert files(source("memory://a.txt"))[0].stamp != before.stamp


@pytest.mark.parametrize(
    ("known", "version"),
    [
        ({"ETag": '"abc"', "LastModified": 5}, 'etag="abc"'),
        ({"Last-Modified": "Monday"}, "lastmodified=Monday"),
        ({"blob_id": "1f", "lfs": None}, "blobid=1f"),
        ({"content_md5": "m", "last_modified": 3}, "contentmd5=m"),
        ({"size": 3}, ""),
    ],
)
def test_a_checksum_is_better_than_a_time(known, version):
    assert storage._version(known) == version


# ---------------------------------------------------------------------------------------------------- what is not found


def test_nothing_there_is_an_error_that_says_where(memory):
    put(memory, "/data/readme.md", b"x")
    for path in ("memory://nowhere", "memory://data", "memory://data/*.jsonl", "memory://data/*/train"):
        with pytest.raises(ValueError, match=r"source 'web': no file at 'memory://.*\.jsonl.*log in first"):
            files(source(path))
    with pytest.raises(ValueError, match=r"readme\.md: unknown kind of file; known are \.jsonl"):
        files(source("memory://data/readme.md"))


def test_a_link_to_nothing_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(ValueError, match=r"b\.txt: a link to a file that is not there"):
        files(source(tmp_path))


@pytest.mark.parametrize(
    ("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs"), ("https", "aiohttp")]
)
def test_a_place_whose_package_is_missing_says_what_to_install(monkeypatch, scheme, package):
    for module in ("s3fs", "gcsfs", "adlfs", "aiohttp", "fsspec.implementations.http"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{scheme}://bucket/a\.jsonl: .* pip install {package}"):
        files(source(f"{scheme}://bucket/a.jsonl"))


def test_a_place_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match=r"no place is called s4://; give hf://, s3://"):
        files(source("s4://bucket/a.jsonl"))
    with pytest.raises(ValueError, match="is a chain of places"):
        files(source("simplecache::memory://a.jsonl"))


class Unreachable(Exception):
    """As botocore's, it is no OSError."""


def unreachable(*args, **kwargs):
    raise Unreachable("no route to host")


NO_ROUTE = "cannot be read from there .Unreachable: no route to host.*start again: files that are finished are kept"


@pytest.mark.parametrize("kind", ["txt", "jsonl.zst", "txt.xz", "parquet", "wet.gz"])
@pytest.mark.parametrize("broken", ["MemoryFile.read", "MemoryFileSystem._open"])
def test_a_place_that_cannot_be_reached_is_no_broken_file_and_nothing_is_lost(memory, monkeypatch, kind, broken):
    put(memory, f"/fao_Latn.{kind}", b"x" * 100)
    (file,) = files(source("memory://fao_Latn*"))
    monkeypatch.setattr(f"fsspec.implementations.memory.{broken}", unreachable)
    with pytest.raises(ConnectionError, match=rf"memory:///fao_Latn\.{kind}: {NO_ROUTE}"):
        list(read_file(file, source("memory://")))


def test_a_place_may_be_lost_at_any_time(memory, monkeypatch):
    put(memory, "/data/fao_Latn.txt", b"a\n" * 5_000_000)
    (file,) = files(source("memory://data"))
    rows = read_file(file, source("memory://data"))
    assert next(rows).item.text == "a"
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", unreachable)
    with pytest.raises(ConnectionError, match=NO_ROUTE):
        list(rows)
    monkeypatch.setattr(MemoryFileSystem, "info", unreachable)
    with pytest.raises(ConnectionError, match=f"memory://data: {NO_ROUTE}"):
        files(source("memory://data"))


def test_a_file_that_was_listed_and_is_gone_is_named(memory):
    put(memory, "/data/fao_Latn.txt", b"a")
    (file,) = files(source("memory://data"))
    memory.rm("/data/fao_Latn.txt")
    with pytest.raises(ConnectionError, match=r"fao_Latn\.txt: cannot be read .*FileNotFoundError"):
        list(read_file(file, source("memory://data")))


# ------------------------------------------------------------------------------------------------------- reading there


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet"])
def test_what_is_read_elsewhere_is_what_is_read_here(tmp_path, memory, name):
    words = [f"orð {n}" for n in range(50_000)]
    data = parquet(*words) if name.endswith("parquet") else b"".join(map(line, words))
    data = zstandard.compress(data) if name.endswith("zst") else data
    (tmp_path / name).write_bytes(data)
    put(memory, f"/fao_Latn/{name}", data)
    here = list(read(source(tmp_path, language="fao_Latn")))
    assert [d.text for d in here] == words
    assert list(read(source("memory://fao_Latn"))) == here


class Hub(BaseHTTPRequestHandler):
    """The three questions that huggingface_hub asks the Hub: is it there, what is in it, give me these bytes."""

    files: dict = {}  # noqa: RUF012
    asked: list = []  # noqa: RUF012

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        tree, content = "/api/datasets/org/web/tree/main", "/datasets/org/web/resolve/main/"
        if path.startswith(content) and path.removeprefix(content) in self.files:
            data = self.files[path.removeprefix(content)]
            start, end = self.headers["range"].removeprefix("bytes=").split("-")
            self.answer(206, data[int(start) : int(end) + 1], "application/octet-stream")
        elif path.startswith(tree):
            below = path.removeprefix(tree).lstrip("/")
            recursive = "recursive=true" in self.path.lower()
            found = {n: d for n, d in self.files.items() if n.startswith(below + "/" if below else "")}
            depth = below.count("/") + 1 if below else 0
            plain = {n: d for n, d in found.items() if recursive or n.count("/") == depth}
            folders = {"/".join(n.split("/")[: k + 1]) for n in found for k in range(depth, n.count("/"))}
            entries = [{"type": "file", "path": n, "size": len(d), "oid": f"oid{hash(d)}"} for n, d in plain.items()]
            entries += [
                {"type": "directory", "path": n, "oid": "0"} for n in folders if recursive or n.count("/") == depth
            ]
            self.answer(200, json.dumps(entries).encode()) if entries else self.missing("EntryNotFound")
        elif path in ("/api/datasets/org/web", "/api/datasets/org/web/revision/main"):
            self.answer(200, json.dumps({"id": "org/web", "sha": "0" * 40, "siblings": []}).encode())
        else:
            self.missing("RepoNotFound")

    def missing(self, code):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, status, data, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    endpoint, template = f"http://127.0.0.1:{server.server_port}", huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
    there = template.replace(huggingface_hub.constants.ENDPOINT, endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", there)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    Hub.files, Hub.asked = {}, []
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_data_set_of_the_hub_is_listed_with_few_questions_and_read(hub):
    for language, split in itertools.product(("fao_Latn", "isl_Latn", "fao_Latn_removed"), ("train", "test")):
        hub.files[f"data/{language}/{split}/000_00000.parquet"] = parquet(f"{language} {split}")
    hub.files["README.md"] = b"# web"
    found = files(source("hf://datasets/org/web/data/*/train/*.parquet"))
    assert [f.url for f in found] == [
        "hf://datasets/org/web/data/fao_Latn/train/000_00000.parquet",
        "hf://datasets/org/web/data/isl_Latn/train/000_00000.parquet",
    ]
    assert all(f.version.startswith("blobid=oid") and f.size > 1000 for f in found)
    assert len([path for path in hub.asked if "/tree/" in path]) == 1  # not one for each folder
    assert texts("hf://datasets/org/web/data/*/train/*.parquet") == ["fao_Latn train", "isl_Latn train"]
    assert [d.language for d in read(source("hf://datasets/org/web"))] == ["fao_Latn"] * 2 + ["isl_Latn"] * 2
    assert texts("hf://datasets/org/web/data/isl_Latn/test/000_00000.parquet") == ["isl_Latn test"]
    for nothing in ("hf://datasets/org/web/nothing", "hf://datasets/org/other/data"):
        with pytest.raises(ValueError, match="no file at 'hf://"):
            files(source(nothing))


# ------------------------------------------------------------------------------------------------------------ FineWeb2


@pytest.fixture
def fineweb(tmp_path):
    for language, split in itertools.product(("fao_Latn", "isl_Latn", "fao_Latn_removed"), ("train", "test")):
        path = tmp_path / "fineweb-2" / "data" / language / split / "000_00000.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(parquet(f"{language} {split} 1", f"{language} {split} 2"))
    (tmp_path / "fineweb-2" / "README.md").write_text("# FineWeb2")
    return tmp_path / "fineweb-2"


def test_fineweb2_is_read_as_it_is_and_its_folders_say_the_language(fineweb):
    for path in (fineweb, fineweb / "data"):
        found = [(d.language, d.text) for d in read(source(path))]
        assert found == [
            (language, f"{language} {split} {n}")
            for language in ("fao_Latn", "isl_Latn")
            for split in ("test", "train")
            for n in (1, 2)
        ]


def test_what_fineweb2_removed_is_read_only_where_the_path_says_so(fineweb):
    assert not any("removed" in text for text in texts(fineweb / "data" / "*" / "train" / "*.parquet"))
    (document, *_) = read(source(fineweb / "data" / "fao_Latn_removed"))
    assert (document.text, document.language) == ("fao_Latn_removed test 1", "fao_Latn")
    assert len(texts(fineweb / "data" / "*_removed")) == 4


def test_a_language_column_counts_only_where_it_is_named(fineweb):
    path = fineweb / "data" / "fao_Latn" / "test"
    assert [d.language for d in read(source(path))] == ["fao_Latn"] * 2
    assert [d.language for d in read(source(path, columns=Columns(language="language")))] == ["fao"] * 2
    assert [d.id for d in read(source(path))] == ["id of fao_Latn test 1", "id of fao_Latn test 2"]


def test_two_sources_of_one_name_read_its_splits_each_into_its_store(fineweb):
    train = source(fineweb / "data" / "*" / "train", split="train")
    held_out = source(fineweb / "data" / "*" / "test", split="held_out")
    corpus = Corpus(sources=(train, held_out))
    found = {s.split: [d.text for d in read(s)] for s in corpus.sources}
    assert found == {
        split: [f"{language} {folder} {n}" for language in ("fao_Latn", "isl_Latn") for n in (1, 2)]
        for split, folder in (("train", "train"), ("held_out", "test"))
    }
