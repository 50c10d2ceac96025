"""A tokenizer loses nothing, knows its roles, and is told what is wrong with its files."""

import json
import random

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from tessera.plan.corpus import TokenizerTraining
from tessera.text.fertility import fertility
from tessera.text.tokenizer import FILES, SPECIAL_TOKENS, Tokenizer, sample, train

TEXTS = {
    "eng_Latn": ["the cat sat on the mat and the dog sat on the cat"] * 20 + ["12345 numbers, and: marks!"] * 5,
    "ell_Grek": ["η γάτα κάθισε στο χαλί και ο σκύλος κάθισε στη γάτα"] * 20,
    "hin_Deva": ["बिल्ली चटाई पर बैठी और कुत्ता बिल्ली पर बैठा"] * 20,
    "tha_Thai": ["แมวนั่งบนเสื่อและสุนัขนั่งบนแมว"] * 20,
    "cmn_Hani": ["猫坐在垫子上狗坐在猫上"] * 20,
}
SMALL = TokenizerTraining(vocab_size=600, sample_bytes=100_000)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(TEXTS, SMALL, tmp_path_factory.mktemp("tokenizer"))


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_comes_back_byte_for_byte(trained, text):
    assert trained.decode(trained.encode_plain([text])[0]) == text


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40))
def test_bytes_of_the_tokens_add_up_to_the_bytes_of_the_text(trained, text):
    assert trained.token_bytes()[trained.encode_batch([text])[0]].sum() == len(text.encode())


def test_special_tokens_have_the_first_ids_and_stand_around_each_text(trained):
    assert [trained.token(i) for i in range(5)] == list(SPECIAL_TOKENS)
    assert trained.special_ids == (0, 1, 2, 3, 4)
    assert (trained.pad_id, trained.bos_id, trained.eos_id, trained.mask_id, trained.separator_id) == (0, 1, 2, 3, 4)
    assert trained.template == ((1,), (2,))
    (plain,) = trained.encode_plain(["the cat"])
    (whole,) = trained.encode_batch(["the cat"])
    assert whole.tolist() == [1, *plain.tolist(), 2]
    assert whole.dtype == np.int32
    assert trained.encode_batch([""])[0].tolist() == [1, 2]


def test_names_of_special_tokens_inside_a_text_are_text(trained):
    text = "a <|mask|> b <|end_of_text|> <|parallel_sep|>"
    (ids,) = trained.encode_plain([text])
    assert not set(ids.tolist()) & set(trained.special_ids)
    assert trained.decode(ids) == text


def test_the_vocabulary_is_as_large_as_asked_or_as_the_text_allows(trained, tmp_path):
    assert 300 < trained.vocab_size <= 600
    assert train({"eng_Latn": ["ab"]}, SMALL, tmp_path).vocab_size == 256 + 5


def test_training_twice_gives_the_same_file(trained, tmp_path):
    again = train(dict(reversed(TEXTS.items())), SMALL, tmp_path)
    assert again.fingerprint == trained.fingerprint


def test_training_leaves_three_files_that_load_alike(trained):
    assert [p.name for p in trained.files()] == list(FILES)
    assert sorted(p.name for p in trained.folder.iterdir()) == sorted(FILES)
    by_file = Tokenizer.load(trained.folder / "tokenizer.json")
    assert by_file.fingerprint == trained.fingerprint


def test_marks_stay_with_their_letters(trained):
    words = [trained.decode(w) for w in trained.encode_plain(["बिल्ली"])]
    assert words == ["बिल्ली"]
    split = trained._inner.pre_tokenizer.pre_tokenize_str("बिल्ली चटाई 12345")
    assert [end - start for _, (start, end) in split] == [6, 5, 4, 2]


def test_transformers_reads_what_we_wrote(trained):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(trained.folder))
    assert theirs("the cat")["input_ids"] == trained.encode_batch(["the cat"])[0].tolist()
    assert (theirs.mask_token_id, theirs.pad_token_id, theirs.bos_token_id) == (3, 0, 1)
    assert theirs.model_max_length == 8192


def test_no_text_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no text to train a tokenizer on"):
        train({"eng_Latn": []}, SMALL, tmp_path)


# --------------------------------------------------------------------------------------------------- other tokenizers


def save(folder, inner, **config):
    inner.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def words(*vocabulary, special=()):
    inner = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(list(special))
    return inner


def test_roles_are_found_by_their_usual_names(tmp_path):
    inner = words("?", "a", special=["[PAD]", "[CLS]", "[SEP]", "[MASK]"])
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
    )
    inner.enable_truncation(3)
    inner.enable_padding()
    found = Tokenizer.load(save(tmp_path, inner))
    assert (found.pad_id, found.bos_id, found.eos_id, found.mask_id, found.separator_id) == (2, 3, 4, 5, None)
    assert found.special_ids == (2, 3, 4, 5)
    assert found.encode_batch(["a a a a a", "a"])[0].tolist() == [3, 1, 1, 1, 1, 1, 4]
    assert found.encode_batch(["a a a a a", "a"])[1].tolist() == [3, 1, 4]


