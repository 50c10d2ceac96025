"""Tokenizers of BERT, XLM-R and mDeBERTa, trained here: roles, templates, masks and bytes are found in any of them."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tokenizers import (
    Tokenizer as Inner,
)
from tokenizers import (
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tessera.data.hashing import keys
from tessera.data.masking import mask
from tessera.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "Tað er ein góður dagur í Havn.",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας.",
    "The quick brown fox jumps over the lazy dog, again and again.",
    "東京は日本の首都です。",
] * 5


def wordpiece() -> tuple[Inner, list[str], dict[str, object]]:
    """As bert-base-multilingual-cased."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner = Inner(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=False)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(t, inner.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]"}
    return inner, special, {**named, "unk_token": "[UNK]", "tokenizer_class": "BertTokenizer", "do_lower_case": False}


def unigram() -> tuple[Inner, list[str], dict[str, object]]:
    """As xlm-roberta-base, whose beginning is a bos and a cls token in one."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    inner = Inner(models.Unigram())
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(t, inner.token_to_id(t)) for t in ("<s>", "</s>")],
    )  # fmt: skip
    named = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
    return (
        inner,
        special,
        {**named, "mask_token": "<mask>", "pad_token": "<pad>", "tokenizer_class": "XLMRobertaTokenizer"},
    )


def mdeberta() -> tuple[Inner, list[str], dict[str, object]]:
    """As mdeberta-v3-base: a Unigram model with the special tokens of BERT, the mask added at the end."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    inner = Inner(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="[UNK]", show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    inner.add_special_tokens(["[MASK]"])
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, inner.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    )
    named = {"bos_token": "[CLS]", "cls_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]"}
    return inner, [*special, "[MASK]"], {**named, "mask_token": "[MASK]", "pad_token": "[PAD]", "unk_token": "[UNK]"}


KINDS = {"wordpiece": wordpiece, "unigram": unigram, "mdeberta": mdeberta}


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Inner, list[str], Tokenizer]:
    """What was trained, the names of its special tokens, and the same as we load it."""
    inner, special, named = KINDS[request.param]()
    inner.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named, "model_max_length": 512}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return inner, special, Tokenizer.load(tmp_path)


def test_roles_are_those_of_the_family(made):
    inner, special, found = made
    begin, end = ("<s>", "</s>") if "<s>" in special else ("[CLS]", "[SEP]")
    assert (found.token(found.bos_id), found.token(found.eos_id)) == (begin, end)
    assert found.token(found.mask_id).strip("<>[]").lower() == "mask"
    assert found.token(found.pad_id).strip("<>[]").lower() == "pad"
    assert found.token(found.unknown_id).strip("<>[]").lower() == "unk"
    assert found.special_ids == tuple(sorted(inner.token_to_id(token) for token in special))
    assert found.separator_id is None
    assert found.vocab_size == inner.get_vocab_size()


def test_every_text_begins_and_ends_as_the_family_has_it(made):
    inner, _, found = made
    assert found.template == ((found.bos_id,), (found.eos_id,))
    for text in (*TEXTS[:4], "", " "):
        ids = found.encode_batch([text])[0].tolist()
        assert ids == inner.encode(text).ids
        assert ids[0] == found.bos_id
        assert ids[-1] == found.eos_id
        assert ids[1:-1] == found.encode_plain([text])[0].tolist()


def test_transformers_gives_the_same_ids(made):
    from transformers import AutoTokenizer

    _, _, found = made
    theirs = AutoTokenizer.from_pretrained(found.folder)
    for text in TEXTS[:4]:
        assert theirs(text)["input_ids"] == found.encode_batch([text])[0].tolist()
    assert (theirs.mask_token_id, theirs.pad_token_id) == (found.mask_id, found.pad_id)


def test_the_name_of_the_mask_inside_a_text_is_text(made):
    _, _, found = made
    names = set(found.special_ids) - {found.unknown_id}
    for token in names:
        text = f"The {found.token(token)} dog"
        ids = found.encode_plain([TEXTS[0], text])
        assert not names & set(ids[1].tolist())
        whole = found.encode_batch([TEXTS[0], text])
        assert [row[1:-1].tolist() for row in whole] == [row.tolist() for row in ids]
        assert ids[0].tolist() == made[0].encode(TEXTS[0], add_special_tokens=False).ids


def test_special_tokens_are_never_hidden(made):
    _, _, found = made
    rows = found.encode_batch(TEXTS)
    starts = np.cumsum([0, *map(len, rows)])
    tokens = np.concatenate(rows)
    _, positions, targets = mask(
        tokens,
        keys(1, np.arange(len(rows))),
        starts,
        0.9,
        "80-10-10",
        found.mask_id,
        found.special_ids,
        found.vocab_size,
    )
    assert len(positions) > 0.5 * len(tokens)
    assert not set(found.special_ids) & set(targets.tolist())


def test_tokens_stand_for_the_bytes_of_their_text(made):
    _, _, found = made
    lengths = found.token_bytes()
    for text in TEXTS[:3]:
        ids = found.encode_plain([text])[0]
        assert found.unknown_id not in ids
        spaces = text.count(" ")
        # WordPiece drops the spaces between words, Metaspace puts one more before the first
        assert int(lengths[ids].sum()) in (len(text.encode()) - spaces, len(text.encode()) + 1)


def test_what_a_model_folder_needs_is_copied(made):
    _, _, found = made
    assert [path.name for path in found.files()] == ["tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("lowercase", [True, False], ids=["stripped", "composed"])
@pytest.mark.parametrize("word", ["Hue\u0302\u0301", "cafe\u0301", "\u0924\u0947\u0939\u0930\u0942"])
def test_marks_that_are_dropped_or_composed_belong_to_the_token_of_their_letter(lowercase, word, tmp_path):
    inner, _, named = wordpiece()
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.BertNormalizer(lowercase=lowercase)])
    inner.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**named, "model_max_length": 512}))
    text = f"x {word} {word}"
    ((ids, places),) = Tokenizer.load(tmp_path).encode_offsets([text])
    assert ids.tolist() == inner.encode(text, add_special_tokens=False).ids
    covered = {n for begin, end in places.tolist() for n in range(begin, end)}
    assert covered == {n for n, letter in enumerate(text) if letter != " "}
    for begin, end in places.tolist():
        assert not unicodedata.category(text[begin]).startswith("M") or text[begin:end] != text[begin]


@pytest.mark.parametrize(
    "said", [{}, {"do_lower_case": True}, {"do_lower_case": True, "strip_accents": False}, {"strip_accents": True},
             {"tokenize_chinese_chars": False}]
)  # fmt: skip
@pytest.mark.parametrize("kind", ["BertTokenizer", "BertTokenizerFast", "ElectraTokenizer", "PreTrainedTokenizerFast"])
def test_what_the_config_says_of_berts_normalizer_wins_as_in_transformers(kind, said, tmp_path):
    from transformers import AutoTokenizer

    inner, _, named = wordpiece()
    inner.save(str(tmp_path / "tokenizer.json"))
    config = {**named, "do_lower_case": False, "tokenizer_class": kind, "model_max_length": 512, **said}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    text = "Tað ER Góður 東京 quick"
    found = Tokenizer.load(tmp_path)
    assert found.encode_batch([text])[0].tolist() == AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    changed = kind != "PreTrainedTokenizerFast" and bool(said)
    plain = tmp_path / "plain"
    plain.mkdir()
    inner.save(str(plain / "tokenizer.json"))
    (plain / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}))
    assert (found.fingerprint != Tokenizer.load(plain).fingerprint) is changed
