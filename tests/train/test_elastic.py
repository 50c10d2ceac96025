"""One process or many, whole models or parts: the same batches, the same losses, one kind of checkpoint."""

import functools
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from going import changed, first, go, lines
from many import together, train_all
from patience import HANGS
from safetensors.torch import load_file

from tessera.plan.recipe import Recipe
from tessera.train import checkpoint
from tessera.train.distributed import LostProcess, World, from_lead, wait, watched
from tessera.train.trainer import train


def plan(parallel: str = "ddp", micro: int = 300, **phase: object) -> Recipe:
    given = changed(**phase)
    machine = given.machine.model_copy(update={"parallel": parallel, "micro_batch_tokens": micro})
    return given.model_copy(update={"machine": machine})


def half(parallel: str = "ddp") -> Recipe:
    """The same run up to its third step; the clock of the whole goes on from there."""
    return plan(parallel, tokens=3_000)


def same(one: Path, other: Path) -> None:
    """The same steps, batches, losses and held-out losses; weights and moments to float tolerance."""
    for mine, theirs in zip(lines(one), lines(other), strict=True):
        for key in ("step", "tokens_read", "batch_tokens", "documents", "learning_rate"):
            assert mine[key] == theirs[key], key
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)
    for file in ("model.safetensors", "training/optimizer.safetensors"):
        mine, theirs = (load_file(run / "first" / "final" / file) for run in (one, other))
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-2, atol=2e-4)
    mine, theirs = (lines(run, "held_out") for run in (one, other))
    for a, b in zip(mine, theirs, strict=True):
        for language, row in a["languages"].items():
            assert row["bits_per_byte"] == pytest.approx(b["languages"][language]["bits_per_byte"], rel=1e-3)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory, text):
    """Three steps by one process."""
    folder = tmp_path_factory.mktemp("halfway")
    go(folder, text, plan=half())
    (folder / "first" / "final").unlink()
    return folder


def resumed_from(folder: Path, out: Path) -> Path:
    shutil.copytree(folder / "first", out / "first", symlinks=True)
    (out / "first" / "final").unlink(missing_ok=True)
    return out


def test_two_processes_read_the_same_batches_and_reach_the_same_weights(tmp_path, text, whole, halfway):
    """With dropout; DDP and FSDP2, other micro-batches, and both going on from what one process wrote."""
    folder = text.tokenizer_folder.parent
    runs = {
        "ddp": plan("ddp"),
        "fsdp2": plan("fsdp2", micro=170),  # processes have different numbers of micro-batches
        "ddp-resumed": plan("ddp", micro=5_000),
        "fsdp2-resumed": plan("fsdp2"),
    }
    for name in ("ddp-resumed", "fsdp2-resumed"):
        resumed_from(halfway, tmp_path / name)
    codes = together(2, train_all, folder, [(tmp_path / name, each) for name, each in runs.items()])
    assert codes == [0, 0], "9: threads of the group were left behind when it was destroyed"
    for name in runs:
        same(tmp_path / name, whole)


def test_one_process_goes_on_from_what_two_wrote(tmp_path, text, whole):
    folder = text.tokenizer_folder.parent
    runs = [(tmp_path / kind, half(kind)) for kind in ("ddp", "fsdp2")]
    assert together(2, train_all, folder, runs) == [0, 0]
    for out, _ in runs:
        (out / "first" / "final").unlink()
        go(out, text)
        same(out, whole)


@pytest.mark.slow
def test_four_processes_and_back_to_two_and_one(tmp_path, text, whole):
    folder = text.tokenizer_folder.parent
    runs = [(tmp_path / kind, plan(kind)) for kind in ("ddp", "fsdp2")]
    halves = [(tmp_path / f"half-{kind}", half(kind)) for kind in ("ddp", "fsdp2")]
    assert together(4, train_all, folder, [*runs, *halves]) == [0] * 4
    for kind, other in (("ddp", "fsdp2"), ("fsdp2", "ddp")):
        same(tmp_path / kind, whole)
        for size in (1, 2):
            resumed_from(tmp_path / f"half-{kind}", tmp_path / f"{kind}-on-{size}")
        go(tmp_path / f"{kind}-on-1", text)
        same(tmp_path / f"{kind}-on-1", whole)
        assert together(2, train_all, folder, [(tmp_path / f"{kind}-on-2", plan(other))]) == [0, 0]
        same(tmp_path / f"{kind}-on-2", whole)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_state_of_other_optimizers_is_gathered_and_spread_too(tmp_path, text, name):
    folder, kind = text.tokenizer_folder.parent, "fsdp2" if name == "adamw" else "ddp"
    settings = {"name": name, "clip_norm": 0.5, "weight_decay": 0.01}
    go(tmp_path / "alone", text, plan=plan(optimizer=settings, tokens=4_000))
    out = tmp_path / "together"
    go(out, text, plan=plan(optimizer=settings, tokens=2_000))
    (out / "first" / "final").unlink()
    assert together(2, train_all, folder, [(out, plan(kind, optimizer=settings, tokens=4_000))]) == [0, 0]
    tolerance = 1e-5 if name == "adamw" else 1e-3  # Muon turns its matrices in bfloat16
    losses = [[line["loss"] for line in lines(run)] for run in (tmp_path / "alone", out)]
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)


