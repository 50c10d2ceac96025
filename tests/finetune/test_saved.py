"""A fine-tuned model out of its folder: equal answers here, in transformers, and to what was trained."""

import learnable
import numpy as np
import pytest
from task_folders import CALM, LABELS, bert, rows

from tessera.finetune import saved
from tessera.finetune.learner import pretrained
from tessera.finetune.loop import predict, train
from tessera.prediction.features import KINDS
from tessera.prediction.predictor import Predictor


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    ours = {family: learnable.model(place, family) for family in ("mmbert-small", "eurobert-210m")}
    return {**ours, "bert": bert(place / "bert")}


def answer(kind, labels, found):
    """What `loop.predict` says, out of a prediction."""
    match kind:
        case "tag":
            return tuple(labels.index(tag["label"]) for tag in found["tags"])
        case "span":
            return found["answer"]
        case "choose":
            return found["choice"]
        case "multilabel":
            return tuple(labels.index(label) for label in found["labels"])
        case "regress" | "rerank":
            return found["score"]
    return labels.index(found["label"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["mmbert-small", "eurobert-210m", "bert"])
def test_a_trained_model_answers_out_of_its_folder_as_it_did_in_training(family, kind, folders, tmp_path):
    labels = list(LABELS[kind])
    learner = pretrained(folders[family], CALM).learner(kind, len(labels), learnable.protocol(), seed=0)
    examples, others = learnable.examples(kind, 40, 0), learnable.examples(kind, 20, 1)
    train(learner, examples, learnable.protocol(steps=3), rate=5e-3, seed=0)
    due = predict(learner, others)
    difference = saved.save(learner, folders[family], tmp_path / "kept", others, labels=labels)
    assert difference <= saved.TOLERANCE
    predictor = Predictor.from_pretrained(tmp_path / "kept", device="cpu", dtype="float32")
    found = [answer(kind, labels, one) for one in predictor.predict(rows(kind, others))]
    if kind == "rerank":
        due = [1 / (1 + np.exp(-logit)) for logit in due]
    if kind in ("regress", "rerank"):
        assert found == pytest.approx(due, abs=1e-4)
    else:
        assert found == due
