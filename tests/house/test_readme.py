"""README.md, CONTRIBUTING.md and docs/ say what is so: commands, options, functions, paths, the map, the recipe."""

import inspect
import json
import pydoc
import re
import shlex
import shutil
import textwrap
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from invented_text import documents, write_rows
from small_encoder import write_model
from typer.testing import CliRunner

from tessera.cli import app
from tessera.plan.loading import load

HOUSE = Path(__file__).parents[2]
README = HOUSE / "README.md"
PAGES = [README, HOUSE / "CONTRIBUTING.md", *sorted((HOUSE / "docs").rglob("*.md"))]
WRITTEN = [*PAGES, HOUSE / "Makefile", HOUSE / ".ci" / "run", *sorted((HOUSE / "recipes").glob("*.yaml"))]
WRITTEN += sorted((HOUSE / "tessera").rglob("*.py"))
ROOMS = sorted(path.parent.name for path in (HOUSE / "tessera").glob("*/__init__.py"))
GROUPS = {group.name for group in app.registered_groups}
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)

# Where a test takes every page, it says which of them is wrong; a page of prose alone passes with nothing to check.
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOUSE)))


def code(page: Path) -> list[str]:
    """The lines of a page's code blocks that are no YAML and no Python, and its `spans`."""
    text = page.read_text(encoding="utf-8")
    blocks = [block for language, block in FENCE.findall(text) if language not in ("yaml", "python")]
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    blocks = [re.sub(r"\\\n\s*", " ", block) for block in blocks]  # a command that goes on in the next line
    return [*"\n".join(blocks).splitlines(), *(" ".join(span.split()) for span in spans)]


def commands(page: Path) -> list[list[str]]:
    """The words after `tessera` of each command shown; `tokenizer train / report` is two."""
    found = [re.search(r"(?:^|[\s/])tessera ([a-z-].*)", line) for line in code(page)]
    lines = [match[1] for match in found if match]
    both = [re.sub(r"([\w-]+) / ([\w-]+)", which, line) for line in lines for which in (r"\1", r"\2")]
    return [shlex.split(line, comments=True) for line in dict.fromkeys(both)]


@cache
def options(verb: tuple[str, ...]) -> dict[str, bool]:
    """The options in the help of a verb, and whether each is required."""
    shown = CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, f"tessera {' '.join(verb)}: {shown.output}"
    rows = re.findall(r"^\W*?(\*?) *(--[a-z-]+)(?: +(-\w)\b)?", shown.output, re.MULTILINE)
    return {name: star == "*" for star, long, short in rows for name in (long, short) if name}


def verb_of(words: list[str]) -> tuple[str, ...]:
    return tuple(words[: 2 if words[0] in GROUPS else 1])


def all_verbs() -> Iterator[tuple[str, ...]]:
    groups = [((), app), *(((str(group.name),), group.typer_instance) for group in app.registered_groups)]
    for above, group in groups:
        for command in group.registered_commands:
            assert group is not None
            assert command.callback is not None
            yield (*above, command.name or command.callback.__name__)


@each_page
def test_every_command_that_is_shown_exists_with_its_options(page):
    for words in commands(page):
        if words[0].startswith("-"):  # tessera --help
            assert words[0] in options(()), f"tessera {' '.join(words)}"
            continue
        known = options(verb_of(words))
        given = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert given <= set(known), f"tessera {' '.join(words)}: known options are {sorted(known)}"


@each_page
def test_every_option_that_is_mentioned_alone_belongs_to_a_verb(page):
    known = {option for verb in all_verbs() for option in options(verb)}
    mentioned = {re.split(r"[ =]", line)[0] for line in code(page) if line.startswith("--")}
    assert mentioned <= known


def test_the_readme_shows_every_verb_with_all_that_it_demands():
    shown = commands(README)
    for verb in all_verbs():
        assert verb in {verb_of(words) for words in shown}, f"README.md does not show tessera {' '.join(verb)}"
        demanded = {option for option, required in options(verb).items() if required}
        if verb[0] not in GROUPS:  # these share one row of the table, without arguments
            assert any(verb_of(words) == verb and demanded <= set(words) for words in shown), f"{verb}: {demanded}"


@each_page
def test_every_function_that_is_named_exists_and_takes_what_is_written(page):
    for span in code(page):
        if (call := re.fullmatch(r"(tessera(?:\.\w+)+)(?:\((\w+)=\"(\w+)\"\))?", span)) is None:
            continue
        found = pydoc.locate(call[1])
        assert found is not None, f"{call[1]} does not exist"
        if call[2]:
            assert call[2] in inspect.signature(found).parameters, f"{call[1]} takes no {call[2]}"
            assert call[3] in typing.get_args(typing.get_type_hints(found)[call[2]]), span


