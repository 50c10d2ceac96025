"""A training that is stopped at any step goes on from its checkpoint and ends with the same weights, bit for bit."""

import os

import learnable
import pytest
import torch

from tessera import signals
from tessera.finetune import frozen_head, loop, lora
from tessera.finetune.checkpoint import Checkpoint
from tessera.finetune.learner import pretrained
from tessera.plan.recipe import Machine

CALM = Machine(device="cpu", dtype="float32")
PROTOCOL = learnable.protocol(epochs=3, batch_size=8, patience=1, weight_decay=0.1)  # 9 steps, scored after 3, 6, 9


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return pretrained(learnable.model(tmp_path_factory.mktemp("model")), CALM)


class Killed(BaseException):
    """What a kill is to the process that dies of it."""


def trained(start, train=loop.train, stop=None, checkpoint=None, scores=(0.1, 0.3, 0.2), kind="classify", labels=4):
    """(summary, all weights) of a training that dies behind so many steps."""
    learner = start.learner(kind, labels, PROTOCOL, seed=0)
    given = iter(scores)

    def report(done, total, what):
        if done == stop and what != "computing features":
            raise Killed

    found = train(
        learner, learnable.examples(kind, 24, 0), PROTOCOL, rate=5e-3, seed=1, validate=lambda: next(given),
        on_progress=report, checkpoint=checkpoint,
    )  # fmt: skip
    summary = found[0] if isinstance(found, tuple) else found
    return summary, {**learner.encoder.state_dict(), **{f"head.{k}": v for k, v in learner.head.state_dict().items()}}


METHODS = {"full": loop.train, "frozen": frozen_head.train_frozen, "lora": lora.train_lora}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", [2, 4, 8])
def test_a_training_killed_at_any_step_ends_with_the_same_weights(start, method, stop, tmp_path):
    summary, due = trained(start, METHODS[method])
    lines = []

    def checkpoint():
        return Checkpoint(place=tmp_path / "one", identity="a", minutes=0, say=lines.append)

    scores = (0.1, 0.3, 0.2)
    with pytest.raises(Killed):
        trained(start, METHODS[method], stop, checkpoint())
    again, found = trained(start, METHODS[method], None, checkpoint(), scores[(stop - 1) // 3 :])
    assert again == summary
    assert lines == [f"goes on after step {stop - 1} of 9, from {tmp_path / 'one.safetensors'}"]
    assert all(torch.equal(found[name], value) for name, value in due.items())
    assert found.keys() == due.keys()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("pair", 2),
        ("reward", 2),
        ("multilabel", 4),
        ("regress", 1),
        ("rerank", 1),
        ("choose", 1),
        ("tag", 6),
        ("span", 2),
    ],
)
def test_a_training_of_every_kind_goes_on_after_a_kill(start, method, kind, labels, tmp_path):
    of = {"kind": kind, "labels": labels}
    summary, due = trained(start, METHODS[method], **of)
    with pytest.raises(Killed):
        trained(start, METHODS[method], 5, Checkpoint(place=tmp_path / "one", identity="a", minutes=0), **of)
    lines = []
    checkpoint = Checkpoint(place=tmp_path / "one", identity="a", say=lines.append)
    again, found = trained(start, METHODS[method], None, checkpoint, (0.3, 0.2), **of)
    assert len(lines) == 1
    assert again == summary
    assert all(torch.equal(found[name], value) for name, value in due.items())


def test_early_stopping_that_was_over_is_over_after_a_kill_too(start, tmp_path):
    scores = (0.3, 0.2, 0.1)
    summary, due = trained(start, scores=scores)
    assert summary.steps == 6
    checkpoint = Checkpoint(place=tmp_path / "one", identity="a", minutes=0)
    trained(start, checkpoint=checkpoint, scores=scores)
    again, found = trained(start, checkpoint=checkpoint, scores=())  # nothing is left to do
    assert again == summary
    assert all(torch.equal(found[name], value) for name, value in due.items())


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_the_first_signal_leaves_a_checkpoint_of_the_step_and_the_same_command_goes_on(start, number, tmp_path, capfd):
    _, due = trained(start, scores=(0.1, 0.3, 0.2))
    checkpoint = Checkpoint(place=tmp_path / "one", identity="a")  # no clock comes to five minutes here
    learner = start.learner("classify", 4, PROTOCOL, seed=0)
    given = iter((0.1, 0.3, 0.2))

    def report(done, total, what):
        if done == 5:
            os.kill(os.getpid(), number)

    with signals.listening(), pytest.raises(signals.Stopped, match="a checkpoint after step 5 of 9 is kept"):
        loop.train(
            learner, learnable.examples("classify", 24, 0), PROTOCOL, rate=5e-3, seed=1, validate=lambda: next(given),
            on_progress=report, checkpoint=checkpoint,
        )  # fmt: skip
    assert "this step is finished and a checkpoint written first" in capfd.readouterr().err
    _, found = trained(start, checkpoint=checkpoint, scores=(0.3, 0.2))
    assert all(torch.equal(found[name], value) for name, value in due.items())


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_not_gone_on_from(start, tmp_path, logged):
    _, due = trained(start)
    with pytest.raises(Killed):
        trained(start, stop=5, checkpoint=Checkpoint(place=tmp_path / "one", identity="a", minutes=0))
    lines = []
    other = Checkpoint(place=tmp_path / "one", identity="b", say=lines.append)
    _, found = trained(start, checkpoint=other)
    assert lines == []
    path = tmp_path / "one.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    _, again = trained(start, checkpoint=Checkpoint(place=tmp_path / "one", identity="a"))
    (told,) = logged
    assert "its bytes have changed" in told
    assert "the training begins anew" in told
    for name, value in due.items():
        assert torch.equal(found[name], value)
        assert torch.equal(again[name], value)


def test_what_is_finished_leaves_no_checkpoint(start, tmp_path):
    checkpoint = Checkpoint(place=tmp_path / "one", identity="a", minutes=0)
    trained(start, checkpoint=checkpoint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "one.safetensors.sha256"]
    checkpoint.remove()
    assert not [*tmp_path.iterdir()]
