"""A whole new vocabulary takes the rows that it has in common with the old one, and special tokens by role."""

import json

import families
import pytest
import torch

from tessera.huggingface import hub
from tessera.inference.encoder import Encoder
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary.entries import Entries, said
from tessera.vocabulary.replace import matched, replace
from tessera.vocabulary.texts import Texts

pytest.importorskip("django")
pytest.importorskip("polib")


def text() -> Texts:
    found = {language: families.texts()[language] for language in families.KEPT}
    return Texts({k: v[20:] for k, v in found.items()}, {k: v[:20] for k, v in found.items()})


def entries(family, place):
    return Entries.of(Tokenizer.load(families.write_tokenizer(family, place / family)))


@pytest.mark.parametrize("old", families.FAMILIES)
@pytest.mark.parametrize("new", ["gpt2", "gemma", "xlmr", "bert"])
def test_entries_of_the_same_text_share_a_row_whatever_the_families(tmp_path, old, new):
    a, b = entries(old, tmp_path / "a"), entries(new, tmp_path / "b")
    rows = matched(a, b)
    names = {i: token for token, i in b.model.items()}
    before = {i: token for token, i in a.model.items()}
    copied = [i for i in names if rows.source[i] >= 0 and i not in b.added.values()]
    assert len(copied) > 250
    assert all(said(b, names[i]) == said(a, before[rows.source[i]]) for i in copied)
    for role in ("mask_id", "bos_id", "eos_id"):
        assert rows.source[getattr(b.tokenizer, role)] == getattr(a.tokenizer, role)
    assert {i for i in range(b.tokenizer.vocab_size) if rows.source[i] < 0} == set(rows.mixed)
    assert all(weights.sum() == pytest.approx(1) for _, weights in rows.mixed.values())


@pytest.mark.parametrize(
    ("make", "new"),
    [
        (lambda place: families.write_ours(place, "gpt2", "mmbert"), "xlmr"),
        (lambda place: families.write_ours(place, "llama3", "eurobert"), "gemma"),
        (lambda place: families.write_theirs(place, "bert", "BertForMaskedLM"), "qwen"),
    ],
)
def test_a_replaced_folder_loads_and_encodes(tmp_path, make, new):
    import transformers

    old = make(tmp_path / "old")
    done = replace(old, families.write_tokenizer(new, tmp_path / "tokenizer"), tmp_path / "new", text())
    tokenizer = Tokenizer.load(tmp_path / "new")
    assert done.rows[1] == tokenizer.vocab_size
    assert 0 < done.copied < done.rows[1]
    assert Encoder.from_pretrained(tmp_path / "new").encode(["Haus", "дом"]).shape[0] == 2
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "new")
    assert getattr(theirs.config, "mask_token_id", tokenizer.mask_id) == tokenizer.mask_id
    rows = torch.tensor(json.loads((tmp_path / "new" / "vocabulary.json").read_text())["rows"])
    kept = (rows >= 0).nonzero()[:, 0]
    whole = hub.load_any(old)
    embedding = whole.encoder.embedding if hasattr(whole.encoder, "embedding") else whole.model.get_input_embeddings()
    assert torch.equal(theirs.get_input_embeddings().weight[kept], embedding.weight[rows[kept]])


def test_a_model_that_counts_positions_from_padding_refuses_another_id_of_padding(tmp_path):
    old = families.write_theirs(tmp_path / "old", "xlmr", "XLMRobertaForMaskedLM")
    with pytest.raises(ValueError, match=r"padding has id 0, but .* counts positions from that of padding, 1"):
        replace(old, families.write_tokenizer("bert", tmp_path / "tokenizer"), tmp_path / "new", text())
    assert not (tmp_path / "new").exists()
