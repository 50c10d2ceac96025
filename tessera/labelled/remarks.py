"""What looks wrong with rows that can be read: empty texts, equal texts with other labels, a file without column names.

Nothing of it is refused: each may be meant.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.plan.errors import some
from tessera.plan.task_data import Column


def remarks(examples: Sequence[Any], kind: str, names: Sequence[str], columns: Mapping[str, Column]) -> list[str]:
    """What is worth a look, each a line.

    examples  of all splits
    names     of the labels
    columns   role -> column
    """
    lines = []
    texts = [one for one in examples if hasattr(one, "text") and hasattr(one, "label")]
    if empty := [one.row for one in texts if not one.text.strip()]:
        lines.append(f"{len(empty):,} rows have an empty text and are read as such: {some(empty, 3)}")
    if kind in ("classify", "pair"):
        labels: dict[tuple[str, str | None], set[Any]] = {}
        for one in texts:
            labels.setdefault((one.text, one.second), set()).add(one.label)
        twice = [one.row for one in texts if one.text.strip() and len(labels[one.text, one.second]) > 1]
        if twice:
            lines.append(f"{len(twice):,} rows have the text of another row and not its label: {some(twice, 3)}")
    label = columns.get("label")
    if isinstance(label, str) and label in names:
        lines.append(
            f"column {label!r} is called what one of its labels is; if the file has no line of column names, its first "
            "row was taken for one: write such a line above it (as text,label)"
        )
    return lines
