"""Lines of a phase: those of steps that a checkpoint holds stay, whatever happens while they are read again."""

import json

import pytest

from tessera.train.metrics import Metrics


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_after_the_checkpoint_are_dropped_and_a_kill_meanwhile_loses_none_before_it(tmp_path, monkeypatch):
    with Metrics(tmp_path, 0) as metrics:
        for step in (1, 2, 3):
            metrics.step(step=step, loss=1.0)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Metrics(tmp_path, 2)
    assert steps(tmp_path) == [1, 2, 3]
    with Metrics(tmp_path, 2):
        assert steps(tmp_path) == [1, 2]
