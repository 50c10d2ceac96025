import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.corpus import decontaminate
from tessera.corpus.decontaminate import Passages, found_files, load, texts
from tessera.plan.corpus import Contamination

SHARED = Path(__file__).parents[2].parent / "shared"

WORDS = [f"w{n}" for n in range(200)]
THIRTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen"


def sets_of(**places: Path) -> Contamination:
    return Contamination(sets={name: (str(place),) for name, place in places.items()})


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (f"Said she: {THIRTEEN}, said she.", "shares 13 words in a row with counting"),
        (THIRTEEN.upper().replace(" ", " - "), "shares 13 words in a row with counting"),
        (THIRTEEN.replace(" ", "\n"), "shares 13 words in a row with counting"),
        (THIRTEEN.removesuffix(" thirteen"), None),  # twelve in a row
        (THIRTEEN.replace("seven", "eleven"), None),
        (THIRTEEN + "th", None),  # another word
        ("", None),
        ("?!", None),
    ],
)
def test_thirteen_words_in_a_row_are_a_passage(document, reason):
    assert Passages({"counting": [f"{THIRTEEN} fourteen fifteen"]}, 13).why_not(document) == reason


def test_a_short_text_counts_as_a_whole_where_it_has_eight_words():
    passages = Passages(
        {"short": ["The quick brown fox jumps over the lazy dog.", "Seven words are not enough to count"]}, 13
    )
    assert len(passages) == 1
    assert passages.why_not("He wrote: the quick brown fox jumps over the lazy dog!") == "holds a short text of short"
    assert passages.why_not("The quick brown fox jumps over the lazy cat.") is None
    assert passages.why_not("Seven words are not enough to count") is None


def test_with_passages_of_four_words_nothing_is_short():
    passages = Passages({"short": ["one two three four five", "six seven eight"]}, 4)
    assert passages.why_not("zero two three four five") == "shares 4 words in a row with short"
    assert passages.why_not("six seven eight") is None


def test_a_composed_letter_is_its_parts():
    passages = Passages({"s": ["é " + THIRTEEN.removesuffix(" thirteen")]}, 13)
    assert passages.why_not("E\u0301 " + THIRTEEN) == "shares 13 words in a row with s"


def test_where_words_have_no_spaces_characters_are_counted():
    text = (
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"
        "人間は、理性と良心とを授けられている"
    )
    passages = Passages({"udhr": [text]}, 13)
    letters = [c for c in text if c.isalpha()]
    assert len(letters) == 55
    assert passages.why_not("".join(letters[:52])) == "shares 52 characters in a row with udhr"
    assert passages.why_not("".join(letters[:51])) is None
    short = Passages({"udhr": ["".join(letters[:40])]}, 13)
    assert short.why_not("「" + text) == "holds a short text of udhr"
    assert short.why_not("".join(letters[:39])) is None
    with pytest.raises(ValueError, match="contamination set 'udhr': no text of 8 words in it"):
        Passages({"udhr": ["".join(letters[:31])]}, 13)


def test_tags_and_rows_of_noughts_are_no_passages():
    passages = Passages({"tags": [THIRTEEN, "O " * 30, "0 1 " * 20]}, 13)
    assert len(passages) == 1
    assert passages.why_not("o o " * 30 + "0 1 " * 20) is None


def test_the_set_that_is_named_first_is_the_reason():
    passages = Passages({"b": [THIRTEEN], "a": [THIRTEEN, "x " + THIRTEEN]}, 13)
    assert passages.why_not("x " + THIRTEEN) == "shares 13 words in a row with b"


