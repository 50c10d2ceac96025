"""Finished models on a GPU: vectors, fine-tuning, merging, export. Each is held to float32 on a CPU."""

import importlib.util

import learnable
import numpy as np
import pytest
from learnable import examples, protocol
from small_encoder import TEXTS, write_model

from tessera.finetune.learner import pretrained
from tessera.finetune.loop import predict, train
from tessera.huggingface import hub
from tessera.huggingface.merging import merge
from tessera.inference.encoder import Encoder
from tessera.plan.recipe import Machine

ALIKE = 0.999  # cosine of two vectors in bfloat16 and in float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def cosines(found, wanted):
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return (found * wanted).sum(1) / lengths


def both(folder, device):
    """The encoder on the device in bfloat16, and the reference in float32 on a CPU."""
    there = Encoder.from_pretrained(folder, device=device.type, dtype="bfloat16")
    assert not there.engine.packed  # which is the form for CPUs
    return there, Encoder.from_pretrained(folder, device="cpu", dtype="float32", attention="reference")


@pytest.mark.parametrize("max_tokens", [None, 100])
def test_vectors_are_those_of_a_cpu_in_whatever_batches(folder, device, max_tokens):
    there, here = both(folder, device)
    how = {} if max_tokens is None else {"max_tokens": max_tokens}
    found, wanted = there.encode(TEXTS, **how), here.encode(TEXTS, **how)
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    assert cosines(found, wanted).min() > ALIKE
    prompted = there.encode(TEXTS[:3], prompt="query: "), here.encode(TEXTS[:3], prompt="query: ")
    assert cosines(*prompted).min() > ALIKE


def test_masks_are_filled_with_what_a_cpu_would_say(folder, device):
    there, here = both(folder, device)
    text = f"one {here.tokenizer.token(here.tokenizer.mask_id)} three"
    found, wanted = (one.fill_mask(text)[0] for one in (there, here))
    assert found[0].id == wanted[0].id
    assert found[0].probability == pytest.approx(wanted[0].probability, rel=0.1)


def test_a_task_is_learned_there(tmp_path, device):
    start = pretrained(learnable.model(tmp_path), Machine(device=device.type, dtype="bfloat16"))
    how = protocol(steps=40)
    learner = start.learner("classify", 4, how, seed=1)
    course = train(learner, examples("classify", 120, seed=1), how, rate=5e-3, seed=0)
    rows = examples("classify", 40, seed=2)
    right = np.mean([said == row.label for said, row in zip(predict(learner, rows), rows, strict=True)])
    assert right > 0.9
    assert course.losses[-1] < course.losses[0] / 3


def test_a_merged_model_runs_there(tmp_path, device):
    one, other = (write_model(tmp_path / name) for name in ("one", "other"))
    model = hub.load(other)
    model.encoder.layers[0].mlp.down.weight.data.mul_(1.5)
    hub.save(model, tmp_path / "changed", other)
    hub.save(merge([one, tmp_path / "changed"], "linear"), tmp_path / "merged", one)
    there, here = both(tmp_path / "merged", device)
    assert cosines(there.encode(TEXTS), here.encode(TEXTS)).min() > ALIKE


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="export needs onnxscript")
def test_an_export_is_compared_with_the_reference_of_a_cpu_where_there_is_a_gpu(folder, tmp_path):
    import torch

    from tessera.export.graph import export

    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    checks = export(folder, tmp_path / "onnx")
    assert min(check.cosine for check in checks) > 0.99
    vectors = Encoder.from_pretrained(tmp_path / "onnx").encode(TEXTS)
    there, _ = both(folder, torch.device("cuda"))
    assert cosines(there.encode(TEXTS), vectors).min() > ALIKE
