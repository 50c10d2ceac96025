"""BERT, ELECTRA, RoBERTa and XLM-R on packed sequences give what transformers gives on padded ones."""

from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import cosine_similarity

from tessera.huggingface.transformers_folder import describe
from tessera.huggingface.transformers_model import TransformersEncoder
from tessera.model.encoder import PartialEmbedding
from tessera.packed.bert import PackedBert
from tessera.packed.encoder import packed
from tessera.packed.products import can_pack

pytestmark = pytest.mark.skipif(not can_pack(), reason="this PyTorch is built without oneDNN")

SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36,
    "max_position_embeddings": 40, "initializer_range": 0.3,
}  # fmt: skip
FAMILIES = {"bert": "BertConfig", "electra": "ElectraConfig", "roberta": "RobertaConfig", "xlm-r": "XLMRobertaConfig"}
NARROW = {"ElectraConfig": {"embedding_size": 10}}  # a factorized embedding; it has no pooler to leave out


def wrapped(kind: str, **more: Any) -> TransformersEncoder:
    """With random weights, biases and norms too."""
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**SHAPE, **NARROW.get(kind, {}), **more)
    model = transformers.AutoModel.from_config(config, **({} if kind in NARROW else {"add_pooling_layer": False}))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.2 * torch.randn_like(weight)
    return TransformersEncoder(model.eval(), describe(model))


@pytest.fixture(params=FAMILIES)
def theirs(request: pytest.FixtureRequest) -> TransformersEncoder:
    return wrapped(FAMILIES[request.param])


@pytest.mark.parametrize("lengths", [[1], [38, 4, 0, 17, 17], [3] * 20])
@torch.no_grad()
def test_hidden_states_are_those_of_transformers(
    theirs: TransformersEncoder, documents: Any, lengths: list[int]
) -> None:
    ours, batch = packed(theirs, torch.float32), documents(lengths)
    assert isinstance(ours, PackedBert)
    exact = theirs(*batch)
    torch.testing.assert_close(ours(*batch), exact, rtol=1e-4, atol=1e-4)
    if can_pack(torch.bfloat16):
        rough = packed(theirs, torch.bfloat16)(*batch)
        assert rough.dtype == torch.bfloat16
        assert cosine_similarity(rough.float(), exact).min() > 0.99


def test_a_processor_without_such_products_packs_nothing_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.packed.encoder.can_pack", lambda dtype: dtype is torch.float32)
    theirs = wrapped("BertConfig")
    assert packed(theirs, torch.bfloat16) is theirs


@torch.no_grad()
def test_segments_are_looked_at(documents: Any) -> None:
    theirs = wrapped("BertConfig")
    tokens, starts = documents([9, 12])
    segments = torch.arange(len(tokens)) % 2
    ours = packed(theirs, torch.float32)
    torch.testing.assert_close(ours(tokens, starts, segments), theirs(tokens, starts, segments), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours(tokens, starts, segments), ours(tokens, starts), atol=1e-2)


def test_errors_are_those_of_the_model_that_is_wrapped(theirs: TransformersEncoder, documents: Any) -> None:
    ours = packed(theirs, torch.float32)
    with pytest.raises(ValueError, match=r"document 0 has 41 tokens; [\w-]+ has positions for \d+: cut it"):
        ours(*documents([41]))
    with pytest.raises(ValueError, match="starts must rise from 0"):
        ours(torch.tensor([5, 6]), torch.tensor([0, 1]))


def test_another_activation_stays_with_transformers() -> None:
    other = wrapped("BertConfig", hidden_act="relu")
    assert packed(other, torch.float32) is other


def test_what_computes_otherwise_than_it_looks_is_found_out(theirs: TransformersEncoder) -> None:
    layer = theirs.model.encoder.layer[0].output
    layer.register_forward_hook(lambda module, given, found: 1.5 * found)
    assert packed(theirs, torch.float32) is theirs


@torch.no_grad()
def test_an_embedding_that_is_trained_in_some_of_its_rows_is_packed_whole(
    theirs: TransformersEncoder, documents: Any
) -> None:
    batch, table = documents([9, 12]), theirs.model.get_input_embeddings()
    due = theirs(*batch)
    theirs.model.set_input_embeddings(PartialEmbedding(table.weight, torch.tensor([3, 50, 7])).eval())
    ours = packed(theirs, torch.float32)
    assert isinstance(ours, PackedBert)
    torch.testing.assert_close(ours(*batch), due, rtol=1e-4, atol=1e-4)
