"""Model card of a changed vocabulary: what was done, the proof by language, and vocabulary.json for programs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tessera import __version__
from tessera.files import model_name
from tessera.vocabulary.proof import Proof
from tessera.vocabulary.texts import Texts
from tessera.vocabulary.usage import Rule

FILE = "vocabulary.json"


def trimmed(folder: Path, rule: Rule, texts: Texts, proof: Proof, left_out: Sequence[str]) -> str:
    """The section of the card of a trimmed model."""
    sizes = ", ".join(f"{language} {size / 1e6:.1f} MB" for language, size in texts.sizes().items())
    kept = sum(row.kept for row in proof.languages)
    head = "no head" if proof.logits is None else f"logits within {proof.logits:.0e} of the largest"
    lines = [
        "## Vocabulary trimmed",
        "",
        f"From `{model_name(folder)}` with tessera {__version__}, by {rule}; counted on {sizes}. All else is as it was: "
        "other weights, head, normalizer, template, added tokens.",
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
    if left_out:
        lines += ["", f"Not copied, since they hold the old vocabulary: {', '.join(left_out)}."]
    return "\n".join(lines) + "\n"


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
    place = draft / "README.md"
    before = place.read_text(encoding="utf-8").rstrip() + "\n\n" if place.is_file() else _front()
    place.write_text(before + section, encoding="utf-8", newline="\n")
    said = {"rows": source.tolist(), "proof": asdict(proof), "tessera": __version__}
    (draft / FILE).write_text(json.dumps(said, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def _front() -> str:
    return "---\nlibrary_name: transformers\ntags: [tessera]\n---\n\n"


