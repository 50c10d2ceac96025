"""The site that `make docs` builds: no warning, no page without a way to it, nothing loaded from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from patience import HANGS

HOUSE = Path(__file__).parents[2]
PACKAGE = HOUSE / "tessera"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built as `make docs` does; a warning would have ended it."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=HOUSE, env=environment, capture_output=True, text=True, check=False, timeout=HANGS
    )
    assert done.returncode == 0, done.stderr
    assert not re.search("warning|error", done.stderr, re.IGNORECASE), done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, str]:
    return {str(path.relative_to(site)): path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}


@pytest.fixture(scope="module")
def build():
    """docs/site/build.py, which makes pages of what is written elsewhere."""
    spec = importlib.util.spec_from_file_location("build_site", HOUSE / "docs" / "site" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_of_the_repository_is_a_page_of_the_site(pages):
    guides = [str(path.relative_to(HOUSE / "docs").with_suffix(".html")) for path in (HOUSE / "docs").rglob("*.md")]
    recipes = [f"recipes/{path.stem}.html" for path in (HOUSE / "recipes").glob("*.yaml")]
    assert {*guides, *recipes, "index.html", "contributing.html", "changelog.html", "commands.html"} <= set(pages)


@pytest.mark.parametrize(
    "page", [HOUSE / "README.md", *sorted((HOUSE / "docs").rglob("*.md"))], ids=lambda page: page.stem
)
def test_what_belongs_to_an_item_of_a_list_is_indented_by_four(page):
    """GitHub is content with two; the Markdown of the site then ends the list."""
    prose = re.sub(r"^( *)```.*?^\1```", r"\1code", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^\n {1,3}\S.*", prose, re.MULTILINE)
    assert not re.findall(r"^[^-\d\s].*\n(?:- |1\. ).*", prose, re.MULTILINE)  # nor does a list begin without a gap


def test_every_module_is_in_the_reference_with_its_public_names(pages):
    for path in PACKAGE.rglob("*.py"):
        room, name = path.parent.relative_to(PACKAGE), path.stem
        if name[0] == "_" or room == Path("cli"):
            continue
        dotted = ".".join(("tessera", *room.parts, name))
        page = pages[f"reference/{room.name or 'tessera'}.html"]
        assert f'id="{dotted}"' in page
        for public in re.findall(r"^(?:def|class) ([a-zA-Z]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert f'id="{dotted}.{public}"' in page, f"{dotted}.{public}"


def test_every_command_is_on_the_page_of_commands(pages):
    for command in ("tessera run", "tessera tokenizer train", "tessera embed"):
        assert f"<code>{command}</code>" in pages["commands.html"]


def test_links_lead_to_files_of_the_site_wherever_it_lies(site, pages):
    for page, text in pages.items():
        if page == "404.html":  # is shown at any address, so its links begin at the root
            continue
        for target in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if not re.match(r"\w+:", target):
                assert ((site / page).parent / unquote(target)).is_file(), f"{page} links to {target}"


def test_what_readme_and_guides_link_to_outside_of_docs_is_found_on_the_site(pages):
    assert 'href="encode.html"' in pages["index.html"]
    assert 'href="contributing.html"' in pages["index.html"]
    assert 'href="recipes/nano.html"' in pages["adapt.html"]
    assert 'href="../recipes/nano.html"' in pages["results/optimizers.html"]


def test_a_bar_in_the_code_of_a_table_is_a_bar(pages):
    assert "<code>&lt;|parallel_sep|&gt;</code>" in pages["recipes.html"]
    assert not [page for page, text in pages.items() if page[:3] != "ref" and re.search(r"<code>[^<]*\\\|", text)]


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for page, text in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)", text)
        assert not loaded, f"{page} loads {loaded}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_the_search_finds_words_of_guides_and_of_the_reference(site):
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index")  # a script, which a page opened from a file may load
    for location in ("training.html", "reference/train.html", "recipes/nano.html"):
        assert f'"location":"{location}' in index


# ---------------------------------------------------------------------------------------------------------- docstrings


def test_names_with_what_they_mean_become_a_list(build):
    assert build.as_markdown(
        "Reads.\n\n    paths   the *files*,\n            or a folder\n    a, b    [T], of `x_y`"
    ) == ("Reads.\n\n    paths   the *files*,\n            or a folder\n    a, b    [T], of `x_y`")
    assert build.as_markdown("Reads.\n\npaths   the *files*,\n        or a folder\na, b    [T], of `x_y`\nalone") == (
        "Reads.\n\n- `paths`: the \\*files\\*, or a folder\n- `a, b`: \\[T\\], of `x_y`\n- `alone`"
    )


def test_what_html_would_swallow_stays(build):
    assert build.as_markdown("data/<language>/*, `a<b`") == "data/&lt;language>/\\*, `a<b`"


def test_a_list_gets_the_empty_line_that_markdown_wants(build):
    assert build.as_markdown("Two are one where\n- this holds\n  or that\n- or this") == (
        "Two are one where\n\n- this holds\n  or that\n- or this"
    )
