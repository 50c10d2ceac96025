"""The whole journey on an invented corpus: from raw text to a report, through interruptions."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tessera.cli import app
from tessera.plan.reading import load
from tessera.run import RunError, Silent, merge_folders, run

WORDS = {
    "eng_Latn": [
        "the",
        "a",
        "of",
        "and",
        "house",
        "river",
        "sees",
        "under",
        "blue",
        "old",
        "quick",
        "small",
        "green",
        "holds",
        "near",
        "far",
    ],
    "fao_Latn": [
        "og",
        "í",
        "at",
        "hon",
        "hann",
        "hús",
        "á",
        "áin",
        "sær",
        "undir",
        "blátt",
        "gamalt",
        "skjótt",
        "lítið",
        "grønt",
        "heldur",
    ],
    "ell_Grek": [
        "το",
        "και",
        "σπίτι",
        "ποτάμι",
        "βλέπει",
        "κάτω",
        "μπλε",
        "παλιό",
        "γρήγορο",
        "μικρό",
        "πράσινο",
        "κρατά",
        "κοντά",
        "με",
        "σε",
        "ναι",
    ],
}


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def sentence(rng: random.Random, words: int) -> list[int]:
    return [rng.randrange(16) for _ in range(words)]


def say(language: str, meaning: list[int]) -> str:
    words = WORDS[language]
    return " ".join(words[i % len(words)] for i in meaning)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(1)
    for i, language in enumerate(WORDS):
        rows = [{"text": say(language, sentence(rng, rng.randint(5, 40)))} for _ in range(150 // (i + 1))]
        write(folder / "web" / f"{language}.jsonl", rows)
    pairs = [(language, sentence(rng, 8)) for language in ("fao_Latn", "ell_Grek") for _ in range(40)]
    rows = [
        {"src": say(lang, m), "tgt": say("eng_Latn", m), "src_lang": lang, "tgt_lang": "eng_Latn"} for lang, m in pairs
    ]
    write(folder / "pairs.jsonl", rows[:20] + rows[40:60])
    write(folder / "bitext" / "fao.jsonl", rows[20:40])
    write(folder / "bitext" / "ell.jsonl", rows[60:])
    return folder


@pytest.fixture(scope="module")
def recipe_file(corpus: Path) -> Path:
    phase = {
        "tokens": "4k", "context": 64, "batch_tokens": "1k", "mask_ratio": 0.3, "learning_rate": {"peak": 5e-3},
        "mixture": {"temperature": 0.5, "shares": {"parallel": 0.2}},
    }  # fmt: skip
    data = {
        "name": "journey",
        "corpus": {
            "sources": [
                {"name": "web", "path": str(corpus / "web")},
                {"name": "parallel", "path": str(corpus / "pairs.jsonl"), "kind": "pairs"},
            ],
            "held_out": {"share": 0.1},
        },
        "tokenizer": {"vocab_size": 400},
        "model": {
            "preset": "eurobert-210m",
            "override": {
                "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
                "num_key_value_heads": 1, "head_dim": 16},
        },
        "phases": [
            {"name": "pretrain", "from": "scratch", **phase, "mixture": {"languages": {"largest": 2}}},
            {"name": "decay-a", "from": "pretrain", **phase},
            {"name": "decay-b", "from": "pretrain", **phase},
        ],
        "merges": [{"name": "merged", "method": "ties", "base": "pretrain", "models": ["decay-a", "decay-b"]}],
        "evaluation": {"every": "2k", "tasks": [{"task": "bitext", "name": "pairs", "path": str(corpus / "bitext")}]},
        "machine": {"dtype": "float32", "threads": 1},
    }  # fmt: skip
    path = corpus / "journey.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def finished(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "journey"
    return run(load(recipe_file), folder)


def test_a_run_leaves_what_the_contract_promises(finished):
    for name in (
        "recipe.yaml", "tokenizer/tokenizer.json", "shards/train/index.json", "shards/held_out/index.json",
        "pretrain/metrics.jsonl", "pretrain/final/config.json", "pretrain/final/model.safetensors",
        "pretrain/final/tokenizer.json", "pretrain/final/README.md", "pretrain/final/training/state.json",
        "merged/final/model.safetensors", "merged/merge.json", "report.html", "summary.json",
    ):  # fmt: skip
        assert (finished / name).exists(), name
    results = {path.name for path in (finished / "evaluation").glob("*.json")}
    models = ("pretrain", "decay-a", "decay-b", "merged")
    assert results == {f"{model}.{task}.json" for model in models for task in ("held_out", "pairs")}


def test_transformers_loads_every_model_of_a_run(finished):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    for name in ("pretrain", "merged"):
        model = AutoModelForMaskedLM.from_pretrained(finished / name / "final")
        tokenizer = AutoTokenizer.from_pretrained(finished / name / "final")
        encoded = tokenizer("the old house", return_tensors="pt")
        assert encoded["input_ids"][0, 0] == tokenizer.bos_token_id
        assert model(**encoded).logits.shape[-1] == len(tokenizer)


def test_a_finished_run_is_not_touched_again(finished, recipe_file):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")}
    run(load(recipe_file), finished)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*.safetensors")} == before


def test_other_science_is_refused_by_name_and_another_machine_is_not(finished, recipe_file):
    with pytest.raises(RunError, match=r"phases\.decay-a\.mask_ratio: 0\.3 -> 0\.1"):
        run(load(recipe_file, {"phases.decay-a.mask_ratio": "0.1"}), finished)
    run(load(recipe_file, {"machine.micro_batch_tokens": "500"}), finished)
    run(load(recipe_file, {"phases.decay-a.mask_ratio": "0.1"}), finished, accept_changes=True)
    run(load(recipe_file), finished, accept_changes=True)


def test_a_folder_that_is_no_run_is_not_written_into(recipe_file, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not lose me")
    with pytest.raises(RunError, match=r"holds no recipe\.yaml"):
        run(load(recipe_file), tmp_path)


class Dies(Silent):
    """Interrupts at the n-th sign of progress."""

    def __init__(self, at: int) -> None:
        self.left = at

    def progress(self, stage: str) -> Callable[[int, int, str], None]:
        def count(done: int, total: int, what: str) -> None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

        return count


def test_a_run_killed_again_and_again_ends_with_the_same_weights(finished, recipe_file, tmp_path):
    kills = 0
    for _ in range(100):
        try:
            run(load(recipe_file, {"machine.checkpoint_minutes": "1e-9"}), tmp_path / "run", watcher=Dies(at=12))
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 3
    for name in ("pretrain", "decay-a", "decay-b", "merged"):
        file = f"{name}/final/model.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (finished / file).read_bytes()


def test_merging_folders_by_hand_equals_the_stage(finished, tmp_path):
    models = [finished / "decay-a" / "final", finished / "decay-b" / "final"]
    merge_folders(models, tmp_path / "m", method="ties", base=finished / "pretrain" / "final")
    stage = (finished / "merged" / "final" / "model.safetensors").read_bytes()
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == stage


def test_the_command_line_runs_it_all_and_prints_the_table(finished, recipe_file):
    shown = CliRunner().invoke(app, ["run", str(recipe_file), "--out", str(finished)])
    assert shown.exit_code == 0, shown.output
    assert "report.html" in shown.output
    assert "merged" in shown.output


def test_plan_shows_the_graph_and_after_prepare_the_languages(finished, recipe_file):
    shown = CliRunner().invoke(app, ["plan", str(recipe_file), "--out", str(finished)])
    assert shown.exit_code == 0, shown.output
    assert "fao_Latn" in shown.output
    assert "decay-b" in shown.output


def test_help_names_every_verb():
    shown = CliRunner().invoke(app, ["--help"])
    for verb in ("run", "plan", "prepare", "tokenizer", "train", "merge", "evaluate", "report", "verify", "demo-text"):
        assert verb in shown.output


def test_a_flipped_byte_in_the_shards_is_found_before_training(finished, recipe_file, tmp_path):
    for name in ("recipe.yaml", "tokenizer", "shards"):
        copy = shutil.copytree if (finished / name).is_dir() else shutil.copy
        copy(finished / name, tmp_path / name)
    file = tmp_path / "shards" / "train" / "tokens-00000.bin"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"tokens-00000\.bin"):
        run(load(recipe_file), tmp_path)
    assert not (tmp_path / "pretrain").exists()
