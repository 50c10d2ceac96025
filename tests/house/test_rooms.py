"""A room is learnt at a glance: few files, few floors, no circles, and its __init__ says how to read it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tessera"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
MOST_FILES, MOST_FLOORS = 17, 7
MOST_LINES, MOST_OF_A_FUNCTION = 350, 60
each_room = pytest.mark.parametrize("room", ROOMS)


def files_of(room: str) -> list[str]:
    return sorted(path.stem for path in (PACKAGE / room).glob("*.py") if path.stem != "__init__")


def reading_order(text: str) -> list[tuple[str, str]]:
    """The files that the docstring of a room lists, with what it says of each."""
    return re.findall(r"^    (\w+)\.py  +(.+)$", ast.get_docstring(ast.parse(text), clean=False) or "", re.MULTILINE)


def arrows(sources: dict[str, str], package: str) -> Iterator[tuple[str, str]]:
    """Who imports whom among the modules of a package, {"a": source of package/a.py}; anywhere in the file."""
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            inside = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            ours = [module.removeprefix(f"{package}.") for module in inside if module.startswith(f"{package}.")]
            for other in {module.partition(".")[0] for module in ours}:
                if other in sources and other != name:
                    yield name, other


def floors(names: list[str], below: list[tuple[str, str]]) -> dict[str, int]:
    """The floor of each file, 1 for those that import no other; raises ValueError for a circle."""
    known: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...] = ()) -> int:
        if name in above:
            raise ValueError(f"a circle of imports: {' -> '.join((*above[above.index(name) :], name))}")
        if name not in known:
            known[name] = 1 + max((floor(b, (*above, name)) for a, b in below if a == name), default=0)
        return known[name]

    return {name: floor(name) for name in names}


def sources_of(room: str) -> dict[str, str]:
    return {name: (PACKAGE / room / f"{name}.py").read_text(encoding="utf-8") for name in files_of(room)}


@each_room
def test_a_room_says_what_it_is_for_and_lists_its_files_in_reading_order(room):
    listed = reading_order((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    assert sorted(name for name, _ in listed) == files_of(room), f"the docstring of tessera/{room}/__init__.py"
    assert min(len(words) for _, words in listed) > 10


def test_a_list_that_lacks_a_file_would_be_noticed():
    assert reading_order('"""Room.\n\n    a.py    the first\n    b_c.py  the second\n"""') == [
        ("a", "the first"),
        ("b_c", "the second"),
    ]


@each_room
def test_a_room_has_few_files_on_few_floors_and_no_circles(room):
    sources = sources_of(room)
    assert len(sources) <= MOST_FILES
    found = floors(list(sources), list(arrows(sources, f"tessera.{room}")))
    assert max(found.values()) <= MOST_FLOORS, found


def test_floors_and_circles_are_counted():
    sources = {
        "a": "from t import b",
        "b": "def f():\n    from t.c import x",
        "c": "import os",
        "d": "from b.c import a",
    }
    below = list(arrows(sources, "t"))
    assert sorted(below) == [("a", "b"), ("b", "c")]
    assert floors(list(sources), below) == {"a": 3, "b": 2, "c": 1, "d": 1}
    with pytest.raises(ValueError, match="a circle of imports: a -> b -> a"):
        floors(["a", "b"], [("a", "b"), ("b", "a")])


def too_long(source: str) -> list[str]:
    """A file that does not fit a sitting, functions that do not fit a screen."""
    lengths = {"the file": len(source.splitlines())} if len(source.splitlines()) > MOST_LINES else {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            lengths |= {node.name: lines} if lines > MOST_OF_A_FUNCTION else {}
    return [f"{name} has {lines} lines" for name, lines in lengths.items()]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_fits_a_sitting_and_a_function_a_screen(path):
    assert too_long(path.read_text(encoding="utf-8")) == []


def test_what_is_too_long_would_be_noticed():
    assert too_long("def f():\n" + "    pass\n" * 60) == ["f has 61 lines"]
    assert too_long("def f():\n" + "    pass\n" * 59 + "x = 1\n" * 291) == ["the file has 351 lines"]
