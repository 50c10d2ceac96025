"""Costs by hand, and the memory of activations against what torch really keeps."""

import pytest
import torch

from tessera.model import attention
from tessera.model.mlm import MaskedLM
from tessera.plan import cost
from tessera.plan.architecture import PRESETS, EncoderConfig, flops_per_token, head_flops, parameters
from tessera.plan.phase import Phase


def phase(**more: object) -> Phase:
    return Phase.model_validate(
        {
            "name": "p", "from": "scratch", "tokens": "1B", "context": 1024, "batch_tokens": "4M", "mask_ratio": 0.3,
            "learning_rate": {"peak": 1.0}, **more,
        }
    )  # fmt: skip


def test_a_phase_costs_three_forward_passes_and_the_head_at_its_masks():
    config = PRESETS["eurobert-210m"]
    each = flops_per_token(config, 700) + 0.3 * head_flops(config)
    assert cost.phase_flops(config, phase(), 700.2) == pytest.approx(3 * each * 1e9)
    moving = phase(mask_ratio={"from": 0.5, "to": 0.1, "shape": "cosine"})
    assert cost.phase_flops(config, moving, 700) == pytest.approx(cost.phase_flops(config, phase(), 700))


def test_a_phase_of_sentence_embeddings_predicts_no_token_and_a_contrast_goes_forward_twice():
    config, plain = PRESETS["eurobert-210m"], {"name": "p", "from": "other", "tokens": "1B", "context": 256}
    how = {"batch_tokens": "1M", "learning_rate": {"peak": 1e-4}}
    contrast, distil = ({"contrast": {"temperature": 0.1}}, {"distil": {"teacher": "./teacher"}})
    each = flops_per_token(config, 20) * 1e9
    for objective, passes in ((distil, 3), (contrast, 4)):
        found = cost.phase_flops(config, Phase.model_validate({**plain, **how, **objective}), 20)
        assert found == pytest.approx(passes * each)


def test_hours_are_flops_over_peak_and_mfu():
    assert cost.gpu_hours(989e12 * 3600, "h100", 0.5) == pytest.approx(2)
    with pytest.raises(ValueError, match="'h10' is not in the table; did you mean 'h100'"):
        cost.gpu_hours(1, "h10", 0.4)
    with pytest.raises(ValueError, match="40 is no share of a GPU's peak"):
        cost.gpu_hours(1, "h100", 40)


def test_mmbert_small_took_the_published_days_at_a_believable_mfu():
    """About 10 days on 8 H100 for 3T tokens: the arithmetic must give a share of the peak between 10 and 60%."""
    config = PRESETS["mmbert-small"]
    flops = cost.phase_flops(config, phase(tokens="2.3T"), 1024)
    flops += cost.phase_flops(config, phase(tokens="600B", mask_ratio=0.15, context=8192), 8192)
    flops += cost.phase_flops(config, phase(tokens="100B", mask_ratio=0.05, context=8192), 8192)
    days_at_once = cost.gpu_hours(flops, "h100", 1.0) / 8 / 24
    assert 0.1 < days_at_once / 10 < 0.6


def test_weights_gradients_and_moments_are_four_floats_a_parameter():
    config = PRESETS["mmbert-base"]
    total = parameters(config)["total"]
    alone, many = (cost.memory(config, phase(), 16_384, gpus) for gpus in (1, 8))
    assert (alone["weights"], alone["gradients"], alone["moments"]) == (4 * total, 4 * total, 8 * total)
    assert many["gradients"] == 4 * total
    assert alone["logits"] == 4 * 256_000 * 4096
    assert cost.memory(config, phase(), 1_000, 1)["logits"] == pytest.approx(4 * 256_000 * 0.3 * 1024)


def test_a_pass_holds_at_least_a_document_and_an_even_part_of_a_step():
    config = PRESETS["mmbert-base"]
    each = cost.memory(config, phase(batch_tokens=1024), 1024, 1)["activations"] / 1024

    def tokens(batch_tokens: int, at_once: int, gpus: int = 1) -> float:
        return cost.memory(config, phase(batch_tokens=batch_tokens), at_once, gpus)["activations"] / each

    assert tokens(131_072, 10) == pytest.approx(1024)
    assert tokens(4096, 10**6, gpus=2) == pytest.approx(2048)
    assert tokens(131_072, 65_536) == pytest.approx(65_536)
    assert tokens(131_072, 60_000) == pytest.approx(43_691)  # three passes
    assert tokens(131_072, 64_600) == pytest.approx(65_536)  # two: a pass may be a 64th longer than it is meant to be


