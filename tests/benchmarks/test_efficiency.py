"""The harness of the papers: its documents, its ratios, and all of it once with tiny shapes."""

import importlib.util
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def module(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def program():
    return module("efficiency")


@pytest.fixture(scope="module")
def parts():
    return module("efficiency_parts")


@pytest.mark.parametrize(
    ("kind", "mean", "deviation", "longest"), [("512 variable", 256, 64, 512), ("8192 variable", 4096, 1024, 8192)]
)
def test_variable_documents_have_the_lengths_of_the_harness(parts, kind, mean, deviation, longest):
    lengths = np.array([len(document) for document in parts.documents(kind, 1000)])
    assert abs(lengths.mean() - mean) < 4 * deviation / 1000**0.5  # four standard errors
    assert abs(lengths.std() / deviation - 1) < 0.1
    assert lengths.min() >= 16
    assert lengths.max() <= longest


def test_fixed_documents_are_all_as_long_and_the_same_each_time(parts):
    first, again = parts.documents("512", 3), parts.documents("512", 3)
    assert [len(document) for document in first] == [512] * 3
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not (first[0] == first[1]).all()


def test_ratios_are_those_of_the_same_documents(program):
    def rows(*speeds):
        return {kind: {"tokens_per_second": speed} for kind, speed in zip(program.KINDS, speeds, strict=False)}

    found = {
        "mmbert-small, tessera": rows(600, 900, 500, 800),
        "mmbert-small, transformers": rows(300, 100, 250, 200),
        "xlm-r-base, transformers": rows(200, 100),
    }
    ratios = program.ratios(found)["mmbert-small"]
    assert [ratios[kind]["transformers"] for kind in program.KINDS] == [2, 9, 2, 4]
    assert [ratios[kind]["xlm-r-base"] for kind in program.KINDS] == [3, 9, None, None]
    assert ratios["512"]["published"] == pytest.approx(220.2 / 62.1)
    assert ratios["8192"]["published"] is None


def test_a_contestant_that_fails_has_no_ratio(program):
    found = {"mmbert-base, tessera": {"512": {"error": "its process ended with 1"}}}
    assert program.ratios(found) == {}


def test_all_of_it_runs_with_tiny_shapes(program, parts, tmp_path, monkeypatch, capsys):
    """One contestant in a process of its own, as all have in a measurement; the others here, where torch is loaded."""
    own, words = program._child, ["--rehearse", "--models", "eurobert-210m", "minilm", "--kinds", "512", "512 variable"]
    sizes = {"rehearse": True, "documents": 6, "passes": 2}
    started = []

    def child(given, case):
        started.append((case["what"], case.get("name"), case.get("kind")))
        alone = started[-1] == ("time", "tessera", "512 variable")
        return own(given, case) if alone else parts.main({**case, **sizes})

    monkeypatch.setattr(program, "_child", child)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    program.main(program.arguments([*words, "--write", str(tmp_path / "page.md")]))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["setting"] == {"documents": 6, "passes": 2}
    assert len(started) == 7
    assert result["rehearsal"] is True
    assert set(result["ours"]) == {"eurobert-210m, tessera"}
    assert set(result["peers"]) == {"eurobert-210m, transformers", "minilm, transformers"}
    rows = [row for group in ("ours", "peers") for kinds in result[group].values() for row in kinds.values()]
    assert len(rows) == 6
    assert all(row["tokens_per_second"] > 0 and row["batch"] == 6 for row in rows)
    page = (tmp_path / "page.md").read_text()
    assert "these figures measure nothing" in page
    assert page.count("\n| ") == 7  # the head and a line for each


def test_a_contestant_that_dies_leaves_a_row_that_says_so(program, monkeypatch):
    died = subprocess.CompletedProcess([], -9, stdout="")
    monkeypatch.setattr(program.subprocess, "run", lambda *_, **__: died)
    found = program._child(program.arguments(["--rehearse"]), {"what": "time"})
    assert found == {"error": "its process ended with -9; what it died of stands above"}


def test_no_documents_are_refused(program, capsys):
    with pytest.raises(SystemExit):
        program.arguments(["--documents", "0"])
    assert "--documents is 0; give 1 or more" in capsys.readouterr().err
