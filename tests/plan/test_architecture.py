"""Counts of both families against the papers, and what a configuration refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tessera.plan.architecture import PRESETS, EncoderConfig, flops_per_token, head_flops, parameters


def change(config: EncoderConfig, **fields: object) -> EncoderConfig:
    return EncoderConfig.model_validate({**config.model_dump(), **fields})


@pytest.mark.parametrize(
    ("preset", "advertised", "trained"),
    [
        ("eurobert-210m", 211.8, 310.3),
        ("eurobert-610m", 607.9, 755.6),
        ("eurobert-2.1b", 2107.6, 2403.1),
        ("mmbert-small", 140.5, 140.9),
        ("mmbert-base", 306.9, 307.8),
    ],
)
def test_presets_weigh_what_the_papers_say(preset: str, advertised: float, trained: float) -> None:
    counts = parameters(PRESETS[preset])
    assert round(counts["backbone"] / 1e6, 1) == advertised
    assert round(counts["total"] / 1e6, 1) == trained


def test_the_layers_of_mmbert_are_those_of_its_readme() -> None:
    assert round(parameters(PRESETS["mmbert-small"])["layers"] / 1e6, 1) == 42.2
    assert round(parameters(PRESETS["mmbert-base"])["layers"] / 1e6, 1) == 110.3


@pytest.mark.parametrize("preset", PRESETS)
def test_the_arithmetic_counts_what_is_built(preset: str) -> None:
    torch = pytest.importorskip("torch")
    heads = pytest.importorskip("tessera.model.mlm")
    with torch.device("meta"):
        model = heads.MaskedLM(PRESETS[preset], attention="reference")
    built = {name: p.numel() for name, p in model.named_parameters()}
    counts = parameters(PRESETS[preset])
    assert sum(built.values()) == counts["total"]
    assert sum(n for name, n in built.items() if name.startswith("encoder.")) == counts["backbone"]


def test_global_layers_are_every_third_and_windows_lie_half_on_either_side() -> None:
    config = PRESETS["mmbert-base"]
    drawn = "".join("G" if config.window(i) is None else "." for i in range(config.num_hidden_layers))
    assert drawn == "G..G..G..G..G..G..G..G"
    assert config.window(1) == 64
    assert all(PRESETS["eurobert-610m"].window(i) is None for i in range(26))


@given(length=st.integers(1, 60), half=st.integers(1, 40))
def test_a_window_costs_exactly_its_visible_pairs(length: int, half: int) -> None:
    config = change(
        PRESETS["mmbert-small"], num_hidden_layers=2, global_attn_every_n_layers=2, local_attention=2 * half
    )
    pairs = sum(abs(i - j) <= half for i in range(length) for j in range(length))
    whole = change(config, global_attn_every_n_layers=1, local_attention=None)
    saved = flops_per_token(whole, length) - flops_per_token(config, length)
    assert saved == pytest.approx(4 * 384 * (length * length - pairs) / length)


def test_the_flops_of_a_token_are_twice_its_matrices_and_the_attention() -> None:
    config = PRESETS["eurobert-210m"]
    matrices = 12 * (4 * 768 * 768 + 3 * 768 * 3072)
    assert flops_per_token(config, 2048) == 2 * matrices + 12 * 4 * 768 * 2048
    assert head_flops(config) == 2 * 768 * 128_256
    assert head_flops(PRESETS["mmbert-small"]) == 2 * 384 * (256_000 + 384)
    with pytest.raises(ValueError, match="length is 0"):
        flops_per_token(config, 0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"num_key_value_heads": 5}, r"multiple of num_key_value_heads \(5\)"),
        ({"hidden_size": 64}, r"num_attention_heads \(6\) x head_dim \(64\) is 384, hidden_size is 64"),
        ({"num_attention_heads": 128, "num_key_value_heads": 128, "head_dim": 3}, "even number"),
        ({"local_attention": 7}, "local_attention is 7"),
        ({"local_attention": None}, "above 1 it must be a window"),
        ({"global_attn_every_n_layers": 1}, "local_attention must be null"),
        (
            {"global_attn_every_n_layers": 1, "local_attention": None, "local_rope_theta": 160_000.0},
            r"local_rope_theta \(160000\) has no use",
        ),
        ({"vocab_size": 4}, "mask_token_id is 4, but vocab_size is only 4"),
        ({"norm": "batchnorm"}, "'layernorm' or 'rmsnorm'"),
        ({"norm_eps": 0.0}, "greater than 0"),
        ({"attention_output_dropout": 1.0}, "less than 1"),
        ({"hiden_size": 1}, "Extra inputs"),
    ],
)
def test_a_configuration_refuses_what_does_not_fit_together(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        change(PRESETS["mmbert-small"], **fields)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PRESETS["mmbert-small"].hidden_size = 1  # type: ignore[misc]
