"""A corpus goes into two stores; nothing is lost, nothing stands on both sides, nothing is left half-written."""

import errno
import json
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
import tokenizers

from tessera import files as whole
from tessera.corpus import daft_runner, ingest, tokenize
from tessera.corpus import prepare as prepare_module
from tessera.corpus.dropped import dropped
from tessera.corpus.prepare import prepare
from tessera.data.shards import Shards, verify
from tessera.plan.corpus import Columns, Corpus, Duplicates, HeldOut, NearDuplicates, Source, TokenizerTraining
from tessera.tokenizer.sample import sample
from tessera.tokenizer.tokenizer import Tokenizer, train


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [f"document number {i} of some length" for i in range(50)]
    return train({"eng_Latn": texts}, TokenizerTraining(vocab_size=400), tmp_path_factory.mktemp("tokenizer"))


def write(folder, name, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def documents(language, n, start=0):
    return [{"text": f"document {i} in {language}", "lang": language} for i in range(start, start + n)]


def corpus(folder, held_out=None, **more):
    return Corpus(sources=(Source(name="web", path=str(folder), **more),), held_out=held_out or HeldOut())


def stored(folder, tokenizer):
    """{bucket key: Counter of decoded documents}"""
    store = Shards.open(folder)
    found = {}
    for b, bucket in enumerate(store.buckets):
        first = int(store.first_document[b])
        places = zip(store.offsets[first : first + bucket.documents], store.lengths(b), strict=True)
        texts = [tokenizer.decode(store.gather([start], [length]), special=True) for start, length in places]
        found[bucket.key] = Counter(t.removeprefix("<|begin_of_text|>").removesuffix("<|end_of_text|>") for t in texts)
    return found


def both(out, tokenizer):
    return stored(out / "train", tokenizer), stored(out / "held_out", tokenizer)


def test_every_document_stands_in_one_of_the_two_stores(tmp_path, tokenizer):
    write(tmp_path / "in", "fao_Latn.jsonl", documents("fao_Latn", 300))
    write(tmp_path / "in", "deu_Latn.jsonl", documents("deu_Latn", 200))
    report = prepare(corpus(tmp_path / "in", HeldOut(share=0.1)), tokenizer, tmp_path / "out")
    trained, held = both(tmp_path / "out", tokenizer)
    for language, n in (("fao_Latn", 300), ("deu_Latn", 200)):
        key = f"web/{language}"
        assert set(trained[key] + held[key]) == {f"document {i} in {language}" for i in range(n)}
        assert 0.03 * n < held[key].total() < 0.2 * n
        assert not set(trained[key]) & set(held[key])
    assert report.total("train")["documents"] + report.total("held_out")["documents"] == 500
    assert json.loads((tmp_path / "out/report.json").read_text())["languages"] == report.languages
    assert report.languages["fao_Latn"]["train"]["bytes"] == sum(len(t.encode()) for t in trained["web/fao_Latn"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["documents", "in", "out"]
    for name in ("train", "held_out"):
        verify(tmp_path / "out" / name)


def test_the_order_of_reading_does_not_change_what_is_held_out(tmp_path, tokenizer):
    rows = documents("fao_Latn", 200)
    write(tmp_path / "a", "fao_Latn.jsonl", rows)
    write(tmp_path / "b", "fao_Latn.jsonl", rows[::-1])
    for name in "ab":
        prepare(corpus(tmp_path / name, HeldOut(share=0.1)), tokenizer, tmp_path / f"out_{name}")
    assert both(tmp_path / "out_a", tokenizer) == both(tmp_path / "out_b", tokenizer)


@pytest.mark.parametrize("exact", [True, False])
def test_a_text_that_comes_twice_never_stands_on_both_sides(tmp_path, tokenizer, exact):
    rows = documents("fao_Latn", 300)
    write(tmp_path / "in", "fao_Latn.jsonl", rows + rows)
    write(tmp_path / "in", "isl_Latn.jsonl", [{**row, "lang": "isl_Latn", "text": row["text"] + " "} for row in rows])
    asked = corpus(tmp_path / "in", HeldOut(share=0.2, max_bytes=500))
    asked = asked.model_copy(update={"duplicates": Duplicates(exact=exact)})
    report = prepare(asked, tokenizer, tmp_path / "out")
    trained, held = both(tmp_path / "out", tokenizer)
    assert held["web/fao_Latn"]
    every_held = {text.strip() for texts in held.values() for text in texts}
    every_trained = {text.strip() for texts in trained.values() for text in texts}
    assert not every_held & every_trained
    assert every_held | every_trained == {row["text"] for row in rows}
    reason = "same text as another document" if exact else "same text as a held-out document"
    copies_of_held = 3 * len(every_held) - sum(texts.total() for texts in held.values())
    assert report.skipped["web"][reason]["count"] == (600 if exact else copies_of_held)


def test_what_is_held_out_of_a_language_has_a_size_limit_and_the_rest_is_trained_on(tmp_path, tokenizer):
    write(tmp_path / "in", "fao_Latn.jsonl", documents("fao_Latn", 500))
    report = prepare(corpus(tmp_path / "in", HeldOut(share=0.5, max_bytes=400)), tokenizer, tmp_path / "out")
    assert 370 < report.languages["fao_Latn"]["held_out"]["bytes"] <= 400
    assert report.languages["fao_Latn"]["train"]["documents"] > 480


@pytest.mark.parametrize(("n", "some"), [(2, False), (3, True)])
def test_a_language_with_too_few_documents_gives_none(tmp_path, tokenizer, n, some):
    write(tmp_path / "in", "fao_Latn.jsonl", documents("fao_Latn", n))
    write(tmp_path / "in", "deu_Latn.jsonl", documents("deu_Latn", 2))
    held_out = HeldOut(share=0.9, min_documents=3)
    report = prepare(corpus(tmp_path / "in", held_out), tokenizer, tmp_path / "out")
    assert report.total("train")["documents"] + report.total("held_out")["documents"] == n + 2
    assert ("held_out" in report.languages["fao_Latn"]) is some
    assert report.languages["deu_Latn"]["train"]["documents"] == 2


def test_a_source_may_be_held_out_or_trained_on_as_a_whole(tmp_path, tokenizer):
    write(tmp_path / "train", "fao_Latn.jsonl", documents("fao_Latn", 50))
    write(tmp_path / "test", "fao_Latn.jsonl", documents("fao_Latn", 10, start=45))
    sources = (
        Source(name="web", path=str(tmp_path / "train"), split="train"),
        Source(name="web", path=str(tmp_path / "test"), split="held_out"),
    )
    report = prepare(Corpus(sources=sources), tokenizer, tmp_path / "out")
    assert report.languages["fao_Latn"]["train"]["documents"] == 45
    assert report.languages["fao_Latn"]["held_out"]["documents"] == 10
    assert report.skipped["web"]["same text as another document"]["count"] == 5
    assert report.skipped["web"]["same text as another document"]["languages"] == {"fao_Latn": 5}


def test_pairs_are_joined_both_ways_and_filtered_with_a_reason(tmp_path, tokenizer):
    good = {"src": "góðan dag", "tgt": "good day", "src_lang": "fao_Latn", "tgt_lang": "eng_Latn"}
    write(tmp_path, "p.jsonl", [good, {**good, "tgt": "góðan dag"}])
    report = prepare(corpus(tmp_path / "p.jsonl", kind="pairs"), tokenizer, tmp_path / "out")
    trained, held = both(tmp_path / "out", tokenizer)
    expected = {"góðan dag<|parallel_sep|>good day": 1, "good day<|parallel_sep|>góðan dag": 1}
    assert (trained, held) == ({"web/fao_Latn": expected}, {})
    assert report.skipped["web"]["both sides are the same text"]["count"] == 1
    assert report.languages["fao_Latn"]["train"]["bytes"] == 2 * len("góðan daggood day".encode())


def test_a_document_of_special_tokens_alone_is_not_stored(tmp_path):
    """Of a tokenizer that can write no Latin letter."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({"<s>": 0, "</s>": 1, "<mask>": 2, "т": 3, "о": 4}, []))
    inner.add_special_tokens(["<s>", "</s>", "<mask>"])
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    cyrillic = Tokenizer.load(tmp_path)
    write(tmp_path / "web", "rus_Cyrl.jsonl", [{"text": "то", "lang": "rus_Cyrl"}, {"text": "to", "lang": "rus_Cyrl"}])
    pair = {"src": "то", "src_lang": "rus_Cyrl", "tgt_lang": "eng_Latn"}
    write(tmp_path, "p.jsonl", [{**pair, "tgt": "to"}, {**pair, "tgt": "оо"}])
    for path, kind, stays in ((tmp_path / "web", "documents", 1), (tmp_path / "p.jsonl", "pairs", 2)):
        report = prepare(corpus(path, kind=kind), cyrillic, tmp_path / f"out-{kind}")
        assert report.total("train")["documents"] == stays
        assert report.skipped["web"]["no tokens"]["count"] == stays  # of a pair, both directions


def test_a_pair_with_a_held_out_side_is_not_trained_on(tmp_path, tokenizer):
    pair = {"src": "document 3 in fao_Latn", "tgt": "some English", "src_lang": "fao_Latn", "tgt_lang": "eng_Latn"}
    write(tmp_path, "p.jsonl", [pair, {**pair, "src": "something else"}])
    write(tmp_path / "test", "fao_Latn.jsonl", documents("fao_Latn", 5))
    sources = (
        Source(name="pairs", path=str(tmp_path / "p.jsonl"), kind="pairs"),
        Source(name="test", path=str(tmp_path / "test"), split="held_out"),
    )
    report = prepare(Corpus(sources=sources), tokenizer, tmp_path / "out")
    assert report.sources["pairs"]["documents"] == 2
    assert report.skipped["pairs"]["a side is the text of a held-out document"]["count"] == 1


def test_scores_make_buckets_of_tiers(tmp_path, tokenizer):
    rows = [{**row, "score": i % 4} for i, row in enumerate(documents("fao_Latn", 40))]
    write(tmp_path, "fao_Latn.jsonl", rows)
    source = {"columns": Columns(quality="score"), "tiers": (1, 2, 3)}
    prepare(corpus(tmp_path / "fao_Latn.jsonl", HeldOut(share=0), **source), tokenizer, tmp_path / "out")
    trained = stored(tmp_path / "out/train", tokenizer)
    assert {key: texts.total() for key, texts in trained.items()} == {f"web/fao_Latn@{t}": 10 for t in (1, 2, 3, 4)}


@pytest.fixture
def small_tasks(monkeypatch):
    """Many batches, many tasks, and processes for them, of a corpus that would be one."""
    monkeypatch.setattr(ingest, "_BATCH_ROWS", 37)
    monkeypatch.setattr(daft_runner, "TASK_BYTES", 1_000)
    monkeypatch.setattr(tokenize, "_LEAST_TASK", 500)


def everything(folder):
    """The bytes of all files below a folder, but for the time that it took."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    report = json.loads(files["report.json"])
    return {**files, "report.json": {**report, "seconds": 0}}


def some_corpus(folder):
    """Two languages, code, pairs, a held-out source, copies, near-copies and lines that cannot be used."""
    for language in ("fao_Latn", "deu_Latn"):
        rows = documents(language, 150) + documents(language, 5)
        long = " ".join(f"{language} word{i}" for i in range(60))
        write(folder / "web", f"{language}.jsonl", [*rows, {"text": long}, {"text": long + " more"}, {"no": "text"}])
    pair = {"src_lang": "fao_Latn", "tgt_lang": "eng_Latn"}
    write(folder, "pairs.jsonl", [{"src": f"orð {i}", "tgt": f"word {i}", **pair} for i in [*range(100), 3, 4]])
    write(folder / "test", "fao_Latn.jsonl", documents("fao_Latn", 8, start=148))
    return Corpus(
        sources=(
            Source(name="web", path=str(folder / "web")),
            Source(name="pairs", path=str(folder / "pairs.jsonl"), kind="pairs"),
            Source(name="test", path=str(folder / "test"), split="held_out"),
        ),
        duplicates=Duplicates(near=NearDuplicates()),
        held_out=HeldOut(share=0.1),
    )


def test_tasks_of_any_size_give_the_same_bytes(tmp_path, tokenizer, request):
    asked = some_corpus(tmp_path / "in")
    prepare(asked, tokenizer, tmp_path / "one" / "shards")
    request.getfixturevalue("small_tasks")
    prepare(asked, tokenizer, tmp_path / "two" / "shards")
    assert everything(tmp_path / "one/shards") == everything(tmp_path / "two/shards")
    report = json.loads((tmp_path / "one/shards/report.json").read_text())
    assert {
        source: {r: found["count"] for r, found in reasons.items()} for source, reasons in report["skipped"].items()
    } == {
        "web": {"same text as another document": 12, "near-duplicate of another document": 2, "no column 'text'": 2},
        "pairs": {"same text as another document": 2},
    }


@pytest.mark.parametrize("step", range(12))
def test_a_run_that_is_killed_goes_on_with_the_first_file_that_is_missing(tmp_path, tokenizer, small_tasks, step):
    asked = some_corpus(tmp_path / "in")
    prepare(asked, tokenizer, tmp_path / "one" / "shards")
    done = count()
    original = whole.sync

    def kill(path):  # every file that is finished is synced, so every file may be the last
        if next(done) == step * 9:
            raise RuntimeError("killed")
        original(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole, "sync", kill)
        with pytest.raises(RuntimeError, match="killed"):
            prepare(asked, tokenizer, tmp_path / "two" / "shards")
    assert not (tmp_path / "two/shards").exists()
    prepare(asked, tokenizer, tmp_path / "two" / "shards")
    assert everything(tmp_path / "one/shards") == everything(tmp_path / "two/shards")


def test_what_is_finished_is_not_done_again(tmp_path, tokenizer, small_tasks):
    asked = some_corpus(tmp_path / "in")
    prepare(asked, tokenizer, tmp_path / "one")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "documents").rglob("*") if path.is_file()}
    write(tmp_path / "in" / "test", "fao_Latn.jsonl", documents("fao_Latn", 3, start=200))
    prepare(asked, tokenizer, tmp_path / "two")
    again = {path.name for path, time in before.items() if path.exists() and path.stat().st_mtime_ns != time}
    assert "00000.parquet" in again  # the held-out source comes first
    assert not again & {"00001.parquet", "00002.parquet", "00003.parquet"}


def test_what_is_dropped_is_counted_as_in_the_report_and_shown_beside_what_it_is_a_copy_of(tmp_path, tokenizer):
    found = prepare_module.read(some_corpus(tmp_path / "in"), tmp_path / "documents")
    report = prepare_module.encode(found, tokenizer, tmp_path / "out")
    losses = {(loss.source, loss.reason): loss for loss in dropped(found, examples=2)}
    reported = {(source, why): entry for source, reasons in report.skipped.items() for why, entry in reasons.items()}
    assert {name: loss.languages for name, loss in losses.items()} == {
        name: entry["languages"] for name, entry in reported.items()
    }
    counts = [loss.count for loss in losses.values()]
    assert counts == sorted(counts, reverse=True)
    copies = losses["web", "same text as another document"].examples
    assert len(copies) == 2
    assert all(example.text == example.copy_of for example in copies)
    for example in losses["web", "near-duplicate of another document"].examples:
        assert example.text == f"{example.copy_of} more"
        assert example.origin == f"{tmp_path / 'in' / 'web' / example.language}.jsonl, row 157"
    assert {example.copy_of for example in losses["web", "no column 'text'"].examples} == {None}
    assert all(loss.examples == [] for loss in dropped(found, examples=0))


def test_progress_rises_to_the_end(tmp_path, tokenizer, small_tasks):
    for language in ("deu_Latn", "fao_Latn"):
        write(tmp_path / "in", f"{language}.jsonl", documents(language, 500))
    heard = []
    found = prepare_module.read(corpus(tmp_path / "in"), tmp_path / "documents", on_progress=lambda *m: heard.append(m))
    done = [done for done, _, _ in heard]
    assert done == sorted(done)
    assert heard[-1][0] == heard[-1][1] > sum(p.stat().st_size for p in (tmp_path / "in").iterdir())
    assert "2 of 2 files" in [what for _, _, what in heard]
    heard.clear()
    prepare_module.encode(found, tokenizer, tmp_path / "out", on_progress=lambda *m: heard.append(m))
    assert heard[-1][0] == heard[-1][1]
    assert [done for done, _, _ in heard] == sorted(done for done, _, _ in heard)


def test_the_tokenizer_sees_no_held_out_text(tmp_path, tokenizer):
    write(tmp_path / "in", "fao_Latn.jsonl", documents("fao_Latn", 500))
    recipe = corpus(tmp_path / "in", HeldOut(share=0.2))
    prepare(recipe, tokenizer, tmp_path / "out")
    _, held = both(tmp_path / "out", tokenizer)
    texts = prepare_module.read(recipe, tmp_path / "documents").texts()
    seen = set(sample(texts, TokenizerTraining(sample_bytes=10**6))["fao_Latn"])
    assert len(seen) > 300
    assert not seen & set(held["web/fao_Latn"])


# --------------------------------------------------------------------------------------------------- what goes wrong


def test_a_folder_that_is_there_is_not_touched(tmp_path, tokenizer):
    write(tmp_path / "in", "fao_Latn.jsonl", documents("fao_Latn", 5))
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="there already"):
        prepare(corpus(tmp_path / "in"), tokenizer, tmp_path / "out")


