"""recipes/atlas-small.yaml, shrunken: every stage from raw text and pairs of translations to a measured embedder."""

import json
import subprocess
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pytest
import zstandard
from small_encoder import write_model

from tessera.inference.encoder import Encoder
from tessera.plan.loading import load
from tessera.run import run

HOUSE = Path(__file__).parents[2]
SHARED = HOUSE.parent / "shared" / "data"
RECIPE = HOUSE / "recipes" / "atlas-small.yaml"
DOCUMENTS, PAIRS = 40, 30  # of a language
WIDTH = 32  # of the tiny teacher's vectors
needs_data = pytest.mark.skipif(not (SHARED / "pairs").is_dir(), reason="needs ../shared/data")


def rows(path: Path):
    with zstandard.open(path, "rt", encoding="utf-8") as text:
        for line in text:
            yield line.rstrip("\n")


def compressed(path: Path, lines) -> str:
    path.write_bytes(zstandard.compress("".join(f"{line}\n" for line in lines).encode()))
    return str(path)


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """What makes it small: some rows of its text, a tiny teacher, few steps."""
    place = tmp_path_factory.mktemp("atlas")
    recipe = load(RECIPE)
    languages = set(recipe.phases[0].mixture.languages)
    few = {}
    for source in recipe.corpus.sources:
        read = rows((HOUSE / source.path).resolve())
        if source.kind == "pairs":
            groups = groupby(read, key=lambda line: json.loads(line)["src_lang"])
            read = (line for name, group in groups if name in languages for line in islice(group, PAIRS))
        few[f"corpus.sources.{source.name}.path"] = compressed(
            place / f"{source.name}.jsonl.zst", read if source.kind == "pairs" else islice(read, DOCUMENTS)
        )
    for phase in recipe.phases:
        few |= {f"phases.{phase.name}.tokens": "4k", f"phases.{phase.name}.batch_tokens": "2k"}
        few |= {f"phases.{phase.name}.learning_rate.{key}": "1k" for key in ("warmup", "decay")}
    shape = {"hidden_size": WIDTH, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4,
             "head_dim": 8}  # fmt: skip
    few |= {f"model.override.{key}": str(value) for key, value in shape.items()}
    return {
        **few, "tokenizer.vocab_size": "2000", "tokenizer.sample_bytes": "1MB", "machine.threads": "1",
        "phases.distil.distil.teacher": str(write_model(place)), "evaluation.data": str(SHARED / "eval"),
    }  # fmt: skip


@needs_data
@pytest.mark.slow
def test_atlas_is_made_from_raw_text_to_a_measured_embedder(changes, tmp_path):
    folder = run(load(RECIPE, changes), tmp_path / "run")
    embedder = Encoder.from_pretrained(folder / "contrast" / "embedder")
    vectors = embedder.encode(["a house", "ein Haus", "一座房子"])
    assert vectors.shape == (3, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    lines = [json.loads(line) for line in (folder / "distil" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    assert losses[-1] < losses[0]
    measured = json.loads((folder / "evaluation" / "contrast.tatoeba.json").read_text())
    assert 0 < measured["average"]["accuracy"] < 1
    assert (folder / "report.html").is_file()


def test_the_target_runs_the_recipe_that_is_asked_for():
    for given, recipe in ((("SCRATCH=1",), "recipes/atlas.yaml"), (("SMALL=1",), "recipes/atlas-small.yaml")):
        said = subprocess.run(
            ["make", "-n", "atlas", "TEACHER=somebody/teacher", *given],
            cwd=HOUSE, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert f"run {recipe} " in said
        assert "phases.distil.distil.teacher=somebody/teacher" in said


def test_both_recipes_have_the_same_stages():
    large, small = load(HOUSE / "recipes" / "atlas.yaml"), load(RECIPE)
    assert {phase.kind for phase in small.phases} == {phase.kind for phase in large.phases}
    assert [merge.method for merge in small.merges] == [merge.method for merge in large.merges]
