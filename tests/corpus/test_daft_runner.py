"""The same tasks give the same results here and on a cluster, and what goes wrong in one is told as it was."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from patience import HANGS

from tessera.corpus import daft_runner

# Daft 0.7 leaves the pipe of a worker process to the garbage collector, which says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def double():
    def task(number):  # inside, so that workers need not import the tests
        if number == 5:
            raise OSError(28, "the disk is full after 3 bytes", "some/file")
        return {"twice": 2 * number, "process": os.getpid()}

    return task


@pytest.mark.parametrize("processes", [False, True])
def test_every_job_is_done_once(double, processes):
    daft_runner.choose("native")
    found = list(daft_runner.spread(double, [1, 2, 3, 4], workers=2, processes=processes))
    assert sorted(result["twice"] for result in found) == [2, 4, 6, 8]
    assert (os.getpid() in {result["process"] for result in found}) is not processes


@pytest.mark.parametrize("processes", [False, True])
def test_what_a_task_raises_is_raised_here(double, processes):
    daft_runner.choose("native")
    with pytest.raises(OSError, match="the disk is full after 3 bytes") as caught:
        list(daft_runner.spread(double, [4, 5, 6], workers=2, processes=processes))
    assert (caught.value.errno, caught.value.filename) == (28, "some/file")


def test_nothing_to_do_is_done(double):
    daft_runner.choose("native")
    assert list(daft_runner.spread(double, [], workers=2)) == []


def test_a_process_has_one_engine(monkeypatch):
    import daft

    daft_runner.choose("native")
    daft_runner.choose("native")
    assert daft.get_or_infer_runner_type() == "native"
    monkeypatch.setattr(daft, "get_or_infer_runner_type", lambda: "ray")
    with pytest.raises(ValueError, match="runs Daft on 'ray' already; use a new process"):
        daft_runner.choose("native")


SCRIPT = """
import hashlib, json, sys
from pathlib import Path
from tessera.corpus import prepare
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.plan.corpus import Corpus, Duplicates, Filters, HeldOut, LanguageCheck, NearDuplicates, Repetition, Source

folder, name = Path(sys.argv[1]), sys.argv[2]
sources = (
    Source(name="web", path=str(folder / "web"), score="marks:letters", tiers=(1, 2, 3)),
    Source(name="pairs", path=str(folder / "pairs.jsonl"), kind="pairs"),
)
corpus = Corpus(
    sources=sources,
    filters=Filters(min_characters=20, repetition=Repetition(), language=LanguageCheck()),
    duplicates=Duplicates(near=NearDuplicates()),
    held_out=HeldOut(share=0.1),
)
documents = prepare.read(corpus, folder / name / "documents", engine=name, workers=2)
report = prepare.encode(documents, Tokenizer.load(folder / "tokenizer"), folder / name / "shards", workers=2)
files = sorted((folder / name / "shards").rglob("*.bin")) + sorted((folder / name / "shards").rglob("index.json"))
print(json.dumps([
    {str(p.relative_to(folder / name)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    report.skipped, report.total("train"),
]))
"""


@pytest.mark.slow
def test_a_ray_cluster_of_two_workers_gives_the_bytes_of_this_machine(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from tessera.plan.corpus import TokenizerTraining
    from tessera.tokenizer.tokenizer import train

    (tmp_path / "web").mkdir()
    for language, word in (("eng_Latn", "house"), ("dan_Latn", "hus"), ("fao_Latn", "hús")):
        rows = [{"text": f"{word} number {i} has {word * (i % 7)} and {i * i} more of them"} for i in range(400)]
        rows += [rows[3], {"text": rows[4]["text"] + "!"}, {"text": "short"}, {"none": 1}]
        (tmp_path / "web" / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pair = {"src_lang": "fao_Latn", "tgt_lang": "eng_Latn"}
    pairs = [{"src": f"hús {i} er gott", "tgt": f"house {i} is good", **pair} for i in range(50)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (tmp_path / "marks.py").write_text("def letters(texts):\n    return [len(text) % 5 for text in texts]\n")
    train({"eng_Latn": ["house number of them is good"] * 9}, TokenizerTraining(vocab_size=400), tmp_path / "tokenizer")
    (tmp_path / "go.py").write_text(textwrap.dedent(SCRIPT))
    found = []
    for name in ("native", "ray"):
        command = [sys.executable, str(tmp_path / "go.py"), str(tmp_path), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[0] == found[1]
    assert found[0][2]["documents"] > 1_000
