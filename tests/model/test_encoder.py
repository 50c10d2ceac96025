"""Parity with transformers, layer by layer, forward and backward; documents apart; one backend like another."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tessera.huggingface import hub
from tessera.model.encoder import Encoder
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import EncoderConfig

transformers = pytest.importorskip("transformers")

MODELS = {
    "mmbert": ("mmbert", {}),
    "mmbert, window 16, thetas that differ": ("mmbert", {"local_attention": 16, "local_rope_theta": 77.0}),
    "mmbert, every second layer global": ("mmbert", {"global_attn_every_n_layers": 2, "global_rope_theta": 160_000.0}),
    "mmbert, all global": ("mmbert", {"global_attn_every_n_layers": 1, "local_attention": None}),
    "mmbert, one layer": ("mmbert", {"num_hidden_layers": 1}),
    "mmbert, untied": ("mmbert", {"tie_word_embeddings": False}),
    "mmbert, silu, no decoder bias": ("mmbert", {"hidden_act": "silu", "decoder_bias": False}),
    "eurobert, 3 queries a key": ("eurobert", {}),
    "eurobert, one key": ("eurobert", {"num_key_value_heads": 1}),
    "eurobert, as many keys": ("eurobert", {"num_key_value_heads": 6, "norm_eps": 1e-3}),
    "eurobert, tied, new thetas": (
        "eurobert",
        {"tie_word_embeddings": True, "global_rope_theta": 250_000.0, "local_rope_theta": 250_000.0},
    ),
    "eurobert, one layer, gelu": ("eurobert", {"num_hidden_layers": 1, "hidden_act": "gelu"}),
}


@pytest.fixture(params=MODELS)
def pair(request: pytest.FixtureRequest, tiny: Callable[..., EncoderConfig], tmp_path: Any) -> tuple[MaskedLM, Any]:
    """One of our models with weights of some size, and the same in transformers."""
    family, fields = MODELS[request.param]
    ours = MaskedLM(tiny(family, initializer_range=0.3, attention_output_dropout=0.0, **fields))
    initialize(ours, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for weight in ours.parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
    hub.save(ours, tmp_path / "model")
    theirs, report = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "model", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return ours.eval(), theirs.eval()


def states(model: torch.nn.Module, layers: torch.nn.ModuleList, last: torch.nn.Module) -> list[torch.Tensor]:
    """A list that fills, at the next call, with what each layer and the last norm give."""
    found: list[torch.Tensor] = []
    for module in (*layers, last):
        module.register_forward_hook(lambda _m, _i, out: found.append(out[0] if isinstance(out, tuple) else out))
    return found


def test_logits_hidden_states_and_gradients_are_those_of_transformers(
    pair: tuple[MaskedLM, Any], documents: Any
) -> None:
    ours, theirs = pair
    tokens, starts = documents([43])
    here = states(ours, ours.encoder.layers, ours.encoder.norm)
    last = theirs.model.norm if hasattr(theirs.model, "norm") else theirs.model.final_norm
    there = states(theirs, theirs.model.layers, last)
    logits, wanted = ours(tokens, starts), theirs(tokens[None]).logits[0]
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    assert len(here) == len(there) == ours.config.num_hidden_layers + 1
    for mine, other in zip(here, there, strict=True):
        torch.testing.assert_close(mine, other.reshape(mine.shape), rtol=1e-4, atol=1e-4)

    torch.nn.functional.cross_entropy(logits, tokens).backward()
    torch.nn.functional.cross_entropy(wanted, tokens).backward()
    ours_by_name = {name: weight.grad for name, weight in ours.named_parameters()}
    for name, weight in hub_like(theirs, ours).items():
        torch.testing.assert_close(ours_by_name[name], weight, rtol=1e-4, atol=1e-4)


def hub_like(theirs: Any, ours: MaskedLM) -> dict[str, torch.Tensor]:
    """Gradients of transformers under our names."""
    from tessera.huggingface.hf_names import NAMES, family
    from tessera.huggingface.hf_names import theirs as their_names

    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    names = NAMES[family(ours.config)]
    return {
        name: torch.cat([gradients[part] for part in their_names(name, names)]) for name, _ in ours.named_parameters()
    }


def test_packed_documents_answer_as_each_does_alone(pair: tuple[MaskedLM, Any], documents: Any) -> None:
    ours, theirs = pair
    lengths = [5, 1, 70, 22, 3, 22]
    tokens, starts = documents(lengths)
    packed = ours(tokens, starts).split(lengths)
    for document, logits in zip(tokens.split(lengths), packed, strict=True):
        torch.testing.assert_close(logits, theirs(document[None]).logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["mmbert", "eurobert"])
def test_backends_agree_through_a_whole_encoder(family: str, tiny: Any, documents: Any) -> None:
    config = tiny(family, attention_output_dropout=0.0)
    tokens, starts = documents([3, 300, 41, 1, 40, 39, 600, 2])
    reference, fast = Encoder(config, "reference"), Encoder(config, "cpu")
    fast.load_state_dict(reference.state_dict())
    hidden, wanted = fast(tokens, starts), reference(tokens, starts.int())
    torch.testing.assert_close(hidden, wanted, rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    weight = torch.randn_like(hidden)
    (hidden * weight).sum().backward()
    (wanted * weight).sum().backward()
    for mine, other in zip(fast.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-3)


def test_the_backend_is_fast_code_under_bfloat16_and_close_to_float32(tiny: Any, documents: Any) -> None:
    encoder = Encoder(tiny("mmbert")).eval()
    tokens, starts = documents([50, 300, 7])
    exact = encoder(tokens, starts)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(tokens, starts)
    assert torch.nn.functional.cosine_similarity(exact, rough.float()).min() > 0.99


def test_dropout_acts_in_training_only(tiny: Any, documents: Any) -> None:
    encoder = Encoder(tiny("mmbert", attention_output_dropout=0.5))
    batch = documents([20])
    torch.manual_seed(0)
    assert not torch.equal(encoder(*batch), encoder(*batch))
    encoder.eval()
    assert torch.equal(encoder(*batch), encoder(*batch))


def test_a_new_theta_changes_the_answer_and_the_configuration(tiny: Any, documents: Any) -> None:
    model = MaskedLM(tiny("mmbert")).eval()
    batch = documents([60])
    before, config = model(*batch), model.config
    model.encoder.set_rope_theta(160_000.0, 160_000.0)
    assert (model.config.global_rope_theta, model.config.local_rope_theta) == (160_000.0, 160_000.0)
    assert config.global_rope_theta == 10_000.0
    assert not torch.allclose(before, model(*batch), atol=1e-4)
    with pytest.raises(ValueError, match="local_rope_theta"):
        Encoder(tiny("eurobert")).set_rope_theta(250_000.0, 10_000.0)


def test_a_backend_that_cannot_run_here_is_refused(tiny: Any, documents: Any) -> None:
    with pytest.raises(ValueError, match="unknown backend"):
        Encoder(tiny("mmbert"), "flash")
    with pytest.raises(ValueError, match="needs a CUDA device"):
        Encoder(tiny("mmbert"), "varlen")(*documents([3]))


def test_an_empty_batch_gives_no_states(tiny: Any) -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert Encoder(tiny("mmbert"))(nothing, torch.tensor([0])).shape == (0, 48)
