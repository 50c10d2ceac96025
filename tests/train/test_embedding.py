"""Objectives of sentence embeddings: by hand, against the whole batch at once, and however a batch is cut."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from going import changed
from many import together
from safetensors.torch import load_file, save_file

from tessera.data.packing import Batch
from tessera.model.mlm import MaskedLM, initialize
from tessera.model.pooling import pool
from tessera.plan.phase import Contrast, Distil
from tessera.train import embedding
from tessera.train.distributed import World, join, spread, total
from tessera.train.embedding import Embeddings, distance, info_nce
from tessera.train.gradient import Cut, SeededDropout, prepare


def model(dropout=0.0):
    made = MaskedLM(changed().model.config(vocab_size=50, attention_output_dropout=dropout))
    initialize(made, torch.Generator().manual_seed(0))
    return made


def batch(pairs=6):
    rng = np.random.default_rng(2)
    lengths = rng.integers(2, 20, 2 * pairs)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    nothing = np.empty(0, np.int64)
    return Batch(
        tokens=rng.integers(5, 50, starts[-1]).astype(np.int32), starts=starts, positions=nothing,
        targets=nothing.astype(np.int32), sources=np.zeros(2 * pairs, np.int32), rows=np.arange(2 * pairs),
    )  # fmt: skip


class Teacher:
    def __init__(self, width, count):
        vectors = np.random.default_rng(3).standard_normal((count, width)).astype(np.float32)
        self.vectors, self.width = vectors / np.linalg.norm(vectors, axis=1, keepdims=True), width

    def rows(self, numbers):
        return self.vectors[numbers]


@pytest.fixture(scope="module")
def world() -> World:
    return join(changed().machine)


def gradients(made, phase, tokens, world, dropout, **on_a_gpu):
    made.zero_grad()
    made.train()
    noise = SeededDropout(made) if dropout else None
    of = Teacher(made.config.hidden_size, 12)
    passes = prepare(batch(), Cut(world=world, micro_batch_tokens=tokens, **on_a_gpu))
    losses = embedding.backward(
        Embeddings(made.encoder), batch(), passes, phase, of, torch.float32, noise=noise, seed=5
    )  # fmt: skip
    return float(losses.sum()), {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


PHASES = [
    SimpleNamespace(distil=Distil(teacher="./t"), contrast=None),
    SimpleNamespace(distil=Distil(teacher="./t", loss="cosine"), contrast=None),
    SimpleNamespace(distil=None, contrast=Contrast(temperature=0.1)),
]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("phase", PHASES, ids=["mse", "cosine", "contrast"])
def test_the_gradient_is_that_of_the_whole_batch_however_it_is_cut(phase, dropout, world):
    loss, whole = gradients(model(dropout), phase, 10**6, world, dropout)
    for tokens in (1, 25, 60):
        part, cut = gradients(model(dropout), phase, tokens, world, dropout)
        assert part == pytest.approx(loss, rel=1e-5)
        for name, due in whole.items():
            torch.testing.assert_close(cut[name], due, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("phase", PHASES, ids=["mse", "cosine", "contrast"])
def test_documents_that_fill_up_the_passes_of_a_gpu_have_no_part_in_it(phase, world):
    loss, whole = gradients(model(), phase, 60, world, 0.0)
    filled, found = gradients(model(), phase, 60, world, 0.0, longest=20, pad_id=0)
    assert filled == pytest.approx(loss, rel=1e-5)
    for name, due in whole.items():
        torch.testing.assert_close(found[name], due, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("phase", PHASES, ids=["mse", "cosine", "contrast"])
def test_the_gradient_is_autograds(phase, world):
    made, whole = model(), batch()
    loss, found = gradients(made, phase, 30, world, 0.0)
    starts = torch.from_numpy(whole.starts)
    vectors = pool(made.encoder(torch.from_numpy(whole.tokens).long(), starts), starts, "mean")
    if phase.distil is not None:
        due = distance(vectors, torch.from_numpy(Teacher(vectors.shape[1], 12).vectors), phase.distil.loss) / 12
    else:
        apart = torch.zeros(6, 6, dtype=torch.bool)
        due = info_nce(vectors[0::2], vectors[1::2], torch.arange(6), apart, 0.1, symmetric=True)
    made.zero_grad()
    due.backward()
    assert loss == pytest.approx(due.item(), rel=1e-5)
    for name, p in made.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-6)


def test_equal_texts_are_not_held_against_each_other():
    first = second = torch.eye(3)
    keys = np.array([1, 10, 2, 10, 3, 30], np.uint64)  # pairs 0 and 1 have the same second side
    same = embedding._same(keys, torch.device("cpu"))
    assert same.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    due, held = (-math.log(math.e / (math.e + others)) for others in (2, 1))
    found = info_nce(first, second, torch.arange(3), same, 1.0, symmetric=True)
    assert float(found) == pytest.approx((held + held + due) / 3)


def _backward(world, folder):
    """Gradients in a world of several processes, written by the first of them."""
    for number, phase in enumerate(PHASES):
        made = model(0.3)
        made.train()
        noise = SeededDropout(made)
        objective = spread(Embeddings(made.encoder), world, "ddp")
        teacher = Teacher(made.config.hidden_size, 12)
        passes = prepare(batch(), Cut(world=world, micro_batch_tokens=40))
        losses = embedding.backward(
            objective, batch(), passes, phase, teacher, torch.float32, noise=noise, seed=5
        )  # fmt: skip
        loss = total([float(losses.sum())], world)[0]
        if world.leads:
            found = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
            save_file({**found, "loss": torch.tensor(loss)}, folder / f"{number}.safetensors")


def test_two_processes_have_the_gradient_of_one(world, tmp_path):
    assert together(2, _backward, tmp_path) == [0, 0]
    for number, phase in enumerate(PHASES):
        loss, due = gradients(model(0.3), phase, 10**6, world, 0.3)
        found = load_file(tmp_path / f"{number}.safetensors")
        assert found.pop("loss").item() == pytest.approx(loss, rel=1e-5)
        assert found.keys() == due.keys()
        for name, gradient in due.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)
