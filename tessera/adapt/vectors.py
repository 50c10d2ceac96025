"""Retention of an embedding model: by language, how near its vectors are to those that it gave before it was adapted.

Of languages with translations also the share of them that are found among all (bitext retrieval), before and after.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.adapt.retention import ROLE_NAMES
from tessera.bulk.nearest import nearest, unit
from tessera.inference import sentence_folder
from tessera.inference.encoder import Encoder
from tessera.progress import Silent, Watcher
from tessera.retrieval.pairs import Sentence
from tessera.statistics import interval
from tessera.tokenizer.tokenizer import Tokenizer

MOST_PAIRS = 500  # held-out translations of a language


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One language on its held-out text.

    role      new, replay or watch
    passages  that were compared, and `pairs` translations
    cosine    of each model's vectors to the first model's: the mean and half its 95% interval over passages, None
              where there is one
    found     of each model the share of translations that are nearest to their text, the mean of both directions;
              empty where there are no translations
    tokens    a word, of the first model and of the last
    """

    language: str
    role: str
    passages: int
    pairs: int
    cosine: dict[str, tuple[float, float | None]]
    found: dict[str, float]
    tokens: tuple[float, float]


def kept(
    models: Mapping[str, Path],
    held: Mapping[str, Sequence[Sentence]],
    translated: Sequence[Sentence],
    watcher: Watcher | None = None,
) -> list[Kept]:
    """Measures all models on the same text, new languages first.

    models      by what the table calls them; the first is what they are compared with
    held        held-out passages by role
    translated  held-out translations, in the order in which they are taken
    """
    progress = (watcher or Silent()).progress("retention")
    texts: dict[tuple[str, str], list[str]] = {}
    for role, passages in held.items():
        for one in passages:
            texts.setdefault((role, one.language), []).append(one.text)
    pairs: dict[str, list[Sentence]] = {}
    for one in translated:
        pairs.setdefault(one.language, []).append(one)
    first = dict[tuple[str, str], NDArray[np.float32]]()
    rows = {place: _Row() for place in texts}
    for number, (name, folder) in enumerate(models.items()):
        progress(number, len(models), f"vectors of {name}")
        model = Encoder.from_pretrained(folder)
        tokenizer = Tokenizer.load(sentence_folder.read(folder)[1])
        for place, some in texts.items():
            vectors, row = unit(model.encode_document(some)), rows[place]
            if number:
                mean, half = interval((vectors * first[place]).sum(1).tolist())
                row.cosine[name] = mean, None if np.isnan(half) else half
            first.setdefault(place, vectors)
            words = max(1, sum(len(text.split()) for text in some))
            row.tokens.append(sum(map(len, tokenizer.encode_plain(some))) / words)
            if own := pairs.get(place[1], [])[:MOST_PAIRS]:
                row.found[name] = _found(model, own)
    progress(1, 1, "retention")
    return [
        Kept(
            language=code, role=role, passages=len(texts[role, code]), pairs=len(pairs.get(code, [])[:MOST_PAIRS]),
            cosine=row.cosine, found=row.found, tokens=(row.tokens[0], row.tokens[-1]),
        )
        for (role, code), row in sorted(rows.items(), key=lambda item: (list(ROLE_NAMES).index(item[0][0]), item[0][1]))
    ]  # fmt: skip


class _Row:
    """What is gathered of a language, model by model."""

    def __init__(self) -> None:
        self.cosine: dict[str, tuple[float, float | None]] = {}
        self.found: dict[str, float] = {}
        self.tokens: list[float] = []


def _found(model: Encoder, pairs: Sequence[Sentence]) -> float:
    """Bitext retrieval: the share of nearest neighbours that are the translation, the mean of both directions."""
    sides = (unit(model.encode_document([one.text for one in pairs])),
             unit(model.encode_document([one.translation or "" for one in pairs])))  # fmt: skip
    truth = np.arange(len(pairs))
    return float(np.mean([nearest(a, b, 1)[0][:, 0] == truth for a, b in (sides, sides[::-1])]))


def table(rows: Sequence[Kept]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows."""
    if not rows:
        return [], []
    names, translated = list(rows[0].cosine), any(row.found for row in rows)
    columns = ["language", "", "passages", *names, *(["translations found"] if translated else []), "tokens / word"]
    lines = []
    for row in rows:
        found = [" -> ".join(f"{100 * share:.1f}" for share in row.found.values())] if translated else []
        before, after = row.tokens
        saved = f"{before:.2f} -> {after:.2f} ({after / max(1e-9, before) - 1:+.0%})"
        near = [f"{mean:.4f}" + (f" ± {half:.4f}" if half is not None else "") for mean, half in row.cosine.values()]
        lines.append([row.language, ROLE_NAMES[row.role], f"{row.passages:,}", *near, *found, saved])
    return columns, lines
