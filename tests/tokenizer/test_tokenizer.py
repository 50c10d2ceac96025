"""A tokenizer loses nothing, knows its roles, and is told what is wrong with its files."""

import dataclasses
import itertools
import json
import pickle
import random
import tracemalloc
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tessera.plan.corpus import TokenizerTraining
from tessera.tokenizer import gigatoken as gigatoken_module
from tessera.tokenizer import sample as tokenizer_sample
from tessera.tokenizer.gigatoken import framed, rows
from tessera.tokenizer.sample import sample
from tessera.tokenizer.templates import encode_words
from tessera.tokenizer.tokenizer import FILES, SPECIAL_TOKENS, Tokenizer, train

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


@settings(max_examples=300)
@given(text=st.text(max_size=60))
def test_any_text_comes_back_byte_for_byte(trained, text):
    assert trained.decode(trained.encode_plain([text])[0]) == text


@settings(max_examples=100)
@given(text=st.text(max_size=40))
def test_bytes_of_the_tokens_add_up_to_the_bytes_of_the_text(trained, text):
    assert trained.token_bytes()[trained.encode_batch([text])[0]].sum() == len(text.encode())


def test_a_tokenizer_says_in_a_line_what_it_is(trained):
    assert trained.fingerprint in repr(trained)
    assert len(repr(trained)) < 1000


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


@pytest.mark.parametrize(("split", "lengths"), [("qwen3.5", [6, 5, 1, 1, 1, 1]), ("tessera", [6, 5, 4])])
def test_digits_stand_alone_or_in_threes(tmp_path, split, lengths):
    made = train(TEXTS, SMALL.model_copy(update={"split": split}), tmp_path)
    found = made._inner.pre_tokenizer.pre_tokenize_str("बिल्ली चटाई 123")
    assert [end - start for _, (start, end) in found] == lengths


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
    with pytest.raises(ValueError, match=r"tokenizer_config.json is not JSON"):
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


@pytest.mark.parametrize("space", ["\n", " ", ""])
def test_a_language_whose_text_is_one_book_is_in_the_sample_with_its_share(space):
    book = space.join(f"{n}" + "\u10d0\u10d1\u10d2" * 30 for n in range(2_000))  # 550 kB
    texts = [*corpus({"big": 5_000}), ("kat", book), ("tha", book[::-1])]
    found = sample(texts, TokenizerTraining(temperature=0.0, sample_bytes=300_000))
    sizes = bytes_of(found)
    assert all(sizes[language] == pytest.approx(100_000, rel=0.6) for language in ("big", "kat", "tha"))
    assert all(len(text.encode()) <= 2**14 for texts in found.values() for text in texts)
    assert all(text in book for text in found["kat"])
    few = sample([("one", "x" * 15_000) for _ in range(3)], TokenizerTraining(sample_bytes=1_000))
    assert few["one"]


def test_passages_are_the_whole_text_cut_where_it_may_be():
    text = "".join(random.Random(0).choices("ab \n\u00e9\u10d0\U0001f600", k=60_000))
    parts = [part.decode() for part in tokenizer_sample._passages(text.encode())]
    assert "".join(parts) == text
    assert all(part.endswith("\n") for part in parts[:-1])
    whole = "\u10d0" * 20_000
    assert "".join(part.decode() for part in tokenizer_sample._passages(whole.encode())) == whole


def test_the_sample_does_not_depend_on_the_order_of_reading():
    texts = corpus({"big": 3_000, "mid": 500, "low": 20})
    training = TokenizerTraining(sample_bytes=50_000)
    first = sample(texts, training)
    random.Random(1).shuffle(texts)
    assert sample(texts, training) == first


def test_all_is_taken_where_there_is_less_text_than_asked_for():
    texts = corpus({"big": 30, "low": 2})
    assert bytes_of(sample(texts, TokenizerTraining(sample_bytes=10**6))) == {"big": 3_000, "low": 200}


