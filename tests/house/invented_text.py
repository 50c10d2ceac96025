"""Text in languages that nobody speaks, one vocabulary for each code; document i is as long in every language."""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def documents(language: str, count: int, seed: str) -> list[str]:
    """`count` texts of 8 to 24 words; other seeds give other texts of the same vocabulary."""
    own = random.Random(language)
    words = ["".join(own.choices(SYLLABLES, k=own.randint(1, 3))) for _ in range(40)]
    lengths, spoken = random.Random(seed), random.Random(f"{language} {seed}")
    return [" ".join(spoken.choices(words, k=lengths.randint(8, 24))) for _ in range(count)]


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
