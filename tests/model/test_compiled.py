"""Whole layers compiled as on a GPU: few graphs for any batch, the numbers of layers that are not compiled."""

import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tessera.kernels import window_attention
from tessera.model.attention import Layout
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.precision import autocast
from tessera.plan import cost
from tessera.plan.architecture import EncoderConfig

CPU = torch.device("cpu")
LONGEST = 300
BATCHES = [[5, 130, 64, 2, 300, 11], [300], [100] * 5, [40] * 12, [3]]

pytestmark = pytest.mark.usefixtures("varlen_on_cpu")


@pytest.fixture
def graphs() -> Iterator[Callable[[], int]]:
    """How many graphs have been compiled in this test."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def drawn(config: EncoderConfig) -> MaskedLM:
    model = MaskedLM(config)
    initialize(model, torch.Generator().manual_seed(0))
    return model


def wide(tiny: Callable[..., EncoderConfig], **fields: Any) -> EncoderConfig:
    """Of mmBERT's kinds of layers: the first without a norm, local ones with a kernel of their own, global ones."""
    heads = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    return tiny("mmbert", **{**heads, "num_hidden_layers": 4, "initializer_range": 0.1, **fields})


def compiled(model: MaskedLM, backend: str = "aot_eager") -> int:
    with autocast(CPU, torch.bfloat16):
        return model.encoder.compile_layers(512, LONGEST, backend=backend)