def test_a_corpus_without_documents_is_an_error(tmp_path, tokenizer):
    write(tmp_path / "in", "fao_Latn.jsonl", [])
    with pytest.raises(ValueError, match="no document to train on"):
        prepare(corpus(tmp_path / "in"), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_file_keeps_what_is_finished_and_nothing_of_itself(tmp_path, tokenizer, small_tasks):
    write(tmp_path / "in", "deu_Latn.jsonl", documents("deu_Latn", 3000))
    (tmp_path / "in" / "fao_Latn.jsonl.zst").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"fao_Latn\.jsonl\.zst: broken"):
        prepare(corpus(tmp_path / "in"), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in (tmp_path / "documents").glob("*.parquet")) in ([], ["00000.parquet"])


@pytest.mark.parametrize("name", ["tokens.spool", "tokens-00000.bin", "index.json", "report.json"])
def test_a_full_disk_says_so_and_the_next_call_goes_on(tmp_path, tokenizer, monkeypatch, name):
    write(tmp_path / "in", "fao_Latn.jsonl", documents("fao_Latn", 3000))
    opened = Path.open

    def full(self, mode="r", *rest, **more):
        return opened(
            Path("/dev/full") if self.name in (name, f".{name}.writing") and "w" in mode else self, mode, *rest, **more
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match=r"No space left|the disk is full") as caught:
            prepare(corpus(tmp_path / "in"), tokenizer, tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "out").exists()
    assert prepare(corpus(tmp_path / "in"), tokenizer, tmp_path / "out").total("train")["documents"] > 2900


def test_documents_of_a_source_that_is_not_asked_for_any_more_are_removed(tmp_path, tokenizer):
    for language in ("deu_Latn", "fao_Latn"):
        write(tmp_path / "in", f"{language}.jsonl", documents(language, 50))
    prepare(corpus(tmp_path / "in"), tokenizer, tmp_path / "one")
    report = prepare(corpus(tmp_path / "in", exclude=("deu*",)), tokenizer, tmp_path / "two")
    assert list(report.languages) == ["fao_Latn"]
    assert [p.name for p in (tmp_path / "documents").glob("0*.parquet")] == ["00000.parquet"]
