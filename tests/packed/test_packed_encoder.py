"""Packed weights give the answers of the encoder they come from."""

import copy
from typing import Any

import pytest
import torch

from tessera.model.encoder import PartialEmbedding
from tessera.model.mlm import MaskedLM, initialize
from tessera.packed.encoder import PackedEncoder, packed
from tessera.packed.products import can_pack

pytestmark = pytest.mark.skipif(not can_pack(), reason="this PyTorch is built without oneDNN")
in_bfloat16 = pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this processor has no AVX512")


@pytest.fixture(params=["mmbert", "eurobert"])
def model(request: pytest.FixtureRequest, tiny: Any) -> MaskedLM:
    model = MaskedLM(tiny(request.param, initializer_range=0.1))
    initialize(model, torch.Generator().manual_seed(0))
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.data.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("lengths", [[1], [30, 4, 25], [3] * 20, [200, 7, 0, 90]])
def test_packed_weights_agree_with_their_encoder(model: MaskedLM, documents: Any, lengths: list[int]) -> None:
    tokens, starts = documents(lengths)
    found = PackedEncoder(model.encoder, torch.float32)(tokens, starts)
    torch.testing.assert_close(found, model.encoder(tokens, starts), rtol=1e-4, atol=1e-4)
    assert not found.requires_grad


@in_bfloat16
def test_bfloat16_points_the_same_way(model: MaskedLM, documents: Any) -> None:
    tokens, starts = documents([30, 4, 100])
    rough = PackedEncoder(model.encoder, torch.bfloat16)(tokens, starts)
    assert rough.dtype == torch.bfloat16
    cosines = torch.nn.functional.cosine_similarity(rough.float(), model.encoder(tokens, starts))
    assert cosines.min() > 0.995


def test_what_happens_to_the_weights_later_is_not_seen(model: MaskedLM, documents: Any) -> None:
    batch = documents([9])
    still = PackedEncoder(model.encoder, torch.float32)
    before = still(*batch)
    with torch.no_grad():
        model.encoder.layers[0].mlp.down.weight.zero_()
    assert torch.equal(still(*batch), before)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=in_bfloat16)])
def test_no_tokens_give_no_states(model: MaskedLM, dtype: torch.dtype) -> None:
    found = PackedEncoder(model.encoder, dtype)(torch.zeros(0, dtype=torch.int64), torch.tensor([0]))
    assert found.shape == (0, model.config.hidden_size)


def test_a_processor_without_such_products_packs_nothing_in_bfloat16(
    model: MaskedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tessera.packed.encoder.can_pack", lambda dtype: dtype is torch.float32)
    assert packed(model.encoder, torch.bfloat16) is model.encoder  # to be run under autocast
    assert isinstance(packed(model.encoder, torch.float32), PackedEncoder)
    with pytest.raises(ValueError, match=r"packed in bfloat16 .* take float32"):
        PackedEncoder(model.encoder, torch.bfloat16)


def test_only_what_is_on_a_cpu_is_packed(tiny: Any) -> None:
    with torch.device("meta"):
        elsewhere = MaskedLM(tiny("mmbert"))
    with pytest.raises(ValueError, match="oneDNN has such products; this encoder is on meta"):
        PackedEncoder(elsewhere.encoder, torch.float32)


def test_an_encoder_in_training_is_packed_as_it_is_now(model: MaskedLM) -> None:
    tokens, starts = torch.tensor([5, 9, 7, 5]), torch.tensor([0, 4])
    plain = model.encoder(tokens, starts)
    rows = PartialEmbedding(
        model.encoder.embedding.weight, torch.tensor([5, 9])
    )  # 7 is not among those that are trained
    encoder = copy.deepcopy(model.encoder).eval()
    encoder.embedding = rows.eval()
    assert torch.allclose(packed(encoder, torch.float32)(tokens, starts), plain, atol=1e-5)
    with torch.no_grad():
        rows.weight[:, 0] += 3
    moved = encoder(tokens, starts)
    assert not torch.allclose(moved, plain, atol=1e-2)
    assert torch.allclose(packed(encoder, torch.float32)(tokens, starts), moved, atol=1e-5)


def test_what_is_no_encoder_of_ours_stays_what_it_is() -> None:
    other = torch.nn.Linear(2, 2)
    assert packed(other, torch.float32) is other
