"""A look at a model tells what is measured from what is not, and ends in a verdict with reasons."""

import dataclasses
import json
from pathlib import Path

import pytest
from small_encoder import write_model
from test_adapt import CYM, welsh
from typer.testing import CliRunner
from whole_run import WORDS, write

from tessera.adapt.hidden_words import HiddenWords
from tessera.adapt.look import Look, judge, look
from tessera.adapt.measure import Language, Measured
from tessera.adapt.sample import Identified, read_sample
from tessera.adapt.verdict import of_language
from tessera.cli import app
from tessera.inference.sentence_folder import Pipeline
from tessera.inference.sentence_folder import write as write_embedder
from tessera.report.look import rows, said

assert CYM


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write(folder / "cym_Latn.jsonl", [{"text": text} for text in welsh(40)])
    write(folder / "ell_Grek.jsonl", [{"text": " ".join(WORDS["ell_Grek"])}] * 40)
    (folder / "ymadrodd.txt").write_text(
        "Mae'r gath yn eistedd ar y mat ac yn edrych drwy'r ffenestr ar yr adar yn yr ardd.\n" * 4, encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def seen(finished: Path, text: Path) -> Look:
    return look(finished / "merged" / "final", [str(text / f"{code}.jsonl") for code in ("cym_Latn", "ell_Grek")])


def language(code: str = "fao_Latn", **more: object) -> Language:
    row = {"language": code, "tokens": 1_000, "bytes": 4_000, "cost": 1.0, "unknown_share": 0.0,
           "information": 15_000.0, "byte_fallback_share": 0.0, "tokens_per_word": 1.5}  # fmt: skip
    given = {
        "language": code, "identified": Identified(language=code, share=1.0, script="Latn"), "documents": 50,
        "bytes": 50_000, "used": 100, "nearest": None, "surprise": 0.3,
        "hidden": HiddenWords(bits=(1.0,) * 300, bytes=(1,) * 300, words=300),
    }  # fmt: skip
    tokens = {**row, **{key: more.pop(key) for key in list(more) if key in row}}
    return Language(**{**given, "tokens": tokens, **more})


def model(*languages: Language, **more: object) -> Measured:
    given = {"model": "m", "vocabulary": 1_000, "width": 8, "parameters": 20_000, "in_rows": 8_000, "needed": 900,
             "no_head": None, "tokens_a_second": 1e4, "threads": 1}  # fmt: skip
    return Measured(**{**given, "languages": languages, **more})


def test_a_look_measures_each_language_and_says_so_in_json_that_python_reads(seen, finished):
    found = json.loads(json.dumps(seen.as_json(), allow_nan=False))
    assert {row["language"] for row in found["languages"]} == {"cym_Latn", "ell_Grek"}
    welsh_row = next(row for row in found["languages"] if row["language"] == "cym_Latn")
    assert welsh_row["nearest"]["language"] == "ell_Grek"
    assert (
        welsh_row["bits_per_byte"]["low"] <= welsh_row["bits_per_byte"]["value"] <= welsh_row["bits_per_byte"]["high"]
    )
    assert welsh_row["tokens_per_byte"] > 0
    assert found["vocabulary"] >= found["needed"] > 0
    assert found["no_head"] is None
    assert found["tokens_a_second"] > 0
    assert set(found["hours"]) == set(found["verdict"])


def test_the_table_has_a_cell_for_each_column_and_the_words_end_in_the_verdict(seen):
    from tessera.report.look import COLUMNS

    found = seen.as_json()
    assert all(len(row) == len(COLUMNS) for row in rows(found))
    assert said(found)[-1].startswith("verdict: ")


@pytest.mark.parametrize(
    ("more", "steps", "why"),
    [
        ({}, ["use as it is"], "hidden words cost 30%"),
        ({"unknown_share": 0.2}, ["extend"], "20.0% of its tokens stand for what the vocabulary cannot write"),
        ({"byte_fallback_share": 0.3}, ["extend"], "30% of its tokens are bytes"),
        ({"cost": 1.8}, ["extend"], "1.80 times the tokens of eng_Latn"),
        ({"surprise": 0.8}, ["continue training"], "of eng_Latn 30%: it knows this language in part"),
        ({"surprise": 1.2, "cost": 3.0}, ["extend", "teach from the start"], "knows next to nothing"),
        ({"surprise": None, "hidden": None}, ["use as it is"], None),
    ],
)
def test_verdicts_follow_from_what_was_measured(more, steps, why):
    one = language(**more)
    found = of_language(one, model(language("eng_Latn"), one))
    assert list(found.steps) == steps
    assert (why is None and not found.reasons) or any(why in reason for reason in found.reasons)


def test_the_language_that_is_known_best_is_not_judged_harder_than_one_that_is_known_nearly_as_well():
    best, near = language("eng_Latn", surprise=0.8), language(surprise=0.9)
    both = model(best, near)
    assert [str(of_language(one, both)) for one in (best, near)] == ["use as it is", "use as it is"]
    assert str(of_language(best, model(best))) == "continue training"


def test_a_language_alone_is_judged_by_the_letters_in_a_token_and_the_doubt_is_said():
    one = language(information=5_000.0)
    found = of_language(one, model(one))
    assert list(found.steps) == ["extend"]
    assert any("no other language to compare with" in doubt for doubt in found.doubts)


def test_what_little_text_and_a_missing_head_leave_open_is_said():
    one = language(documents=2, bytes=900, surprise=None, hidden=None)
    doubts = of_language(one, model(one, language("eng_Latn"), no_head="an encoder alone")).doubts
    assert any("little text: 2 documents" in doubt for doubt in doubts)
    assert any("no masked-language-model head" in doubt for doubt in doubts)
    few = language(hidden=HiddenWords(bits=(1.0,), bytes=(1,), words=7))
    assert any("only 7 words were hidden" in doubt for doubt in of_language(few, model(few)).doubts)
    other = language(identified=Identified(language="dan_Latn", share=0.9, script="Latn"))
    assert any("looks like dan_Latn (90%" in doubt for doubt in of_language(other, model(other)).doubts)


def test_rows_that_no_language_uses_are_worth_trimming_and_training_has_a_price():
    one = language(surprise=0.8)
    measured = model(one, language("eng_Latn"), needed=100)
    found = judge(measured)
    assert list(found.verdict.steps) == ["trim", "continue training"]
    assert "use 100 of 1,000 rows" in found.verdict.reasons[0]
    assert found.hours["continue training"] > 0
    slower = judge(dataclasses.replace(measured, tokens_a_second=1e3))
    assert slower.hours["continue training"] == pytest.approx(10 * found.hours["continue training"], rel=0.1)


def test_a_file_that_says_no_language_is_identified(text):
    found = read_sample([str(text / "ymadrodd.txt")], most_bytes=10_000)
    assert list(found.texts) == ["cym_Latn"]
    assert list(found.unnamed.values()) == ["cym_Latn"]
    assert found.identified["cym_Latn"].script == "Latn"
    given = read_sample([str(text / "ymadrodd.txt")], language="bre_Latn", most_bytes=10_000)
    assert list(given.texts) == ["bre_Latn"]
    assert given.unnamed == {}


def test_a_file_that_cannot_be_used_is_left_out_with_why_unless_it_is_all_there_is(tmp_path):
    write(tmp_path / "fao_Latn.jsonl", [{"text": "og hús í"}] * 3)
    write(tmp_path / "pairs.jsonl", [{"src": "a", "tgt": "b"}] * 3)
    found = read_sample([str(tmp_path)], skip=True)
    assert list(found.texts) == ["fao_Latn"]
    assert ["pairs.jsonl" in file for file in found.skipped] == [True]
    with pytest.raises(ValueError, match="pairs"):
        read_sample([str(tmp_path)])
    with pytest.raises(ValueError, match="pairs"):
        read_sample([str(tmp_path / "pairs.jsonl")], skip=True)


def test_text_without_letters_names_no_language(tmp_path):
    (tmp_path / "numbers.txt").write_text("1 2 3\n4 5 6\n")
    with pytest.raises(ValueError, match=r"cannot be told from the text; give --language, as fao_Latn"):
        read_sample([str(tmp_path / "numbers.txt")], most_bytes=10_000)


def test_a_script_that_the_identifier_does_not_know_is_no_language(tmp_path):
    write(tmp_path / "chr_Cher.jsonl", [{"text": "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ"}] * 3)
    found = read_sample([str(tmp_path)], most_bytes=10_000).identified["chr_Cher"]
    assert (found.language, found.script) == (None, "Cher")


def test_the_command_prints_a_table_json_or_a_picture_also_of_a_model_without_a_head(finished, text, tmp_path):
    pytest.importorskip("altair")
    folder, vectors = write_model(tmp_path), tmp_path / "vectors"
    write_embedder(folder, vectors, Pipeline(), 32, 64)
    words = ["look", str(vectors), str(text / "cym_Latn.jsonl"), str(text / "ell_Grek.jsonl")]
    picture = tmp_path / "look.svg"
    shown = CliRunner().invoke(app, [*words, "--plot", str(picture)], env={"COLUMNS": "250"})
    assert shown.exit_code == 0, (shown.output, shown.exception)
    assert "verdict:" in shown.output
    assert "cym_Latn" in picture.read_text(encoding="utf-8")
    shown = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(shown.stdout)["languages"]
    refused = CliRunner().invoke(app, [*words, "--plot", "x.gif"])
    assert "give a name that ends in one of" in str(refused.exception)
