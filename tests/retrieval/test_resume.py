"""A retriever or a student whose training was killed, at any step of any rate, ends as one that never was."""

import learnable
import pytest
from test_distil import sentences
from test_run_pairs import CALM, riddles

from tessera.finetune.checkpoint import Checkpoint
from tessera.inference.encoder import Encoder
from tessera.retrieval import distil, retrieve
from tessera.retrieval.retriever import Contrast

STEPS = 4
PROTOCOL = learnable.protocol(steps=STEPS, batch_size=8, learning_rates=[1e-3, 5e-3], negatives=2)


class Killed(BaseException):
    """What a kill is to the process that dies of it."""


class Watch:
    """Dies behind so many steps of a stage, whichever rate that is."""

    def __init__(self, stop=None):
        self.stop, self.steps, self.lines = stop, 0, []

    def say(self, text):
        self.lines.append(text)

    warn = say

    def progress(self, stage):
        def report(done, total, what):
            self.steps += what in ("distillation", "contrastive training")
            if self.stop is not None and self.steps == self.stop:
                raise Killed

        return report


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("resume")
    student = learnable.model(place / "s")
    Encoder.from_pretrained(learnable.model(place / "t", "eurobert-210m")).save(place / "teacher")
    return student, place / "teacher"


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    """Checkpoints by the clock stand behind every step here."""
    monkeypatch.setattr(Checkpoint, "after_step", _always(Checkpoint.after_step))


def _always(real):
    def after_step(self, course, steps):
        self.minutes = 0
        real(self, course, steps)

    return after_step


def student(folders, out, watcher):
    distil.run(folders[0], folders[1], sentences(60, ("a", "b")), out, protocol=PROTOCOL, held_out=0.3, machine=CALM,
               watcher=watcher)  # fmt: skip


def retriever(folders, out, watcher):
    how = Contrast(mine_after=0.5)
    retrieve.run(folders[0], riddles(40), out, protocol=PROTOCOL, contrast=how, held_out=0.3, machine=CALM,
                 watcher=watcher)  # fmt: skip


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    """What never was stopped leaves."""
    place = tmp_path_factory.mktemp("whole")
    for run in (student, retriever):
        run(folders, place / run.__name__, Watch())
    return {run: (place / run.__name__ / "model.safetensors").read_bytes() for run in (student, retriever)}


@pytest.mark.parametrize("run", [student, retriever])
@pytest.mark.parametrize("stop", [1, 2, 4, 5, 8])
def test_a_training_killed_at_any_step_of_any_rate_ends_with_the_same_bytes(run, stop, folders, whole, tmp_path):
    with pytest.raises(Killed):
        run(folders, tmp_path / "out", Watch(stop))
    assert not (tmp_path / "out").exists()
    again = Watch()
    run(folders, tmp_path / "out", again)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole[run]
    rate, step = divmod(stop - 1, STEPS)
    said = [line for line in again.lines if "done before" in line or "goes on after" in line]
    assert [line.split(":")[0] for line in said if "done before" in line] == ["learning rate 0.001"] * rate
    resumed = [line.split(",")[0] for line in said if "goes on" in line]
    assert resumed == [f"goes on after step {step} of 4"] * (step > 0)
    left = sorted(path.name for path in (tmp_path / "out.trials").iterdir())
    assert left == ["0.001.json", "0.005.json"]  # no weights, no vectors of a teacher


@pytest.mark.parametrize("run", [student, retriever])
def test_one_killed_behind_all_trainings_needs_none_again(run, folders, whole, tmp_path, monkeypatch):
    module = distil if run is student else retrieve
    monkeypatch.setattr(module, "save_vectors", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(folders, tmp_path / "out", Watch())
    monkeypatch.undo()
    again = Watch()
    run(folders, tmp_path / "out", again)
    assert again.steps == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole[run]


def test_a_teacher_reads_nothing_twice(folders, tmp_path, monkeypatch):
    with pytest.raises(Killed):
        student(folders, tmp_path / "out", Watch(2))
    monkeypatch.setattr(Encoder, "encode", lambda *_, **__: pytest.fail("the teacher reads again"))
    with pytest.raises(Killed):
        student(folders, tmp_path / "out", Watch(3))


def test_a_checkpoint_behind_mined_negatives_that_are_gone_is_an_error_that_names_them(folders, tmp_path):
    with pytest.raises(Killed):
        retriever(folders, tmp_path / "out", Watch(4))
    (tmp_path / "out.trials" / "0.001.negatives.json").unlink()
    with pytest.raises(ValueError, match=r"0\.001\.negatives\.json: is missing; the checkpoint beside it"):
        retriever(folders, tmp_path / "out", Watch())


def test_other_rows_are_another_training(folders, tmp_path):
    with pytest.raises(Killed):
        student(folders, tmp_path / "out", Watch(6))
    again = Watch()
    distil.run(folders[0], folders[1], sentences(61, ("a", "b")), tmp_path / "out", protocol=PROTOCOL, held_out=0.3,
               machine=CALM, watcher=again)  # fmt: skip
    assert again.steps == 2 * STEPS
    assert not any("done before" in line or "goes on" in line for line in again.lines)


def test_texts_are_read_in_their_batch_and_not_before(folders, monkeypatch):
    model, _ = distil.student(folders[0], guide := Encoder.from_pretrained(folders[1]), CALM)
    taught = distil.lesson(guide, sentences(64))
    sizes, read = [], type(model).read

    def counted(self, texts):
        sizes.append(len(texts))
        return read(self, texts)

    monkeypatch.setattr(type(model), "read", counted)
    monkeypatch.setattr("tessera.retrieval.retriever._TEXTS", 10)
    distil.train(model, taught, PROTOCOL, rate=1e-3, seed=0)
    assert sizes == [10] * 6 + [4] + [16] * 4
