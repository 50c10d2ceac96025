"""Vocabulary trimming: a model folder without the tokens that its languages do not use, the rest as it was.

Kept are the tokens that the text uses, all special and added tokens, bytes, letters, and what merges need (see
merges.py). Where all pieces of a text are kept its ids map one to one, so that hidden states are equal to the last bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.files import atomic_folder, refuse_taken
from tessera.inference.tokenize import check_vocabulary
from tessera.progress import Silent, Watcher
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary import card, entries, proof, tables
from tessera.vocabulary.entries import Entries
from tessera.vocabulary.merges import Merges
from tessera.vocabulary.texts import Texts
from tessera.vocabulary.usage import Counts, Rule, count


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """What came out."""

    folder: Path
    rows: tuple[int, int]  # before and after
    proof: proof.Proof
    left_out: tuple[str, ...]  # files of the old folder that would still hold its vocabulary


def trim(
    folder: str | Path,
    texts: Texts,
    out: str | Path,
    rule: Rule | None = None,
    *,
    whole: Texts | None = None,
    check: proof.Checked = proof.Checked(),
    watcher: Watcher | None = None,
) -> Trimmed:
    """Writes `folder` with fewer tokens to `out`: whole or not at all.

    texts  of the languages to keep; see `texts.read_texts`
    rule   which of their tokens are kept
    whole  text all of whose tokens are kept, however rare: like that which the model will read

    Any head stays, and the files of sentence-transformers. Raises FileExistsError where `out` holds something;
    ValueError for a folder that is not understood, a size into which the tokens that must be kept do not fit, and where
    the proof fails: then nothing is written.
    """
    out, rule, watcher = Path(out), rule or Rule(), watcher or Silent()
    refuse_taken(out)
    model = tables.ModelFolder.of(Path(folder))
    found = Entries.of(tokenizer := Tokenizer.load(model.inside))
    check_vocabulary(tokenizer, model, model.inside)
    counts = count(tokenizer, texts.used, watcher.progress("trim"))
    more = [*tables.named_ids(model), *range(model.fixed)]
    if whole is not None:
        more += np.flatnonzero(np.sum(list(count(tokenizer, whole.used).values()), axis=0)).tolist()
    kept = keep(found, counts, rule, more)
    ids = {int(old): new for new, old in enumerate(kept)}
    definition = entries.renumbered(found.definition, ids)
    with atomic_folder(out, sealed=True) as draft:
        left_out = tables.write(
            model, tables.Rows(source=kept, mixed={}), tables.config_of(model, ids, len(kept)), draft
        )
        inside = draft / model.inside.relative_to(model.whole)
        left_out += entries.write(found, definition, ids, inside)
        shown = proof.prove(model.whole, draft, ids, texts.held_out, check, watcher)
        card.write(draft, card.trimmed(model.whole, rule, texts, shown, left_out), kept, shown)
    return Trimmed(folder=out, rows=(model.vocab_size, len(kept)), proof=shown, left_out=tuple(left_out))


def keep(found: Entries, counts: Counts, rule: Rule, more: Sequence[int] = ()) -> NDArray[np.int64]:
    """The ids to keep, in their order.

    more  ids that must be among them

    Raises ValueError where `rule.size` is too small for what must be kept, and for a prior where pieces have none.
    """
    used = np.flatnonzero(np.sum(list(counts.values()), axis=0))
    must = {*entries.indispensable(found), *entries.in_scripts(found, rule.scripts), *more}
    if not entries.writes_all(found.definition):
        must |= entries.letters(found, used.tolist())
    needs = _needs(found)
    must = set[int]().union(*map(needs, must))
    if rule.size is not None and len(must) > rule.size:
        raise ValueError(
            f"size is {rule.size:,}, but special and added tokens, bytes, letters, whole scripts and texts are "
            f"{len(must):,} tokens already; give a greater size"
        )
    own = entries.probabilities(found) if rule.prior else None
    for token in rule.wanted(counts, own).tolist():
        needed = needs(token) - must
        if rule.size is not None and len(must) + len(needed) > rule.size:
            break
        must |= needed
    return np.array(sorted(must), np.int64)


def _needs(found: Entries) -> Callable[[int], set[int]]:
    """What gives a token and all that merges need to make it."""
    if found.kind != "BPE":
        return lambda token: {token}
    names = {i: token for token, i in found.model.items()}
    merges = Merges(found.definition["model"])

    def needs(token: int) -> set[int]:
        parts = merges.parts(names[token]) if token in names else ()
        return {token} | {found.model[part] for part in parts if part in found.model}

    return needs
