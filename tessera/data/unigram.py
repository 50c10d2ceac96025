"""Unigram vocabularies (XLM-R, mDeBERTa) hold the names of special tokens as pieces, so that `<s>` in a web page would
begin a document in the middle of one. Here such a text is read by the same vocabulary without these pieces.
"""

import json
from typing import Any

import tokenizers


class Nameless:
    """Reads texts in which names of special tokens stand as text. Made from the definition when the first one comes.

    special  the ids of special tokens
    """

    def __init__(self, definition: dict[str, Any], special: tuple[int, ...]) -> None:
        self._definition, self._special = definition, frozenset(special)
        self._inner: tokenizers.Tokenizer | None = None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text and nothing else."""
        if self._inner is None:
            self._inner = tokenizers.Tokenizer.from_str(json.dumps(self._without_names()))
            self._inner.no_truncation()
            self._inner.encode_special_tokens = True
        return self._inner.encode(text, add_special_tokens=False).ids

    def _without_names(self) -> dict[str, Any]:
        model = self._definition["model"]
        pieces = [[f"\0{i}" if i in self._special else piece, score] for i, (piece, score) in enumerate(model["vocab"])]
        added = [
            token
            for token in self._definition.get("added_tokens") or []
            if token["id"] not in self._special or token["id"] >= len(pieces)
        ]
        return {**self._definition, "model": {**model, "vocab": pieces}, "added_tokens": added, "post_processor": None}


def holds_names(definition: dict[str, Any]) -> bool:
    """Whether the names of special tokens are pieces that a text may be cut into."""
    return bool((definition.get("model") or {}).get("type") == "Unigram")