@given(st.lists(st.lists(st.sampled_from(WORDS[:30]), min_size=1, max_size=40), min_size=1, max_size=6), st.data())
def test_what_is_found_is_what_is_there(evaluation, data):
    """Against the definition, word for word; texts learnt together do not run into each other."""
    document = data.draw(st.lists(st.sampled_from(WORDS[:30]), max_size=60))
    if data.draw(st.booleans()):
        document += data.draw(st.sampled_from(evaluation))
    grams = {tuple(t[i : i + 13]) for t in evaluation for i in range(len(t) - 12) if len(set(t[i : i + 13])) > 3}
    short = [t for t in evaluation if 8 <= len(t) < 13 and len(set(t)) * 4 >= len(t)]
    if not grams and not short:
        return
    passages = Passages({"s": [" ".join(t) for t in evaluation]}, 13)
    shared = any(tuple(document[i : i + 13]) in grams for i in range(len(document)))
    held = any(document[i : i + len(t)] == t for t in short for i in range(len(document)))
    expected = "shares 13 words in a row with s" if shared else "holds a short text of s" if held else None
    assert passages.why_not(" ".join(document)) == expected


@pytest.mark.parametrize("seed", range(5))
def test_a_passage_is_found_wherever_it_stands_in_a_long_document(seed, monkeypatch):
    monkeypatch.setattr(decontaminate, "_PIECE", 600)
    monkeypatch.setattr(decontaminate, "_OVERLAP", 200)
    rng = random.Random(seed)
    passages = Passages({"s": [THIRTEEN]}, 13)
    for length in range(0, 700, 7):
        words = rng.choices(WORDS, k=length)
        assert passages.why_not(" ".join(words)) is None
        words.insert(rng.randint(0, length), THIRTEEN)
        assert passages.why_not(" ".join(words)) is not None, length


def test_every_string_of_every_kind_of_file_counts(tmp_path):
    rows = [{"id": 7, "question": THIRTEEN, "answers": {"text": ["a b", "c"]}, "tokens": ["O", "min"], "none": None}]
    strings = [THIRTEEN, "a b c", "O min"]
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as out:
        out.write(json.dumps(rows[0]))
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_text(f"{THIRTEEN}\na b c\nO min\n")
    (tmp_path / "README.md").write_text("nothing to be read")
    ((name, files),) = found_files(sets_of(all=tmp_path))
    assert [file.name for file in files] == ["a.jsonl", "b.jsonl.gz", "c.parquet", "d.txt"]
    assert [list(texts(file, name)) for file in files] == [strings] * 4


def test_a_set_that_cannot_be_read_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"contamination set 'sib': no file at '.*nowhere'; give a file, a folder"):
        found_files(sets_of(sib=tmp_path / "nowhere"))
    (tmp_path / "cut.jsonl").write_text(json.dumps({"text": THIRTEEN}) + '\n{"text": "one')
    with pytest.raises(ValueError, match=r"contamination set 'sib': .*cut\.jsonl cannot be read \(row 2 is not JSON\)"):
        load(found_files(sets_of(sib=tmp_path)), 13)
    (tmp_path / "cut.jsonl").unlink()
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"cut\.parquet cannot be read"):
        load(found_files(sets_of(sib=tmp_path)), 13)


def test_a_set_without_a_passage_is_an_error(tmp_path):
    (tmp_path / "names.txt").write_text("Tórshavn\nKlaksvík\n")
    with pytest.raises(
        ValueError, match="contamination set 'names': no text of 8 words in it, so nothing would be found"
    ):
        load(found_files(sets_of(names=tmp_path)), 13)


def test_each_text_of_a_real_set_is_found():
    folder = SHARED / "data" / "eval" / "sib200"
    if not folder.is_dir():
        pytest.skip("the shared evaluation sets are not here")
    for language in ("fao_Latn", "tha_Thai", "cmn_Hans", "hin_Deva", "zho_Hans", "tir_Ethi"):
        places = folder / language
        if not places.is_dir():
            continue
        sets = found_files(sets_of(sib200=places))
        passages = load(sets, 13)
        found = [
            passages.why_not(f"« {text} »") for file in sets[0][1] for text in texts(file, "sib200") if len(text) > 99
        ]
        assert found
        assert [reason for reason in found if reason is None] == []
