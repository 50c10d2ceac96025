"""A whole run on an invented corpus: fixtures for tests that need a finished run, or one that dies."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tessera.plan.loading import load
from tessera.progress import Silent
from tessera.run import run

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