def test_a_sample_holds_little_more_than_it_was_given_room_for():
    held = []

    def texts():
        for i in range(4_000):
            if i % 50 == 0:
                held.append(tracemalloc.get_traced_memory()[0])
            yield "eng_Latn", f"{i} " + "x" * 3_000

    training = TokenizerTraining(sample_bytes=500_000)
    tracemalloc.start()
    try:
        sample(texts(), training)
    finally:
        tracemalloc.stop()
    assert max(held) < 2.3 * training.sample_bytes  # of 12 MB that were read


# ------------------------------------------------------------------------------------ what the trainer cannot count


def test_text_that_would_overflow_the_trainers_counts_is_refused_and_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_sample, "_MOST_PAIRS", 30)
    message = r"bytes b'ab' stand side by side 40 times in 120 bytes .* no further than 30; .* to 85 or less"
    with pytest.raises(ValueError, match=message):
        train({"eng_Latn": ["abc"] * 25, "deu_Latn": ["abd"] * 15}, SMALL, tmp_path)
    assert not list(tmp_path.iterdir())


def test_much_text_in_which_no_pair_is_too_frequent_is_not_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_sample, "_MOST_PAIRS", 30)
    texts = [
        f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"
    ] * 5  # 640 bytes, each pair five times; none across texts
    assert train({"eng_Latn": texts}, SMALL, tmp_path).vocab_size > 261


@given(texts=st.lists(st.text(max_size=12), min_size=1, max_size=8), most=st.integers(1, 5))
def test_the_guard_knows_how_often_two_bytes_stand_together(texts, most):
    pairs = Counter(pair for text in texts for pair in itertools.pairwise(text.encode()))
    size = sum(len(text.encode()) for text in texts)
    refused = False
    with mock.patch.object(tokenizer_sample, "_MOST_PAIRS", most):
        try:
            tokenizer_sample.check_counts({"eng_Latn": texts}, SMALL)
        except ValueError:
            refused = True
    assert refused == (size > most and max(pairs.values(), default=0) > most)


# ---------------------------------------------------------------------------------------------------- words, in order

SENTENCE = ["the", "cats", "sat", ",", "12345", "η", "γάτα", "κάθισε"]


