"""Bits per byte of models whose predictions are known beforehand."""

import json
import math

import numpy as np
import pytest
import torch

from tessera.data.shard_writer import ShardWriter
from tessera.data.shards import Shards
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.tokenizer import tokenizer as tokenizers
from tessera.train import held_out
from tessera.train.held_out import bits_per_byte

TEXT = {"aaa_Latn": ["ab ab ab ab cd cd " * 9] * 5}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return tokenizers.train(TEXT, TokenizerTraining(vocab_size=300), folder)


def tiny(tokenizer, **more):
    fields = {
        "vocab_size": tokenizer.vocab_size + 7,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mask_token_id": 3,
    }
    return EncoderConfig.model_validate({**PRESETS["mmbert-small"].model_dump(), **fields, **more})


@pytest.fixture
def uniform(tokenizer):
    """A model that finds every token of its vocabulary equally likely."""
    model = MaskedLM(tiny(tokenizer), attention="auto")
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    return model


def store(folder, tokenizer, **documents):
    """Documents as lists of token ids, by language."""
    with ShardWriter(folder, tokenizer.fingerprint, tokenizer.vocab_size) as writer:
        for language, ids in documents.items():
            writer.add("web", language, None, [np.array(one, np.int32) for one in ids], 1)
    return Shards.open(folder)


def one_byte(tokenizer, letter="c"):
    return int(tokenizer.encode_plain([letter])[0][0])


def two_bytes(tokenizer):
    ids = tokenizer.encode_plain(["ab"])[0]
    assert len(ids) == 1
    return int(ids[0])


def test_a_uniform_model_needs_log2_of_its_vocabulary_for_each_token(tmp_path, tokenizer, uniform):
    ids = {
        "aaa_Latn": [[one_byte(tokenizer)] * 100],
        "bbb_Latn": [[two_bytes(tokenizer)] * 100, [two_bytes(tokenizer)] * 700],
    }
    results = bits_per_byte(uniform, store(tmp_path / "s", tokenizer, **ids), tokenizer, mask_ratio=0.3)
    vocabulary = tokenizer.vocab_size + 7
    assert list(results) == ["aaa_Latn", "bbb_Latn"]
    assert results["aaa_Latn"]["bits_per_byte"] == pytest.approx(math.log2(vocabulary) * 1, rel=1e-6)
    assert results["bbb_Latn"]["bits_per_byte"] == pytest.approx(math.log2(vocabulary) / 2, rel=1e-6)
    for row in results.values():
        assert row["loss"] == pytest.approx(math.log(vocabulary), rel=1e-6)
        assert row["bits_per_byte"] == pytest.approx(math.log2(vocabulary) * row["tokens"] / row["bytes"], rel=1e-6)
    assert results["aaa_Latn"]["bytes"] == results["aaa_Latn"]["tokens"]
    assert results["bbb_Latn"]["bytes"] == 2 * results["bbb_Latn"]["tokens"]
    assert 0.2 * 800 < results["bbb_Latn"]["tokens"] < 0.4 * 800


def test_a_model_that_gives_one_token_half_the_chance_needs_one_bit_for_it(tmp_path, tokenizer, uniform):
    likely = two_bytes(tokenizer)
    bias = next(weight for weight in uniform.parameters() if weight.shape == (tokenizer.vocab_size + 7,))
    with torch.no_grad():
        bias[likely] = math.log(tokenizer.vocab_size + 7 - 1)  # against all the others together
    shards = store(tmp_path / "s", tokenizer, aaa_Latn=[[likely] * 200])
    results = bits_per_byte(uniform, shards, tokenizer, mask_ratio=0.5)
    assert results["aaa_Latn"]["bits_per_byte"] == pytest.approx(1 / 2, rel=1e-5)
    assert results["aaa_Latn"]["loss"] == pytest.approx(math.log(2), rel=1e-5)


def test_special_tokens_are_never_asked_for(tmp_path, tokenizer, uniform):
    shards = store(tmp_path / "s", tokenizer, aaa_Latn=[[1, one_byte(tokenizer), 2]] * 200)
    results = bits_per_byte(uniform, shards, tokenizer, mask_ratio=0.9)
    assert 150 < results["aaa_Latn"]["tokens"] <= 200
    assert results["aaa_Latn"]["bytes"] == results["aaa_Latn"]["tokens"]


def test_a_language_in_which_nothing_is_hidden_has_no_entry(tmp_path, tokenizer, uniform):
    shards = store(tmp_path / "s", tokenizer, aaa_Latn=[[1, 2]], bbb_Latn=[[one_byte(tokenizer)] * 50])
    assert list(bits_per_byte(uniform, shards, tokenizer, mask_ratio=0.5)) == ["bbb_Latn"]
    assert bits_per_byte(uniform, store(tmp_path / "none", tokenizer), tokenizer, mask_ratio=0.5) == {}


