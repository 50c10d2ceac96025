"""Every `runs/...` path on a page, or in the words of the package, is one that a recipe or a command makes."""

import re
from pathlib import Path

import pytest
import yaml

HOUSE = Path(__file__).parents[2]
PAGES = [HOUSE / "README.md", *sorted(HOUSE.glob("docs/*.md")), *sorted(HOUSE.glob("docs/results/*.md"))]
PAGES += [*sorted(HOUSE.glob("recipes/*.yaml")), *sorted(HOUSE.glob("tessera/**/*.py"))]
_OF_EVERY_RUN = {"documents", "tokenizer", "shards", "evaluation", "recipe.yaml", "summary.json", "report.html"}
_OF_THE_DEMO_TEXT = {"train", "held_out", "bitext", "pairs.jsonl.zst", "code.jsonl.zst"}
_OF_A_STAGE = re.compile(r"final|checkpoint-\d+|metrics\.jsonl|mixture\.json|tensorboard|merge\.json|events.*")


def recipes() -> dict[str, set[str]]:
    """The stages of each recipe that is shipped or written out on a page, by its name; of one name, all of them."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(HOUSE.glob("recipes/*.yaml"))]
    for page in PAGES:
        if page.suffix == ".md":
            texts += re.findall(r"^ *```yaml\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    found: dict[str, set[str]] = {}
    for text in texts:
        given = yaml.safe_load(re.sub(r"^    ", "", text, flags=re.MULTILINE) if text.startswith("    ") else text)
        if isinstance(given, dict) and isinstance(given.get("name"), str) and isinstance(given.get("phases"), list):
            stages = [*given["phases"], *(given.get("merges") or [])]
            found.setdefault(given["name"], set()).update(stage["name"] for stage in stages)
    return found


RECIPES = recipes()
PATHS = [
    (page, path.rstrip("./"))
    for page in PAGES
    for path in re.findall(r"(?<![\w/])runs/[\w<>./-]+", page.read_text(encoding="utf-8"))
]


def test_the_recipes_of_the_pages_are_known():
    assert {"demo", "nano", "adapt", "mine"} <= set(RECIPES)
    assert len(PATHS) > 30


@pytest.mark.parametrize(("page", "path"), sorted(set(PATHS)), ids=lambda value: str(value).rpartition("/")[2])
def test_every_path_of_a_run_is_one_that_a_recipe_makes(page, path):
    _, name, *inside = path.split("/")
    if "<" in name or (name.endswith("-ablations") and name.removesuffix("-ablations") in RECIPES):
        return
    if name == "demo-text":
        assert set(inside[:1]) <= _OF_THE_DEMO_TEXT
        return
    if name not in RECIPES:  # then something on the page has written it
        text = page.read_text(encoding="utf-8")
        assert not inside or f"name: {name}" in text or re.search(rf"(--out|OUT) runs/{name}\b", text), (
            f"{page.name} shows {path}, and no recipe is called {name!r}"
        )
        return
    if inside and inside[0] not in _OF_EVERY_RUN:
        assert inside[0] in RECIPES[name], f"{page.name} shows {path}; {name} makes {sorted(RECIPES[name])}"
        assert all(map(_OF_A_STAGE.fullmatch, inside[1:2])), f"{page.name} shows {path}; a stage has no {inside[1]!r}"
