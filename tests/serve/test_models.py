"""Folders as served models: what each answers, names, one trunk for equal encoders, exported engines."""

import numpy as np
import pytest
import torch
from serving import heads_on_one_trunk
from small_encoder import TEXTS, write_model
from task_folders import with_head

from tessera import Encoder, Predictor
from tessera.batching.models import How, open_models
from tessera.batching.reading import for_task, for_vectors
from tessera.batching.token_queue import Job, TokenQueue
from tessera.batching.worker import Worker
from tessera.export.graph import export

PLAIN = How(device="cpu", dtype="float32")
ROWS = ["the river of bread", "clouds"]


def computed(read):
    """The first result of each piece."""
    queue = TokenQueue(2048, 10**6)
    job = Job("c", read.pieces, lambda _: None)
    queue.put(job)
    queue.close()
    worker = Worker(queue, lambda ran: None)
    worker.start()
    worker.join(60)
    assert job.failure is None
    return [results[0] for results in job.results]


def vectors(served, texts):
    how = served.encoder.how()
    return computed(for_vectors(served, texts, how, truncate=True, direction="right", field="inputs"))


def logits(served, rows):
    return computed(for_task(served, rows, long="truncate", alone=False, field="inputs").read)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """An encoder of our own families, and two heads on it."""
    place = tmp_path_factory.mktemp("ours")
    source = write_model(place / "model")
    return [source, *(with_head(source, kind, place / kind) for kind in ("classify", "tag"))]


def test_what_a_folder_is_decides_what_it_answers_and_it_is_called_as_its_folder_is(ours):
    found = open_models([*map(str, ours[:2]), f"words={ours[2]}"], PLAIN)
    assert [(one.name, one.answers) for one in found] == [
        ("mmbert", ("embeddings", "fill")),
        ("classify", ("classes",)),
        ("words", ("tags",)),
    ]


def test_two_of_one_name_are_told_how_to_get_another(ours):
    with pytest.raises(ValueError, match=r"two models are called 'mmbert'; give one of them another name: NAME=FOLDER"):
        open_models([str(ours[0]), str(ours[0])], PLAIN)


def test_equal_encoders_are_one_trunk_whose_heads_say_what_they_say_alone(ours):
    found = open_models([*map(str, ours)], PLAIN)
    assert [one.shares for one in found] == ["", "mmbert", "mmbert"]
    assert len({id(one.trunk) for one in found}) == 1
    np.testing.assert_allclose(
        vectors(found[0], TEXTS), Encoder.from_pretrained(ours[0], dtype="float32").encode(TEXTS), atol=1e-5
    )
    due = Predictor.from_pretrained(ours[1], dtype="float32").logits(ROWS)
    np.testing.assert_allclose(logits(found[1], ROWS), due, atol=1e-4)


def test_heads_of_transformers_on_one_encoder_share_its_memory(tmp_path):
    folders = heads_on_one_trunk(tmp_path, 3)
    found = open_models([*map(str, folders)], PLAIN)
    assert len({id(one.trunk) for one in found}) == 1
    weights = [dict(one.predictor.model.head.whole.named_parameters()) for one in found]
    (name,) = (one for one in weights[0] if one.endswith("word_embeddings.weight"))
    assert len({one[name].data_ptr() for one in weights}) == 1
    for one, folder in zip(found, folders, strict=True):
        due = Predictor.from_pretrained(folder, dtype="float32").logits(ROWS)
        np.testing.assert_allclose(logits(one, ROWS), due, atol=1e-5)


def test_an_encoder_that_differs_in_one_weight_is_a_trunk_of_its_own(ours, tmp_path):
    other = tmp_path / "other"
    from tessera.huggingface import hub

    model = hub.load(ours[0])
    with torch.no_grad():
        model.encoder.layers[0].mlp.down.weight[0, 0] += 1e-3
    hub.save(model, other, ours[0])
    found = open_models([str(ours[0]), str(other)], PLAIN)
    assert [one.shares for one in found] == ["", ""]


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_an_exported_folder_is_run_by_its_own_engine(ours, to, tmp_path):
    export(ours[0], tmp_path / "vectors", to)
    export(ours[1], tmp_path / "classes", to)
    first, second = open_models([str(tmp_path / "vectors"), str(tmp_path / "classes")], PLAIN)
    assert first.engine.startswith("ONNX Runtime" if to == "onnx" else "OpenVINO")
    assert "the folder holds its graph" in second.engine
    due = Encoder.from_pretrained(ours[0], dtype="float32").encode(TEXTS[:3])
    np.testing.assert_allclose(vectors(first, TEXTS[:3]), due, atol=1e-3)
    due = Predictor.from_pretrained(ours[1], dtype="float32").logits(ROWS)
    np.testing.assert_allclose(logits(second, ROWS), due, atol=2e-2)