def byte_level(folder, *, add_prefix_space):
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    inner.decoder = decoders.ByteLevel()
    learn(inner, trainers.BpeTrainer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return Tokenizer.load(save(folder, inner))


def metaspace(folder, *, split=True):
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    inner.decoder = decoders.Metaspace()
    learn(inner, trainers.UnigramTrainer, unk_token="<unk>", initial_alphabet=list(ALPHABET))
    return Tokenizer.load(save(folder, inner))


def llama(folder):
    """As SentencePiece BPE is written: the normalizer makes the spaces, nothing splits at them."""
    inner = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    learn(inner, trainers.BpeTrainer, initial_alphabet=list(ALPHABET))
    return Tokenizer.load(save(folder, inner))


def word_piece(folder):
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    learn(inner, trainers.WordPieceTrainer, initial_alphabet=list(ALPHABET))
    return Tokenizer.load(save(folder, inner))


ALPHABET = "abcdefghijklmnopqrstuvwxyzηγάτκθισεχλ猫狗坐,.0123456789▁"


def learn(inner, trainer, **settings):
    special = ["<unk>", "<s>", "</s>", "<mask>"]
    lines = [" ".join(SENTENCE), *itertools.chain(*TEXTS.values())]
    inner.train_from_iterator(lines, trainer(vocab_size=450, special_tokens=special, show_progress=False, **settings))


@pytest.fixture(scope="module")
def families(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp
    return {
        "ours": trained,
        "byte level": byte_level(folder("bytes"), add_prefix_space=False),
        "byte level, space first": byte_level(folder("prefix"), add_prefix_space=True),
        "metaspace": metaspace(folder("metaspace")),
        "word piece": word_piece(folder("wordpiece")),
        "llama": llama(folder("llama")),
        "metaspace, not split": metaspace(folder("whole"), split=False),
    }


SPLITTING = ("ours", "byte level", "byte level, space first", "metaspace", "word piece")  # at spaces, always


@pytest.mark.parametrize("family", [*SPLITTING, "llama", "metaspace, not split"])
def test_every_word_begins_as_it_does_in_running_text(families, family):
    found = families[family]
    ids, owner = encode_words(found, SENTENCE)
    assert owner.tolist() == sorted(owner.tolist())
    assert set(owner.tolist()) == set(range(len(SENTENCE)))
    marks = {"word piece": ""}.get(family, "Ġ" if "byte" in family or family == "ours" else "▁")
    firsts = [found.token(int(ids[np.flatnonzero(owner == i)[0]])) for i in range(1, len(SENTENCE))]
    assert all(token.startswith(marks) and not token.startswith("##") for token in firsts)
    if family != "word piece":  # forgets accents
        assert found.decode(ids).strip() == " ".join(SENTENCE)
    if family in SPLITTING:
        assert ids.tolist() == found.encode_plain([" ".join(SENTENCE)])[0].tolist()


LETTERS = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=6)


@settings(max_examples=150)
@given(words=st.lists(st.one_of(st.sampled_from(SENTENCE), LETTERS), min_size=1, max_size=6))
def test_ids_of_words_are_those_of_the_sentence_and_no_word_goes_without(families, words):
    words = [word for word in words if not word.isspace()]
    for family in ("ours", "byte level", "byte level, space first"):
        ids, owner = encode_words(families[family], words)
        assert ids.tolist() == families[family].encode_plain([" ".join(words)])[0].tolist()
    for found in families.values():
        ids, owner = encode_words(found, words)
        assert len(ids) == len(owner)
        assert sorted(set(owner.tolist())) == list(range(len(words)))


def test_a_word_never_shares_a_token_where_the_tokenizer_merges_across_spaces(tmp_path):
    vocabulary = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>", "<mask>", "a", "b", "Ġ", "Ġb", "aĠb"])}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, [("Ġ", "b"), ("a", "Ġb")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>", "<mask>"])
    found = Tokenizer.load(save(tmp_path, inner))
    assert found.encode_plain(["a b"])[0].tolist() == [8]
    ids, owner = encode_words(found, ["a", "b"])
    assert (ids.tolist(), owner.tolist()) == ([4, 7], [0, 1])


@pytest.mark.parametrize("family", ["ours", "byte level, space first", "metaspace", "llama"])
def test_words_of_a_script_without_spaces_are_joined_without_one(families, family):
    words = ["猫", "坐在", "垫子", "上"]
    ids, owner = encode_words(families[family], words, spaced=False)
    assert families[family].decode(ids).replace("<unk>", "").strip() in ("".join(words), "猫坐")
    assert sorted(set(owner.tolist())) == [0, 1, 2, 3]
    assert not any(families[family].token(int(i)).startswith(("Ġ", "▁")) for i in ids[owner > 0])


def test_a_space_may_be_left_out_before_single_words(trained):
    ids, owner = encode_words(trained, ["the", "cat", ",", "the", "dog"], [True, True, False, True, True])
    assert trained.decode(ids) == "the cat, the dog"
    assert owner.max() == 4
    with pytest.raises(ValueError, match="2 values of `spaced` for 3 words"):
        encode_words(trained, ["a", "b", "c"], [True, True])


def test_a_word_that_the_tokenizer_drops_is_an_unknown_one(families):
    found = families["word piece"]
    assert found.encode_plain(["\u200b"])[0].tolist() == []
    ids, owner = encode_words(found, ["cat", "\u200b", "dog"])
    assert ids[owner == 1].tolist() == [found.unknown_id]


def test_an_empty_word_is_refused_and_an_empty_sentence_is_empty(trained):
    with pytest.raises(ValueError, match="word 1 of 'a  b' is empty; leave it out with its label"):
        encode_words(trained, ["a", "", "b"])
    ids, owner = encode_words(trained, [])
    assert (ids.tolist(), owner.tolist()) == ([], [])


