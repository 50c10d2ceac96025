"""The recipes and extras that come with tessera: recipes by name, the pip command that brings an extra.

A wheel carries the recipes inside the package, where setup.py puts them; a checkout, and so an
editable installation, has them beside the package.
"""

import importlib.metadata
import itertools
import re
from pathlib import Path

from tessera.plan.errors import did_you_mean

DISTRIBUTION = "tessera-encoders"
_PACKAGE = Path(__file__).parents[1]


def recipes() -> dict[str, Path]:
    """The file of every recipe that comes with tessera, by its name: {"mmbert-base": .../mmbert-base.yaml, ...}."""
    inside, beside = _PACKAGE / "recipes", _PACKAGE.parent / "recipes"
    folder = inside if inside.is_dir() or not (_PACKAGE.parent / "pyproject.toml").is_file() else beside
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def recipe_file(given: str | Path) -> Path:
    """The file that is meant by a path, or by the name of a recipe that comes with tessera; your own file comes first.

    Raises ValueError for what is neither, with the name that may have been meant.
    """
    path, known = Path(given), recipes()
    if path.exists() and not (path.is_dir() and str(given) in known):
        return path
    if path.parent != Path() or path.suffix in (".yaml", ".yml"):  # a path, which whoever reads it finds missing
        if path.stem in known and path.parent.name in ("", "recipes"):
            raise ValueError(f"{path}: no such recipe here; tessera brings it along, give its name alone: {path.stem}")
        return path
    return named(str(given), "neither a file nor ")


def named(name: str, no_file: str = "") -> Path:
    """The file of a recipe that comes with tessera. Raises ValueError for a name that none has."""
    known = recipes()
    if name not in known:
        missing = f"{name}: {no_file or 'not '}a recipe that comes with tessera"
        raise ValueError(f"{missing}; {did_you_mean(name, known)} (`tessera recipes` lists them)")
    return known[name]


def description(recipe: Path) -> str:
    """What the first comment of a recipe says it is, up to the end of its first sentence."""
    lines = itertools.takewhile(lambda line: line.startswith("# "), recipe.read_text(encoding="utf-8").splitlines())
    said = " ".join(line[2:].strip() for line in lines)
    return re.split(r"\.(?= \D|$)", said)[0]  # `et al. 2025` goes on


def pip_line(extra: str) -> str:
    """The command that brings an extra: it works because pip asks what is installed before it asks any index.

    Where tessera is not installed at all, as when a checkout is only on the path, the checkout is named.
    """
    try:
        importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return f'pip install -e "{_PACKAGE.parent}[{extra}]"'
    return f'pip install "{DISTRIBUTION}[{extra}]"'
