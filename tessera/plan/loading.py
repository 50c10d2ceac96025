"""Loading a recipe from a YAML file, and dumping it; dotted overrides; what two recipes differ in.

Whatever is wrong with a file is said with the file, the place, what was given and what is allowed.
"""

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tessera.plan.errors import did_you_mean, mistakes
from tessera.plan.recipe import Recipe
from tessera.plan.shipped import recipe_file
from tessera.secrets import redact


class RecipeError(ValueError):
    """A recipe that cannot be run, in words for the person who wrote it: file, place, what is given and allowed."""


def load(path: str | Path, overrides: dict[str, str] | None = None) -> Recipe:
    """Reads a recipe from a file, or one that comes with tessera by its name.

    `overrides` maps dotted keys to YAML values, e.g. {"phases.decay.mask_ratio": "0.1"}. Items of a list are named by
    their `name` or their number. Raises RecipeError.
    """
    try:
        path = recipe_file(path)
        data = _unshared(read_yaml(path, "recipe"))
    except ValueError as error:
        raise RecipeError(str(error)) from None
    if not isinstance(data, dict):
        given = "this file is empty" if data is None else f"this is a {type(data).__name__}"
        raise RecipeError(f"{path}: a recipe is keys and values; {given}")
    for key, value in (overrides or {}).items():
        _override(data, key, value, path)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        found = mistakes(error, data, Recipe)
        lines = (f"{path}{place and ', '}{place}: {redact(what)}" for place, what in found)
        raise RecipeError("\n".join(lines)) from None


def dump(recipe: Recipe) -> str:
    """YAML that `load` reads back as the same recipe, defaults left out."""
    data = recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    # PyYAML writes the line breaks of Unicode as they are and reads them back as blanks.
    readable = not set("\x85\u2028\u2029\ufeff") & set(json.dumps(data, ensure_ascii=False))
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=readable, width=120)


def science(recipe: Recipe) -> dict[str, Any]:
    """All that decides the result: the recipe without `machine` and notes."""
    return recipe.model_dump(mode="json", by_alias=True, exclude={"machine", "notes"})


def changes(old: Any, new: Any, place: str = "") -> list[str]:
    """The dotted keys in which two JSON-like values differ, each with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in changes(old.get(key), new.get(key), f"{place}.{key}" if place else key)
        ]
    if isinstance(old, list) and isinstance(new, list) and _by_name(old) is not None and _by_name(new) is not None:
        return changes(_by_name(old), _by_name(new), place)
    return [] if old == new else [f"{place}: {_brief(old)} -> {_brief(new)}"]


def _by_name(items: list[Any]) -> dict[str, Any] | None:
    """The items by their names, or None where some have none or share one."""
    named = {item["name"]: item for item in items if isinstance(item, dict) and "name" in item}
    return named if len(named) == len(items) else None


def _brief(value: Any) -> str:
    text = "(absent)" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:56] + " ..."


def read_yaml(path: Path, what: str = "file") -> Any:
    """The values of a YAML file. Raises ValueError naming what is wrong with it and where: what is no YAML, a key that
    stands there twice, aliases that unfold without end."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such {what}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}{error}") from None


def parse_yaml(text: str) -> Any:
    """The values of a YAML text. Raises ValueError whose text goes on after the name of a file."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _unfolded(node, {}, 0)
        _refuse_twins(node, set())
        return loader.construct_document(node)
    except _Refused as error:
        raise ValueError(str(error)) from None
    except yaml.YAMLError as error:
        raise ValueError(f": not a YAML file: {_in_one_line(error, text)}") from None
    except RecursionError:
        raise ValueError(f": is nested more than {_DEEPEST} levels deep; write it flatter") from None
    except (ValueError, OverflowError) as error:  # of a date, or a number of thousands of digits
        raise ValueError(f": holds a value that cannot be read: {error}; put it in quotes if text is meant") from None


def _in_one_line(error: yaml.YAMLError, text: str) -> str:
    """What YAML says, with line and column; a tab by its name, for nobody sees it."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return " ".join(str(error).split())
    what = ", ".join(filter(None, (error.context, error.problem)))
    lines = text.splitlines()
    if mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
        what += " (a tab; YAML is indented with spaces)"
    return f"{what}, in line {mark.line + 1}, column {mark.column + 1}"


