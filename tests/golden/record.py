"""Writes anew what the golden tests compare with: `python tests/golden/record.py`, where tessera is installed.

Look at `git diff tests/golden/recorded` afterwards, and say in the change why what moved has moved. The recorded model
(its config.json, tokenizer.json and the shapes of its weights) is kept where it is there, since every identity of a
trial rests on it; remove recorded/model to have it made anew by a short training.
"""

import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import golden_runs as runs
import golden_text
import torch
from golden_text import RECORDED

COMPARED = ("twin", "where", "sought", "grade")  # of these the results of two models are kept, for `tessera compare`
COMMANDS = {
    "compare.txt": [],
    "compare_languages.txt": ["--languages", "--reference", "second"],
    "compare_one_task.txt": ["--task", "where", "--metric", "exact_match", "--common"],
}


def write(name: str, what: Any) -> None:
    text = json.dumps(what, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    (RECORDED / name).write_text(text, encoding="utf-8")


def record_model(folder: Path) -> None:
    """Shape and tokenizer of a model that the recipe makes."""
    golden_text.write_corpus(folder / "corpus")
    golden_text.write_data(folder / "data")
    recipe = golden_text.write_recipe(folder / "run.yaml", folder / "corpus", folder / "data")
    runs.tessera("train", recipe, "--out", folder / "run", "--set", "phases.0.tokens=1000")
    final, kept = folder / "run" / "first" / "final", RECORDED / "model"
    kept.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(final / name, kept / name)
    with (final / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    write("model/weights.json", {name: one["shape"] for name, one in header.items() if name != "__metadata__"})


def record(folder: Path) -> None:
    """Everything but the model."""
    place, out = runs.setting(folder), folder / "out"
    write("shards.json", runs.checksums(place, folder / "prepared"))
    write("losses.json", {"environment": runs.environment(), "phases": runs.losses(place, folder / "run")})
    found = {task: runs.evaluate(place, out, task) for task in golden_text.TASKS}
    oracle = runs.evaluate(place, folder / "oracle", "topic", "first", "--oracle")
    by_recipe = runs.evaluate_recipe(place, folder / "run", folder / "by_recipe")
    everything = {
        "environment": runs.environment(),
        "tasks": {task: runs.scores(whole) for task, whole in found.items()},
        "choices": {task: runs.choice(found[task]) for task in runs.TRAINED},
        "oracle": {"topic": runs.scores(oracle)},
        "recipe": {task: runs.scores(whole) for task, whole in by_recipe.items()},
    }
    write("scores.json", everything)
    write("identities.json", runs.identities(out))
    shutil.rmtree(RECORDED / "trials", ignore_errors=True)
    shutil.copytree(out / "trials", RECORDED / "trials", ignore=shutil.ignore_patterns("*.safetensors"))
    for task in COMPARED:
        runs.evaluate(place, folder / "out_second", task, "second")
    runs.evaluate_recipe(place, folder / "run", folder / "by_recipe_second", "second")
    shutil.rmtree(RECORDED / "results", ignore_errors=True)
    (RECORDED / "results").mkdir()
    for model, results in (("first", out), ("second", folder / "out_second")):
        for task in COMPARED:
            (path,) = results.glob(f"{model}.{task}.*json")
            shutil.copyfile(path, RECORDED / "results" / path.name)
    for model, results in (("first", folder / "by_recipe"), ("second", folder / "by_recipe_second")):
        shutil.copyfile(results / f"{model}.held_out.json", RECORDED / "results" / f"{model}.held_out.json")
    for name, words in COMMANDS.items():
        (RECORDED / name).write_text(runs.printed("compare", RECORDED / "results", *words), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)  # as the tests have it
    with tempfile.TemporaryDirectory() as temporary:
        if not (RECORDED / "model").exists():
            record_model(Path(temporary) / "model")
        record(Path(temporary) / "all")
    print(f"written: {RECORDED}")
