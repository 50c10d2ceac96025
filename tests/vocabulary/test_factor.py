"""BERT with a factorized embedding is ELECTRA: the same where the rank is enough, near where it nearly is."""

import json

import families
import numpy as np
import pytest
import torch

from tessera.huggingface import hub
from tessera.inference.encoder import Encoder
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary.factor import factor
from tessera.vocabulary.texts import Texts

pytest.importorskip("django")
pytest.importorskip("polib")

TEXTS = Texts({"mul_Latn": ["Haus und Hof", "дом и двор", "a house"]}, {"mul_Latn": ["Haus"]})


def bert(place, rank=None, **more):
    """A folder of sentence-transformers around a BERT whose tables, when their means are taken away, have this rank."""
    import transformers

    torch.manual_seed(1)
    families.write_tokenizer("bert", place / "bare")
    tokenizer = Tokenizer.load(place / "bare")
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=32, pad_token_id=tokenizer.pad_id, initializer_range=0.3, **more,
    )  # fmt: skip
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        base = torch.randn(rank or 32, 32)
        for table in (part for part in model.embeddings.children() if isinstance(part, torch.nn.Embedding)):
            if rank:
                table.weight.copy_(torch.randn(len(table.weight), rank) @ base + torch.randn(len(table.weight), 1))
        model.embeddings.LayerNorm.weight.uniform_(0.5, 2)
        model.embeddings.LayerNorm.bias.normal_()
    model.save_pretrained(place / "bare")
    Encoder.from_pretrained(place / "bare").save(place / "vectors", pooling="mean", normalize=True)
    return place / "vectors"


def test_where_the_rank_is_enough_vectors_are_what_they_were_in_every_library(tmp_path):
    from sentence_transformers import SentenceTransformer

    whole = bert(tmp_path, rank=7)
    done = factor(whole, TEXTS, tmp_path / "narrow", 8)
    assert done.kept == pytest.approx(1, abs=1e-9)
    due = Encoder.from_pretrained(whole, dtype="float32").encode(TEXTS.used["mul_Latn"])
    ours = Encoder.from_pretrained(tmp_path / "narrow", dtype="float32").encode(TEXTS.used["mul_Latn"])
    theirs = SentenceTransformer(str(tmp_path / "narrow"), device="cpu").encode(TEXTS.used["mul_Latn"])
    np.testing.assert_allclose(ours, due, atol=2e-5)
    np.testing.assert_allclose(theirs, due, atol=2e-5)
    rows = len(hub.load_encoder(whole).model.get_input_embeddings().weight)
    assert done.parameters[0] - done.parameters[1] == (rows + 32 + 2 + 2) * (32 - 8) - 32 * 8 - 32
    assert json.loads((tmp_path / "narrow" / "config.json").read_text())["embedding_size"] == 8
    assert "rows of 8 numbers" in (tmp_path / "narrow" / "README.md").read_text()


def test_what_a_configuration_leaves_to_the_class_is_that_of_bert_and_not_that_of_electra(tmp_path):
    whole = bert(tmp_path, rank=7)
    place = whole / "config.json"
    said = json.loads(place.read_text())
    place.write_text(json.dumps({key: value for key, value in said.items() if key != "intermediate_size"}))
    factor(whole, TEXTS, tmp_path / "narrow", 8)
    assert json.loads((tmp_path / "narrow" / "config.json").read_text())["intermediate_size"] == 3072  # not 1024


def test_the_higher_the_rank_the_nearer_and_tokens_that_come_often_are_nearest(tmp_path):
    whole, often = bert(tmp_path), Texts({"deu_Latn": ["Haus und Hof "] * 2000}, {"deu_Latn": ["Hof"]})
    tables = {}
    for rank in (4, 16, 31):
        done = factor(whole, often, tmp_path / str(rank), rank)
        model = hub.load_encoder(tmp_path / str(rank)).model
        made = model.embeddings.word_embeddings.weight @ model.embeddings_project.weight.T
        tables[rank] = done.kept, made
    assert tables[4][0] < tables[16][0] < tables[31][0] < 1
    before = hub.load_encoder(whole).model.embeddings
    level = before.word_embeddings.weight - before.word_embeddings.weight.mean(1, keepdim=True)
    # What is written there is scaled by norms: 32 numbers in place of so many, and the scale of BERT's own.
    made = tables[16][1] / before.LayerNorm.weight / (32 / 16) ** 0.5
    lost = ((made - level).norm(dim=1) / level.norm(dim=1)).detach()
    there = torch.zeros(len(lost), dtype=torch.bool)
    there[np.concatenate(Tokenizer.load(whole).encode_plain(["Haus und Hof"]))] = True
    assert lost[there].mean() < 0.5 * lost[~there].nanmean()  # the row of padding is zero


@pytest.mark.parametrize("rank", [-1, 0, 1, 32, 400])
def test_a_rank_that_is_none_is_refused(tmp_path, rank):
    whole = bert(tmp_path)
    with pytest.raises(ValueError, match=f"rank is {rank}; give one from 2 on that is less than the hidden size, 32"):
        factor(whole, TEXTS, tmp_path / "narrow", rank)
    assert not (tmp_path / "narrow").exists()


def test_heads_and_other_architectures_are_refused_before_anything_is_written(tmp_path):
    masked = families.write_theirs(tmp_path / "masked", "bert", "BertForMaskedLM")
    with pytest.raises(ValueError, match=r"is of a head, which would not fit a factorized embedding"):
        factor(masked, TEXTS, tmp_path / "narrow", 8)
    ours = families.write_ours(tmp_path / "ours", "gpt2", "mmbert")
    with pytest.raises(ValueError, match="model_type is 'modernbert'; only BERT"):
        factor(ours, TEXTS, tmp_path / "narrow", 8)
    assert not (tmp_path / "narrow").exists()


def test_what_holds_the_old_embedding_is_left_out_and_named(tmp_path):
    whole = bert(tmp_path)
    (whole / "onnx").mkdir()
    (whole / "onnx" / "model.onnx").write_bytes(b"graph")
    (whole / "notes.txt").write_text("ours")
    done = factor(whole, TEXTS, tmp_path / "narrow", 8)
    assert done.left_out == ("onnx/model.onnx",)
    assert (tmp_path / "narrow" / "notes.txt").is_file()