def faulty(world: World, folder: Path, out: Path, answer: str) -> None:
    """One process finds a loss that is no number in step 2, and the others must do as it does."""
    from many import opened

    from tessera.train import trainer

    backward, calls = trainer.gradient.backward, 0

    def sometimes(*given: object, **more: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        sums = backward(*given, **more)
        return sums * float("nan") if calls == 3 and world.rank == 1 else sums

    trainer.gradient.backward = sometimes
    recipe = plan(blow_up={"policy": answer})
    try:
        train(recipe, first(recipe), out, opened(folder), world)
    except trainer.TrainingError as error:
        sys.exit(5 if "the loss is nan" in str(error) else str(error))


def test_a_loss_that_is_no_number_in_one_process_is_one_for_all(tmp_path, text):
    folder = text.tokenizer_folder.parent
    assert together(2, faulty, folder, tmp_path / "stop", "stop") == [5, 5]
    assert together(2, faulty, folder, tmp_path / "skip", "skip") == [0, 0]
    assert checkpoint.position(tmp_path / "skip" / "first" / "final").left_out == [[2, 2]]


def dies(world: World, folder: Path, out: Path) -> None:
    """The second process dies in the third step; the first has to say so."""
    from many import opened

    from tessera.train import trainer

    step = trainer._step

    def fatal(job: trainer.Job, state: object, number: int, *read: object) -> object:
        if number == 2 and world.rank == 1:
            os._exit(7)
        return step(job, state, number, *read)

    trainer._step = fatal
    try:
        train(plan(), plan().phases[0], out, opened(folder), world)
    except LostProcess as error:
        clear = "process 0 of 2: another process has ended or does not answer", "--max-restarts"
        sys.exit(6 if all(words in str(error) for words in clear) else str(error))


def test_a_process_that_loses_another_ends_with_a_clear_message_and_the_run_goes_on(tmp_path, text, whole):
    assert together(2, dies, text.tokenizer_folder.parent, tmp_path) == [6, 7]
    assert [f.name for f in checkpoint.checkpoints(tmp_path / "first")] == ["checkpoint-1", "checkpoint-2"]
    go(tmp_path, text)
    same(tmp_path, whole)


def slow(world: World, one: str) -> None:
    """A process that takes three times as long as any waits for another, and may then be gone."""
    dist.monitored_barrier = functools.partial(dist.monitored_barrier, timeout=timedelta(seconds=1))
    try:
        with watched(world):
            if world.leads == one.startswith("leader"):
                time.sleep(3)
                if one == "leader that dies":
                    os._exit(7)
            wait(world)
            assert from_lead(world.rank, world) == 0
    except LostProcess as error:
        sys.exit(6 if f"process {world.rank} of 2: another process has ended or does not" in str(error) else str(error))


@pytest.mark.parametrize(
    ("one", "codes"), [("leader that lives", [0, 0]), ("leader that dies", [7, 6]), ("other", [6, 6])]
)
def test_the_others_wait_for_the_leader_while_it_lives_and_the_leader_not_for_the_others(one, codes):
    assert together(2, slow, one, timeout=1) == codes


SCRIPT = """
import os, sys
sys.path[:0] = [{tests!r}, os.path.dirname({tests!r})]
from pathlib import Path
from many import THREADS_LEFT, opened, threads
from test_elastic import plan
from tessera.progress import Silent
from tessera.train import trainer
from tessera.train.distributed import join, leave

step, mark, out = trainer._step, Path({mark!r}), Path({out!r})

def fatal(job, state, number, *read):
    if number == 3 and job.world.rank == 1 and not mark.exists():
        mark.write_text("died once")
        os._exit(7)
    return step(job, state, number, *read)

class Prints(Silent):
    say = warn = staticmethod(print)

trainer._step = fatal
recipe = plan({parallel!r})
world = join(recipe.machine)
try:
    trainer.train(recipe, recipe.phases[0], out, opened(Path({text!r})), world, watcher=Prints())
finally:
    leave(world)
sys.exit(THREADS_LEFT if any("gloo" in name for name in threads()) else 0)
"""


def test_nothing_that_keeps_a_group_alive_is_imported_after_it_is_made():
    """Its threads would live into the exit of the process, and now and then end it with SIGABRT."""
    code = """
import os, sys
os.environ.update(RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
import torch.distributed as dist
from tessera.plan.recipe import Machine
from tessera.train import distributed
late = "torch.distributed.nn.functional"
assert late not in sys.modules  # else this test proves nothing
distributed._meeting_place = lambda: None
dist.init_process_group = lambda *_, **__: print(late in sys.modules)
dist.new_group = lambda *_, **__: None
distributed.join(Machine())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.stdout.split() == ["True"], done.stderr


def torchrun(tmp_path: Path, text: Path, *options: str, parallel: str = "ddp") -> subprocess.CompletedProcess[str]:
    out, mark = tmp_path / "out", tmp_path / "mark"
    values = {"tests": str(Path(__file__).parent), "mark": str(mark), "out": str(out), "text": str(text)}
    (tmp_path / "go.py").write_text(SCRIPT.format(**values, parallel=parallel))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(tmp_path / "go.py")], capture_output=True, text=True, timeout=HANGS, env=threads, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_torchrun_restarts_a_run_whose_process_died_and_it_resumes(tmp_path, text, whole, parallel):
    done = torchrun(tmp_path, text.tokenizer_folder.parent, "--max-restarts", "1", parallel=parallel)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mark").exists()
    assert "first: resuming at checkpoint-3" in done.stdout
    same(tmp_path / "out", whole)


@pytest.mark.slow
def test_without_restarts_torchrun_ends_and_names_the_process(tmp_path, text):
    done = torchrun(tmp_path, text.tokenizer_folder.parent)
    assert done.returncode != 0
    assert re.search(r"Root Cause .*\n.*\n.*\n.*\n *rank +: 1 .*\n *exitcode +: 7", done.stderr), done.stderr
    assert checkpoint.latest(tmp_path / "out" / "first")[0] is not None
