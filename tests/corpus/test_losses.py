"""Nothing of a corpus is lost without a word: files, languages, sources; and what is odd about codes is told."""

import json
import re

import pytest

from tessera.corpus import losses, prepare
from tessera.data.languages import doubts
from tessera.plan.corpus import Corpus, Filters, Source
from tessera.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def web(tmp_path):
    """Writes {name: texts}, reads it as a source, and gives what was said."""

    def read(texts, filters=None, **more):
        for name, rows in texts.items():
            path = tmp_path / "web" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row if isinstance(row, dict) else {"text": row}) + "\n" for row in rows))
        source = Source(name="web", path=str(tmp_path / "web"), **more)
        said = []
        corpus = Corpus(sources=(source,), filters=filters or Filters())
        prepare.read(corpus, tmp_path / "documents", workers=1, say=said.append)
        return "\n".join(said)

    return read


WHOLE = {"fao_Latn.jsonl": [f"tekstur {n}" for n in range(40)]}


@pytest.mark.parametrize(
    ("name", "rows", "why"),
    [
        ("isl_Latn.jsonl", [{"content": "a"}] * 3, "no column 'text'"),
        ("klingon.jsonl", ["a"] * 3, "no language in a column"),
        ("isl_Latn.jsonl", [{"text": ""}] * 3, "no text"),
        ("x.jsonl", [{"text": "a", "lang": "is-IS"}] * 3, "unknown language"),
    ],
)
def test_a_file_of_which_nothing_can_be_used_is_an_error_unless_it_may_be(web, name, rows, why):
    with pytest.raises(ValueError, match=rf"nothing of 1 of its files can be used: .*{name}: {why}.*allow_empty: true"):
        web({**WHOLE, name: rows})
    web({**WHOLE, name: rows}, allow_empty=True)


def test_a_language_that_filters_drop_wholly_is_an_error_unless_it_may_be(web):
    texts, filters = {**WHOLE, "isl_Latn.jsonl": ["stutt"] * 3}, Filters(min_characters=7)
    with pytest.raises(
        ValueError, match=r"nothing is left of 1 languages: isl_Latn .3 x .*tessera prepare --show-dropped"
    ):
        web(texts, filters)
    web(texts, filters, allow_empty=True)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ({"mixed.jsonl": [{"text": "a", "lang": "xx"}] * 3}, r"xx \(3 x unknown language\)"),
        ({"mixed.jsonl": [{"text": None, "lang": "is"}] * 3}, r"isl? \(3 x 'text' is null\)"),
        ({"mixed.jsonl": [{"content": "a", "lang": ["isl_Latn"]}] * 3}, r"isl_Latn \(3 x no column 'text'\)"),
        ({"isl_Latn.jsonl": []}, r"isl_Latn \(1 x an empty file\)"),
    ],
)
def test_a_language_that_is_lost_among_the_rows_of_others_is_an_error_unless_it_may_be(web, texts, told):
    others = [{"text": f"tekstur {n}", "lang": "fo"} for n in range(9)]
    texts = {"fao.jsonl": [f"tekst {n}" for n in range(3)]} | {
        name: [*others, *rows] if rows else [] for name, rows in texts.items()
    }
    with pytest.raises(ValueError, match=rf"nothing is left of 1 languages: {told}\. See .*allow_empty: true"):
        web(texts)
    web(texts, allow_empty=True)


def test_rows_without_a_language_and_odd_words_in_its_column_are_no_language_that_is_lost(web):
    odd = [{"text": "a", "lang": "what a text says in a wrong column"}, {"text": "a", "lang": None}]
    said = web({"mixed.jsonl": [*({"text": f"tekstur {n}", "lang": "fo"} for n in range(9)), *odd]})
    assert "nothing is left" not in said


def test_a_held_out_source_of_which_nothing_is_left_is_an_error(web):
    with pytest.raises(ValueError, match="source 'web': no document to train on is left of it"):
        web({"fao_Latn.jsonl": ["a"] * 3}, Filters(min_characters=7), split="held_out")


def test_empty_files_files_half_lost_and_names_that_do_not_count_are_told(web):
    said = web({**WHOLE, "isl_Latn.jsonl": [], "dan_Latn.jsonl": ["hej", "", ""]}, language="nob_Latn")
    assert "1 files are empty" in said
    assert "more than half of 1 files cannot be used" in said
    assert "`language` of the source counts for 3 files that are called otherwise: dan_Latn.jsonl as nob_Latn" in said


@pytest.mark.parametrize(
    ("codes", "told"),
    [
        (["xyz_Latn", "fao_Latn"], "no language or script has these codes: xyz_Latn;"),
        (["fao_Xxyy"], "no language or script has these codes: fao_Xxyy;"),
        (["fao_Cyrl"], "unusual for the language: fao_Cyrl .usually Latn.;"),
        (["fao", "fao_Latn"], "in several spellings, each counted by itself: fao and fao_Latn;"),
        (["zho_Hans", "cmn_Hans"], "in several spellings, each counted by itself: cmn_Hans and zho_Hans;"),
        (["aaz", "aaz_Latn"], "in several spellings, each counted by itself: aaz and aaz_Latn;"),
    ],
)
def test_what_is_odd_about_codes_is_told(codes, told):
    (line,) = doubts(codes)
    assert re.search(told, line)


def test_nothing_is_odd_about_usual_codes():
    assert (
        list(doubts(["fao_Latn", "cmn_Hans", "cmn_Hant", "code", "code_C++", "math", "nob_Latn", "nno_Latn", "deu"]))
        == []
    )


def test_a_language_that_is_all_copies_or_all_held_out_is_told_by_name(tmp_path, finished):
    for name, texts in {
        "fao_Latn": [f"tekstur {n} um alt" for n in range(40)],
        "dan_Latn": [f"tekstur {n} um alt" for n in range(20)],  # copies of the others
        "isl_Latn": [f"texti {n} um allt" for n in range(3)],
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    held = {"min_documents": 1, "share": 0.999, "max_bytes": 60}
    sources = tuple(Source(name=n, path=str(tmp_path / f"{n}.jsonl")) for n in ("fao_Latn", "isl_Latn", "dan_Latn"))
    corpus = Corpus.model_validate({"sources": sources, "held_out": held, "duplicates": {"exact": True}})
    read = prepare.read(corpus, tmp_path / "documents", workers=1)
    report = prepare.encode(read, Tokenizer.load(finished / "tokenizer"), tmp_path / "shards", workers=1)
    said = losses.lost_since(read.files, report.languages, report.skipped)
    assert re.search(r"nothing of 2 languages that were read: dan_Latn \(20 x .*\), isl_Latn \(3 x held out\)", said)
    assert losses.lost_since(read.files[:1], report.languages, report.skipped) is None