def test_local_layers_keep_less_where_windows_have_kernels_of_their_own():
    config = PRESETS["mmbert-base"]  # 14 of 22 layers, 12 heads of 64 as wide as the layer
    step = phase(batch_tokens=16_384)
    there, own = (cost.memory(config, step, 16_384, 1, own_windows=own)["activations"] for own in (False, True))
    assert there - own == 16_384 * 14 * (2 * 768 + 2 * 768)


def test_no_gpu_is_listed_with_its_sparse_figure():
    assert all(1e14 < gpu.flops < 2.5e15 and 2e10 < gpu.memory < 2e11 for gpu in cost.GPUS.values())
    assert cost.GPUS["h100"].flops == cost.GPUS["h200"].flops


def kept_by_torch(config: EncoderConfig, tokens: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that one forward pass of the layers keeps for the way back, weights and their copies aside."""

    def flash(q, k, v, layout, window):
        heads = (x.transpose(0, 1)[None] for x in (q, k, v))
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads, enable_gqa=q.shape[1] != k.shape[1])
        return mixed[0].transpose(0, 1)

    monkeypatch.setattr(attention, "_reference", flash)
    model = MaskedLM(config, attention="reference").train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    shapes = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape[::-1]) for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        place = x.untyped_storage()
        if place.data_ptr() not in own and tuple(x.shape) not in shapes:
            kept[place.data_ptr()] = place
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", torch.bfloat16):
        hidden = model.encoder(torch.arange(tokens) % config.vocab_size, torch.tensor([0, tokens]))
    assert hidden.requires_grad
    return sum(place.nbytes() for place in kept.values())


@pytest.mark.parametrize("preset", ["mmbert-base", "eurobert-610m"])
def test_activations_are_what_torch_keeps(preset, monkeypatch):
    """A small model of each family under bfloat16 products, one document, attention that keeps no scores.

    Both with LayerNorm: on CPUs, torch writes RMSNorm out and keeps a copy more than its GPU kernel does.
    """
    shape = {"vocab_size": 50, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 4,
             "num_attention_heads": 6, "num_key_value_heads": 2 if preset == "eurobert-610m" else 6, "head_dim": 16,
             "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3,
             "norm": "layernorm"}  # fmt: skip
    if preset == "mmbert-base":
        shape |= {"local_attention": None, "global_attn_every_n_layers": 1}
    config = EncoderConfig.model_validate({**PRESETS[preset].model_dump(), **shape})
    said = cost.memory(config, phase(context=512, batch_tokens=512), 512, 1)["activations"]
    kept = kept_by_torch(config, 512, monkeypatch)
    print(f"{preset}: activations by formula {said:,.0f} bytes, kept by torch {kept:,}")
    assert said == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize(
    ("driver", "row", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", "h100", 989e12),
        ("NVIDIA H200", "h200", 989e12),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb", 312e12),
        ("NVIDIA A100-SXM4-80GB", "a100", 312e12),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb", 312e12),
        ("NVIDIA A10", "a10", 125e12),
        ("NVIDIA L40S", "l40s", 362e12),
        ("NVIDIA GeForce RTX 4090", "rtx4090", 165e12),
        ("AMD Instinct MI300X", "mi300x", 1307e12),
        ("AMD Instinct MI250X", "mi250x", 383e12 / 2),  # torch sees each die
    ],
)
def test_a_gpu_is_found_by_the_name_that_its_driver_gives_it(driver, row, flops):
    assert cost.data_sheet(driver) == (row, flops)


@pytest.mark.parametrize(
    "driver",
    ["NVIDIA A10G", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA T4",
     "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "AMD Instinct MI250X / MI250", ""],
)  # fmt: skip
def test_kin_with_other_figures_are_not_taken_for_it(driver):
    assert cost.data_sheet(driver) is None


def test_a_step_costs_its_documents_and_its_masks_three_times():
    config = PRESETS["mmbert-base"]
    said = cost.step_flops(config, {700: 2, 13: 1}, 420)
    by_hand = 2 * 700 * flops_per_token(config, 700) + 13 * flops_per_token(config, 13) + 420 * head_flops(config)
    assert said == 3 * by_hand
    assert cost.step_flops(config, {}, 0) == 0
