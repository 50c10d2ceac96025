"""Laws of the house that a reader of one file would not notice being broken."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
PACKAGE = HOUSE / "tessera"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    "checksums": -2,
    "lock": -2,
    "files": -1,  # below all rooms
    "progress": -1,
    "signals": -1,
    "statistics": -1,
    "telemetry": -1,
    "cpu_libraries": -1,
    "secrets": -2,
    "plan": 0,
    "json_files": 0.5,
    "results": 0.5,
    "sources": 0.9,
    "data": 1,
    "tokenizer": 1.2,
    "kernels": 0.9,
    "model": 1,
    "huggingface": 1.2,
    "report": 1,
    "corpus": 2,
    "vocabulary": 3,  # reads raw text, so above corpus
    "train": 2,
    "packed": 1.5,
    "inference": 2,
    "bulk": 2.2,
    "prediction": 2.5,
    "labelled": 2.7,  # words of raw text are split as a prediction splits them
    "export": 3,
    "finetune": 3,
    "retrieval": 3.5,
    "lessons": 3.7,
    "evaluation": 4,
    "mteb": 4.2,
    "ablation": 5,
    "batching": 4.5,  # requests of many clients; below HTTP
    "shrink": 5,  # scores its models
    "serve": 5,
    "preflight": 5,
    "run": 6,
    "adapt": 6.5,  # walks a run
    "demo_text": 5,
    "doctor": 5,
    "terminal": 5,
    "cli": 7,
    "__main__": 8,
}
EXTRAS = {
    "transformers",
    "sentence_transformers",
    "sklearn",
    "altair",
    "jinja2",
    "vl_convert",
    "langcodes",
    "django",
    "polib",
}
EXTRAS |= {"daft", "ray", "py3langid", "warcio", "gigatoken", "fasttext"}
EXTRAS |= {"datasets", "mteb", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf"}
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MARKUP = re.compile(r"\[/?(bold|dim|italic|red|green|yellow|blue|magenta|cyan|white)?( \w+)*\](?<!\[\])")
UNSAFE = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}


def room(path: Path, package: Path = PACKAGE) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def imported(tree: ast.AST, inside: str = "tessera") -> Iterator[str]:
    """Every module that is imported anywhere, absolute; `from a import b` gives a.b, which may be a module or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside.split(".")[: len(inside.split(".")) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def upstairs(source: str, path: Path, package: Path) -> list[str]:
    """What this file imports that it may not."""
    here, inside = room(path, package), ".".join(("tessera", *path.relative_to(package).parts[:-1]))
    wrong = []
    for name in imported(ast.parse(source), inside):
        parts = name.split(".")
        if parts[0] != "tessera" or len(parts) < 2 or parts[1] not in FLOORS:
            continue  # not ours, or a name of tessera/__init__.py
        if parts[1] != here and (here == "__init__" or FLOORS[parts[1]] >= FLOORS[here]):
            wrong.append(f"{path}: {here} may not import {parts[1]}")
    return wrong


def unsafe(source: str) -> list[str]:
    """Ways to run what somebody else wrote into a file."""
    tree = ast.parse(source)
    wrong = [f"import {n}" for n in imported(tree) if n.split(".")[0] in PICKLES or n in UNSAFE]
    for node in ast.walk(tree):
        match node:
            case ast.Attribute() if ast.unparse(node) in UNSAFE:
                wrong.append(ast.unparse(node))
            case ast.keyword(arg="trust_remote_code" | "allow_pickle") if ast.unparse(node.value) != "False":
                wrong.append(ast.unparse(node))
            case ast.Dict() if any(ast.unparse(key) == "'trust_remote_code'" for key in node.keys if key):
                wrong.append(ast.unparse(node))
    return wrong


def at_the_top(source: str) -> set[str]:
    """Packages that are imported as soon as the file is, `if TYPE_CHECKING` aside."""
    skipped: set[int] = set()
    for node in ast.walk(tree := ast.parse(source)):
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or checking:
            skipped |= {id(inner) for inner in ast.walk(node)}
    nodes = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom)) and id(n) not in skipped]
    return {name.split(".")[0] for node in nodes for name in imported(node)}


