"""A head trained on features that are computed once: the encoder stays, the folder is an ordinary one."""

import learnable
import pytest
import torch
from task_folders import CALM, LABELS, bert, rows

from tessera.finetune import frozen_head, saved
from tessera.finetune.frozen_head import predict_frozen, train_frozen
from tessera.finetune.learner import pretrained
from tessera.finetune.loop import predict
from tessera.prediction.features import KINDS
from tessera.prediction.predictor import Predictor

HOW = learnable.protocol(steps=4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    ours = {family: learnable.model(place, family) for family in ("mmbert-small", "eurobert-210m")}
    return {**ours, "bert": bert(place / "bert")}


def learner_of(folders, family, kind, how=HOW, seed=0):
    return pretrained(folders[family], CALM).learner(kind, len(LABELS[kind]), how, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["mmbert-small", "eurobert-210m", "bert"])
def test_the_encoder_stays_the_head_learns_and_the_folder_is_as_any_other(family, kind, folders, tmp_path):
    learner = learner_of(folders, family, kind)
    encoder = {k: v.clone() for k, v in learner.encoder.state_dict().items() if "pooler" not in k}
    head = {k: v.clone() for k, v in learner.head.state_dict().items()}
    examples, others = learnable.examples(kind, 40, 0), learnable.examples(kind, 12, 1)
    summary = train_frozen(learner, examples, HOW, rate=5e-3, seed=0)
    assert summary.steps == 4
    assert all(torch.equal(learner.encoder.state_dict()[k], v) for k, v in encoder.items())
    assert any(not torch.equal(learner.head.state_dict()[k], v) for k, v in head.items())
    due = predict(learner, others)
    found = predict_frozen(learner, others, frozen_head.features(learner, others))
    assert found == (pytest.approx(due, abs=1e-4) if kind in ("regress", "rerank") else due)
    assert saved.save(learner, folders[family], tmp_path / "kept", others, labels=LABELS[kind]) <= saved.TOLERANCE
    assert len(Predictor.from_pretrained(tmp_path / "kept").predict(rows(kind, others))) == 12


@pytest.mark.parametrize("family", ["mmbert-small", "eurobert-210m", "bert"])
def test_losses_are_those_of_the_whole_model_before_its_first_step(family, folders):
    for kind in KINDS:
        learner = learner_of(folders, family, kind)
        learner.head.eval()
        examples = learnable.examples(kind, 6, 0)
        kept = frozen_head.features(learner, examples)
        with torch.no_grad():
            due = learner.loss(kept.items)
            found = learner.loss_of(frozen_head._scores(learner, kept, range(len(kept.items))), kept.items)
        torch.testing.assert_close(found, due, atol=1e-4, rtol=1e-5)


def test_many_heads_share_one_pass_and_give_what_each_gives_alone(folders, monkeypatch):
    examples = learnable.examples("classify", 40, 0)
    alone = learner_of(folders, "mmbert-small", "classify")
    train_frozen(alone, examples, HOW, rate=5e-3, seed=1)
    kept = frozen_head.features(learner_of(folders, "mmbert-small", "classify"), examples)
    monkeypatch.setattr(frozen_head, "_computed", lambda *_: pytest.fail("once was enough"))
    for _ in range(2):
        learner = learner_of(folders, "mmbert-small", "classify")
        train_frozen(learner, examples, HOW, rate=5e-3, seed=1, features=kept)
        assert all(torch.equal(v, alone.head.state_dict()[k]) for k, v in learner.head.state_dict().items())


def test_a_head_alone_learns_what_can_be_read_off_the_features(folders):
    how = learnable.protocol(steps=150, batch_size=32, patience=8)
    learner, examples = learner_of(folders, "mmbert-small", "tag", how), learnable.examples("tag", 200, 0)
    others = learnable.examples("tag", 30, 1)
    kept = frozen_head.features(learner, others)

    def right():
        found = predict_frozen(learner, others, kept)
        pairs = [pair for tags, e in zip(found, others, strict=True) for pair in zip(tags, e.tags, strict=True)]
        return sum(a == b for a, b in pairs) / len(pairs)

    summary = train_frozen(learner, examples, how, rate=1e-2, seed=0, validate=right)
    assert right() == max(score for _, score in summary.validation) > 0.9


def test_a_pooled_document_keeps_one_row_and_what_takes_too_much_is_said_first(folders):
    examples = learnable.examples("classify", 8, 0)
    for family, one in (("mmbert-small", True), ("bert", True), ("eurobert-210m", False)):
        learner = learner_of(folders, family, "classify")
        kept = frozen_head.features(learner, examples)
        assert ([len(rows) for rows in kept.values] == [1] * 8) == one
    with pytest.raises(ValueError, match=r"features of 8 items take 0.00 GiB, more than 0.00 .*give fewer examples"):
        frozen_head.features(learner, examples, most=100)
    with pytest.raises(ValueError, match="there is nothing to train on"):
        train_frozen(learner, [], HOW, rate=1e-3, seed=0)
