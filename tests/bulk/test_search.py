"""`tessera index` and `tessera search`: what is found is what the vectors say; damage and other models are refused."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from small_encoder import TEXTS, write_model
from task_models import bert, named
from typer.testing import CliRunner

from tessera import Encoder, Predictor, checksums
from tessera.bulk import search_index
from tessera.bulk.search_index import SearchIndex, build
from tessera.checksums import Damaged
from tessera.cli import app
from tessera.prediction.rerank import rerank

ROWS = [{"id": f"doc {n}", "text": f"{TEXTS[n % len(TEXTS)][:40]} {n}"} for n in range(30)]
QUERIES = ["one two three 9", "日本語"]
SURE = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    plain = Encoder.from_pretrained(write_model(folder))
    plain.save(folder / "search", prompts={"query": "one: ", "document": "two: "})
    return folder / "search"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("in") / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def index(model, source, tmp_path_factory):
    return build(model, source, tmp_path_factory.mktemp("out") / "index", **SURE)


@pytest.fixture(scope="module")
def due(model):
    """Similarities by hand, with the folder's prompts."""
    encoder = Encoder.from_pretrained(model, **SURE)
    return encoder.encode_query(QUERIES) @ encoder.encode_document([row["text"] for row in ROWS]).T


@pytest.fixture(scope="module")
def linked(model, source, tmp_path_factory):
    pytest.importorskip("faiss", reason="faiss is not installed")
    said = []
    found = build(model, source, tmp_path_factory.mktemp("linked") / "index", approximate=True, say=said.append, **SURE)
    return found, said


def test_a_graph_finds_what_is_near_and_says_how_much_of_it(linked, due):
    folder, said = linked
    assert said[-1] == "approximate search: 100.0% of the 11 nearest texts, for 30 of these texts as queries"
    assert json.loads((folder / "index.json").read_text())["recall"] == 1.0
    opened = SearchIndex.open(folder, **SURE)
    assert opened.graph is not None
    for hits, scores in zip(opened.search(QUERIES, 4), due, strict=True):
        assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:4], abs=1e-5)
    assert len(opened.search(["x"], 99)[0]) == len(ROWS)
    assert SearchIndex.open(folder, approximate=False, **SURE).graph is None


def test_what_a_graph_does_not_reach_is_looked_for_among_all(linked, due, monkeypatch):
    opened = SearchIndex.open(linked[0], **SURE)
    monkeypatch.setattr(type(opened.graph), "nearest", lambda self, asked, k: (np.full((2, k), -1), np.zeros((2, k))))
    found = opened.search(QUERIES, 4)
    assert [hit.score for hit in found[0]] == pytest.approx(np.sort(due[0])[::-1][:4], abs=1e-5)


def test_a_damaged_graph_is_refused_before_faiss_reads_it_and_another_index_is_not_taken_for_it(
    linked, model, source, tmp_path
):
    folder = shutil.copytree(linked[0], tmp_path / "index")
    with pytest.raises(FileExistsError, match="with another approximate: it was True, now it is None"):
        build(model, source, folder, **SURE)
    data = bytearray((folder / "neighbours.faiss").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "neighbours.faiss").write_bytes(data)
    with pytest.raises(Damaged, match=r"neighbours\.faiss"):
        SearchIndex.open(folder, **SURE)


def test_without_faiss_a_graph_is_refused_before_anything_is_computed(model, source, linked, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"approximate search needs faiss; pip install .*\[search\]"):
        build(model, source, tmp_path / "index", approximate=True, **SURE)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ImportError, match="approximate search needs faiss"):
        SearchIndex.open(linked[0], **SURE)
    assert len(SearchIndex.open(linked[0], approximate=False, **SURE).search(["x"], 3)[0]) == 3


def test_the_nearest_texts_are_found_with_their_ids(index, due, monkeypatch):
    monkeypatch.setattr(search_index, "_AT_ONCE", 7)
    found = SearchIndex.open(index, **SURE).search(QUERIES, 4)
    for hits, scores in zip(found, due, strict=True):
        best = np.argsort(-scores, kind="stable")[:4]
        assert [hit.score for hit in hits] == pytest.approx(scores[best], abs=1e-5)
        assert [(hit.id, hit.text) for hit in hits] == [tuple(ROWS[n].values()) for n in best]
    assert len(SearchIndex.open(index, **SURE).search(["x"], 99)[0]) == len(ROWS)


def test_a_second_time_it_is_there_and_other_settings_are_refused(index, model, source):
    said = []
    build(model, source, index, say=said.append, **SURE)
    assert said == [f"{index}: there already, with these settings"]
    with pytest.raises(FileExistsError, match="there already, with another prompt: it was 'two: ', now it is 'x'"):
        build(model, source, index, prompt="x", **SURE)
    assert sorted(path.name for path in index.parent.iterdir()) == ["index"]
    (index.parent / "other").mkdir()
    (index.parent / "other" / "mine").touch()
    with pytest.raises(FileExistsError, match="there already, and no index"):
        build(model, source, index.parent / "other", **SURE)


