"""The engine on the path of GPUs, its kernel stood in for: what it waits for, and the vectors of a CPU."""

import numpy as np
import pytest
import torch
from device_waits import Waits

from tessera.inference import engine
from tessera.inference.engine import Engine, laid_out, rows
from tessera.model.attention import Layout
from tessera.model.encoder import Encoder
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.pooling import POOLINGS, pool
from tessera.plan.architecture import PRESETS, EncoderConfig

CPU = torch.device("cpu")
LENGTHS = [7, 30, 100, 3, 1, 64, 30]


@pytest.fixture
def encoder() -> Encoder:
    shape = {
        "vocab_size": 97, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 4, "head_dim": 16,
        "num_attention_heads": 4, "num_key_value_heads": 4, "local_attention": 16, "initializer_range": 0.1,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3,
    }  # fmt: skip
    model = MaskedLM(EncoderConfig.model_validate({**PRESETS["mmbert-small"].model_dump(), **shape}))
    initialize(model, torch.Generator().manual_seed(0))
    return model.encoder


def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(4, 97, length).astype(np.int32) for length in LENGTHS]


def options(**more):
    given = {"reading": None, "pooling": ("mean",), "skip": 0, "normalize": True, "dimensions": 64, "max_tokens": 128,
             "alone": False}  # fmt: skip
    return engine.EncodeOptions(**{**given, **more})


def exact(encoder, pieces, how):
    """The vectors by the reference attention, in float32."""
    encoder.backend = "reference"
    found = Engine(encoder, [], CPU, torch.float32).vectors(pieces, how, lambda share: None)
    encoder.backend = "auto"
    return found


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("pooling", ["mean", "cls", "weightedmean"])
def test_a_call_reads_back_its_vectors_and_nothing_else(encoder, varlen_on_cpu, monkeypatch, skip, pooling):
    pieces = [[text] for text in texts()]
    wanted = exact(encoder, pieces, options(skip=skip, pooling=(pooling,)))
    on_a_gpu = Engine(encoder, [], CPU, torch.bfloat16)
    assert on_a_gpu.layouts
    with Waits() as waits:
        found = on_a_gpu.vectors(pieces, options(skip=skip, pooling=(pooling,)), lambda share: None)
    assert waits.total == 1, waits.places  # of three batches
    assert (found * wanted).sum(1).min() > 0.999


def test_pieces_of_a_text_are_averaged_without_waiting(encoder, varlen_on_cpu, monkeypatch):
    first, second, *others = texts()
    pieces = [[first, second], *([text] for text in others)]
    wanted = exact(encoder, pieces, options())
    on_a_gpu = Engine(encoder, [], CPU, torch.bfloat16)
    with Waits() as waits:
        found = on_a_gpu.vectors(pieces, options(), lambda share: None)
    assert waits.total == 1, waits.places
    assert (found * wanted).sum(1).min() > 0.999


def test_batches_have_few_sizes_and_few_bounds_of_length():
    sizes, bounds = set(), set()
    for total in range(1, 5_000, 37):
        tokens, layout = laid_out([np.ones(min(total, 700), np.int32)] * -(-total // 700), CPU, pad_id=3)
        sizes.add(len(tokens))
        bounds.add(layout.longest)
        assert tokens[-1] == 3 or len(tokens) % 128 == 0
        assert len(tokens) <= max(128, 1.07 * total + 128 + 700)
    assert len(sizes) < 40
    assert bounds == {128, 512, 2048}


@pytest.mark.parametrize("skip", [0, 3])
def test_every_pooling_is_the_same_for_lengths_known_on_the_host(skip):
    starts = np.cumsum([0, *LENGTHS])
    hidden = torch.randn(int(starts[-1]), 8, generator=torch.Generator().manual_seed(0))
    layout = Layout.from_host(starts, len(hidden), CPU, "reference")
    assert torch.equal(
        pool(hidden, layout, POOLINGS, skip=skip), pool(hidden, torch.from_numpy(starts), POOLINGS, skip=skip)
    )
    with pytest.raises(ValueError, match="document 1 is empty; there is nothing to pool"):
        pool(hidden[:5], Layout.from_host(np.array([0, 5, 5]), 5, CPU, "reference"), "mean")


def test_layers_are_compiled_once_it_pays_or_where_it_is_asked_for(encoder, varlen_on_cpu, monkeypatch, logged):
    monkeypatch.setattr(engine, "without_compiler", lambda device: None)
    monkeypatch.setattr(engine, "_WORTH_COMPILING", 2 * sum(LENGTHS))
    made = []
    monkeypatch.setattr(Encoder, "compile_layers", lambda *given, **more: made.append(given))
    pieces = [[text] for text in texts()]
    for compile, calls, compiled in (("auto", 1, 0), ("auto", 3, 1), ("on", 2, 1), ("off", 3, 0)):
        made.clear()
        asked = Engine(encoder, [], CPU, torch.bfloat16, compile)
        for _ in range(calls):
            asked.vectors(pieces, options(), lambda share: None)
        assert len(made) == compiled, compile
    monkeypatch.setattr(engine, "without_compiler", lambda device: "no Triton")
    with pytest.raises(ValueError, match="compile is on, but layers cannot be compiled here: no Triton"):
        Engine(encoder, [], CPU, torch.bfloat16, "on").vectors(pieces, options(), lambda share: None)
    asked = Engine(encoder, [], CPU, torch.bfloat16)
    for _ in range(3):
        asked.vectors(pieces, options(), lambda share: None)
    assert logged == ["layers are not compiled, so a GPU takes about twice as long for many texts: no Triton"]


def test_rows_come_in_the_order_of_their_texts():
    ids = [np.full(n, n, np.int32) for n in (3, 9, 1, 9, 2)]
    found = rows(
        lambda tokens, starts: tokens[starts[:-1], None].float(), ids, 1, device=CPU, dtype=torch.float32, max_tokens=10
    )
    assert found[:, 0].tolist() == [3, 9, 1, 9, 2]
