"""A damaged tokenizer.json is read or refused by name: nothing ends the process, hangs or takes all memory."""

import json

import pytest
import tokenizers
from damage import survives
from tokenizers import models, pre_tokenizers, processors

from tessera.tokenizer.templates import frame
from tessera.tokenizer.tokenizer import Tokenizer

SPECIAL = ["<s>", "</s>", "<mask>", "<unk>"]


def bpe():
    vocabulary = {t: i for i, t in enumerate([*SPECIAL, "a", "##b", "ab"])}
    return models.BPE(vocabulary, [("a", "##b")], continuing_subword_prefix="##", unk_token="<unk>")


def word_piece():
    return models.WordPiece({t: i for i, t in enumerate([*SPECIAL, "a", "##b"])}, unk_token="<unk>")


def unigram():
    return models.Unigram([(t, -1.0 * i) for i, t in enumerate([*SPECIAL, "a", "b"])], unk_id=3)


@pytest.mark.parametrize("model", [bpe, word_piece, unigram])
@pytest.mark.parametrize(("inputs", "seconds"), [(300, 60), pytest.param(8_000, 60, marks=pytest.mark.slow)])
def test_any_damaged_tokenizer_is_read_or_refused_by_name(tmp_path, model, inputs, seconds):
    inner = tokenizers.Tokenizer(model())
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(SPECIAL)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    config = {"mask_token": {"content": "<mask>"}, "bos_token": "<s>", "model_max_length": 64}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))

    def read():
        tokenizer = Tokenizer.load(tmp_path)
        tokenizer.encode_batch(["ab <mask> <s> b", ""])
        tokenizer.encode_offsets(["ab <unk>"])
        tokenizer.token_bytes()
        tokenizer.partial_characters()
        frame(tokenizer)

    files = [tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"]
    assert survives(read, files, inputs=inputs, seconds=seconds)["refused"] > 0


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Replace", "pattern": {"String": " "}, "content": "x" * 300},
        {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "ab" * 9}] * 9},
        {"type": "Prepend", "prepend": "x" * 10**6},
    ],
)
def test_a_normalizer_that_makes_a_short_text_fill_the_memory_is_refused(tmp_path, normalizer):
    inner = tokenizers.Tokenizer(unigram())
    inner.add_special_tokens(SPECIAL)
    inner.save(str(tmp_path / "tokenizer.json"))
    given = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**given, "normalizer": normalizer}))
    with pytest.raises(ValueError, match=r"tokenizer\.json: normalizer: .* made to fill a memory"):
        Tokenizer.load(tmp_path)