@pytest.fixture
def drawn(tokenizer):
    model = MaskedLM(tiny(tokenizer), attention="auto")
    initialize(model, torch.Generator().manual_seed(0))
    return model


def some_text(tokenizer, seed, documents=12):
    rng = np.random.default_rng(seed)
    return [rng.integers(5, tokenizer.vocab_size, rng.integers(2, 1300)).tolist() for _ in range(documents)]


def test_neither_the_size_of_batches_nor_other_languages_change_a_result(tmp_path, tokenizer, drawn):
    text = {"aaa_Latn": some_text(tokenizer, 1), "ccc_Latn": some_text(tokenizer, 2)}
    alone = bits_per_byte(drawn, store(tmp_path / "a", tokenizer, **text), tokenizer, mask_ratio=0.3)
    text["bbb_Latn"] = some_text(tokenizer, 3)
    shards = store(tmp_path / "b", tokenizer, **text)
    together = bits_per_byte(drawn, shards, tokenizer, mask_ratio=0.3, batch_tokens=700)
    assert set(together) == {"aaa_Latn", "bbb_Latn", "ccc_Latn"}
    for language in alone:
        assert together[language] == pytest.approx(alone[language], rel=1e-5)
    assert bits_per_byte(drawn, shards, tokenizer, mask_ratio=0.3, seed=1) != together


def test_max_tokens_reads_whole_blocks_until_it_is_reached(tmp_path, tokenizer, drawn):
    lengths = np.array([100, 512, 300, 10, 50, 60])
    language = np.array([0, 0, 0, 1, 1, 1])
    chance = np.array([5, 9, 1, 3, 2, 1], np.uint64)  # in this order: 300, 100, 512 and 60, 50, 10
    assert sorted(held_out._choose(lengths, chance, language, 300)) == [2, 3, 4, 5]
    assert sorted(held_out._choose(lengths, chance, language, 301)) == [0, 2, 3, 4, 5]
    assert sorted(held_out._choose(lengths, chance, language, 60)) == [2, 5]
    assert sorted(held_out._choose(lengths, chance, language, None)) == [0, 1, 2, 3, 4, 5]
    shards = store(tmp_path / "s", tokenizer, aaa_Latn=some_text(tokenizer, 1))
    few = bits_per_byte(drawn, shards, tokenizer, mask_ratio=0.3, max_tokens=600)
    assert 0.2 * 600 < few["aaa_Latn"]["tokens"] < 0.4 * (600 + held_out.CONTEXT)


def test_long_documents_are_cut_and_every_token_is_in_one_block(tmp_path, tokenizer):
    lengths = [513, 1, 1024, 512, 1500]
    shards = store(tmp_path / "s", tokenizer, aaa_Latn=[[5] * n for n in lengths], bbb_Latn=[[6] * 40])
    starts, sizes, keys, language = held_out._blocks(shards, ["aaa_Latn", "bbb_Latn"], 512, seed=0)
    assert sizes.tolist() == [512, 1, 1, 512, 512, 512, 512, 512, 476, 40]
    assert starts.tolist() == [0, *np.cumsum(sizes)[:-1].tolist()]
    assert language.tolist() == [0] * 9 + [1]
    assert len(set(keys.tolist())) == 10


def test_the_model_is_left_as_it_was_and_results_are_plain_numbers(tmp_path, tokenizer, drawn):
    shards = store(tmp_path / "s", tokenizer, aaa_Latn=some_text(tokenizer, 1, documents=2))
    steps = []
    drawn.train()
    results = bits_per_byte(
        drawn, shards, tokenizer, mask_ratio=0.3, on_progress=lambda done, total, _: steps.append((done, total))
    )
    assert drawn.training
    assert json.loads(json.dumps(results)) == results
    assert steps[-1][0] == steps[-1][1]
    drawn.eval()
    assert bits_per_byte(drawn, shards, tokenizer, mask_ratio=0.3) == results
    assert not drawn.training


def test_text_of_another_tokenizer_is_refused(tmp_path, tokenizer, drawn):
    with ShardWriter(tmp_path / "s", "another", 300) as writer:
        writer.add("web", "aaa_Latn", None, [np.array([5, 6], np.int32)], 2)
    with pytest.raises(ValueError, match="was written with another tokenizer"):
        bits_per_byte(drawn, Shards.open(tmp_path / "s"), tokenizer, mask_ratio=0.3)


def test_more_hidden_tokens_than_are_scored_at_once_change_nothing(tmp_path, tokenizer, drawn):
    shards = store(tmp_path / "s", tokenizer, aaa_Latn=[[7 + i % 200 for i in range(512)]] * 12)
    many = bits_per_byte(drawn, shards, tokenizer, mask_ratio=0.8)
    assert many["aaa_Latn"]["tokens"] > 4096
    few = bits_per_byte(drawn, shards, tokenizer, mask_ratio=0.8, batch_tokens=512)
    assert few["aaa_Latn"] == pytest.approx(many["aaa_Latn"], rel=1e-5)
