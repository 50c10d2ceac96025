"""Every recipe that is shipped really runs: two steps of each of its phases, with a small model on invented text."""

import json
from pathlib import Path, PurePath
from typing import Any

import pytest
import torch
from invented_text import documents, write_rows

from tessera.data.languages import language_of_path
from tessera.huggingface import hub
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan import schedule
from tessera.plan.architecture import PRESETS
from tessera.plan.corpus import Source, TokenizerTraining
from tessera.plan.fields import is_folder
from tessera.plan.loading import load
from tessera.plan.phase import Phase
from tessera.plan.recipe import Model, Recipe
from tessera.report.overview import overview
from tessera.report.plan_tables import tables
from tessera.run import run
from tessera.tokenizer.tokenizer import train

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
FAMILIES = {"eurobert": "EuroBertForMaskedLM", "mmbert": "ModernBertForMaskedLM"}
OTHERS = {"fao_Latn", "kat_Geor", "quy_Latn"}  # what there is where a recipe takes what it finds
BATCH = 256
TOKENS = 448  # of a phase: two steps, and with the batch warm-up below as well
CONTEXT = 64  # of the phase with the longest


def languages_of(recipe: Recipe, source: Source) -> set[str]:
    """What a source must hold so that nothing that the recipe names is without text."""
    own = source.language or language_of_path(PurePath(source.path))
    if own is not None:
        return {own}
    sources = {other.name for other in recipe.corpus.sources}
    found: set[str] = set()
    for mixture in (phase.mixture for phase in recipe.phases):
        for key in mixture.shares:
            name, _, language = key.partition("/")
            if name == source.name:
                found |= {language} - {""}
            elif name not in sources:
                found.add(name)
        if isinstance(mixture.languages, tuple):
            found |= set(mixture.languages)
        elif sum(mixture.shares.values()) < 0.999:
            found |= OTHERS
    return (found - {"eng_Latn"} if source.kind == "pairs" else found) or OTHERS


def write_source(source: Source, languages: set[str], folder: Path) -> None:
    """One file a language; where the source has tiers, six documents of each."""
    columns, scores = source.columns, [0.0]
    if source.tiers is not None:
        low, middle, high = source.tiers
        scores = [low - 1, (low + middle) / 2, (middle + high) / 2, high + 1]
    seed = f"{source.name} {source.split}"
    english = documents("eng_Latn", 6, seed)
    for language in sorted(languages):
        rows: list[dict[str, Any]]
        if source.kind == "pairs":
            sides = zip(documents(language, 6, seed), english, strict=True)
            known = {columns.source_language: language, columns.target_language: "eng_Latn"}
            rows = [{columns.source_text: there, columns.target_text: here, **known} for there, here in sides]
        else:
            texts = documents(language, 6 * len(scores), seed)
            rows = [
                {columns.text: text, columns.quality or "quality": scores[i % len(scores)]}
                for i, text in enumerate(texts)
            ]
        write_rows(folder / f"{language}.jsonl", rows)


