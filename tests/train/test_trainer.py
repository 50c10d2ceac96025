import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import recipe

from tessera.model.heads import MaskedLM
from tessera.plan import schedule
from tessera.plan.course import shares_of
from tessera.plan.recipe import Recipe
from tessera.train import checkpoint, trainer
from tessera.train.distributed import World
from tessera.train.trainer import Text, TrainingError, train

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def go(
    folder: Path, text: Text, stop: int | None = None, phases: tuple[str, ...] = ("first",), **machine: object
) -> list[str]:
    """Trains the named phases; with `stop`, dies at the progress call of that step. Returns what was said."""
    said: list[str] = []
    plan = recipe(**machine)
    made = 0

    def watch(done: int, total: int, what: str) -> None:
        nonlocal made
        made += 1
        if made == stop:
            raise KeyboardInterrupt

    for name in phases:
        train(plan, plan.phase(name), folder, text, ALONE, watch, said.append)
    return said


def weights(folder: Path, phase: str = "first") -> bytes:
    return (folder / phase / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, text: Text) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    go(folder, text)
    return folder


def lines(folder: Path, kind: str = "step", phase: str = "first") -> list[dict[str, float]]:
    read = [json.loads(line) for line in (folder / phase / "metrics.jsonl").read_text().splitlines()]
    return [line for line in read if line["kind"] == kind]


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


def test_a_checkpoint_cut_short_is_named_and_the_one_before_is_used(tmp_path, text, whole):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, text, stop=4)
    newest = checkpoint.checkpoints(tmp_path / "first")[-1]
    file = newest / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    said = go(tmp_path, text)
    assert any("model.safetensors: has" in line and "going back to the last whole checkpoint" in line for line in said)
    assert weights(tmp_path) == weights(whole)


def test_a_flipped_byte_in_the_training_state_is_found(tmp_path, text, whole):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, text, stop=4)
    file = checkpoint.checkpoints(tmp_path / "first")[-1] / "training" / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert any("SHA-256 differs" in line for line in go(tmp_path, text))
    assert weights(tmp_path) == weights(whole)


def test_a_kill_while_a_checkpoint_is_written_loses_nothing(tmp_path, text, whole, monkeypatch):
    calls = 0
    seal = checkpoint.seal

    def die_in_the_middle(folder: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        seal(folder)

    monkeypatch.setattr(checkpoint, "seal", die_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, text)
    names = [f.name for f in (tmp_path / "first").iterdir() if f.is_dir()]
    assert sorted(names) == ["checkpoint-1", "checkpoint-2"]
    go(tmp_path, text)
    assert weights(tmp_path) == weights(whole)


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path, text, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, text, stop=3)
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(checkpoint.CheckpointError, match="the disk is full, the checkpoint was not written"):
        go(tmp_path, text)
    assert checkpoint.latest(tmp_path / "first")[0] is not None
    assert not list((tmp_path / "first").glob(".*writing"))


def test_the_gradient_is_the_mean_over_the_masked_positions_of_the_whole_batch(text):
    plan = recipe()
    config = trainer.architecture(plan, text.tokenizer).model_copy(update={"attention_output_dropout": 0.0})
    torch.manual_seed(0)
    stream = trainer._stream(plan, plan.phases[0], text, shares_of(plan.phases[0], text.train.buckets))
    batch = stream.read(0, 2_000, 0.3)
    gradients = []
    model = MaskedLM(config)
    for size in (150, 700, 100_000):
        model.zero_grad()
        loss = trainer._backward(trainer._Objective(model), batch, size, ALONE, torch.float32)
        gradients.append((loss, model.encoder.embedding.weight.grad.clone()))
    for loss, gradient in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-5)
        torch.testing.assert_close(gradient, gradients[0][1], rtol=1e-4, atol=1e-7)


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
    train(plan, plan.phase("first"), tmp_path, text, ALONE, lambda *_: None, lambda _: None)
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


def test_a_loss_that_is_no_number_stops_the_run_and_names_what_was_read(tmp_path, text):
    plan = recipe()
    phase = plan.phases[0]
    wild = phase.model_copy(
        update={"learning_rate": phase.learning_rate.model_copy(update={"peak": 1e30, "warmup": 0})}
    )
    with pytest.raises(TrainingError, match=r"first, step \d+: the loss is .* documents of web/ell_Grek, web/eng_Latn"):
        train(plan, wild, tmp_path, text, ALONE, lambda *_: None, lambda _: None)


def test_old_checkpoints_are_dropped_and_lasting_ones_kept(tmp_path, text):
    plan = recipe()
    phase = plan.phases[0].model_copy(update={"checkpoint_every": 2_000})
    train(plan, phase, tmp_path, text, ALONE, lambda *_: None, lambda _: None)
    steps = [checkpoint.step_of(f) for f in checkpoint.checkpoints(tmp_path / "first")]
    assert steps == [schedule.step_at(phase, tokens) for tokens in (2_000, 4_000, 6_000)]


def test_two_processes_read_the_same_batches_and_reach_the_same_loss(tmp_path, text, whole):
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from tiny_run import recipe
from tessera.text.shards import Shards
from tessera.text.tokenizer import Tokenizer
from tessera.train.distributed import join, leave
from tessera.train.trainer import Text, train
folder = Path({str(text.tokenizer_folder.parent)!r})
text = Text(train=Shards.open(folder / "train"), held_out=Shards.open(folder / "held_out"),
            tokenizer=Tokenizer.load(folder / "tokenizer"), tokenizer_folder=folder / "tokenizer")
plan = recipe()
override = plan.model.model_copy(update={{"override": {{**plan.model.override, "attention_output_dropout": 0.0}}}})
plan = plan.model_copy(update={{"model": override}})
world = join(plan.machine)
train(plan, plan.phases[0], Path({str(tmp_path)!r}) / str(world.size), text, world, lambda *_: None, lambda _: None)
leave(world)
"""
    (tmp_path / "go.py").write_text(script)
    for size in (1, 2):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(size),
            str(tmp_path / "go.py"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    one, two = ([line["loss"] for line in lines(tmp_path / str(size))] for size in (1, 2))
    assert two == pytest.approx(one, rel=1e-3)
