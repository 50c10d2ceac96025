"""Int8 products give nearly the vectors of float32, also where a few channels are far larger than the others."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tessera.model.mlm import MaskedLM, initialize
from tessera.packed import int8
from tessera.packed.encoder import PackedEncoder
from tessera.packed.products import can_pack

pytestmark = pytest.mark.skipif(not (can_pack() and int8.can_int8()), reason="no int8 products here")


@pytest.fixture(params=["mmbert", "eurobert"])
def model(request: pytest.FixtureRequest, tiny: Any) -> MaskedLM:
    """With outliers as trained models have them: some channels 30 times as large, read by weights that are as small."""
    model = MaskedLM(tiny(request.param, initializer_range=0.1))
    initialize(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in model.encoder.layers:
            for norm, reader in ((layer.attention_norm, layer.attention.qkv), (layer.mlp_norm, layer.mlp.gate_up)):
                if hasattr(norm, "weight"):
                    norm.weight[::7] *= 30
                    reader.weight[:, ::7] /= 30
            layer.mlp.gate_up.weight[layer.mlp.down.in_features :: 9] *= 30  # of the half that is multiplied
            layer.mlp.down.weight[:, ::9] /= 30
    return model.eval()


def steps_of(model: MaskedLM, documents: Any) -> dict[str, torch.Tensor]:
    return int8.calibrate(model.encoder, [documents([40, 9, 90]), documents([200]), documents([1, 2, 3, 4] * 20)])[0]


@pytest.mark.parametrize("lengths", [[1], [30, 4, 25], [200, 7, 0, 90]])
def test_every_token_points_where_float32_points(model: MaskedLM, documents: Any, lengths: list[int]) -> None:
    batch = documents(lengths)
    rough = PackedEncoder(model.encoder, torch.float32, int8.int8_layer(steps_of(model, documents)))(*batch)
    cosines = cosine_similarity(rough, model.encoder(*batch))
    assert cosines.min() > 0.95  # of 48 numbers: a model of use has ten times as many to average errors over
    assert cosines.median() > 0.995


def test_without_steps_that_follow_the_channels_it_would_be_far_worse(model: MaskedLM, documents: Any) -> None:
    batch = documents([30, 4, 100])
    steps = steps_of(model, documents)
    exact = model.encoder(*batch)

    @torch.no_grad()
    def lowest(found: dict[str, torch.Tensor]) -> float:
        rough = PackedEncoder(model.encoder, torch.float32, int8.int8_layer(found))(*batch)
        return float(cosine_similarity(rough, exact).min())

    even = {name: torch.full_like(one, float(one.max())) for name, one in steps.items()}
    assert 1 - lowest(even) > 3 * (1 - lowest(steps))


def test_a_product_without_steps_stays_as_it_is(model: MaskedLM, documents: Any) -> None:
    batch = documents([30, 4, 25])
    plain = PackedEncoder(model.encoder, torch.float32)(*batch)
    assert torch.equal(PackedEncoder(model.encoder, torch.float32, int8.int8_layer({}))(*batch), plain)
    steps = steps_of(model, documents)
    for product in int8.PRODUCTS:
        some = {name: one for name, one in steps.items() if name.endswith(product)}
        found = PackedEncoder(model.encoder, torch.float32, int8.int8_layer(some))(*batch)
        assert not torch.equal(found, plain)
        assert cosine_similarity(found, plain).median() > 0.995


def test_numbers_beyond_those_of_calibration_are_cut_and_never_turned_round() -> None:
    numbers = torch.tensor([[1000.0, -1000.0, 3.4, -3.6, 0.0]])
    assert int8._unsigned(numbers).tolist() == [[255, 1, 131, 124, 128]]


def test_a_product_of_rounded_numbers_is_exact() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (5, 32), generator=random)
    weight = torch.randint(-127, 128, (16, 32), generator=random).float()
    weight[:, 0] = 127  # so that every scale is 1
    product = int8._Product.make(weight, torch.ones(32))
    assert torch.equal(product((x + 128).to(torch.uint8), torch.float32), x.float() @ weight.T)


def test_the_error_of_a_product_is_what_its_outputs_are_off_by(model: MaskedLM, documents: Any) -> None:
    _, errors = int8.calibrate(model.encoder, [documents([40, 9, 90])])
    assert set(errors) == {f"{n}.{name}" for n in range(len(model.encoder.layers)) for name in int8.PRODUCTS}
    assert all(0 < error < 0.1 for error in errors.values())