# ---------------------------------------------------------------------------------------------------------- gigatoken


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    pytest.importorskip("gigatoken")
    return train(TEXTS, SMALL, tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="module")
def fast(known):
    return Tokenizer.load(known.folder, engine="gigatoken")


@settings(max_examples=300)
@given(texts=st.lists(st.one_of(st.text(max_size=60), st.sampled_from(TEXTS["hin_Deva"] + ["a <|mask|>b", ""]))))
def test_gigatoken_gives_the_ids_of_tokenizers(known, fast, texts):
    for name in ("encode_batch", "encode_plain"):
        due, found = getattr(known, name)(texts), getattr(fast, name)(texts)
        assert [ids.tolist() for ids in found] == [ids.tolist() for ids in due]
        assert all(ids.dtype == np.int32 for ids in found)
    fast.prove(texts)


def test_gigatoken_reads_names_of_special_tokens_as_text_and_adds_the_template(fast):
    text = "a <|mask|> b<|end_of_text|>"
    (whole,) = fast.encode_batch([text])
    assert (whole[0], whole[-1]) == (fast.bos_id, fast.eos_id)
    assert not set(whole[1:-1].tolist()) & set(fast.special_ids)
    assert fast.decode(whole) == text


def test_gigatoken_leaves_the_fingerprint_and_the_words_as_they_are(known, fast):
    assert fast.fingerprint == known.fingerprint
    assert encode_words(fast, SENTENCE)[0].tolist() == encode_words(known, SENTENCE)[0].tolist()


def test_gigatoken_forgets_from_time_to_time_and_travels_to_other_processes(known, fast, monkeypatch):
    monkeypatch.setattr(gigatoken_module, "_RENEWED", 100)
    texts = TEXTS["eng_Latn"] + TEXTS["cmn_Hani"]
    due = [ids.tolist() for ids in known.encode_plain(texts)]
    engines = set()
    for other in (fast, pickle.loads(pickle.dumps(fast))):
        for _ in range(3):
            assert [ids.tolist() for ids in other.encode_plain(texts)] == due
            engines.add(other._fast._inner)
    assert len(engines) == 6


def test_gigatoken_is_refused_where_it_cannot_read_the_tokenizer(tmp_path):
    pytest.importorskip("gigatoken")
    trained = train(TEXTS, SMALL.model_copy(update={"split": "tessera"}), tmp_path)
    with pytest.raises(ValueError, match=r"gigatoken cannot read this tokenizer: .*; use the engine tokenizers"):
        Tokenizer.load(trained.folder, engine="gigatoken")


def test_gigatoken_is_refused_where_its_ids_differ(fast, known):
    class Wrong:
        def encode(self, texts):
            flat, starts = fast._fast.encode(texts)
            return np.where(flat == 70, 71, flat).astype(np.int32), starts

    wrong = dataclasses.replace(known, _fast=Wrong())
    letter = known.token(70)
    wrong.prove(["no such letter here: 7"])
    message = rf"from token 2 on, after 'xx': \[71\] for \[70\] in 'xx{letter}'; use the engine tokenizers"
    with pytest.raises(ValueError, match=message):
        wrong.prove(["fine", f"xx{letter}"])


def test_the_template_stands_around_each_text_of_a_flat_array():
    flat, starts = np.array([7, 8, 9], np.int32), np.array([0, 2, 2, 3])
    found, edges = framed(flat, starts, (1, 5), (2,))
    assert found.tolist() == [1, 5, 7, 8, 2, 1, 5, 2, 1, 5, 9, 2]
    assert [ids.tolist() for ids in rows(found, edges)] == [[1, 5, 7, 8, 2], [1, 5, 2], [1, 5, 9, 2]]
    assert framed(flat, starts, (), ())[0].tolist() == [7, 8, 9]
