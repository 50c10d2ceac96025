"""Steps that go wrong: found at the step, named, and answered as the recipe says, the same on every resume."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from going import changed, first, go, lines, weights
from pydantic import ValidationError
from tiny_run import recipe

from tessera.plan import schedule
from tessera.train import bad_steps, checkpoint, trainer
from tessera.train.reading import reading
from tessera.train.trainer import Text, TrainingError


@pytest.fixture
def poison(monkeypatch):
    """poison(2, 4) makes the loss and the gradient of these steps of the first phase no numbers."""
    backward, steps = trainer.gradient.backward, set()

    def poisoned(objective, *given, seed, **more):
        sums = backward(objective, *given, seed=seed, **more)
        if seed not in {trainer._seed(recipe().seed, "first", step) for step in steps}:
            return sums
        for parameter in objective.parameters():
            parameter.grad.fill_(math.nan)
        return sums * math.nan

    monkeypatch.setattr(trainer.gradient, "backward", poisoned)

    def choose(*chosen: int) -> None:
        steps.clear()
        steps.update(chosen)

    return choose


def whole_of(folder: Path) -> list[list[int]]:
    return checkpoint.position(folder / "first" / "final").left_out


@pytest.mark.parametrize(
    ("loss", "norm", "why"),
    [
        (math.nan, 1.0, "the loss is nan and the gradient norm 1.0"),
        (5.0, math.inf, "the loss is 5.0 and the gradient norm inf"),
        (math.log(400) + 1.01, 1.0, r"the loss is 7\.001, more than 1 above the 5\.991 of guessing"),
        (math.log(400) + 0.99, 1.0, None),
        (5.0, 10.1, r"the gradient norm is 10\.1, above 10"),
        (5.0, 10.0, None),
    ],
)
def test_a_step_is_wrong_without_numbers_or_above_a_bound(loss, norm, why):
    phase = first(changed(blow_up={"loss_above_uniform": 1.0, "gradient_norm": 10.0}))
    found = bad_steps.find(phase, 400, 3, loss, norm)
    if why is None:
        assert found is None
    else:
        assert found is not None
        assert re.match(why, found.why)
    assert bad_steps.find(first(recipe()), 400, 3, 1e9, 1e9) is None  # no bound is the default


def test_forgiveness_counts_what_follows_without_a_kept_step():
    phase = first(changed(blow_up={"policy": "skip", "in_a_row": 2, "in_all": 4}))
    assert bad_steps.too_many(phase, [], 5) is None
    assert bad_steps.too_many(phase, [(4, 4)], 5) is None
    assert bad_steps.too_many(phase, [(3, 3), (4, 4)], 5) == "2 in a row have been forgiven already (blow_up.in_a_row)"
    assert bad_steps.too_many(phase, [(2, 2), (4, 4)], 5) is None
    assert bad_steps.too_many(phase, [(1, 3), (1, 6)], 1) is not None  # back to the same checkpoint, a third time
    assert bad_steps.too_many(phase, [(1, 1), (3, 3), (5, 5), (7, 7)], 9) == (
        "4 in this phase have been forgiven already (blow_up.in_all)"
    )


@pytest.mark.parametrize("crop", [None, {"how": "uniform", "min_length": 5}])
def test_the_documents_of_a_step_are_those_that_were_read(text: Text, crop):
    plan = changed(crop=crop)
    stream, _ = reading(plan, first(plan), text)
    batch, store = stream.read(1_000, 2_000, 0.3), text.train
    read = stream.origins(1_000, 2_000)
    assert [bucket for bucket, *_ in read] == batch.sources.tolist()
    tokens = batch.tokens.copy()
    tokens[batch.positions] = batch.targets  # as they were before they were masked
    for i, (bucket, number, begin, length) in enumerate(read):
        assert 0 <= number < store.buckets[bucket].documents
        place = store.offsets[store.first_document[bucket] + number] + begin
        there = store.gather(np.array([place]), np.array([length]))
        assert there.tolist() == tokens[batch.starts[i] : batch.starts[i + 1]].tolist()


def test_stop_names_what_was_read_and_the_run_goes_on_where_it_was(tmp_path, text, whole, poison):
    poison(3)
    with pytest.raises(TrainingError, match=r"first, step 3: the loss is nan .* documents web/\w+ \d+, .*lower"):
        go(tmp_path, text)
    told = json.loads((tmp_path / "first" / "faults" / "step-3.json").read_text())
    assert told["planned_tokens"] == [3_000, 4_000]
    assert told["tokens"] == sum(row["tokens"] for row in told["documents"]) > 900
    assert (told["loss"], told["gradient_norm"]) == ("NaN", "NaN")
    assert checkpoint.latest(tmp_path / "first")[0] == tmp_path / "first" / "checkpoint-3"
    poison()
    go(tmp_path, text)
    assert weights(tmp_path) == weights(whole)


def test_skip_makes_no_update_and_says_so(tmp_path, text, whole, poison):
    poison(2)
    said = go(tmp_path, text, plan=changed(blow_up={"policy": "skip"}))
    assert any("first, step 2: the loss is nan" in line and "this update is not made" in line for line in said)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 4, 5, 6]
    (skipped,) = lines(tmp_path, "skip")
    assert (skipped["step"], skipped["tokens"], skipped["first"], skipped["last"]) == (3, 3_000, 2, 2)
    assert whole_of(tmp_path) == [[2, 2]]
    assert [line["loss"] for line in lines(tmp_path)][:2] == [line["loss"] for line in lines(whole)][:2]
    assert weights(tmp_path) != weights(whole)
    read = checkpoint.position(tmp_path / "first" / "final").tokens_read
    assert read == lines(whole)[-1]["tokens_read"] - lines(whole)[2]["batch_tokens"]


def test_rollback_leaves_out_all_since_the_last_lasting_checkpoint(tmp_path, text, poison):
    plan = changed(checkpoint_every=2_000, blow_up={"policy": "rollback"})
    poison(3)
    said = go(tmp_path / "back", text, plan=plan)
    assert "warning: first: going back to checkpoint-2, on with step 4" in said
    assert whole_of(tmp_path / "back") == [[2, 3]]
    poison(2, 3)  # the same weights as if neither step had made an update
    go(tmp_path / "skipped", text, plan=changed(blow_up={"policy": "skip"}))
    assert weights(tmp_path / "back") == weights(tmp_path / "skipped")


def test_rollback_before_the_first_lasting_checkpoint_goes_back_to_the_start(tmp_path, text, poison):
    poison(1)
    said = go(tmp_path / "back", text, plan=changed(checkpoint_every=4_000, blow_up={"policy": "rollback"}))
    assert "warning: first: going back to its start, on with step 2" in said
    poison(0, 1)
    go(tmp_path / "skipped", text, plan=changed(blow_up={"policy": "skip"}))
    assert weights(tmp_path / "back") == weights(tmp_path / "skipped")


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("policy", "poisoned"), [("skip", (1, 4)), ("rollback", (1, 4)), ("rollback", (5,))], ids=["skip", "back", "last"]
)
def test_a_run_stopped_anywhere_around_a_fault_ends_with_the_same_bytes(
    tmp_path, text, poison, tmp_path_factory, policy, poisoned, stop
):
    plan = changed(checkpoint_every=2_000, blow_up={"policy": policy})
    poison(*poisoned)
    go(tmp_path / "whole", text, plan=plan)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "torn", text, plan=plan, stop=stop)
    go(tmp_path / "torn", text, plan=plan)
    assert weights(tmp_path / "torn") == weights(tmp_path / "whole")
    assert whole_of(tmp_path / "torn") == whole_of(tmp_path / "whole")
    for kind in ("step", policy):
        pairs = (
            [(line["step"], line.get("loss")) for line in lines(tmp_path / run, kind)] for run in ("torn", "whole")
        )
        assert next(pairs) == next(pairs)


def test_what_was_forgiven_is_not_forgotten_when_a_run_resumes(tmp_path, text, poison):
    plan = changed(blow_up={"policy": "skip", "in_a_row": 2})
    poison(2, 3, 4)
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"step 4: .* 2 in a row have been forgiven already"):
            go(tmp_path, text, plan=plan)
    poison(2, 3)
    go(tmp_path, text, plan=plan)
    assert whole_of(tmp_path) == [[2, 2], [3, 3]]


def test_weights_that_are_no_numbers_are_never_written(tmp_path, text, monkeypatch):
    step = trainer._step

    def spoilt(job, state, number, *read):
        found = step(job, state, number, *read)
        if number == 3:
            state.model.encoder.norm.weight.data[5] = math.inf
        return found

    monkeypatch.setattr(trainer, "_step", spoilt)
    for policy in ("stop", "skip"):  # an update that was made cannot be skipped any more
        with pytest.raises(TrainingError, match="first, step 3: its update left weights that are no numbers"):
            go(tmp_path, text, plan=changed(blow_up={"policy": policy}))
    assert checkpoint.latest(tmp_path / "first")[0] == tmp_path / "first" / "checkpoint-3"
    plan = changed(checkpoint_every=2_000, blow_up={"policy": "rollback"})
    go(tmp_path / "back", text, plan=plan)
    assert whole_of(tmp_path / "back") == [[2, 3]]


def test_rollback_without_checkpoints_to_go_back_to_is_refused():
    with pytest.raises(ValidationError, match="rollback goes back to a checkpoint of checkpoint_every"):
        changed(blow_up={"policy": "rollback"})


def test_a_bound_that_is_crossed_is_a_fault(tmp_path, text):
    plan = changed(blow_up={"gradient_norm": 1e-6})
    with pytest.raises(TrainingError, match=r"step 0: the gradient norm is .* above 1e-06 \(blow_up\.gradient_norm\)"):
        go(tmp_path, text, plan=plan)
    assert schedule.total_steps(first(plan)) == 6
