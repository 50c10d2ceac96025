"""The field's words are found by a search in the place where the thing is; the law is CONTRIBUTING.md's last."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tessera"
WORDS = {
    "dataloader": ("data",),
    "collate": ("data",),
    "prefetch": ("train", "data"),
    "deduplication": ("corpus",),
    "decontamination": ("corpus",),
    "language identification": ("corpus",),
    "quality filtering": ("corpus",),
    "held-out split": ("corpus",),
    "fertility": ("vocabulary",),
    "gradient accumulation": ("train",),
    "context length": ("plan", "data"),
    "baseline": ("ablation",),
    "annealing": ("plan",),
    "curriculum": ("plan",),
    "early stopping": ("finetune", "evaluation"),
}

# Words that are still to come. A word that has come fails the test until it is taken out of this list.
NOT_YET = """
dataloader, collate, prefetch, context length, early stopping
""".strip().split(", ")


def marked(word: str) -> object:
    return pytest.param(word, marks=pytest.mark.xfail(strict=True)) if word in NOT_YET else word


@pytest.mark.parametrize("word", [marked(word) for word in WORDS])
def test_the_fields_word_is_found_where_the_thing_is(word):
    files = [path for room in WORDS[word] for path in (PACKAGE / room).glob("*.py") if path.stem != "__init__"]
    lines = (line for path in files for line in path.read_text(encoding="utf-8").splitlines())
    assert any(re.search(rf"\b{word}", line, re.IGNORECASE) for line in lines), (
        f"{word!r} in {' or '.join(WORDS[word])}"
    )


MODULES = [path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_begins_with_what_it_is(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, "no docstring"
    assert len(text.partition("\n")[0].split()) >= 3