def small_model(given: Model) -> dict[str, Any]:
    """The same family and the same number of query heads for each key-value head; some thousand weights."""
    preset = given.preset or "mmbert-small"
    config = PRESETS[preset]
    queries = config.num_attention_heads // config.num_key_value_heads
    heads = queries * max(1, 4 // queries)
    sizes = {
        "hidden_size": 8 * heads, "head_dim": 8, "num_attention_heads": heads, "num_key_value_heads": heads // queries,
        "intermediate_size": 48, "num_hidden_layers": 2, "local_attention": 16 if config.local_attention else None,
    }  # fmt: skip
    kept = {key: value for key, value in given.override.items() if key != "vocab_size"}
    return {"preset": preset, "override": {**kept, **sizes}}


def small_folder(given: Model, folder: Path) -> Path:
    """A random model with its tokenizer, in place of one that a recipe goes on training."""
    texts = {language: documents(language, 40, "before") for language in sorted(OTHERS)}
    tokenizer = train(texts, TokenizerTraining(vocab_size=400), folder / "tokenizer")
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_id") for role in ("pad", "bos", "eos", "mask")}
    small = Model.model_validate(small_model(given)).config(vocab_size=tokenizer.vocab_size, **ids)
    model = MaskedLM(small)
    initialize(model, torch.Generator().manual_seed(0))
    hub.save(model, folder / "model", folder / "tokenizer")
    return folder / "model"


def two_steps(phase: Phase, longest: int, start: Path) -> dict[str, Any]:
    """The phase with every length in tokens brought down, `start` for a folder it comes from and for its teacher."""
    data, rate = phase.model_dump(mode="json", by_alias=True), phase.learning_rate

    def scaled(tokens: int) -> int:
        return tokens * TOKENS // phase.tokens

    data |= {
        "from": str(start) if is_folder(phase.from_) else phase.from_,
        "tokens": TOKENS, "batch_tokens": BATCH, "context": max(16, CONTEXT * phase.context // longest),
        "batch_warmup": phase.batch_warmup and {"start": BATCH // 2, "tokens": 3 * BATCH // 4},
        "checkpoint_every": phase.checkpoint_every and 192,
    }  # fmt: skip
    if phase.distil is not None:
        data["distil"]["teacher"] = str(start)
    data["learning_rate"] |= {
        "warmup": scaled(rate.warmup), "decay": scaled(rate.decay), "halve_at": rate.halve_at and scaled(rate.halve_at),
    }  # fmt: skip
    return data


def shrunken(recipe: Recipe, text: Path) -> Recipe:
    """The same graph on the same named sources, for seconds; writes its text below `text`."""
    data = recipe.model_dump(mode="json", by_alias=True)
    for number, source in enumerate(recipe.corpus.sources):
        folder = text / f"{number}-{source.name}"
        write_source(source, languages_of(recipe, source), folder)
        data["corpus"]["sources"][number] |= {"path": str(folder), "exclude": []}
    longest = max(phase.context for phase in recipe.phases)
    start = text / "start"
    trained = {"vocab_size": 400, "temperature": recipe.tokenizer.temperature, "sample_bytes": 50_000}
    going_on = any(is_folder(phase.from_) for phase in recipe.phases)
    if going_on or any(phase.distil is not None for phase in recipe.phases):
        start = small_folder(recipe.model, start)
    return Recipe.model_validate(
        data
        | {
            "corpus": data["corpus"] | {"held_out": {"share": 0.1}},
            "tokenizer": {"path": str(start)} if going_on else trained,
            "model": {} if recipe.model.preset is None else small_model(recipe.model),
            "phases": [two_steps(phase, longest, start) for phase in recipe.phases],
            "evaluation": {"every": 192, "max_tokens": 20},
            "machine": {"device": "cpu", "dtype": recipe.machine.dtype, "threads": 1, "micro_batch_tokens": 128},
        }
    )


def lines(run_folder: Path, phase: str, kind: str) -> list[dict[str, Any]]:
    read = map(json.loads, (run_folder / phase / "metrics.jsonl").read_text().splitlines())
    return [line for line in read if line["kind"] == kind]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_can_be_planned_as_it_is(path):
    recipe = load(path)
    shown = {title.partition(":")[0]: rows for title, _, rows in tables(overview(recipe))}
    assert [row[0] for row in shown["phases"]] == [phase.name for phase in recipe.phases]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_runs_two_steps_of_every_phase_and_merges(path, tmp_path):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    recipe = shrunken(load(path), tmp_path / "text")
    assert [schedule.total_steps(phase) for phase in recipe.phases] == [2] * len(recipe.phases)
    folder = run(recipe, tmp_path / "run", until="merge")
    for phase in recipe.phases:
        steps = lines(folder, phase.name, "step")
        assert [line["step"] for line in steps] == [1, 2]
        assert sum(line["documents"] for line in steps) > 0
        if phase.kind == "masked":
            assert lines(folder, phase.name, "held_out")[-1]["languages"]
        planned = json.loads((folder / phase.name / "mixture.json").read_text())["buckets"]
        read = {bucket["language"] for bucket in planned if bucket["share_planned"] > 0}
        assert set(phase.mixture.languages if isinstance(phase.mixture.languages, tuple) else ()) <= read
    for stage in (*recipe.phases, *recipe.merges):
        final = folder / stage.name / "final"
        model, tokenizer = AutoModelForMaskedLM.from_pretrained(final), AutoTokenizer.from_pretrained(final)
        assert type(model).__name__ == FAMILIES[(recipe.model.preset or "mmbert").partition("-")[0]]
        logits = model(**tokenizer("lumi sera", return_tensors="pt")).logits
        assert logits.isfinite().all()
        assert logits.shape[-1] == len(tokenizer)