def test_an_index_that_is_stopped_is_not_there_and_goes_on(model, source, index, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(search_index, "_write_texts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(model, source, tmp_path / "index", **SURE)
    assert not (tmp_path / "index").exists()
    said = []
    build(model, source, tmp_path / "index", say=said.append, **SURE)
    assert said[0].endswith("vectors.npy: there already, with these settings")
    for name in ("vectors.npy", "texts.parquet"):
        assert (tmp_path / "index" / name).read_bytes() == (index / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("name", ["vectors.npy", "texts.parquet", "index.json"])
def test_a_damaged_index_is_refused_by_the_name_of_the_file(model, source, tmp_path, name):
    built = build(model, source, tmp_path / "index", **SURE)
    data = bytearray((built / name).read_bytes())
    data[len(data) // 2] ^= 1
    (built / name).write_bytes(data)
    with pytest.raises(Damaged, match=f"{name}: its bytes have changed"):
        SearchIndex.open(built)
    with pytest.raises(ValueError, match="is no index; `tessera index MODEL TEXTS"):
        SearchIndex.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "written", "says"),
    [
        ("index.json", b"[]", r"index\.json: keys and values are needed"),
        ("index.json", b'{"model": 5}', r"index\.json: model: "),
        ("index.json", b'{"model": "m"}', r"index\.json: model_hash: "),
        ("vectors.npy", b"x", r"vectors\.npy: holds no vectors"),
        ("vectors.npy", "fewer", r"vectors\.npy: holds float32 \[3, 32\], not 30 vectors"),
        ("manifest.json", None, r"manifest\.json is missing, so the index is not whole"),
    ],
)
def test_an_index_of_another_shape_is_refused_by_the_name_of_the_file(index, tmp_path, name, written, says):
    copy = Path(shutil.copytree(index, tmp_path / "copy"))
    if written == "fewer":
        np.save(copy / name, np.load(copy / name)[:3])
    elif written is not None:
        (copy / name).write_bytes(written)
    checksums.seal(copy)  # by somebody who makes it whole again
    if written is None:
        (copy / name).unlink()
    with pytest.raises(ValueError, match=says):
        SearchIndex.open(copy)


def test_another_model_is_refused_and_a_model_may_move(index, model, due, tmp_path):
    other = write_model(tmp_path, "eurobert")
    with pytest.raises(ValueError, match=r"was built with another model than .*eurobert holds now"):
        SearchIndex.open(index, other)
    moved = tmp_path / "moved"
    Encoder.from_pretrained(model).save(moved)
    (score,) = SearchIndex.open(index, moved, **SURE).search(QUERIES[:1], 1)
    assert score[0].score == pytest.approx(due[0].max(), abs=1e-5)


def test_a_model_that_measures_distances_is_refused(model, source, tmp_path):
    folder = tmp_path / "m"
    Encoder.from_pretrained(model).save(folder)
    place = folder / "config_sentence_transformers.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "similarity_fn_name": "euclidean"}))
    with pytest.raises(ValueError, match="its similarity is euclidean; search compares by cosine and dot"):
        build(folder, source, tmp_path / "index")


def test_a_reranker_puts_hits_into_the_order_of_its_scores(index, tmp_path):
    folder = bert(
        tmp_path / "r", "BertForSequenceClassification", num_labels=1, sentence_transformers={"version": "5.0.0"}
    )
    reader = Predictor.from_pretrained(folder, **SURE)
    before = SearchIndex.open(index, **SURE).search(QUERIES, 6)
    after = rerank(reader, QUERIES, before)
    for query, hits, again in zip(QUERIES, before, after, strict=True):
        scores = [one["score"] for one in reader.predict([(query, hit.text) for hit in hits])]
        assert [hit.score for hit in again] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)
        assert {(hit.id, hit.similarity) for hit in again} == {(hit.id, hit.score) for hit in hits}
    labels = bert(tmp_path / "c", "BertForSequenceClassification", **named("a", "b"))
    with pytest.raises(ValueError, match="is of classify; a reranker gives one number"):
        rerank(Predictor.from_pretrained(labels, **SURE), QUERIES, before)


def test_the_verbs(model, source, due, tmp_path):
    where = str(tmp_path / "index")
    done = CliRunner().invoke(app, ["index", str(model), str(source), where, "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["search", where, QUERIES[0], "--top", "2", "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    assert f"  {due[0].max():.2f}  {ROWS[due[0].argmax()]['id']}: " in done.output
    (tmp_path / "q.txt").write_text("\n".join(QUERIES), encoding="utf-8")
    command = ["search", where, "--file", str(tmp_path / "q.txt"), "--json", "--top", "1", "--dtype", "float32"]
    done = CliRunner().invoke(app, command)
    lines = [json.loads(line) for line in done.output.splitlines()]
    assert [(line["id"], line["query"]) for line in lines] == [(1, QUERIES[0]), (2, QUERIES[1])]
    assert [line["hits"][0]["id"] for line in lines] == [ROWS[n]["id"] for n in due.argmax(1)]
    done = CliRunner().invoke(app, ["search", where])
    assert isinstance(done.exception, ValueError)