def test_every_room_has_a_floor():
    rooms = {room(path) for path in FILES} - {"__init__"}
    assert rooms <= set(FLOORS), f"{sorted(rooms - set(FLOORS))}: give each new room a floor in this file"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_imports_upstairs_or_next_door(path):
    assert upstairs(path.read_text(encoding="utf-8"), path, PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data/stream.py", "from tessera.model.encoder import Encoder"),
        ("data/stream.py", "from tessera import model"),
        ("data/stream.py", "from ..model import hub"),
        ("huggingface/hub.py", "import tessera.tokenizer.tokenizer as tokenizer"),
        ("huggingface/hub.py", "def late():\n    from tessera.train import trainer"),
        ("plan/recipe.py", "from tessera.data import tokenizer"),
        ("train/trainer.py", "from tessera.inference.engine import each"),
        ("train/start.py", "from tessera.corpus.prepare import read"),
        ("report/pages.py", "from tessera.model import hub"),
        ("files.py", "from tessera.plan.recipe import Recipe"),
        ("run.py", "from tessera.cli import main"),
        ("__init__.py", "from tessera.plan import recipe"),
    ],
)
def test_an_import_upstairs_would_be_noticed(file, line):
    assert len(upstairs(line, PACKAGE / file, PACKAGE)) == 1


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("corpus/documents.py", "from tessera.plan.recipe import Source"),
        ("corpus/documents.py", "from .dedup import Copies"),
        ("corpus/documents.py", "from tessera import __version__"),
        ("run.py", "from tessera.report import write"),
        ("__main__.py", "from tessera.cli import main"),
    ],
)
def test_an_import_downstairs_is_allowed(file, line):
    assert upstairs(line, PACKAGE / file, PACKAGE) == []


@pytest.mark.parametrize(
    ("name", "absent"), [("plan", {"torch", "numpy", "tokenizers"}), ("data", {"torch"}), ("report", {"torch"})]
)
def test_what_needs_no_torch_never_loads_it(name, absent):
    modules = [".".join(p.relative_to(HOUSE).with_suffix("").parts) for p in sorted((PACKAGE / name).rglob("*.py"))]
    modules = [module.removesuffix(".__init__") for module in modules]
    code = f"import importlib, json, sys\nfor m in {modules}: importlib.import_module(m)\n"
    code += "print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOUSE, check=False)
    assert done.returncode == 0, done.stderr
    assert not absent & set(json.loads(done.stdout))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_unpickled_and_no_foreign_code_runs(path):
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import yaml\nyaml.load('x', Loader=None)",
        "f(trust_remote_code=True)",
        "f(**{'trust_remote_code': True})",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
    ],
)
def test_unpickling_would_be_noticed(line):
    assert len(unsafe(line)) == 1


def test_what_is_safe_is_not_taken_for_unpickling():
    assert unsafe("import yaml\nyaml.safe_load('x')\nf(trust_remote_code=False)\ns = 'pickle'") == []


def markup(source: str) -> list[str]:
    """Imports of rich, and texts that only rich would read as a colour."""
    tree = ast.parse(source)
    wrong = [f"import {name}" for name in imported(tree) if name.split(".")[0] == "rich"]
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return wrong + [text for text in texts if MARKUP.search(text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_below_the_command_line_knows_markup_and_the_command_line_needs_none(path):
    found = markup(path.read_text(encoding="utf-8"))
    may = room(path) in ("terminal", "cli")
    assert [text for text in found if not may or not text.startswith("import")] == []


@pytest.mark.parametrize("line", ["import rich", "from rich.table import Table", "say(f'[yellow]{path}')", "x = '[/]'"])
def test_markup_would_be_noticed(line):
    assert len(markup(line)) == 1


def test_nobody_imports_torchvision():
    for path in [*FILES, *sorted((HOUSE / "tests").rglob("*.py"))]:
        names = {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
        assert "torchvision" not in names, f"{path}: torchvision's CUDA build breaks transformers beside a CPU torch"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_an_extra_brings_is_imported_inside_functions(path):
    assert not at_the_top(path.read_text(encoding="utf-8")) & EXTRAS


def test_an_extra_at_the_top_would_be_noticed():
    late = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import altair\ndef f():\n    import sklearn"
    assert at_the_top(late) == {"typing"}
    assert at_the_top("try:\n    import sklearn.linear_model\nexcept ImportError:\n    pass") == {"sklearn"}
