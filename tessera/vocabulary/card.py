"""Model card of a changed vocabulary: what was done, the proof by language, and vocabulary.json for programs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tessera import __version__
from tessera.files import model_name
from tessera.vocabulary.change import Change
from tessera.vocabulary.proof import Proof
from tessera.vocabulary.texts import Texts
from tessera.vocabulary.usage import Rule

FILE = "vocabulary.json"


def trimmed(folder: Path, rule: Rule, texts: Texts, proof: Proof, left_out: Sequence[str]) -> str:
    """The section of the card of a trimmed model."""
    kept = sum(row.kept for row in proof.languages)
    head = "no head" if proof.logits is None else f"logits within {proof.logits:.0e} of the largest"
    lines = [
        f", by {rule}; counted on {_sizes(texts)}. All else is as it was: other weights, head, normalizer, template, "
        "added tokens.",
        "",
        "Held-out text, chosen by the hash of each document. Where all pieces are kept, ids map one to one to those "
        f"before ({kept:,} of {kept:,} documents); of these, {proof.states:,} went through both models: hidden states "
        f"and vectors equal to the last bit, {head}.",
        "",
        *table(["language", "documents", "all pieces kept", "tokens, all documents", "unknown"], language_rows(proof)),
        "",
        *table(["", "before", "after"], cost_rows(proof)),
        "",
        f"The old id of each row is in {FILE}.",
    ]
    return _section("Vocabulary trimmed", folder, lines, left_out)


def extended(
    folder: Path, pieces: Sequence[str], init: str, texts: Texts, change: Change, left_out: Sequence[str]
) -> str:
    """The section of the card of an extended model."""
    lines = [
        f": {len(pieces):,} new pieces, learnt on {_sizes(texts)}. "
        f"Old rows are what they were; new ones begin as {INIT[init]}. {UNTRAINED}",
        "",
        "Held-out text, chosen by the hash of each document:",
        "",
        *table(CHANGED, change_rows(change)),
        "",
        "Where no id of a document changed, its vector is equal to the last bit.",
        "",
        f"The old id of each row is in {FILE}; -1 where it is new.",
    ]
    return _section("Vocabulary extended", folder, lines, left_out)


def replaced(folder: Path, copied: int, rows: int, change: Change, left_out: Sequence[str]) -> str:
    """The section of the card of a model with a whole new vocabulary."""
    lines = [
        f": of {rows:,} rows {copied:,} were in the old vocabulary and are copied; the others begin as the mean of "
        f"what stood for their text. {UNTRAINED}",
        "",
        *table(CHANGED, change_rows(change)),
        "",
        f"The old id of each row is in {FILE}; -1 where it is new.",
    ]
    return _section("Vocabulary replaced", folder, lines, left_out)


def factored(
    folder: Path, rank: int, texts: Texts, parameters: tuple[int, int], kept: float, left_out: Sequence[str]
) -> str:
    """The section of the card of a model with a factorized embedding."""
    lines = [
        f": rows of {rank} numbers and a projection (ELECTRA, arXiv:2003.10555). Tokens were counted on "
        f"{_sizes(texts)}; {kept:.1%} of the squared length of their rows, by how often they come, is kept. "
        f"{parameters[0]:,} parameters before, {parameters[1]:,} after. It is an approximation: train the model before "
        "you judge it.",
    ]
    return _section("Embedding factorized", folder, lines, left_out)


def _sizes(texts: Texts) -> str:
    return ", ".join(f"{language} {size / 1e6:.1f} MB" for language, size in texts.sizes().items())


def _section(title: str, folder: Path, lines: Sequence[str], left_out: Sequence[str]) -> str:
    """lines: the first goes on where it is said what the model is made of."""
    lost = ["", f"Not copied, since they hold the old vocabulary: {', '.join(left_out)}."] if left_out else []
    made = f"From `{model_name(folder)}` with tessera {__version__}"
    return "\n".join([f"## {title}", "", made + lines[0], *lines[1:], *lost]) + "\n"


CHANGED = ("language", "", "documents", "tokens a word", "tokens", "unknown", "old tokens changed", "cosine")
UNTRAINED = "They have not been trained: continue training on text of these languages before you judge it."
INIT = {
    "mean": "the mean of the pieces they replace",
    "focus": "old rows weighted by similar company (FOCUS, arXiv:2305.14481)",
}


def change_rows(change: Change) -> list[list[str]]:
    """Of each language tokens a word before and after, the share of old tokens that changed, the cosine of vectors."""
    return [
        [
            row.language,
            "new" if row.new else "watched",
            f"{row.documents:,}",
            " -> ".join(f"{tokens / max(1, row.words):.2f}" for tokens in row.tokens),
            f"{row.tokens[1] / max(1, row.tokens[0]) - 1:+.1%}",
            f"{row.unknown[0]:,} -> {row.unknown[1]:,}",
            f"{row.changed:.2%}",
            "" if row.cosine is None else f"{row.cosine:.3f}",
        ]
        for row in change.languages
    ]


def language_rows(proof: Proof) -> list[list[str]]:
    """Language, documents, the share whose pieces are all kept, how many more tokens, unknown tokens."""
    return [
        [
            row.language,
            f"{row.documents:,}",
            f"{row.kept / row.documents:.1%}",
            f"{row.more / max(1, row.tokens):+.3%}",
            f"{row.unknown[0]:,} -> {row.unknown[1]:,}",
        ]
        for row in proof.languages
    ]


def cost_rows(proof: Proof) -> list[list[str]]:
    """Parameters, disk, memory and speed, before and after."""
    shown = {
        "parameters": lambda cost: f"{cost.parameters / 1e6:.1f}M",
        "disk": lambda cost: f"{cost.disk_bytes / 1e6:.1f} MB",
        "memory of the weights, float32": lambda cost: f"{cost.memory_bytes / 1e6:.1f} MB",
    }
    rows = [[name, show(proof.before), show(proof.after)] for name, show in shown.items()]
    speed = [] if proof.speed is None else [["speed, texts to vectors", "1", f"{proof.speed:.2f}"]]
    return rows + speed


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def write(draft: Path, section: str, source: NDArray[Any], proof: Any) -> None:
    """Puts the section under the folder's own card, and vocabulary.json beside it.

    source  [rows], the old id of each row; -1 where it is new
    """
    add(draft, section)
    said = {"rows": source.tolist(), "proof": asdict(proof), "tessera": __version__}
    (draft / FILE).write_text(json.dumps(said, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def add(draft: Path, section: str) -> None:
    """Puts the section under the folder's own card."""
    place = draft / "README.md"
    before = place.read_text(encoding="utf-8").rstrip() + "\n\n" if place.is_file() else _front()
    place.write_text(before + section, encoding="utf-8", newline="\n")


def _front() -> str:
    return "---\nlibrary_name: transformers\ntags: [tessera]\n---\n\n"
