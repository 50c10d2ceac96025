"""What is installed fits together, and the command line is there before torch is."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from patience import HANGS

HOUSE = Path(__file__).parents[2]
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra] + PROJECT["dependencies"]


def loaded_by(*words: str) -> set[str]:
    """The modules that are loaded once `tessera <words>` has answered."""
    code = "import json, sys\nfrom tessera.cli import main\nsys.argv[0] = 'tessera'\ntry: main()\n"
    code += "except SystemExit as end: assert not end.code, end.code\n"
    code += "print(); print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=HOUSE, check=False, timeout=HANGS
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "words", [("--help",), ("--version",), ("run", "--help"), ("plan", "recipes/demo.yaml")], ids=" ".join
)
def test_a_question_is_answered_without_waiting_for_torch(words):
    loaded = loaded_by(*words)
    assert "tessera.cli" in loaded
    assert not {"torch", "transformers", "numpy", "pyarrow"} & loaded


def test_python_dash_m_tessera_is_the_same_command():
    done = subprocess.run([sys.executable, "-m", "tessera", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["tessera", importlib.metadata.version("tessera-encoders")]


def test_torchvision_is_not_there():
    with pytest.raises(ModuleNotFoundError):  # its CUDA build breaks transformers beside a CPU torch
        __import__("torchvision")


@pytest.mark.parametrize("line", REQUIREMENTS)
def test_every_requirement_has_a_lower_bound_and_is_installed_within_its_bounds(line):
    requirement = Requirement(line)
    assert any(bound.operator in (">=", "==", "~=") for bound in requirement.specifier), (
        "pip would go back to old versions"
    )
    assert requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)


def test_every_library_has_its_reason_in_the_docs():
    page = (HOUSE / "docs" / "libraries.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| ")][1:]
    named = [name for names, _ in rows for name in re.findall(r"(?<![`\[])\b[\w-]+", re.sub(r"\(.*?\)", "", names))]
    assert sorted(named) == sorted({Requirement(line).name for line in REQUIREMENTS})
    assert min(len(why.split()) for _, why in rows) > 2


def test_torch_is_bound_in_one_way_everywhere():
    torch = next(line for line in PROJECT["dependencies"] if Requirement(line).name == "torch")
    assert f"TORCH := {torch}\n" in (HOUSE / "Makefile").read_text(encoding="utf-8")
    assert torch in (HOUSE / "README.md").read_text(encoding="utf-8")
