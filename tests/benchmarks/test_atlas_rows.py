"""Rows for a student of a teacher: what is read of which language, what is left out, nothing on both sides."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest
import zstandard

PLACE = Path(__file__).parents[2] / "benchmarks" / "atlas_rows.py"


def written(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zstandard.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def rows_of(path):
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def atlas_rows():
    spec = importlib.util.spec_from_file_location("atlas_rows", PLACE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(atlas_rows, tmp_path_factory):
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out")

    def pair(n, language, source="mediawiki", target="eng_Latn"):
        return {
            "src_lang": language,
            "tgt_lang": target,
            "src": f"{language} {n}",
            "tgt": f"English {n}",
            "source": source,
        }

    pairs = [pair(n, code) for n in range(4500) for code in ("deu_Latn", "kab_Latn")]
    pairs += [pair(n, "deu_Latn", "wesnoth") for n in range(4500, 5000)]
    pairs += [pair(1, "deu_Latn", "lafand-mt"), pair(2, "que_Latn", target="spa_Latn")]
    written(data / "pairs" / "pairs.jsonl.zst", pairs)
    told = [{"text": f"Dies ist der Satz Nummer {n}. Kurz. {'1' * 50}!"} for n in range(7000)]
    written(data / "train" / "deu_Latn.jsonl.zst", told)
    written(data / "train" / "kab_Latn.jsonl.zst", [{"text": "Tafyirt-a d tamezwarut deg wedlis."}])
    written(data / "train" / "code.jsonl.zst", [{"text": "print(1)"}])
    atlas_rows.main(data, out)
    return {path.name.split(".")[0]: rows_of(path) for path in out.rglob("*.zst")}


def test_translations_stand_beside_their_english_and_sentences_alone(made):
    rows = [*made["train"], *made["validation"]]
    translated = [row for row in rows if row["target"] is not None]
    counts = Counter(row["language"] for row in translated)
    assert counts == {"kab_Latn": 4500, "deu_Latn": 4000}  # all of the language that the teacher does not know
    german = {int(row["source"].split()[1]) for row in translated if row["language"] == "deu_Latn"}
    assert set(range(4500, 5000)) < german  # running text before messages
    assert all(row["source"].split()[1] == row["target"].split()[1] for row in translated)
    plain = [row for row in rows if row["target"] is None]
    assert {row["language"] for row in plain} == {"deu_Latn"}  # the other is none of the teacher's
    assert len(plain) == 6000
    assert all(row["source"].startswith("Dies ist") for row in plain)  # not what is short, nor what is no words


def test_a_folder_without_the_data_is_named_and_nothing_is_written(atlas_rows, tmp_path):
    with pytest.raises(SystemExit, match=r"pairs\.jsonl\.zst is not there; DATA is a folder of train/ and pairs/"):
        atlas_rows.main(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sentence_is_on_one_side_in_all_languages(made):
    assert made["validation"]
    assert not {row["source"] for row in made["train"]} & {row["source"] for row in made["validation"]}


def test_text_of_new_languages_is_apart_and_none_is_of_code(made):
    assert all("print" not in row["text"] for row in made["vocabulary"])
    new = {row["text"] for row in made["new"]}
    assert "Tafyirt-a d tamezwarut deg wedlis." in new
    assert not any("deu_Latn" in text or "Dies" in text for text in new)


def test_sentences_of_scripts_that_say_much_in_few_letters_may_be_short(atlas_rows):
    assert list(atlas_rows.asked("これは最初の文です。短い。It is.\nThis one is long enough, is it not?")) == [
        "これは最初の文です。",
        "This one is long enough, is it not?",
    ]
