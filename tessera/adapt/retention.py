"""Retention: held-out bits per byte of hidden words before and after, by language, and tokens saved.

Words are hidden, not tokens, so that models with different vocabularies compare; see hidden_words.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tessera.adapt.hidden_words import HiddenWords, hidden_words, passages
from tessera.huggingface import hub
from tessera.huggingface.hf_files import find_model
from tessera.model.precision import find_device
from tessera.progress import Silent, Watcher
from tessera.statistics import ratio_interval
from tessera.tokenizer.tokenizer import Tokenizer

_PASSAGES = 24  # of a language
_ROLES = ("new", "replay", "watch")
ROLE_NAMES = {"new": "new", "replay": "replayed", "watch": "watched"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """One language on its held-out text.

    role     new, replay or watch
    words    that were hidden; `documents` they are of
    bits     bits per byte of hidden words, of each model
    change   of each model but the first: (difference to the first, both ends of its 95% interval); the ends are None
             where there is one document
    tokens   a word, of the first model and of the last
    """

    language: str
    role: str
    documents: int
    words: int
    bits: dict[str, float]
    change: dict[str, tuple[float, float | None, float | None]]
    tokens: tuple[float, float]


def retention(
    models: Mapping[str, Path],
    texts: Mapping[str, Sequence[str]],
    roles: Mapping[str, str],
    watcher: Watcher | None = None,
) -> list[Retained]:
    """Measures all models on the same hidden words, new languages first.

    models  by what the table calls them; the first is what they are compared with
    texts   held-out documents of each language
    """
    progress = (watcher or Silent()).progress("retention")
    some = {code: drawn for code in texts if (drawn := passages(texts[code], _PASSAGES))}
    done, total = 0, len(models) * len(some)
    found: dict[str, dict[str, HiddenWords]] = {code: {} for code in some}
    fertility = {code: list[float]() for code in some}
    for name, folder in models.items():
        model = hub.load_any(find_model(folder)).to(find_device("auto"))
        tokenizer = Tokenizer.load(find_model(folder))
        for code in some:
            progress(done, total, f"hidden words of {code}: {name}")
            found[code][name] = hidden_words(model, tokenizer, some[code])
            ids = tokenizer.encode_plain(list(texts[code]))
            fertility[code].append(sum(map(len, ids)) / max(1, sum(len(text.split()) for text in texts[code])))
            done += 1
    progress(1, 1, "retention")
    rows = [_row(code, roles.get(code, "watch"), found[code], fertility[code]) for code in some]
    return sorted(rows, key=lambda row: (_ROLES.index(row.role), row.language))


def _row(code: str, role: str, found: Mapping[str, HiddenWords], tokens: Sequence[float]) -> Retained:
    first, *others = found
    base = found[first]
    change = {}
    for name in others:
        value, low, high = ratio_interval(found[name].bits, base.bytes, less=base.bits)
        change[name] = (value, None if math.isnan(low) else low, None if math.isnan(high) else high)
    bits = {name: sum(one.bits) / max(1, sum(one.bytes)) for name, one in found.items()}
    return Retained(
        language=code, role=role, documents=len(base.bits), words=base.words, bits=bits, change=change,
        tokens=(tokens[0], tokens[-1]),
    )  # fmt: skip


def table(rows: Sequence[Retained]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows, with a mean of each role."""
    if not rows:
        return [], []
    first, *others = rows[0].bits
    columns = ["language", "", "words", first, *(f"{name} (change, 95%)" for name in others), "tokens / word"]
    lines = [
        [
            row.language,
            ROLE_NAMES[row.role],
            f"{row.words:,}",
            f"{row.bits[first]:.3f}",
            *(f"{row.bits[name]:.3f} ({_between(row.change[name])})" for name in others),
            f"{row.tokens[0]:.2f} -> {row.tokens[1]:.2f} ({row.tokens[1] / max(1e-9, row.tokens[0]) - 1:+.0%})",
        ]
        for row in rows
    ]
    for role in _ROLES:
        of = [row for row in rows if row.role == role]
        if len(of) > 1:
            means = [sum(row.bits[name] for row in of) / len(of) for name in rows[0].bits]
            shown = [f"{means[0]:.3f}", *(f"{mean:.3f} ({mean - means[0]:+.3f})" for mean in means[1:])]
            lines.append(["mean", ROLE_NAMES[role], f"{sum(row.words for row in of):,}", *shown, ""])
    return columns, lines


def _between(change: tuple[float, float | None, float | None]) -> str:
    value, low, high = change
    return f"{value:+.3f}" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
