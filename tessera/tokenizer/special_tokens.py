"""Special tokens never come out of plain text: what is encoded here is text, whatever names stand in it.

Asked to read special tokens as text, the tokenizers library does not look for them before it splits a text. Its models
still hold their names: as a word (WordLevel, WordPiece, BPE with ignore_merges), as what merges end in (BPE), as a
piece (Unigram). So a web page with `<s>` in it would begin a document in the middle of one.
"""

import contextlib
import json
import secrets
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

Json = dict[str, Any]
Ids = NDArray[np.int32]
_FIRST_MARK = "\u02ff"  # combining marks are beyond it


class PlainText:
    """Encodes texts by a tokenizer.json without a template; no special token comes out.

    The ids are those of the library where no special token is among them. Any other text is encoded once more, by the
    same vocabulary with the names of special tokens written as no text is. The unknown token comes out where the
    vocabulary cannot write something, but not where its name stands.

    definition  tokenizer.json as it was read
    special     ids of special tokens
    unknown     the id of the unknown token
    inner       its `reader`, where there is one already
    """

    def __init__(
        self,
        path: Path,
        definition: Json,
        special: Collection[int],
        unknown: int | None,
        inner: tokenizers.Tokenizer | None = None,
    ) -> None:
        self.path, self.definition, self.unknown = path, definition, unknown
        self.inner = inner or reader(path, definition)
        self._special = frozenset(special) | (frozenset() if unknown is None else {unknown})
        vocabulary = self.inner.get_vocab(with_added_tokens=True)
        self._unknown_names = [name for name, i in vocabulary.items() if i == unknown]
        self._is_special = np.zeros(max([*vocabulary.values(), *self._special], default=0) + 1, np.bool_)
        self._is_special[list(self._special)] = True
        self._careful: tokenizers.Tokenizer | None = None  # made when the first such text comes

    def ids(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text. On all cores; releases the GIL. Raises ValueError where the library fails."""
        with retold(self.path, "cannot encode a text"):
            encoded = self.inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return self.mended(texts, [np.array(e.ids, dtype=np.int32) for e in encoded])

    def mended(self, texts: Sequence[str], ids: list[Ids]) -> list[Ids]:
        """The ids that any engine gave, with names of special tokens as text."""
        if not ids or not self._is_special[np.concatenate(ids)].any():
            return ids
        return [
            np.array(self._carefully(text).ids, dtype=np.int32) if self._names(text, row) else row
            for text, row in zip(texts, ids, strict=True)
        ]

    def offsets(self, texts: Sequence[str]) -> list[tuple[Ids, NDArray[np.int64]]]:
        """The same, and the characters that each token comes from: int64 [tokens, 2], from and to.

        A combining mark that the tokenizer drops, or composes with its letter, belongs to the token of that letter.
        """
        with retold(self.path, "cannot encode a text"):
            encoded = self.inner.encode_batch(list(texts), add_special_tokens=False)
        found = []
        for text, one in zip(texts, encoded, strict=True):
            kept = self._carefully(text) if self._names(text, np.array(one.ids, np.int32)) else one
            places = np.array(kept.offsets, np.int64).reshape(-1, 2)
            found.append((np.array(kept.ids, np.int32), _with_marks(text, places)))
        return found

    def _names(self, text: str, ids: Ids) -> bool:
        """Whether ids of a text hold a special token because its name stands there."""
        found = set(ids[self._is_special[ids]].tolist())
        if not found:
            return False
        if found != {self.unknown}:
            return True
        normalizer = self.inner.normalizer
        normal = normalizer.normalize_str(text) if normalizer else text
        return any(name in normal for name in self._unknown_names)

    def _carefully(self, text: str) -> tokenizers.Encoding:
        if self._careful is None:
            self._careful = reader(self.path, _without_names(self.definition, self._special))
        with retold(self.path, "cannot encode a text"):
            return self._careful.encode(text, add_special_tokens=False)


def reader(path: Path, definition: Json | str) -> tokenizers.Tokenizer:
    """The library's tokenizer of a definition, or of its text, which neither cuts nor pads; special tokens are text.

    Raises ValueError naming `path` where the library cannot read it.
    """
    with retold(path, "not a tokenizer.json of the tokenizers library"):
        text = definition if isinstance(definition, str) else json.dumps(definition)
        inner = tokenizers.Tokenizer.from_str(text)
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = True
    return inner


@contextlib.contextmanager
def retold(path: Path, what: str) -> Iterator[None]:
    """What the tokenizers library raises, bare Exceptions and panics that are none, as a ValueError."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__module__ != "pyo3_runtime":
            raise
        raise ValueError(f"{path}: {what}: {' '.join(str(error).split())[:300]}") from None


def _without_names(definition: Json, special: frozenset[int]) -> Json:
    """The same vocabulary, ids included, in which no text makes one of the special tokens."""
    own = definition["model"]
    salt = secrets.token_hex(8)  # nobody can write what nobody knows; the ids do not depend on it
    added = definition.get("added_tokens") or []
    if isinstance(own["vocab"], list):  # Unigram: an empty piece is never found
        vocab: Any = [["" if i in special else piece, score] for i, (piece, score) in enumerate(own["vocab"])]
        added = [token for token in added if token["id"] not in special or token["id"] >= len(vocab)]
        hidden: dict[str, str] = {}
    else:
        hidden = {name: f"\0{salt}{i}" for name, i in own["vocab"].items() if i in special}
        vocab = {hidden.get(name, name): i for name, i in own["vocab"].items()}
    model = {**own, "vocab": vocab}
    if own.get("unk_token") in hidden:
        model["unk_token"] = hidden[own["unk_token"]]
    if own.get("merges"):
        prefix = len(own.get("continuing_subword_prefix") or "")
        pairs = (tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in own["merges"])
        model["merges"] = [[a, b] for a, b in pairs if hidden.keys().isdisjoint((a, b, a + b[prefix:]))]
    return {
        **definition,
        "model": model,
        "added_tokens": [
            {**token, "content": hidden.get(token["content"], token["content"]), "special": True}
            if token["id"] in special
            else token
            for token in added
        ],
        "post_processor": None,
    }


def _with_marks(text: str, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of tokens that end behind the combining marks of their last letter, where no token has these itself."""
    if text.isascii() or not len(places):
        return places
    edges = np.zeros(len(text) + 1, np.int64)
    np.add.at(edges, places[:, 0], 1)
    np.add.at(edges, places[:, 1], -1)
    bare = np.flatnonzero(np.cumsum(edges[:-1]) == 0)
    found = places.copy()
    for at in bare.tolist():  # in order, so that each mark of several finds its token's end moved already
        if text[at] > _FIRST_MARK and unicodedata.category(text[at])[0] == "M":
            found[found[:, 1] == at, 1] = at + 1
    return found
