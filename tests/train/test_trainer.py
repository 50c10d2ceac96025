import json
import math

import numpy as np
import pytest
import torch
from going import ALONE, changed, first, go, gradient_of, lines, weights
from tiny_run import recipe

from tessera.data.packing import select
from tessera.model.mlm import MaskedLM
from tessera.plan import schedule
from tessera.plan.recipe import Model, Recipe
from tessera.train import checkpoint
from tessera.train.distributed import World
from tessera.train.gradient import SeededDropout
from tessera.train.reading import reading
from tessera.train.start import architecture
from tessera.train.trainer import train


def test_the_loss_falls(whole):
    losses = [line["loss"] for line in lines(whole)]
    assert losses[0] == pytest.approx(math.log(400), rel=0.1)  # an untrained model knows nothing
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])
def test_a_run_stopped_at_any_step_ends_with_the_same_bytes(tmp_path, text, whole, stop):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, text, stop=stop)
    go(tmp_path, text)
    assert weights(tmp_path) == weights(whole)
    steady = ("step", "loss", "tokens", "tokens_read", "learning_rate", "gradient_norm", "batch_tokens")
    assert [[line[k] for k in steady] for line in lines(tmp_path)] == [
        [line[k] for k in steady] for line in lines(whole)
    ]
    assert lines(tmp_path, "held_out") == lines(whole, "held_out")


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_gradient_is_the_mean_over_the_masked_positions_of_the_whole_batch(text, dropout):
    plan = recipe()
    config = architecture(plan, text.tokenizer).model_copy(update={"attention_output_dropout": dropout})
    torch.manual_seed(0)
    stream, _ = reading(plan, plan.phases[0], text)
    batch = stream.read(0, 2_000, 0.3)
    gradients = []
    model = MaskedLM(config)
    noise = SeededDropout(model)
    for size in (150, 700, 100_000):
        model.zero_grad()
        loss = gradient_of(model, batch, size, noise)
        gradients.append((loss, model.encoder.embedding.weight.grad.clone()))
    for loss, gradient in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-5)
        torch.testing.assert_close(gradient, gradients[0][1], rtol=1e-4, atol=1e-7)


def test_processes_without_a_document_add_nothing_and_the_shares_add_up_to_the_whole(text):
    plan = recipe()
    stream, _ = reading(plan, plan.phases[0], text)
    few = select(stream.read(0, 2_000, 0.3), np.array([0, 1]))
    torch.manual_seed(0)
    model = MaskedLM(architecture(plan, text.tokenizer))
    noise = SeededDropout(model)

    def gradient(ranks: int) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        losses = [
            gradient_of(model, few, 300, noise, World(rank=rank, size=ranks, device=ALONE.device))
            for rank in range(ranks)
        ]
        return sum(losses), model.encoder.embedding.weight.grad / ranks  # DDP takes the mean

    one, many = gradient(1), gradient(4)
    assert many[0] == pytest.approx(one[0], rel=1e-6)
    torch.testing.assert_close(many[1], one[1], rtol=1e-4, atol=1e-7)


def test_a_phase_takes_weights_and_clock_from_its_parent_and_moves_theta(tmp_path, text, whole):
    (tmp_path / "first").symlink_to(whole / "first")
    go(tmp_path, text, phases=("second",))
    config = json.loads((tmp_path / "second" / "final" / "config.json").read_text())
    assert "160000" in json.dumps(config)
    rows = lines(tmp_path, phase="second")
    assert rows[0]["total_tokens"] == 6_000 + rows[0]["tokens"]
    assert rows[0]["loss"] < lines(whole)[0]["loss"] - 1


def test_planned_and_read_shares_are_written_and_agree(whole):
    rows = json.loads((whole / "first" / "mixture.json").read_text())["buckets"]
    assert sum(row["share_planned"] for row in rows) == pytest.approx(1)
    assert [row["share_read"] for row in rows] == pytest.approx([row["share_planned"] for row in rows], abs=0.05)


def test_mask_temperature_and_shares_may_move_within_a_phase(tmp_path, text):
    data = recipe().model_dump(mode="json", by_alias=True)
    data["phases"][0] |= {
        "mask_ratio": {"from": 0.3, "to": 0.1},
        "mixture": {
            "temperature": {"from": 1.0, "to": 0.0},
            "shares": {"eng_Latn": {"from": 0.6, "to": 0.2, "shape": "cosine"}},
            "entries": {"fao_Latn": 3_000},
        },
    }
    plan = Recipe.model_validate(data)
    train(plan, plan.phase("first"), tmp_path, text, ALONE)
    masks = [0.3 - 0.2 * (step + 0.5) / 6 for step in range(6)]
    assert [line["mask_ratio"] for line in lines(tmp_path)] == pytest.approx(masks)
    rows = json.loads((tmp_path / "first" / "mixture.json").read_text())
    assert rows["temperature"] == {"from": 1.0, "to": 0.0, "shape": "linear"}
    planned = {row["language"]: row["share_planned"] for row in rows["buckets"]}
    read = {row["language"]: row["share_read"] for row in rows["buckets"]}
    assert planned["eng_Latn"] == pytest.approx(0.4)
    assert 0.05 < planned["fao_Latn"] < 0.2
    assert read == pytest.approx(planned, abs=0.05)
    assert "0.3 -> 0.1" in (tmp_path / "first" / "final" / "README.md").read_text()


def test_old_checkpoints_are_dropped_and_lasting_ones_kept(tmp_path, text):
    plan = recipe()
    phase = plan.phases[0].model_copy(update={"checkpoint_every": 2_000})
    train(plan, phase, tmp_path, text, ALONE)
    steps = [checkpoint.step_of(f) for f in checkpoint.checkpoints(tmp_path / "first")]
    assert [schedule.boundary(phase, step) for step in steps] == [2_000, 4_000, 6_000]


@pytest.mark.parametrize(("how", "factor"), [("strided", 0.5), ("tile", 2)])
def test_a_run_may_begin_with_the_weights_of_a_model_of_another_size(tmp_path, text, whole, how, factor):
    plan = recipe()
    sizes = {"hidden_size": int(32 * factor), "intermediate_size": int(48 * factor)}
    heads = {"num_attention_heads": int(2 * factor), "num_key_value_heads": int(2 * factor)}
    other = {"override": {**plan.model.override, **sizes, **heads}}
    first = {}
    for name, more in (("random", {}), ("resized", {"resize": {"from": str(whole / "first" / "final"), "how": how}})):
        model = Model.model_validate({"preset": "mmbert-small", **other, **more})
        go(tmp_path / name, text, plan=plan.model_copy(update={"model": model}))
        first[name] = lines(tmp_path / name)[0]["loss"]
    assert first["resized"] < first["random"] - (0.5 if how == "tile" else 0.0)


def test_a_step_in_which_no_token_is_masked_has_no_loss_and_says_so(tmp_path, text):
    said = []
    plan = changed(mask_ratio=1e-9, tokens=2_000)
    train(plan, first(plan), tmp_path, text, ALONE, lambda done, total, what: said.append(what))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert not any("loss" in line for line in lines(tmp_path))
    assert all(what.startswith("no token was masked, ") for what in said)


@pytest.mark.parametrize("name", ["adamw", "stableadamw", "muon"])
def test_a_last_step_in_which_no_document_begins_moves_nothing(tmp_path, text, name):
    plan = changed(tokens=1_001, learning_rate={"peak": 1e-3}, optimizer={"name": name})
    go(tmp_path, text, plan=plan)
    assert lines(tmp_path)[-1]["documents"] == 0
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
