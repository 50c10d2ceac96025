"""A fine-tuning and a sweep whose process is killed (SIGKILL), run again, end as if nothing had happened."""

import json
import subprocess
import sys
import time

import learnable
import pytest
from learnable import THINGS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")]
TASK = """
things:
  kind: classify
  data: {path: "{split}.jsonl"}
  columns: {text: text, label: label}
  metric: accuracy
  languages: [eng]
"""
PROTOCOL = "p: {steps: 40, batch_size: 8, learning_rates: [0.001, 0.005], seeds: [0, 1], max_length: 64}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, rows in three files, a task and a protocol."""
    place = tmp_path_factory.mktemp("killed")
    learnable.model(place / "models").rename(place / "model")
    for seed, name in enumerate(("train", "validation", "test")):
        rows = [{"text": one.text, "label": THINGS[one.label]} for one in learnable.examples("classify", 80, seed)]
        (place / "rows").mkdir(exist_ok=True)
        (place / "rows" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (place / "t.yaml").write_text(TASK)
    (place / "p.yaml").write_text(PROTOCOL)
    return place


def finetune(place, out):
    return ["finetune", place / "model", place / "rows", "--out", out / "made", "--rates", "1e-3,5e-3", "--seeds", "2",
            "--steps", "40", "--batch", "8", "--device", "cpu", "--dtype", "float32"]  # fmt: skip


def evaluate(place, out):
    return ["evaluate", place / "model", "--task", f"{place / 't.yaml'}:things", "--protocol", f"{place / 'p.yaml'}:p",
            "--data", place / "rows", "--out", out, "--dtype", "float32", "--name", "m"]  # fmt: skip


def started(words):
    return subprocess.Popen(
        [sys.executable, "-m", "tessera", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(words):
    process = started(words)
    said, _ = process.communicate()
    assert process.returncode == 0, said


def killed(words, out, trials):
    """Kills the process as soon as so many trials are there; whether it was still at work then."""
    process = started(words)
    while process.poll() is None and len(list(out.rglob("*seed-*.json"))) < trials:
        time.sleep(0.01)
    at_work = process.poll() is None
    process.kill()
    process.communicate()
    return at_work


def told(path):
    """What a result says, its times aside."""
    said = json.loads(path.read_text())
    for one in [said, *said["trials"]]:
        for key in ("seconds", "seconds_now", "sha256"):
            one.pop(key, None)
    return said


@pytest.mark.parametrize("verb", [finetune, evaluate])
def test_a_search_that_is_killed_again_and_again_ends_with_the_same(verb, place, tmp_path):
    (tmp_path / "whole").mkdir()
    run(verb(place, tmp_path / "whole"))
    out = tmp_path / "again"
    out.mkdir()
    stopped = [killed(verb(place, out), out, trials) for trials in (0, 1, 2, 3)]
    assert stopped[0], "it was killed at its beginning"
    assert not (out / "made").exists()
    run(verb(place, out))
    if verb is finetune:
        for name in ("model.safetensors", "config.json", "README.md"):
            assert (out / "made" / name).read_bytes() == (tmp_path / "whole" / "made" / name).read_bytes()
    else:
        assert told(out / "m.things.p.json") == told(tmp_path / "whole" / "m.things.p.json")
