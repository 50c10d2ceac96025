"""The demo's text: both sides of the split never share a text, and what is written can be read and trained on."""

import builtins
import json
from pathlib import Path

import pytest
import zstandard
from small_encoder import write_model
from typer.testing import CliRunner

from tessera import demo_text
from tessera.cli import app, making
from tessera.corpus.documents import Pair, read
from tessera.corpus.prepare import prepare
from tessera.data.languages import language_code
from tessera.plan.corpus import Corpus, HeldOut, Source, TokenizerTraining
from tessera.tokenizer.tokenizer import train

pytest.importorskip("django")
pytest.importorskip("polib")

FEW = {"is": "isl_Latn", "ta": "tam_Taml", "zh_Hans": "cmn_Hans", "lb": "ltz_Latn"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "text"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_text, "LOCALES", FEW)
        return folder, demo_text.write_demo_text(folder)


def rows(path):
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def messages(folder, side, language):
    return {line for row in rows(folder / side / f"{language}.jsonl.zst") for line in row["text"].split("\n")}


def test_the_table_has_one_locale_a_language_and_enough_of_them():
    assert len(set(demo_text.LOCALES.values())) == len(demo_text.LOCALES) == 89
    for language in demo_text.LOCALES.values():
        assert language_code(language) == language
        assert "_" in language


def test_sizes_are_those_of_the_text_and_a_language_with_little_text_is_left_out(written):
    folder, sizes = written
    assert set(sizes) == {"isl_Latn", "tam_Taml", "cmn_Hans", "eng_Latn", "code"}
    for language in ("isl_Latn", "eng_Latn"):
        found = rows(folder / "train" / f"{language}.jsonl.zst")
        assert sizes[language] == sum(len(row["text"].encode()) for row in found) > 5_000
        assert {row["lang"] for row in found} == {language}
        assert len({row["id"] for row in found}) == len(found)


@pytest.mark.parametrize("language", ["isl_Latn", "tam_Taml", "cmn_Hans", "eng_Latn"])
def test_no_message_stands_on_both_sides(written, language):
    folder, _ = written
    texts = {
        side: {row["text"] for row in rows(folder / side / f"{language}.jsonl.zst")} for side in ("train", "held_out")
    }
    assert texts["held_out"]
    assert not texts["train"] & texts["held_out"]
    if language != "eng_Latn":  # docstrings of two modules may share a line
        train, held = messages(folder, "train", language), messages(folder, "held_out", language)
        assert 0.03 < len(held) / len(train) < 0.15
        shared = {line for line in train & held if len(line) > 20}
        assert not shared


def test_bitext_is_held_out_and_pairs_are_not(written):
    folder, _ = written
    assert sorted(p.name for p in (folder / "bitext").iterdir()) == ["cmn_Hans-eng.jsonl.zst", "isl_Latn-eng.jsonl.zst"]
    trained = {row["tgt"] for row in rows(folder / "pairs.jsonl.zst")}
    bitext = rows(folder / "bitext" / "isl_Latn-eng.jsonl.zst")
    assert len(bitext) >= 5
    assert len({row["tgt"] for row in bitext}) == len(bitext)
    assert not trained & {row["tgt"] for row in bitext}
    assert all(len(row["tgt"].split()) >= 4 and row["src_lang"] == "isl_Latn" for row in bitext)


def test_held_out_docstrings_are_not_in_the_code(written):
    folder, _ = written
    modules = {row["id"] for row in rows(folder / "code.jsonl.zst")}
    held = {row["id"] for row in rows(folder / "held_out" / "eng_Latn.jsonl.zst") if row["id"].startswith("python/")}
    assert len(modules) > 30
    assert held
    assert not {identity.removesuffix("/doc") for identity in held} & modules


def test_the_same_sources_give_the_same_bytes(written, tmp_path, monkeypatch):
    folder, _ = written
    monkeypatch.setattr(demo_text, "LOCALES", FEW)
    demo_text.write_demo_text(tmp_path / "again")
    first, again = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*.zst")} for f in (folder, tmp_path / "again"))
    assert first == again
    with pytest.raises(FileExistsError, match="there already"):
        demo_text.write_demo_text(tmp_path / "again")


def test_the_demo_text_can_be_prepared(written, tmp_path):
    folder, sizes = written
    sources = (
        Source(name="web", path=str(folder / "train"), split="train"),
        Source(name="web", path=str(folder / "held_out"), split="held_out"),
        Source(name="code", path=str(folder / "code.jsonl.zst"), split="train"),
        Source(name="pairs", path=str(folder / "pairs.jsonl.zst"), kind="pairs"),
    )
    texts = {"isl_Latn": sorted(messages(folder, "train", "isl_Latn"))}
    tokenizer = train(texts, TokenizerTraining(vocab_size=800), tmp_path / "tokenizer")
    report = prepare(Corpus(sources=sources, held_out=HeldOut(share=0)), tokenizer, tmp_path / "shards")
    assert report.languages["code"]["train"]["bytes"] == sizes["code"]
    assert "held_out" in report.languages["isl_Latn"]
    bitext = Source(name="bitext", path=str(folder / "bitext"), kind="pairs")
    assert all(isinstance(pair, Pair) for pair in read(bitext))


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    imported = builtins.__import__

    def without_polib(name, *rest, **more):
        if name == "polib":
            raise ImportError(name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_polib)
    with pytest.raises(ImportError, match=r'pip install "tessera-encoders\[demo\]"'):
        demo_text.write_demo_text(tmp_path / "text")


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_text, "LOCALES", FEW)

    def stop(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo_text.write_demo_text(tmp_path / "text", stop)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- the model at work


def test_a_model_is_seen_at_work_on_what_it_was_not_trained_on(written, tmp_path, monkeypatch):
    folder, _ = written
    monkeypatch.setattr(demo_text, "_IN", ("isl_Latn", "tam_Taml"))
    found = demo_text.at_work(write_model(tmp_path / "model"), folder)
    told = [row for path in sorted((folder / "bitext").glob("*")) for row in rows(path)]
    held = {(row["src_lang"], row["src"]): row["tgt"] for row in told}
    assert found.among == len(told)
    assert found.asked == sum(language in ("isl_Latn", "tam_Taml") for language, _ in held)
    assert 0 <= found.right <= found.asked
    for one in found.neighbours:
        assert one.other != one.language
        assert one.right is (held[one.language, one.text] == held[one.other, one.neighbour])
    for one in found.filled:
        assert (one.language, one.text.replace("<|mask|>", f" {one.word}")) in held
        assert [chance for _, chance in one.guesses] == sorted((chance for _, chance in one.guesses), reverse=True)
    assert found.in_three <= found.masked


def test_the_next_commands_exist_as_they_are_printed(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    nothing = demo_text.AtWork([], 0, 0, [], 0, 0, 0)
    monkeypatch.setattr(making, "_walk", lambda *_: Path("runs/demo"))
    monkeypatch.setattr(making.terminal, "show_summary", lambda _: None)
    monkeypatch.setattr(demo_text, "at_work", lambda *_: nothing)
    monkeypatch.setattr(making, "_this_command", lambda: "tessera")
    making.demo()
    lines = [
        line.split("#")[0].split() for line in capsys.readouterr().out.splitlines() if line.startswith("  tessera")
    ]
    assert [words[1] for words in lines] == ["embed", "compare", "recipes"]
    for words in lines:
        shown = CliRunner().invoke(app, [words[1], "--help"], env={"COLUMNS": "200"}).output
        assert all(word in shown for word in words if word.startswith("--"))