def test_config_files_name_the_roles_where_names_are_unusual(tmp_path):
    inner = words("?", "a", special=["<go>", "<stop>", "<hole>"])
    folder = save(tmp_path, inner, mask_token={"content": "<hole>"}, bos_token="<go>", eos_token="<stop>")
    found = Tokenizer.load(folder)
    assert (found.bos_id, found.eos_id, found.mask_id) == (2, 3, 4)
    assert found.pad_id == found.eos_id


def test_a_tokenizer_without_a_mask_is_refused_and_told_what_to_do(tmp_path):
    inner = words("?", "a", special=["<s>", "</s>"])
    with pytest.raises(ValueError, match=r"tokenizer.json: has no mask_token.*name it as 'mask_token'"):
        Tokenizer.load(save(tmp_path, inner))


@pytest.mark.parametrize(("content", "says"), [("{", "not a tokenizer.json"), ("[]", "not a tokenizer.json")])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content, says):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=says):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="no such file; give a tokenizer"):
        Tokenizer.load(tmp_path / "nowhere")


def test_a_broken_config_beside_the_tokenizer_is_named(tmp_path):
    save(tmp_path, words("?", special=["<s>", "</s>", "<mask>"]))
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config.json: not JSON"):
        Tokenizer.load(tmp_path)


def test_metaspace_and_byte_fallback_tokens_stand_for_their_bytes(tmp_path):
    vocabulary = {"<unk>": 0, "<0xE2>": 1, "▁": 2, "é": 3, "▁é": 4, "猫": 5}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, [("▁", "é")], byte_fallback=True, unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    inner.add_special_tokens(["<bos>", "<eos>", "<mask>", "<pad>"])
    inner.add_tokens(["\n\n"])
    found = Tokenizer.load(save(tmp_path, inner))
    assert found.token_bytes().tolist()[1:] == [1, 1, 2, 3, 3, 0, 0, 0, 0, 2]


# -------------------------------------------------------------------------------------------------------- the sample


def corpus(sizes, seed=0):
    rng = random.Random(seed)
    return [
        (language, f"{rng.random():.15f}"[:17].ljust(17, "0") + "x" * 83)
        for language, n in sizes.items()
        for _ in range(n)
    ]


def bytes_of(chosen):
    return {language: sum(len(t.encode()) for t in texts) for language, texts in chosen.items() if texts}


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_the_sample_follows_the_temperature(temperature):
    sizes = {"big": 16_000, "mid": 4_000, "low": 1_000}
    training = TokenizerTraining(temperature=temperature, sample_bytes=200_000)
    found = bytes_of(sample(corpus(sizes), training))
    weights = {language: n**temperature for language, n in sizes.items()}
    for language, weight in weights.items():
        due = 200_000 * weight / sum(weights.values())
        if due <= sizes[language] * 100:
            assert found[language] == pytest.approx(due, rel=0.2)


def test_a_small_language_gives_all_it_has_and_the_others_share_the_rest():
    found = bytes_of(
        sample(corpus({"big": 5_000, "tiny": 5}), TokenizerTraining(temperature=0.0, sample_bytes=100_000))
    )
    assert found["tiny"] == 500
    assert found["big"] == pytest.approx(99_500, rel=0.15)


def test_the_sample_does_not_depend_on_the_order_of_reading():
    texts = corpus({"big": 3_000, "mid": 500, "low": 20})
    training = TokenizerTraining(sample_bytes=50_000)
    first = sample(texts, training)
    random.Random(1).shuffle(texts)
    assert sample(texts, training) == first


def test_all_is_taken_where_there_is_less_text_than_asked_for():
    texts = corpus({"big": 30, "low": 2})
    assert bytes_of(sample(texts, TokenizerTraining(sample_bytes=10**6))) == {"big": 3_000, "low": 200}


# --------------------------------------------------------------------------------------------------------- fertility


def test_fertility_counts_tokens_against_words_and_bytes(trained):
    rows = {
        row["language"]: row for row in fertility(trained, {"eng_Latn": ["the cat", "the dog"], "ell_Grek": ["η", "ο"]})
    }
    english = rows["eng_Latn"]
    tokens = sum(len(i) for i in trained.encode_plain(["the cat", "the dog"]))
    assert english["tokens"] == tokens
    assert english["tokens_per_word"] == tokens / 4
    assert english["bytes_per_token"] == 14 / tokens
    assert min(row["relative"] for row in rows.values()) == 1.0


def test_fertility_compares_languages_only_where_texts_may_be_translations(trained):
    rows = fertility(trained, {"eng_Latn": ["the cat", "the dog"], "ell_Grek": ["η"], "fao_Latn": [], "isl_Latn": [""]})
    assert {row["relative"] for row in rows} == {None}
    assert {row["language"] for row in rows} == {"eng_Latn", "ell_Grek"}
