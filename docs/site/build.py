"""Pages of the site that are made of what is written elsewhere, and our docstrings as Markdown.

mkdocs calls the functions `on_...` (mkdocs.yml, `hooks`), mkdocstrings the class (mkdocs.yml, `extensions`).
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HOUSE = Path(__file__).parents[2]
PACKAGE = HOUSE / "tessera"
WRITTEN_ELSEWHERE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
ON_SITE = {written: page for page, written in WRITTEN_ELSEWHERE.items()}

RECIPES = sorted(path.stem for path in (HOUSE / "recipes").glob("*.yaml"))
ROOMS = [path.parent.name for path in sorted(PACKAGE.glob("*/__init__.py")) if path.parent.name != "cli"]
BESIDE = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem[0] != "_")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Every recipe and every room gets its place in the navigation."""
    sections = {
        name: pages for section in config.nav or [] if isinstance(section, dict) for name, pages in section.items()
    }
    sections["Guides"].append({"Recipes as shipped": [f"recipes/{name}.md" for name in RECIPES]})
    sections["Reference"] += [f"reference/{name}.md" for name in ("tessera", *ROOMS)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages that have no file below docs/."""
    pages = {page: (HOUSE / written).read_text(encoding="utf-8") for page, written in WRITTEN_ELSEWHERE.items()}
    pages |= {f"recipes/{name}.md": recipe(name) for name in RECIPES}
    pages |= {f"reference/{name}.md": room(name) for name in ROOMS}
    pages |= {"reference/tessera.md": beside(), "commands.md": commands()}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they work on the site; they are written for the repository, where README and recipes lie elsewhere."""
    here = page.file.src_uri
    if page.file.generated_by and here not in WRITTEN_ELSEWHERE:
        return markdown
    folder = posixpath.dirname(WRITTEN_ELSEWHERE.get(here, f"docs/{here}"))

    def on_site(link: re.Match[str]) -> str:
        target, hash_, anchor = link[1].partition("#")
        if not target or re.match(r"\w+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path.startswith("recipes/"):
            path = path.replace(".yaml", ".md")
        path = ON_SITE.get(path, path.removeprefix("docs/"))
        return f"]({posixpath.relpath(path, posixpath.dirname(here) or '.')}{hash_}{anchor})"

    # GitHub wants `a\|b` in a table, the site takes a bar between backquotes as it is.
    markdown = re.sub(r"`[^`\n]+`", lambda code: code[0].replace(r"\|", "|"), markdown)
    return re.sub(r"\]\(([^)\s]+)\)", on_site, markdown)


# --------------------------------------------------------------------------------------------------------------- pages


def recipe(name: str) -> str:
    """A page that shows a recipe."""
    text = (HOUSE / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    return f"# {name}.yaml\n\n`tessera run recipes/{name}.yaml`\n\n```yaml\n{text}```\n"


def room(name: str) -> str:
    """A room's page: what it is for, its files in reading order, and the public names of each."""
    purpose, _, rest = docstring(PACKAGE / name / "__init__.py").partition("\n\nIn reading order:\n\n")
    files = re.findall(r"^    (\w+)\.py  +(.+)$", rest, re.MULTILINE)
    return modules(f"tessera.{name}", purpose, [(f"tessera.{name}.{file}", words) for file, words in files])


def beside() -> str:
    """The page of the files beside the rooms."""
    purpose = docstring(PACKAGE / "__init__.py").partition("\n")[0]
    found = [(f"tessera.{name}", docstring(PACKAGE / f"{name}.py").partition("\n")[0]) for name in BESIDE]
    return modules("tessera", purpose, found)


def modules(title: str, purpose: str, found: list[tuple[str, str]]) -> str:
    """A page of modules, (dotted name, what it is for) of each."""
    rows = [f"| [{module.rpartition('.')[2]}.py][{module}] | {escaped(words)} |" for module, words in found]
    table = "\n".join(["| file | what it holds |", "|---|---|", *rows])
    return "\n\n".join([f"# {title}", as_markdown(purpose), table, *(f"::: {module}" for module, _ in found)])


def commands() -> str:
    """Every command with its options, as `--help` says."""
    from typer.cli import get_docs_for_click

    from tessera.cli import app

    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="tessera", title="Commands")


def docstring(path: Path) -> str:
    """Of a module."""
    module = griffe.visit(path.stem, filepath=path, code=path.read_text(encoding="utf-8"))
    return module.docstring.value if module.docstring else ""


# ---------------------------------------------------------------------------------------------------------- docstrings


class Docstrings(griffe.Extension):
    """Docstrings as Markdown; a field without one has the comment behind it."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if attr.docstring is None and attr.lines:
            comment = re.search(r"  # (?!type:|fmt:|noqa)(.+)$", attr.lines[-1])
            if comment:
                attr.docstring = griffe.Docstring(escaped(comment[1]), parent=attr)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        _without_silent_fields(pkg)


def _without_silent_fields(above: griffe.Module | griffe.Class) -> None:
    """The fields of a dataclass stand in its signature; below it those are shown that have something to say."""
    for name, member in list(above.members.items()):
        if isinstance(member, griffe.Module | griffe.Class):
            _without_silent_fields(member)
        elif "dataclass" in above.labels and "instance-attribute" in member.labels and member.docstring is None:
            above.del_member(name)


def as_markdown(text: str) -> str:
    """A docstring as Markdown: names with what they mean become a list, indented lines stay as they are."""
    return "\n\n".join(map(_paragraph, re.split(r"\n(?: *\n)+", text)))


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if all(line.startswith("    ") for line in lines):
        return text
    if not re.match(r"\S.*?\S  +\S", lines[0]) and not re.match(r"\S  +\S", lines[0]):
        return "\n".join(_prose(lines))
    items: list[str] = []
    for line in lines:
        name, _, meaning = line.partition("  ")
        if name:
            code = name if "`" in name else f"`{name}`"
            items.append(f"- {code}: {escaped(meaning.strip())}" if meaning else f"- {code}")
        else:
            items[-1] += f" {escaped(line.strip())}"
    return "\n".join(items)


def _prose(lines: list[str]) -> Iterator[str]:
    before = ""
    for line in lines:
        if line.startswith("- ") and not before.startswith(("- ", "  ")):
            yield ""  # Markdown wants an empty line before a list
        yield escaped(line)
        before = line


def escaped(line: str) -> str:
    """What is no code, without what Markdown or HTML would take for theirs."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(
        part if n % 2 else re.sub(r"([\\*_\[\]])", r"\\\1", part).replace("<", "&lt;") for n, part in enumerate(parts)
    )