def loss_and_gradient(model: MaskedLM, lengths: list[int], seed: int = 3) -> tuple[float, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    starts = np.cumsum([0, *lengths])
    tokens = torch.randint(4, 97, (int(starts[-1]),), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(0, len(tokens), 3)
    layout = Layout.from_host(starts, len(tokens), CPU, longest=LONGEST)
    torch.manual_seed(seed)
    with autocast(CPU, torch.bfloat16):
        loss = model.loss(tokens, layout, positions, tokens[positions])
    if loss.requires_grad:
        loss.backward()
    weights = [weight for weight in model.parameters() if weight.grad is not None]
    return loss.item(), torch.cat([weight.grad.flatten() for weight in weights] or [torch.zeros(0)])


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The difference as a part of what is wanted, by their norms."""
    return float((found - wanted).norm() / wanted.norm())


def test_six_graphs_serve_all_batches_in_training_and_evaluation_and_give_the_same_numbers(tiny, graphs):
    model = drawn(wide(tiny, attention_output_dropout=0.5)).train()
    names = list(dict(model.named_parameters()))
    wanted = [loss_and_gradient(model, lengths) for lengths in BATCHES]
    with torch.inference_mode():
        calm = [loss_and_gradient(model.eval(), lengths)[0] for lengths in BATCHES]
    model.train()
    assert compiled(model) == 3
    assert all(weight.grad is None for weight in model.parameters())  # its trial leaves nothing
    for lengths, (loss, gradient) in zip(BATCHES, wanted, strict=True):
        found, its_gradient = loss_and_gradient(model, lengths)
        assert found == pytest.approx(loss, rel=1e-3)
        assert off(its_gradient, gradient) < 5e-2
    assert loss_and_gradient(model, BATCHES[0], seed=4)[0] != wanted[0][0]  # other noise: the dropout is there
    assert graphs() == 3
    model.eval()
    for lengths, loss in zip(BATCHES, calm, strict=True):
        with torch.inference_mode():
            assert loss_and_gradient(model, lengths)[0] == pytest.approx(loss, rel=2e-3)  # one batch is one prediction
    assert graphs() == 6
    assert list(dict(model.named_parameters())) == names


def test_a_layer_is_compiled_with_the_kernel_of_windows_or_without_it(tiny, graphs, monkeypatch):
    model = drawn(wide(tiny, num_hidden_layers=2, attention_output_dropout=0.0)).train()
    loss, gradient = loss_and_gradient(model, BATCHES[0])
    for why_not in (None, "switched off"):
        with monkeypatch.context() as here:  # undone before the stand-ins go
            here.setattr(window_attention, "without_kernel", lambda device, said=why_not: said)
            assert compiled(model) == 2
            found, its_gradient = loss_and_gradient(model, BATCHES[0])
        assert found == pytest.approx(loss, rel=1e-3)
        assert off(its_gradient, gradient) < 5e-2
    assert graphs() == 4  # both layers of windows twice


def test_a_layer_of_fewer_keys_than_queries_is_compiled_too(tiny, graphs):
    model = drawn(tiny("eurobert", num_hidden_layers=1, initializer_range=0.1)).train()
    loss, gradient = loss_and_gradient(model, BATCHES[0])
    assert compiled(model) == 1  # all layers are alike
    found, its_gradient = loss_and_gradient(model, BATCHES[0])
    assert found == pytest.approx(loss, rel=1e-3)
    assert off(its_gradient, gradient) < 5e-2
    assert graphs() == 1


def kept_by(config: EncoderConfig, tokens: int) -> float:
    """Bytes that the compiled layers of such an encoder keep for the way back, a token."""
    model = drawn(config).train()
    compiled(model, "aot_eager_decomp_partition")  # keeps what the compiler of GPUs keeps, computes the rest anew
    kept: dict[int, torch.Tensor] = {}
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.setdefault(x.untyped_storage().data_ptr(), x), lambda x: x
    )
    layout = Layout.from_host(np.array([0, 300, tokens]), tokens, CPU, longest=LONGEST)
    with autocast(CPU, torch.bfloat16), hooks:
        model.encoder(torch.zeros(tokens, dtype=torch.int64), layout)
    return sum(x.untyped_storage().nbytes() for x in kept.values() if tokens in x.shape) / tokens


@pytest.mark.parametrize("family", ["mmbert", "eurobert"])
def test_what_a_compiled_layer_keeps_for_the_way_back_is_what_a_plan_counts(tiny, graphs, family):
    fields = {
        "mmbert": {"hidden_size": 64, "head_dim": 16},
        "eurobert": {"hidden_size": 72, "head_dim": 24, "num_attention_heads": 3, "num_key_value_heads": 1},
    }
    tokens, found, planned = 521, [], []  # a prime: no width of a weight is a multiple of it
    for layers in (2, 3):
        config = tiny(family, num_hidden_layers=layers, intermediate_size=88, **fields[family])
        found.append(kept_by(config, tokens))
        phase = SimpleNamespace(context=tokens, batch_tokens=tokens, predicted=0.3)
        planned.append(cost.memory(config, phase, tokens, 1)["activations"] / tokens)
    share = (found[1] - found[0]) / (planned[1] - planned[0])
    assert 0.9 < share <= 1  # one norm's output is computed anew


def test_a_graph_too_many_is_an_error_and_not_a_slow_run(tiny, graphs):
    model = drawn(wide(tiny, num_hidden_layers=1)).train()
    compiled(model)
    one, too_many = torch._dynamo.config.patch(recompile_limit=1), torch._dynamo.exc.FailOnRecompileLimitHit
    with one, pytest.raises(too_many):
        loss_and_gradient(model.eval(), BATCHES[0])


def test_layers_are_as_they_were_where_the_compiler_fails(tiny, graphs):
    model = drawn(wide(tiny, attention_output_dropout=0.0)).train()
    wanted = loss_and_gradient(model, BATCHES[0])[0]
    with pytest.raises(Exception, match="no such compiler"):
        compiled(model, backend=_broken)
    assert loss_and_gradient(model, BATCHES[0])[0] == wanted
    assert graphs() == 0


def _broken(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no such compiler")


@pytest.mark.slow
def test_the_compiler_of_gpus_gives_the_same_numbers_on_a_cpu(tiny, graphs):
    import shutil

    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++ on a CPU")
    model = drawn(wide(tiny, attention_output_dropout=0.0)).train()
    loss, gradient = loss_and_gradient(model, BATCHES[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own insides
        assert compiled(model, backend="inductor") == 3
        found, its_gradient = loss_and_gradient(model, BATCHES[0])
    assert found == pytest.approx(loss, rel=1e-3)
    assert off(its_gradient, gradient) < 5e-2