@pytest.mark.parametrize("page", [*PAGES, HOUSE / ".ci" / "run"], ids=lambda page: str(page.relative_to(HOUSE)))
def test_every_make_target_that_is_shown_exists(page):
    targets = set(re.findall(r"^([\w.-]+):(?!=)", (HOUSE / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines = page.read_text(encoding="utf-8").splitlines() if page.suffix != ".md" else code(page)
    for words in (shlex.split(line, comments=True) for line in lines if re.match(r"make\b", line)):
        assert {word for word in words[1:] if "=" not in word} <= targets, " ".join(words)


# ------------------------------------------------------------------------------------------------- how README begins


def test_the_readme_is_short_and_opens_with_two_commands_and_ten_lines_that_use_a_model():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    (first, commands_shown), (second, use), *_ = FENCE.findall(text)
    assert (first, second) == ("bash", "python")
    assert [line.split("#")[0].strip() for line in commands_shown.splitlines()] == ["make demo", "make test"]
    assert sum(bool(line) for line in use.splitlines()) <= 10
    assert text.index("```python") < text.index("![") < text.index("\n## ")


def test_what_is_shown_of_a_model_runs(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs" / "demo" / "merged"
    folder.mkdir(parents=True)
    shutil.move(write_model(tmp_path / "model"), folder / "final")
    monkeypatch.chdir(tmp_path)
    (use,) = (block for language, block in FENCE.findall(README.read_text(encoding="utf-8")) if language == "python")
    exec(use, names := {})
    assert names["index"].shape == (3, names["encoder"].dimensions)
    said = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert sorted(text for _, text in said[:3]) == sorted(names["texts"])
    numbers = [float(number) for number, _ in said]
    assert numbers[:3] == sorted(numbers[:3], reverse=True)
    assert numbers[3:] == sorted(numbers[3:], reverse=True)
    assert len(said) == 6


# --------------------------------------------------------------------------------------------------- paths and the map


@each_page
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), f"{page.relative_to(HOUSE)} links to {target}"


@pytest.mark.parametrize("file", WRITTEN, ids=lambda file: str(file.relative_to(HOUSE)))
def test_every_file_of_ours_that_is_written_about_exists(file):
    text = file.read_text(encoding="utf-8")
    paths = re.findall(r"(?<![\w/.*<-])((?:docs|recipes|tests|tessera)/[\w./-]*\w)", text)
    inside = re.findall(rf"(?<![\w/.])((?:{'|'.join(ROOMS)})/\w+\.py)", text)  # as in `see model/attention_cpu.py`
    missing = [path for path in [*paths, *(f"tessera/{path}" for path in inside)] if not (HOUSE / path).exists()]
    assert not missing, f"{file.relative_to(HOUSE)} names {missing}"


def the_map() -> dict[str, str]:
    """Every path in README's map, folders with a slash at the end, and what is said about it."""
    after = README.read_text(encoding="utf-8").partition("## The map")[2]
    block = FENCE.search(after)
    assert block is not None
    lines = [re.match(r"( *)(\S+) *(.*)", line) for line in block[2].splitlines()]
    return {("tessera/" if line[1] else "") + line[2]: line[3] for line in lines if line}


def test_the_map_has_a_line_for_every_room_and_every_file_beside_them_and_no_other():
    rooms = [f"tessera/{path.parent.name}/" for path in (HOUSE / "tessera").glob("*/__init__.py")]
    files = [f"tessera/{path.name}" for path in (HOUSE / "tessera").glob("*.py") if path.name[0] != "_"]
    around = ["tessera/", "recipes/", "benchmarks/", "tests/", "docs/"]
    assert sorted(the_map()) == sorted([*rooms, *files, *around])
    assert [path for path, words in the_map().items() if len(words) < 10] == ["tessera/"]


# ------------------------------------------------------------------------------------------------- the reader's recipe

SMALL = {
    "tokenizer.vocab_size": "400",
    "model.override": "{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2, "
    "num_key_value_heads: 2, head_dim: 16, local_attention: 16}",
    "phases.pretrain.learning_rate.warmup": "100",
    "phases.decay.learning_rate.decay": "512",
    "machine": "{device: cpu, threads: 1, dtype: float32}",
    **{f"phases.{name}.{key}": value for name in ("pretrain", "decay")
       for key, value in (("tokens", "512"), ("batch_tokens", "256"), ("context", "64"))},
}  # fmt: skip


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """What README tells its reader to write, in the folder that the reader is in."""
    blocks = [block for language, block in FENCE.findall(README.read_text(encoding="utf-8")) if language == "yaml"]
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    for language in ("fao_Latn", "kat_Geor", "quy_Latn"):
        rows = [{"text": text} for text in documents(language, 40, "readme")]
        write_rows(tmp_path / "text" / f"{language}.jsonl", rows)
    path = tmp_path / "mine.yaml"
    path.write_text(textwrap.dedent(blocks[0]), encoding="utf-8")
    return path


def tessera(*words: str, **values: str) -> str:
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    shown = CliRunner().invoke(app, [*words, *sets], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, f"{shown.output}\n{shown.exception}"
    return shown.output


def test_the_recipe_for_your_own_text_is_planned_run_and_gone_on_from(mine):
    assert "shards" in tessera("prepare", "mine.yaml")
    assert "decay" in tessera("plan", "mine.yaml")
    shutil.rmtree(mine.parent / "runs")
    assert "report.html" in tessera("run", "mine.yaml", **SMALL)
    folder = mine.parent / "runs" / "mine"
    assert (folder / "report.html").exists()
    for phase in ("pretrain", "decay"):
        lines = [json.loads(line) for line in (folder / phase / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2]

    shutil.copytree((folder / "decay" / "final").resolve(), mine.parent / "model")
    other = {"name": "other", "phases.pretrain.from": "./model", "tokenizer": "{path: ./model}", "model": "{}"}
    small = {key: value for key, value in SMALL.items() if not key.startswith(("model", "tokenizer"))}
    tessera("train", "mine.yaml", **other, **small)
    assert (mine.parent / "runs" / "other" / "decay" / "final" / "model.safetensors").exists()


@each_page
def test_every_value_that_is_shown_to_be_set_can_be_set(page, mine):
    """In the recipe that its command names, else in the reader's own."""
    for line in code(page):
        named = re.search(r"\brecipes/[\w.-]+\.yaml", line)
        recipe = HOUSE / named[0] if named else mine
        given = re.findall(r"--set (?:'([\w.-]+)=([^']+)'|([\w.-]+)=([^\s'`]+))", line)
        overrides = {a or c: b or d for a, b, c, d in given}
        if overrides:
            assert load(recipe, overrides) != load(recipe)
