"""What a language pays is counted as by hand, and compared only where there is something to compare."""

import csv
import io
import json
import math

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tessera.plan.corpus import Corpus, Source, TokenizerTraining
from tessera.tokenizer.tokenizer import Tokenizer, train
from tessera.vocabulary.fertility import as_csv, as_json, fertility, sample_of_each


def load(folder, inner):
    inner.add_special_tokens(["<s>", "</s>", "<mask>"])
    inner.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)


def of(rows):
    return {row["language"]: row for row in rows}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    text = {"eng_Latn": ["the cat sat on the mat and the dog sat on the cat"] * 20}
    return train(text, TokenizerTraining(vocab_size=400), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def byte_level(tmp_path):
    """Bytes, and the merges `Ġ c`, `Ġc a`, `h i`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "Ġc", "Ġca", "hi"])}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, [("Ġ", "c"), ("Ġc", "a"), ("h", "i")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return load(tmp_path, inner)


def test_tokens_are_counted_against_words_bytes_and_characters(trained):
    english = of(fertility(trained, {"eng_Latn": ["the cat", "the dog"], "ell_Grek": ["η", "ο"]}))["eng_Latn"]
    tokens = sum(len(i) for i in trained.encode_plain(["the cat", "the dog"]))
    assert (english["texts"], english["bytes"], english["tokens"]) == (2, 14, tokens)
    assert english["tokens_per_word"] == tokens / 4
    assert english["bytes_per_token"] == 14 / tokens
    assert english["characters_per_token"] == 14 / tokens


def test_pieces_of_characters_are_byte_fallback_and_whole_ones_are_not(byte_level):
    # h i | Ġ | three bytes of 猫: two of the five tokens are no piece of a character
    row = fertility(byte_level, {"cmn_Hani": ["hi 猫"]})[0]
    assert row["tokens"] == 5
    assert row["byte_fallback_share"] == 3 / 5
    assert row["unknown_share"] == 0.0


def test_where_words_begin_in_a_byte_level_vocabulary(byte_level):
    # hi | Ġca t | Ġ d o g | Ġca r
    row = fertility(byte_level, {"eng_Latn": ["hi cat dog car"]})[0]
    assert row["tokens"] == 9
    assert row["fresh_word_share"] == 1.0
    assert row["context_share"] == 1.0
    assert row["space"] == "in the word"
    assert row["space_alone_share"] == pytest.approx(1 / 3)


def test_spaces_of_a_word_level_vocabulary_are_dropped_and_strange_words_unknown(tmp_path):
    inner = tokenizers.Tokenizer(models.WordLevel({"?": 0, "the": 1, "cat": 2}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    row = fertility(load(tmp_path, inner), {"eng_Latn": ["the cat the dog"]})[0]
    assert (row["tokens"], row["unknown_share"]) == (4, 0.25)
    assert (row["fresh_word_share"], row["context_share"]) == (1.0, 0.0)
    assert (row["space"], row["space_alone_share"]) == ("dropped", 0.0)


def test_words_that_share_a_token_are_not_fresh_and_byte_fallback_is_seen(tmp_path):
    vocabulary = {"<unk>": 0, "<0xC3>": 1, "<0xA9>": 2, "a": 3, "▁": 4, "b": 5, "▁b": 6, "a▁b": 7}
    inner = tokenizers.Tokenizer(
        models.BPE(vocabulary, [("▁", "b"), ("a", "▁b")], byte_fallback=True, unk_token="<unk>")
    )
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Replace("▁", " ")
    # a▁b | ▁ a | ▁b | ▁ <0xC3> <0xA9>
    row = fertility(load(tmp_path, inner), {"fra_Latn": ["a b a b é"]})[0]
    assert row["tokens"] in (6, 7)
    tokens = ["a▁b", "▁", "a▁b", "▁", "<0xC3>", "<0xA9>"]
    assert row["tokens"] == len(tokens)
    assert row["byte_fallback_share"] == 2 / 6
    assert row["fresh_word_share"] == 3 / 5
    assert row["space_alone_share"] == 2 / 4


def test_the_cost_of_parallel_texts_is_the_ratio_of_tokens(trained):
    texts = {"eng_Latn": ["the cat", "the dog"], "ell_Grek": ["η γάτα", "ο σκύλος"]}
    rows = fertility(trained, texts, parallel=True)
    tokens = {language: sum(map(len, trained.encode_plain(t))) for language, t in texts.items()}
    assert [row["language"] for row in rows] == ["eng_Latn", "ell_Grek"]
    assert [row["relative"] for row in rows] == [1.0, tokens["ell_Grek"] / tokens["eng_Latn"]]
    assert all(row["cost"] == row["relative"] for row in rows)


def test_without_translations_the_cost_is_by_information_and_marked_as_no_ratio(byte_level):
    # abab: 4 characters of 1 bit, 4 tokens; abcd: 4 of 2 bits, 4 tokens; 猫狗: 2 of 1 bit, 6 tokens
    rows = of(fertility(byte_level, {"one_Latn": ["abab"], "two_Latn": ["abcd"], "cmn_Hani": ["猫狗"]}))
    assert [rows[code]["information"] for code in ("one_Latn", "two_Latn", "cmn_Hani")] == [4.0, 8.0, 2.0]
    assert {code: row["cost"] for code, row in rows.items()} == {"two_Latn": 1.0, "one_Latn": 2.0, "cmn_Hani": 6.0}
    assert {row["relative"] for row in rows.values()} == {None}


def test_texts_said_to_be_parallel_that_are_not_are_refused(trained):
    with pytest.raises(ValueError, match=r"parallel texts differ in number: ell_Grek has 1, eng_Latn has 2; give"):
        fertility(trained, {"eng_Latn": ["a", "b"], "ell_Grek": ["η"]}, parallel=True)


def test_languages_without_text_have_no_row(trained):
    rows = fertility(trained, {"eng_Latn": ["the cat"], "fao_Latn": [], "isl_Latn": [""]})
    assert [row["language"] for row in rows] == ["eng_Latn"]
    assert fertility(trained, {}) == []


def test_text_of_white_space_alone_has_costs_and_no_words(trained):
    (row,) = fertility(trained, {"eng_Latn": [" \n ", "  "]})
    assert (row["fresh_word_share"], row["context_share"], row["space"]) == (0.0, 0.0, None)
    assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))


def test_rows_are_written_as_json_and_csv(trained):
    rows = fertility(trained, {"eng_Latn": ["the cat"], "ell_Grek": ["η"]})
    assert json.loads(as_json(rows)) == rows
    table = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [row["language"] for row in table] == [row["language"] for row in rows]
    assert [float(row["cost"]) for row in table] == [row["cost"] for row in rows]
    assert {row["relative"] for row in table} == {""}
    assert as_csv([]) == ""


def test_a_sample_holds_the_first_texts_of_every_language_and_no_pairs(tmp_path):
    rows = [
        {"text": f"{language} {i}" + "." * 90, "lang": language}
        for i in range(9)
        for language in ("fao_Latn", "eng_Latn")
    ]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "pairs.jsonl").write_text("{}")
    corpus = Corpus(
        sources=[
            Source(name="web", path=str(tmp_path / "mixed.jsonl")),
            Source(name="pairs", kind="pairs", path=str(tmp_path / "pairs.jsonl")),
        ]
    )
    found = sample_of_each(corpus, 250)
    assert {language: [text.rstrip(".") for text in texts] for language, texts in found.items()} == {
        "fao_Latn": ["fao_Latn 0", "fao_Latn 1", "fao_Latn 2"],
        "eng_Latn": ["eng_Latn 0", "eng_Latn 1", "eng_Latn 2"],
    }
