"""What docs/adapt.md shows is run: its commands, its Python, and the recipe that it explains."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from invented_text import documents, write_rows
from typer.testing import CliRunner

from tessera.adapt import measure, verdict
from tessera.cli import app
from tessera.huggingface import hub
from tessera.inference.sentence_folder import Pipeline
from tessera.inference.sentence_folder import write as write_embedder
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.plan.recipe import Recipe
from tessera.tokenizer.tokenizer import train

HOUSE = Path(__file__).parents[2]
PAGE = (HOUSE / "docs" / "adapt.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
YAML = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SHELL = "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
COMMANDS = re.findall(r"^tessera (.*)$", SHELL, re.MULTILINE)
TINY = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "local_attention": 8,
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model that was made for one language, and text of another."""
    tokenizer = train({"ell_Grek": documents("ell_Grek", 60, "old")}, TokenizerTraining(vocab_size=300), tmp_path / "t")
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_id") for role in ("pad", "bos", "eos", "mask")}
    fields = {**PRESETS["mmbert-small"].model_dump(), **TINY, **ids, "vocab_size": tokenizer.vocab_size}
    model = MaskedLM(EncoderConfig.model_validate(fields))
    initialize(model, torch.Generator().manual_seed(0))
    hub.save(model, tmp_path / "mmbert", tmp_path / "t")
    write_embedder(tmp_path / "mmbert", tmp_path / "e5-small", Pipeline(), TINY["hidden_size"], 64)
    for code in ("fao_Latn", "eng_Latn", "deu_Latn", "isl_Latn"):
        write_rows(tmp_path / f"{code}.jsonl", [{"text": text} for text in documents(code, 120, "new")])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_does_what_it_says(here, command):
    words = shlex.split(command, comments=True)
    if words[0] == "adapt":
        words += ["--tokens", "20k"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "250"})
    assert done.exit_code == 0, (done.output, done.exception)
    if words[0] == "look":
        assert "verdict: " in done.output
    if words[:2] == ["adapt", "./e5-small"]:
        assert "cosine to the vectors of the model as it was" in done.output
        assert {path.name for path in Path("e5-faroese").iterdir()} > {"extended", "placed", "final", "retention.json"}
    elif words[0] == "adapt":
        out = Path(words[words.index("--out") + 1])
        tree = re.search(r"^```\nfaroese/\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        shown = {line.split()[0].rstrip("/"): line for line in tree[1].splitlines()}
        left = {path.name for path in out.iterdir() if path.name[0] != "."}
        assert left <= shown.keys()
        assert shown.keys() - left <= {"trimmed", "extended", "tasks"}
        assert hub.load(out / "final").config.hidden_size == TINY["hidden_size"]
        assert [row["role"] for row in json.loads((out / "retention.json").read_text())["languages"]] == [
            "new", "replay", "replay", "watch",
        ]  # fmt: skip


def test_the_python_of_the_page_runs(here, capsys):
    (here / "it.py").write_text(CODE[0])
    runpy.run_path(str(here / "it.py"))
    said = capsys.readouterr().out.splitlines()
    assert "fao_Latn" in said[-1]
    assert hub.load(here / "adapted" / "final").config.vocab_size > hub.load(here / "mmbert").config.vocab_size


def test_the_keys_that_the_page_shows_are_of_a_recipe():
    recipe = yaml.safe_load((HOUSE / "recipes" / "adapt.yaml").read_text(encoding="utf-8"))
    (block,) = YAML
    assert Recipe.model_validate({**recipe, **yaml.safe_load(block)}).merges[0].folders == ("./mmbert",)


def test_the_bounds_of_the_verdicts_are_those_of_the_code():
    said = dict(re.findall(r"^\| ([\w ]+) \| (.+) \|$", PAGE, re.MULTILINE))
    assert f"cost of {verdict.COSTLY:g}" in said["extend"]
    assert f"{verdict.CUT:.0%} of byte pieces, {measure.LOST:.0%} unknown" in said["extend"]
    assert f"less than {verdict.SMALL_INFORMATION:g} bits" in said["extend"]
    assert f"{verdict.KNOWN:.0%} of the bits" in said["continue training"]
    assert f"{verdict.BESIDE:g} times" in said["continue training"]
    assert verdict.UNKNOWN == 1.0
    assert verdict.SPARE == 0.5


def test_the_recipe_that_the_page_explains_is_the_one_that_is_shipped():
    recipe = (HOUSE / "recipes" / "adapt.yaml").read_text(encoding="utf-8")
    assert "docs/adapt.md" in recipe
    assert "recipes/adapt.yaml" in PAGE
    for key in re.findall(r"`(\w+)`", PAGE.partition("## The recipe by hand")[2].partition("\nTwo keys")[0]):
        assert re.search(rf"\b{key}\b", recipe), f"docs/adapt.md explains {key}, which recipes/adapt.yaml has not"


def test_the_means_of_the_table_are_those_of_its_rows():
    part = PAGE.partition("## How much to replay")[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("| ")]
    means = [row for row in rows if row[0] == "**mean**"]
    assert [row[1] for row in means] == ["replayed", "watched"]
    for _, kind, *cells in means:
        of = [list(map(float, row[2:])) for row in rows if row[1] == kind and row[0] != "**mean**"]
        assert list(map(float, cells)) == pytest.approx([sum(c) / len(c) for c in zip(*of, strict=True)], abs=0.011)


def test_what_the_page_says_of_mmberts_data_is_in_the_published_counts():
    counts = HOUSE.parent / "shared" / "facts" / "mmbert_language_token_counts.csv"
    if not counts.is_file():
        pytest.skip("the published counts are not here")
    rows = dict(line.split(",", 1) for line in counts.read_text().splitlines()[1:])
    for code, name in (("fao", "Faroese"), ("tir", "Tigrinya")):
        millions = round(int(rows[code].split(",")[2]) / 1e6)
        assert re.search(rf"{name}\s+{millions}M", PAGE)
