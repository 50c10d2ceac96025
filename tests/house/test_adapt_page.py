"""What docs/adapt.md shows is run: the Python that gives a model more words, and the recipe that it explains."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from invented_text import documents, write_rows

from tessera.model import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import TokenizerTraining
from tessera.tokenizer.tokenizer import Tokenizer, train

HOUSE = Path(__file__).parents[2]
PAGE = (HOUSE / "docs" / "adapt.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
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
    hub.save(model, tmp_path / "model", tmp_path / "t")
    write_rows(tmp_path / "new.jsonl", [{"text": text} for text in documents("cym_Latn", 60, "new")])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_words_that_are_added_shorten_the_language_and_begin_as_the_mean_of_their_pieces(here):
    (here / "extend.py").write_text(CODE[0])
    runpy.run_path(str(here / "extend.py"))
    before, after = Tokenizer.load(here / "model"), Tokenizer.load(here / "extended")
    text = " ".join(documents("cym_Latn", 5, "more"))
    assert len(after.encode_plain([text])[0]) < 0.9 * len(before.encode_plain([text])[0])
    old, new = hub.load(here / "model"), hub.load(here / "extended")
    assert new.config.vocab_size == after.vocab_size > before.vocab_size
    table = old.encoder.embedding.weight
    assert torch.equal(new.encoder.embedding.weight[: len(table)], table)
    for row in range(before.vocab_size, after.vocab_size):
        pieces = torch.from_numpy(before.encode_plain([" " + after.token(row)])[0].astype(int))
        torch.testing.assert_close(new.encoder.embedding.weight[row], table[pieces].mean(0))
    assert after.token_bytes()[before.vocab_size :].min() > 1


def test_the_recipe_that_the_page_explains_is_the_one_that_is_shipped():
    recipe = (HOUSE / "recipes" / "adapt.yaml").read_text(encoding="utf-8")
    assert "docs/adapt.md" in recipe
    assert "recipes/adapt.yaml" in PAGE
    for key in re.findall(r"`(\w+)`", PAGE.partition("## The parts")[2].partition("\n## ")[0]):
        assert re.search(rf"\b{key}\b", recipe), f"docs/adapt.md explains {key}, which recipes/adapt.yaml has not"


def test_the_means_of_the_table_are_those_of_its_rows():
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| ")]
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
