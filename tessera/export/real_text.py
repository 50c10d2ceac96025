"""Text of the kind that will be encoded, drawn from files: texts with their languages, and pairs of translations."""

import itertools
import random

from tessera.corpus import documents
from tessera.plan.corpus import Columns, Source

Text = tuple[str, str]  # and its language

_LOOKED_AT = 50_000  # rows of a file that texts are drawn from


def read_texts(path: str, limit: int = 1000, seed: int = 0, column: str = "text") -> list[Text]:
    """At most `limit` texts with their languages: of the column `lang`, or as the file is called, or und.

    Raises ValueError as corpus.read, and where no column is called so.
    """

    def read(language: str | None) -> list[Text]:
        source = Source(name="texts", path=path, columns=Columns(text=column), language=language, split="train")
        rows = (row for row in documents.read(source) if isinstance(row, documents.Document))
        return [(row.text, row.language) for row in itertools.islice(rows, _LOOKED_AT)]

    try:
        found = read(None)
    except ValueError:
        try:
            found = read("und")
        except ValueError as error:
            if f"no column {column!r}" not in str(error):
                raise
            raise ValueError(
                f"{path}: no column is called {column!r}, where text was looked for; name it with --text COLUMN; rows "
                "of a model with the head of a task are given with --rows"
            ) from None
    return _drawn(found, limit, seed)


def read_pairs(path: str, limit: int = 1000, seed: int = 0) -> list[tuple[str, str]]:
    """At most `limit` pairs from rows of src, tgt, src_lang and tgt_lang. Raises ValueError as corpus.read."""
    source = Source(name="pairs", path=path, kind="pairs", split="train")
    rows = (row for row in documents.read(source) if isinstance(row, documents.Pair))
    return _drawn([(row.source_text, row.target_text) for row in itertools.islice(rows, _LOOKED_AT)], limit, seed)


def _drawn(found: list[tuple[str, str]], limit: int, seed: int) -> list[tuple[str, str]]:
    return random.Random(seed).sample(found, min(limit, len(found)))
