"""The model card of a retrieval model: licence and base, what it is, scores before and after, how to load it."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from tessera import __version__
from tessera.files import model_name
from tessera.finetune.card import base_card, base_name
from tessera.inference import sentence_folder as folders
from tessera.inference.encoder import Encoder

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


def student_card(
    folder: str | Path,
    teacher: Encoder,
    loss: str,
    prompt: str,
    learned: int,
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
) -> str:
    """The card of a student.

    folder   of the model that it was; learned: so many sentences or pairs
    prompt   stood before what the teacher read
    before   by language and "all" what `agreement` says of held-out sentences; after likewise
    """
    of = model_name(teacher.source) if teacher.source else "a teacher"
    what = (
        f"Sentence embeddings of {teacher.dimensions} dimensions, learned from those of {of} "
        f"({f'its prompt {prompt!r}; ' if prompt else ''}{loss} loss, {learned:,} sentences or pairs). Scores on "
        "held-out sentences: cosine to the teacher, and the share of translations that are found."
    )
    whole = {"all, before": before["all"], "all, after": after["all"]}
    rows = whole | {name: row for name, row in after.items() if name != "all"}
    code = (
        "from sentence_transformers import SentenceTransformer\n"
        'model = SentenceTransformer("<this folder>")\nvectors = model.encode(["one sentence", "another"])'
    )
    return model_card(folder, "distil", what, rows, code)
