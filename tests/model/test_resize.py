"""Weights of another size, worked out by hand, and a larger model that computes what the smaller one did."""

import pytest
import torch

from tessera.model.mlm import MaskedLM, initialize
from tessera.model.resize import _heads, _layers, places, resize
from tessera.plan.architecture import PRESETS, EncoderConfig


def config(preset: str = "mmbert-small", **more: object) -> EncoderConfig:
    fields = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 4, "attention_output_dropout": 0.0,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3,
    }  # fmt: skip
    return EncoderConfig.model_validate({**PRESETS[preset].model_dump(), **fields, **more})


def model(settings: EncoderConfig) -> MaskedLM:
    drawn = MaskedLM(settings, "reference")
    initialize(drawn, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in drawn.parameters():
            if weight.ndim == 1:
                weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    return drawn


def test_places_are_evenly_spaced_or_wrapped_around_the_centre():
    assert places(6, 3, "strided").index.tolist() == [0, 2, 4]
    assert places(5, 3, "strided").index.tolist() == [0, 1, 3]
    tiled = places(3, 7, "tile")
    assert tiled.index.tolist() == [1, 2, 0, 1, 2, 0, 1]
    assert tiled.times.tolist() == [3, 2, 2, 3, 2, 2, 3]
    for how in ("strided", "tile"):
        assert places(4, 4, how).index.tolist() == [0, 1, 2, 3]


def test_heads_stay_whole_and_queries_stay_with_their_keys():
    # 4 query heads in 2 groups, width 4: rows 0-15 are queries, 16-23 keys, 24-31 values
    old = config("eurobert-210m", num_key_value_heads=2)
    new = config("eurobert-210m", num_attention_heads=2, num_key_value_heads=1, hidden_size=8)
    mixed, rows = _heads(old, new, "strided")
    assert mixed.index.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert rows.tolist() == [*range(8), *range(16, 20), *range(24, 28)]
    new = config("eurobert-210m", num_attention_heads=2, num_key_value_heads=2, hidden_size=8)
    mixed, rows = _heads(old, new, "strided")  # of each group, the first of its two queries
    assert mixed.index.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert rows.tolist() == [0, 1, 2, 3, 8, 9, 10, 11, *range(16, 32)]


def test_layers_are_evenly_spaced_and_see_as_far_as_those_they_come_from():
    def chosen(old: int, new: int, how: str, every: int = 3) -> list[int]:
        window = {"global_attn_every_n_layers": every, "local_attention": None if every == 1 else 8}
        theta = {"local_rope_theta": 1e4, "global_rope_theta": 1e4}
        return _layers(*(config(num_hidden_layers=n, **window, **theta) for n in (old, new)), how)

    assert chosen(12, 6, "strided", every=1) == [0, 2, 4, 6, 8, 10]
    assert chosen(12, 6, "strided") == [0, 2, 4, 6, 8, 10]  # global are 0, 3, 6, 9: new 3 comes from old 6
    assert chosen(6, 6, "strided") == [0, 1, 2, 3, 4, 5]
    assert chosen(4, 6, "tile", every=1) == [0, 1, 1, 2, 3, 3]
    for old, new in ((22, 28), (7, 28), (22, 10)):
        for layer, source in enumerate(chosen(old, new, "tile" if new > old else "strided")):
            assert (layer % 3 == 0) == (source % 3 == 0)


def test_strided_values_are_those_of_the_larger_model():
    large = model(config(hidden_size=32, num_attention_heads=8, num_key_value_heads=8, intermediate_size=24))
    small = resize(large, config(), "strided")
    theirs, ours = large.state_dict(), small.state_dict()
    name = "encoder.layers.1.mlp.down.weight"
    assert torch.equal(ours[name], theirs[name][0::2, 0::2])
    name = "encoder.layers.1.mlp.gate_up.weight"
    assert torch.equal(ours[name], torch.cat((theirs[name][0:24:2, 0::2], theirs[name][24:48:2, 0::2])))
    assert torch.equal(ours["encoder.embedding.weight"], theirs["encoder.embedding.weight"][:, 0::2])
    assert torch.equal(ours["encoder.norm.weight"], theirs["encoder.norm.weight"][0::2])
    qkv = theirs["encoder.layers.2.attention.qkv.weight"].unflatten(0, (3, 8, 4))[:, 0::2, :, 0::2]
    assert torch.equal(ours["encoder.layers.2.attention.qkv.weight"], qkv.flatten(0, 2))
    assert torch.equal(ours["decoder_bias"], theirs["decoder_bias"])


@pytest.mark.parametrize("preset", ["mmbert-small", "eurobert-210m"])
def test_a_model_tiled_to_twice_its_widths_computes_the_same(preset):
    groups = {"num_key_value_heads": 2} if preset == "eurobert-210m" else {}
    small = model(config(preset, **groups))
    doubled = {name: 2 * count for name, count in groups.items()} or {"num_key_value_heads": 8}
    large = resize(
        small, config(preset, hidden_size=32, num_attention_heads=8, intermediate_size=24, **doubled), "tile"
    )
    tokens, starts = torch.randint(4, 50, (30,), generator=torch.Generator().manual_seed(2)), torch.tensor([0, 11, 30])
    with torch.no_grad():
        torch.testing.assert_close(large(tokens, starts), small(tokens, starts), rtol=1e-4, atol=1e-5)


def test_more_layers_of_one_width_and_odd_sizes_can_be_made_too():
    small = model(config())
    large = resize(small, config(hidden_size=24, num_attention_heads=6, num_key_value_heads=6, num_hidden_layers=5,
                                 intermediate_size=17), "tile")  # fmt: skip
    assert large.config.num_hidden_layers == 5
    tokens, starts = torch.arange(4, 24), torch.tensor([0, 20])
    assert large(tokens, starts).isfinite().all()
    assert resize(large, small.config, "strided").config == small.config


def test_the_same_size_is_the_same_model():
    small = model(config())
    for how in ("strided", "tile"):
        for name, weight in resize(small, config(), how).state_dict().items():
            assert torch.equal(weight, small.state_dict()[name]), name


def test_what_does_not_fit_is_refused_with_the_field():
    small = model(config())
    with pytest.raises(ValueError, match="num_hidden_layers goes from 3 to 5, but 'strided' makes a model smaller"):
        resize(small, config(num_hidden_layers=5), "strided")
    with pytest.raises(ValueError, match="intermediate_size goes from 12 to 8, but 'tile' makes a model larger"):
        resize(small, config(intermediate_size=8), "tile")
    with pytest.raises(ValueError, match="vocab_size is 50 in the model to start from and 60 in the one to make"):
        resize(small, config(vocab_size=60), "tile")
    with pytest.raises(ValueError, match=r"head_dim is 4 .* and 8 "):
        resize(small, config(head_dim=8, num_attention_heads=2, num_key_value_heads=2), "strided")
