"""Checkpoints that are missing something, and disks that are full: said, and the last whole one is used."""

import io
import json
import resource
from pathlib import Path

import pytest
from going import ALONE, changed, go, weights
from rich.console import Console
from tiny_run import recipe

from tessera import checksums
from tessera.terminal import Watcher
from tessera.train import checkpoint
from tessera.train.trainer import TrainingError, train


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGE = [
    ("model.safetensors", cut, "model.safetensors: has"),
    ("model.safetensors", flip, "model.safetensors: its bytes have changed"),
    ("model.safetensors", Path.unlink, "model.safetensors: is missing"),
    ("config.json", Path.unlink, "config.json: is missing"),
    ("training/optimizer.safetensors", flip, "optimizer.safetensors: its bytes have changed"),
    ("training/optimizer.safetensors", Path.unlink, "optimizer.safetensors: is missing"),
    ("training/state.json", flip, "state.json: its bytes have changed"),
    ("manifest.json", Path.unlink, "no manifest.json, so it was not written to the end"),
    ("manifest.json", cut, "manifest.json: is not JSON"),
    ("manifest.json", lambda file: file.write_text("{}"), "manifest.json: does not name all files of a checkpoint"),
    ("manifest.json", lambda file: file.write_text("[]"), "manifest.json: does not name all files of a checkpoint"),
]


@pytest.fixture(scope="module")
def torn(tmp_path_factory, text):
    """A run that died in its fourth step, with two checkpoints."""
    folder = tmp_path_factory.mktemp("torn")
    with pytest.raises(KeyboardInterrupt):
        go(folder, text, stop=4)
    assert [f.name for f in checkpoint.checkpoints(folder / "first")] == ["checkpoint-2", "checkpoint-3"]
    return folder


@pytest.mark.parametrize(("name", "spoil", "what"), DAMAGE, ids=[f"{n} {w[-20:]}" for n, _, w in DAMAGE])
def test_what_is_wrong_with_a_checkpoint_is_named_and_the_one_before_is_used(tmp_path, torn, name, spoil, what):
    for folder in checkpoint.checkpoints(torn / "first"):
        copy(folder, tmp_path / folder.name)
    spoil(tmp_path / "checkpoint-3" / name)
    found, broken = checkpoint.latest(tmp_path)
    assert found == tmp_path / "checkpoint-2"
    assert len(broken) == 1
    assert what in broken[0]


def copy(folder: Path, target: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            place = target / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())


@pytest.mark.parametrize("number", [2, 7])
def test_a_run_goes_back_past_damage_and_ends_with_the_same_bytes(tmp_path, text, whole, torn, number):
    for folder in checkpoint.checkpoints(torn / "first"):
        copy(folder, tmp_path / "first" / folder.name)
    name, spoil, what = DAMAGE[number]
    spoil(tmp_path / "first" / "checkpoint-3" / name)
    said = go(tmp_path, text)
    assert any(what in line and "going back to the last whole checkpoint" in line for line in said)
    assert any("resuming at checkpoint-2" in line for line in said)
    assert weights(tmp_path) == weights(whole)


def test_a_folder_with_markup_in_its_name_is_warned_about_and_the_run_goes_on(tmp_path, text, whole, torn):
    """Where lines were markup, `runs[/old]` ended the run at the moment it wanted to warn."""
    run, out = tmp_path / "runs[/old][b]", io.StringIO()
    for folder in checkpoint.checkpoints(torn / "first"):
        copy(folder, run / "first" / folder.name)
    flip(run / "first" / "checkpoint-3" / "model.safetensors")
    watcher = Watcher(Console(file=out, width=200))
    train(recipe(), recipe().phases[0], run, text, ALONE, watcher=watcher)
    assert f"{run / 'first' / 'checkpoint-3' / 'model.safetensors'}: its bytes have changed" in out.getvalue()
    assert weights(run) == weights(whole)


def test_with_every_checkpoint_damaged_a_phase_starts_again(tmp_path, text, whole, torn):
    for folder in checkpoint.checkpoints(torn / "first"):
        copy(folder, tmp_path / "first" / folder.name)
        flip(tmp_path / "first" / folder.name / "model.safetensors")
    said = go(tmp_path, text)
    assert sum("its bytes have changed" in line for line in said) == 2
    assert weights(tmp_path) == weights(whole)


def test_a_phase_does_not_begin_with_damaged_weights(tmp_path, text, whole):
    copy((whole / "first" / "final").resolve(), tmp_path / "first" / "checkpoint-6")
    checkpoint.point(tmp_path / "first" / "final", tmp_path / "first" / "checkpoint-6")
    flip(tmp_path / "first" / "checkpoint-6" / "model.safetensors")
    with pytest.raises(TrainingError, match=r"second comes from first, but .*model\.safetensors: its bytes .* remove "):
        go(tmp_path, text, phases=("second",))


def test_a_kill_while_a_checkpoint_is_written_loses_nothing(tmp_path, text, whole, monkeypatch):
    calls = 0
    seal = checksums.seal

    def die_in_the_middle(folder: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        seal(folder)

    monkeypatch.setattr(checksums, "seal", die_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, text)
    names = [f.name for f in (tmp_path / "first").iterdir() if f.is_dir()]
    assert sorted(names) == ["checkpoint-1", "checkpoint-2"]
    go(tmp_path, text)
    assert weights(tmp_path) == weights(whole)


def test_a_kill_between_the_last_checkpoint_and_its_name_final_loses_nothing(tmp_path, text, whole, monkeypatch):
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "point", die)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path, text)
    assert not (tmp_path / "first" / "final").exists()
    go(tmp_path, text)
    assert weights(tmp_path) == weights(whole)
    mixture = "first/mixture.json"
    assert json.loads((tmp_path / mixture).read_text()) == json.loads((whole / mixture).read_text())


def test_a_full_disk_is_said_and_the_run_goes_on_from_the_last_checkpoint(tmp_path, text, whole):
    """A limit on the size of files fails where a full disk would: in the middle of model.safetensors."""
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, text, stop=3)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
    try:
        with pytest.raises(checkpoint.CheckpointError, match=r"the disk is full .* the checkpoint was not written"):
            go(tmp_path, text)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert checkpoint.latest(tmp_path / "first")[0] == tmp_path / "first" / "checkpoint-2"
    assert not list((tmp_path / "first").glob(".*writing"))
    go(tmp_path, text)
    assert weights(tmp_path) == weights(whole)


@pytest.mark.parametrize("number", [28, 122])
def test_a_full_disk_is_known_by_its_number_and_other_errors_stay_as_they_are(tmp_path, text, monkeypatch, number):
    def fail(*_: object) -> None:
        raise OSError(number, "as the system says it")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(checkpoint.CheckpointError, match="free some space and run the same command again"):
        go(tmp_path, text)
    number = 5  # a broken disk is no full disk
    with pytest.raises(OSError, match="as the system says it"):
        go(tmp_path, text)


def test_no_room_for_the_metrics_is_a_full_disk_too(tmp_path, text):
    plan = changed(tokens=1_000)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, old[1]))
    try:
        with pytest.raises(checkpoint.CheckpointError, match="the disk is full"):
            go(tmp_path, text, plan=plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
