"""The model card of a retrieval model: licence and base, what it is, scores before and after, how to load it."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from tessera import __version__
from tessera.finetune.card import base_card, base_name
from tessera.inference import sentence_folder as folders

_TAKEN = ("license", "license_name", "license_link", "language")  # from the card of the base model


def model_card(folder: str | Path, kind: str, what: str, scores: Mapping[str, Mapping[str, float]], code: str) -> str:
    """README.md: front matter for the Hub, what it is, a table of scores, how to load it.

    folder  of the model that it was trained from: its licence goes along
    kind    retrieve or distil
    scores  a row of the table each: its name -> measure -> value
    """
    whole = folders.local(folder)
    base = base_card(whole)
    front = {key: base[key] for key in _TAKEN if key in base} | {
        "base_model": base_name(folders.read(whole)[1], base),
        "pipeline_tag": "sentence-similarity",
        "library_name": "sentence-transformers",
        "tags": [kind, "tessera"],
    }
    measures = list(dict.fromkeys(name for row in scores.values() for name in row))
    lines = [
        f"| {name} | " + " | ".join(f"{row[m]:.4f}" if m in row else "" for m in measures) + " |"
        for name, row in scores.items()
    ]
    table = "\n".join([f"| | {' | '.join(measures)} |", "|---|" + "---|" * len(measures), *lines])
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}\n---",
        f"Kind **{kind}**, trained from `{front['base_model']}` with tessera {__version__}.",
        what,
        table,
        f"```python\n{code}\n```",
    ]
    if "license" not in front:
        parts.append("The card of the base model names no licence; ask its makers before you publish this.")
    return "\n\n".join(parts) + "\n"