_DEEPEST, _MOST = 60, 1_000_000  # levels, and values with every alias written out; a recipe has 6 and a few hundred


def _unfolded(node: yaml.Node, known: dict[int, int | None], depth: int) -> int:
    """How many values a node is once its aliases are written out; `known` by node, None while it is looked at.

    Raises _Refused for too many, RecursionError for too deep.
    """
    if depth > _DEEPEST:
        raise RecursionError
    if id(node) in known:
        if (size := known[id(node)]) is None:
            raise _Refused(": an alias (*) stands inside its own anchor (&); write the values out")
        return size
    known[id(node)], size = None, 1
    if isinstance(node, yaml.CollectionNode):
        for item in node.value:
            size += sum(_unfolded(part, known, depth + 1) for part in (item if isinstance(item, tuple) else (item,)))
    if size > _MOST:
        raise _Refused(f": its aliases (*) unfold into more than {_MOST:,} values; write out what is meant")
    known[id(node)] = size
    return size


class _Refused(Exception):
    """What is YAML and is not read all the same; the text goes on after the name of the file."""


def _refuse_twins(node: yaml.Node, looked: set[int]) -> None:
    """Raises _Refused for two equal keys, of which YAML keeps the last without a word; before merge keys (<<) are
    written out, for these may be given again."""
    if id(node) in looked or not isinstance(node, yaml.CollectionNode):
        return
    looked.add(id(node))
    seen: set[str] = set()
    for item in node.value:
        if isinstance(item, tuple):
            if (name := str(item[0].value)) in seen:
                raise _Refused(f", line {item[0].start_mark.line + 1}: {name!r} stands here twice; keep one")
            seen.add(name)
        for part in item if isinstance(item, tuple) else (item,):
            _refuse_twins(part, looked)


def _unshared(value: Any) -> Any:
    """A copy in which aliases (*) are values of their own, so that an override of one leaves the others alone."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _override(data: dict[str, Any], key: str, value: str, path: Path) -> None:
    try:
        given = parse_yaml(value)
    except ValueError as error:
        raise RecipeError(
            f"{path}: cannot set {key} to {redact(value)[:80]!r}, which is not YAML{redact(str(error))}"
        ) from None
    place: Any = data
    done, rest = list[str](), key.split(".")
    while len(rest) > (size := _parts_of_name(place, rest)):
        done.append(".".join(rest[:size]))
        place, rest = _step(place, done[-1], ".".join(done), path), rest[size:]
    last = ".".join(rest)
    if isinstance(place, list):
        place[_position(place, last, key, path)] = given
    elif isinstance(place, dict):
        place[last] = given
    else:
        raise RecipeError(f"{path}: cannot set {key}: {'.'.join(done)} is {place!r} and holds no keys")


def _parts_of_name(place: Any, rest: list[str]) -> int:
    """How many parts of a dotted key are the next name: what has a name in a list may have dots in it."""
    names = {item.get("name") for item in place if isinstance(item, dict)} if isinstance(place, list) else set()
    return next((n for n in range(len(rest), 1, -1) if ".".join(rest[:n]) in names), 1)


def _step(place: Any, part: str, so_far: str, path: Path) -> Any:
    if isinstance(place, list):
        return place[_position(place, part, so_far, path)]
    if isinstance(place, dict):
        if place.get(part) is None:
            place[part] = {}
        return place[part]
    raise RecipeError(f"{path}: cannot set {so_far}: it is inside a plain value")


def _position(items: list[Any], part: str, so_far: str, path: Path) -> int:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if names.count(part) > 1:
        places = " or ".join(str(n) for n, name in enumerate(names) if name == part)
        raise RecipeError(f"{path}: cannot set {so_far}: several are called {part!r}; name one by its place, {places}")
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise RecipeError(f"{path}: cannot set {so_far}: {did_you_mean(part, [n for n in names if n])}")
