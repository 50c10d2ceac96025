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
from tessera.train.embedding import Anchors, Embeddings, distance, info_nce
from tessera.train.gradient import Cut, SeededDropout, prepare


def model(dropout=0.0):
    made = MaskedLM(changed().model.config(vocab_size=50, attention_output_dropout=dropout))
    initialize(made, torch.Generator().manual_seed(0))
    return made


def batch(pairs=6, negatives=0):
    """Of negatives the first says what the second side of the first pair says."""
    rng = np.random.default_rng(2)
    texts = [rng.integers(5, 50, length).astype(np.int32) for length in rng.integers(2, 20, 2 * pairs + negatives)]
    if negatives:
        texts[2 * pairs] = texts[1]
    nothing = np.empty(0, np.int64)
    return Batch(
        tokens=np.concatenate(texts), starts=np.concatenate(([0], np.cumsum([len(text) for text in texts]))),
        positions=nothing, targets=nothing.astype(np.int32), sources=np.zeros(len(texts), np.int32),
        rows=np.concatenate((np.arange(2 * pairs), -1 - np.arange(negatives))),
    )  # fmt: skip


def of(phase):
    """The batch of a phase."""
    return batch(negatives=5 if phase.contrast is not None and phase.contrast.negatives else 0)


class Teacher:
    def __init__(self, width, count):
        vectors = np.random.default_rng(3).standard_normal((count, width)).astype(np.float32)
        self.vectors, self.width = vectors / np.linalg.norm(vectors, axis=1, keepdims=True), width

    def rows(self, numbers):
        return self.vectors[numbers]


@pytest.fixture(scope="module")
def world() -> World:
    return join(changed().machine)


def guide(made, phase):
    anchors = 0 if phase.distil is None else phase.distil.anchors
    return embedding.Guide.of(Teacher(made.config.hidden_size, 12), 12, anchors, torch.device("cpu"))


def gradients(made, phase, tokens, world, dropout, **on_a_gpu):
    made.zero_grad()
    made.train()
    noise = SeededDropout(made) if dropout else None
    passes = prepare(of(phase), Cut(world=world, micro_batch_tokens=tokens, **on_a_gpu))
    losses = embedding.backward(
        Embeddings(made.encoder), of(phase), passes, phase, guide(made, phase), torch.float32, noise=noise, seed=5
    )  # fmt: skip
    return float(losses.sum()), {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


PHASES = [
    SimpleNamespace(distil=Distil(teacher="./t"), contrast=None),
    SimpleNamespace(distil=Distil(teacher="./t", loss="cosine"), contrast=None),
    SimpleNamespace(distil=Distil(teacher="./t", anchors=8), contrast=None),
    SimpleNamespace(distil=None, contrast=Contrast(temperature=0.1)),
    SimpleNamespace(distil=None, contrast=Contrast(temperature=0.1, negatives=1)),
]
NAMES = ["mse", "cosine", "similarities", "contrast", "negatives"]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("phase", PHASES, ids=NAMES)
def test_the_gradient_is_that_of_the_whole_batch_however_it_is_cut(phase, dropout, world):
    loss, whole = gradients(model(dropout), phase, 10**6, world, dropout)
    for tokens in (1, 25, 60):
        part, cut = gradients(model(dropout), phase, tokens, world, dropout)
        assert part == pytest.approx(loss, rel=1e-5)
        for name, due in whole.items():
            torch.testing.assert_close(cut[name], due, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("phase", PHASES, ids=NAMES)
def test_documents_that_fill_up_the_passes_of_a_gpu_have_no_part_in_it(phase, world):
    loss, whole = gradients(model(), phase, 60, world, 0.0)
    filled, found = gradients(model(), phase, 60, world, 0.0, longest=20, pad_id=0)
    assert filled == pytest.approx(loss, rel=1e-5)
    for name, due in whole.items():
        torch.testing.assert_close(found[name], due, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("phase", PHASES, ids=NAMES)
def test_the_gradient_is_autograds(phase, world):
    made, whole = model(), of(phase)
    loss, found = gradients(made, phase, 30, world, 0.0)
    starts = torch.from_numpy(whole.starts)
    vectors = pool(made.encoder(torch.from_numpy(whole.tokens).long(), starts), starts, "mean")
    if phase.distil is not None:
        teacher = torch.from_numpy(Teacher(vectors.shape[1], 12).vectors)
        due = distance(vectors, teacher, phase.distil.loss) / 12
        if phase.distil.anchors:
            due = due + Anchors.of(teacher[:8]).loss(vectors, teacher) / 12
    else:
        apart = torch.zeros(6, len(vectors) - 6, dtype=torch.bool)
        apart[:, 6:7] = True  # the negative that is the answer of the first pair, and there as such
        documents = torch.cat((vectors[1:12:2], vectors[12:]))
        due = info_nce(vectors[0:12:2], documents, torch.arange(6), apart, 0.1, symmetric=True)
    made.zero_grad()
    due.backward()
    assert loss == pytest.approx(due.item(), rel=1e-5)
    for name, p in made.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-6)


def test_equal_texts_are_not_held_against_each_other():
    first = second = torch.eye(3)
    keys = np.array([1, 10, 2, 10, 3, 30], np.uint64)  # pairs 0 and 1 have the same second side
    same = embedding._known(keys, np.empty(0, np.uint64), torch.device("cpu"))
    assert same.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    due, held = (-math.log(math.e / (math.e + others)) for others in (2, 1))
    found = info_nce(first, second, torch.arange(3), same, 1.0, symmetric=True)
    assert float(found) == pytest.approx((held + held + due) / 3)


def test_a_negative_is_not_held_against_whoever_it_answers_and_each_text_is_one_document():
    keys = np.array([1, 10, 1, 20, 3, 30], np.uint64)  # 10 and 20 answer 1
    found = embedding._known(keys, np.array([20, 30, 3, 40, 50, 40], np.uint64), torch.device("cpu"))
    assert ["".join("x" if ignored else "." for ignored in row) for row in found.tolist()] == [
        ".x.xx...x",  # three second sides, then six negatives
        "x..xx...x",
        "...xxx..x",
    ]


def test_negatives_are_further_documents_for_first_sides_alone():
    sides, negative = torch.eye(4), torch.eye(4)[2:3]
    ignored = torch.zeros(2, 3, dtype=torch.bool)
    found = info_nce(sides[:2], torch.cat((sides[:2], negative)), torch.arange(2), ignored, 1.0, symmetric=True)
    forward, back = (-math.log(math.e / (math.e + others)) for others in (2, 1))
    assert float(found) == pytest.approx((forward + back) / 2)


def _backward(world, folder):
    """Gradients in a world of several processes, written by the first of them."""
    for number, phase in enumerate(PHASES):
        made = model(0.3)
        made.train()
        noise = SeededDropout(made)
        objective = spread(Embeddings(made.encoder), world, "ddp")
        passes = prepare(of(phase), Cut(world=world, micro_batch_tokens=40))
        losses = embedding.backward(
            objective, of(phase), passes, phase, guide(made, phase), torch.float32, noise=noise, seed=5
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
