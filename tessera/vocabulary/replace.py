"""Vocabulary replacement: the tokenizer of another model, or one trained for your languages; rows that overlap copied.

An entry that stands for the same text in both, at a word's start or inside, keeps its row. Special tokens take the rows
of their roles. Any other entry begins as the mean of what the old tokenizer writes its text with.
Source: Fast Vocabulary Transfer, Gee et al. 2022, arXiv:2402.09977.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers

from tessera.files import atomic_folder, refuse_taken
from tessera.inference.tokenize import check_vocabulary
from tessera.progress import Silent, Watcher
from tessera.tokenizer.special_tokens import reader
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.tokenizer.tokenizer_json import without_prefix
from tessera.vocabulary import card, change, tables
from tessera.vocabulary.entries import SENTENCEPIECE, Entries, said
from tessera.vocabulary.initialize import Sum, drawn
from tessera.vocabulary.pieces import old_ids
from tessera.vocabulary.texts import Texts

_ROLES = ("mask_id", "bos_id", "eos_id", "pad_id", "separator_id", "unknown_id")
_OTHERS = ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", *SENTENCEPIECE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """What came out."""

    folder: Path
    rows: tuple[int, int]  # before and after
    copied: int  # rows of the new vocabulary that were in the old one
    change: change.Change
    left_out: tuple[str, ...]


def replace(
    folder: str | Path,
    tokenizer: str | Path,
    out: str | Path,
    texts: Texts,
    *,
    watcher: Watcher | None = None,
) -> Replaced:
    """Writes `folder` with the vocabulary of `tokenizer`, a tokenizer.json or a folder with one, to `out`.

    texts  whose held-out part tells what becomes of each language

    Any head stays. Raises FileExistsError where `out` holds something; ValueError for a folder that is not understood,
    and where the model counts positions from the id of padding and the new tokenizer has another.
    """
    out, watcher = Path(out), watcher or Silent()
    refuse_taken(out)
    model = tables.ModelFolder.of(Path(folder))
    old, new = Entries.of(Tokenizer.load(model.inside)), Entries.of(Tokenizer.load(tokenizer))
    check_vocabulary(old.tokenizer, model, model.inside)
    if model.fixed and new.tokenizer.pad_id != old.tokenizer.pad_id:
        raise ValueError(
            f"{new.tokenizer.path}: padding has id {new.tokenizer.pad_id}, but {model.inside} counts positions from "
            f"that of padding, {old.tokenizer.pad_id}; train the tokenizer with padding at that place"
        )
    tell = watcher.progress("replace")
    tell(0, 2, "looking for what both vocabularies have")
    rows = matched(old, new)
    ids = {
        getattr(old.tokenizer, role): getattr(new.tokenizer, role)
        for role in reversed(_ROLES)
        if getattr(old.tokenizer, role) is not None and getattr(new.tokenizer, role) is not None
    }
    with atomic_folder(out, sealed=True) as draft:
        left_out = tables.write(model, rows, tables.config_of(model, ids, len(rows.source)), draft)
        inside = draft / model.inside.relative_to(model.whole)
        for name in _OTHERS:
            (inside / name).unlink(missing_ok=True)
        new.tokenizer.copy_to(inside)
        tell(1, 2, "measuring")
        changed = change.measure(model.whole, draft, None, texts.held_out, set())
        copied = int((rows.source >= 0).sum())
        card.write(draft, card.replaced(model.whole, copied, len(rows.source), changed, left_out), rows.source, changed)
    tell(2, 2, "replace")
    return Replaced(
        folder=out,
        rows=(model.vocab_size, len(rows.source)),
        copied=copied,
        change=changed,
        left_out=tuple(left_out),
    )


def matched(old: Entries, new: Entries) -> tables.Rows:
    """The old row of each new entry, or of which old rows it is the mean."""
    texts = {text: i for token, i in old.model.items() if (text := said(old, token)) is not None}
    source = np.full(new.tokenizer.vocab_size, -1, np.int64)
    mixed: dict[int, Sum] = {}
    common = np.array(sorted(set(old.model.values()) - set(old.tokenizer.special_ids)), np.int64)
    inside = reader(old.tokenizer.path, without_prefix(old.definition))
    roles = {getattr(new.tokenizer, role): getattr(old.tokenizer, role) for role in reversed(_ROLES)}
    names = {i: token for token, i in new.ids.items()}
    for i in range(new.tokenizer.vocab_size):
        token = names.get(i)
        text = None if token is None else token if i in new.added.values() else said(new, token)
        found = roles.get(i)
        if found is None and token is not None:
            found = old.added.get(token) if i in new.added.values() else texts.get(text) if text else None
        if found is not None:
            source[i] = found
            continue
        parts = np.array(_parts(old, inside, text) if text else (), np.int64)
        parts = parts if len(parts) else drawn(common, token or str(i))
        mixed[i] = parts, np.full(len(parts), 1 / len(parts))
    return tables.Rows(source=source, mixed=mixed)


def _parts(old: Entries, inside: tokenizers.Tokenizer, text: str) -> tuple[int, ...]:
    """What the old tokenizer writes a text with, which begins with a space where a word does."""
    if old.kind == "WordPiece":
        return old_ids(old, text[1:] if text.startswith(" ") else old.continuing + text)
    encoded = inside.encode(text, add_special_tokens=False).ids
    return tuple(i for i in encoded if i != old.tokenizer.unknown_id)
