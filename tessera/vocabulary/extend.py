"""Vocabulary extension: new pieces learnt on the text of languages that a model cuts too small, beside the old ones.

The old rows stay as they are, bit for bit. What becomes of the languages that the model knew is measured: a text of
theirs that holds no new piece has the ids that it had.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tessera.files import atomic_folder, refuse_taken
from tessera.inference.tokenize import check_vocabulary
from tessera.progress import Silent, Watcher
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary import card, change, entries, tables
from tessera.vocabulary.entries import Entries
from tessera.vocabulary.initialize import Method, new_rows
from tessera.vocabulary.pieces import Learnt, learn
from tessera.vocabulary.texts import Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """What came out."""

    folder: Path
    rows: tuple[int, int]  # before and after
    pieces: tuple[str, ...]  # that are new
    change: change.Change
    left_out: tuple[str, ...]


def extend(
    folder: str | Path,
    texts: Texts,
    out: str | Path,
    tokens: int,
    init: Method = "mean",
    *,
    watched: Texts | None = None,
    watcher: Watcher | None = None,
) -> Extended:
    """Writes `folder` with at most `tokens` more tokens to `out`: whole or not at all.

    texts    of the new languages
    init     how the new rows begin; see initialize.py
    watched  text of languages that the model knows: how much of it is cut otherwise now is measured

    Any head stays. Raises FileExistsError where `out` holds something; ValueError for a folder that is not understood,
    a text that holds nothing new, and where a text would not come back as it did: then nothing is written.
    """
    out, watcher = Path(out), watcher or Silent()
    refuse_taken(out)
    model = tables.ModelFolder.of(Path(folder))
    found = Entries.of(tokenizer := Tokenizer.load(model.inside))
    check_vocabulary(tokenizer, model, model.inside)
    tell = watcher.progress("extend")
    tell(0, 3, "learning pieces")
    learnt = learn(found, [text for language in texts.languages for text in texts.used[language]], tokens)
    ids, count = learnt.ids(tokenizer.vocab_size), tokenizer.vocab_size + len(learnt.pieces)
    with atomic_folder(out, sealed=True) as draft:
        tell(1, 3, f"writing {len(learnt.pieces):,} new rows")
        rows = _rows(found, learnt, texts, init)
        left_out = tables.write(model, rows, tables.config_of(model, ids, count), draft)
        left_out += entries.write(found, learnt.definition, ids, draft / model.inside.relative_to(model.whole))
        tell(2, 3, "measuring")
        both = {**(watched.held_out if watched else {}), **texts.held_out}
        changed = change.measure(model.whole, draft, ids, both, set(texts.languages))
        card.write(
            draft, card.extended(model.whole, learnt.pieces, init, texts, changed, left_out), rows.source, changed
        )
    tell(3, 3, "extend")
    return Extended(
        folder=out,
        rows=(model.vocab_size, count),
        pieces=learnt.pieces,
        change=changed,
        left_out=tuple(left_out),
    )


def _rows(found: Entries, learnt: Learnt, texts: Texts, init: Method) -> tables.Rows:
    """Old rows where they were, or moved up, and the sums that the new ones are."""
    old = found.tokenizer
    source = np.full(old.vocab_size + len(learnt.pieces), -1, np.int64)
    for was, now in learnt.ids(old.vocab_size).items():
        source[now] = was
    encoded = []
    if init == "focus":
        reading = entries.reader(old.path, {**learnt.definition, "post_processor": None})
        some = [text for language in texts.languages for text in texts.used[language]]
        encoded = [np.array(e.ids, np.int32) for e in reading.encode_batch_fast(some, add_special_tokens=False)]
    common = np.array(sorted(set(found.model.values()) - set(old.special_ids)), np.int64)
    return tables.Rows(source=source, mixed=new_rows(init, learnt, old.vocab_size, common, encoded))
