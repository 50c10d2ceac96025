"""Batched inference: the same rows whatever stands beside a text, in the order in which texts were given."""

import numpy as np
import pytest
import torch

from tessera.data.packing import by_length
from tessera.inference import engine
from tessera.inference.engine import each
from tessera.inference.tokenize import TextTokenizer, fit
from tessera.model.encoder import pack
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.pooling import pool
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.tokenizer import tokenizer as tokenizers

TEXTS = ["one two three", "", "tveir", "a much longer text " * 30, "þrír fjórir fimm", "x"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return tokenizers.train({"aaa_Latn": TEXTS[:1] * 20}, TokenizerTraining(vocab_size=300), folder)


@pytest.fixture(scope="module")
def model(tokenizer):
    fields = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "global_attn_every_n_layers": 2,
        "local_attention": 16,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mask_token_id": 3,
    }
    model = MaskedLM(EncoderConfig.model_validate({**PRESETS["mmbert-small"].model_dump(), **fields}), attention="auto")
    initialize(model, torch.Generator().manual_seed(0))
    return model


def embed(model, tokenizer, texts, pooling="mean", **options):
    """Pooled hidden states, by a model that is in use elsewhere."""
    compute = lambda tokens, starts: pool(model.encoder(tokens, starts), starts, pooling)  # noqa: E731
    return each(model, tokenizer, texts, compute, model.config.hidden_size, what="embedding", **options)


def by_hand(model, tokenizer, text, max_length=64):
    """One text alone, as the definition says."""
    ids = tokenizer.encode_batch([text])[0]
    if len(ids) > max_length:
        ids = np.concatenate([ids[: max_length - 1], ids[-1:]])
    tokens = torch.from_numpy(ids.astype(np.int64))
    model.eval()
    with torch.no_grad():
        return model.encoder(tokens, torch.tensor([0, len(ids)])).float().numpy()


def test_each_vector_is_the_mean_of_its_own_tokens(model, tokenizer):
    vectors = embed(model, tokenizer, TEXTS, dtype="float32")
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), 32)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert vector == pytest.approx(by_hand(model, tokenizer, text).mean(0), abs=1e-5)


def test_cls_is_the_first_token(model, tokenizer):
    vectors = embed(model, tokenizer, TEXTS, pooling="cls", dtype="float32")
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert vector == pytest.approx(by_hand(model, tokenizer, text)[0], abs=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 20, 100_000])
@pytest.mark.parametrize("together", [2, 1000])
def test_neither_batches_nor_order_change_a_vector(model, tokenizer, max_tokens, together, monkeypatch):
    monkeypatch.setattr(engine, "_TEXTS", together)
    expected = embed(model, tokenizer, TEXTS, dtype="float32")
    found = embed(model, tokenizer, TEXTS[::-1], max_tokens=max_tokens, dtype="float32")[::-1]
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_long_text_is_cut_and_still_closed(model, tokenizer):
    whole = tokenizer.encode_batch(TEXTS[3:4])[0]
    cut = fit(whole, tokenizer, 10)
    assert cut.tolist() == [*whole[:9].tolist(), tokenizer.eos_id]
    vector = embed(model, tokenizer, TEXTS[3:4], max_length=10, dtype="float32")[0]
    assert vector == pytest.approx(by_hand(model, tokenizer, TEXTS[3], 10).mean(0), abs=1e-5)


def test_batches_hold_every_text_once_and_at_most_max_tokens(tokenizer):
    ids = TextTokenizer(tokenizer=tokenizer, max_length=64).ids(TEXTS)
    batches = list(by_length([len(one) for one in ids], 70))
    assert sorted(number for numbers in batches for number in numbers) == list(range(len(TEXTS)))
    assert [len(numbers) for numbers in batches] == [1, 5]


def test_packed_documents_lie_end_to_end():
    tokens, starts = pack([np.array([5, 6], np.int32), np.array([], np.int32), np.array([7], np.int32)])
    assert (tokens.tolist(), starts.tolist()) == ([5, 6, 7], [0, 2, 2, 3])
    assert tokens.dtype == starts.dtype == torch.int64


def test_a_text_without_a_single_token_stands_as_the_beginning_of_a_text(tokenizer):
    assert fit(np.empty(0, np.int32), tokenizer, 10).tolist() == [tokenizer.bos_id]


def test_bfloat16_stays_close_and_the_model_is_left_as_it_was(model, tokenizer):
    steps = []
    model.train()
    half = embed(
        model,
        tokenizer,
        TEXTS,
        dtype="bfloat16",
        on_progress=lambda done, total, what: steps.append((done, total, what)),
    )
    assert model.training
    model.eval()
    exact = embed(model, tokenizer, TEXTS, dtype="float32")
    lengths = np.linalg.norm(half, axis=1) * np.linalg.norm(exact, axis=1)
    assert (half * exact).sum(1) == pytest.approx(lengths, rel=1e-2)
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)
    assert steps[-1] == (len(TEXTS), len(TEXTS), "embedding")
    assert embed(model, tokenizer, []).shape == (0, 32)


def test_what_cannot_be_embedded_is_said(model, tokenizer):
    with pytest.raises(ValueError, match="max_length is 2; special tokens alone take 2"):
        embed(model, tokenizer, TEXTS, max_length=2)
    smaller = model.config.model_copy(update={"vocab_size": 100})
    with pytest.raises(ValueError, match=r"the tokenizer has .* tokens, the model only 100"):
        embed(MaskedLM(smaller, attention="auto"), tokenizer, TEXTS)
