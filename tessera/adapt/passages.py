"""What an embedding model is taught on: passages with new pieces, and translations; some of each are held out."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tessera.adapt.asked import AdaptError, Asked
from tessera.adapt.hidden_words import cut
from tessera.adapt.recipe import Text
from tessera.labelled import tables
from tessera.progress import Watcher
from tessera.retrieval import pairs
from tessera.retrieval.pairs import Sentence
from tessera.tokenizer.tokenizer import Tokenizer
from tessera.vocabulary.texts import Texts, read_texts

HELD = 200  # held-out passages of a language
HELD_PAIRS = 0.02  # share of the translations that is held out


@dataclass(frozen=True, slots=True, kw_only=True)
class Passages:
    """Passages of the documents of one role; of each language at most HELD are held out."""

    used: list[Sentence]
    held_out: list[Sentence]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What is learnt from, and what is held out.

    tokens  of what is learnt from
    """

    learn: list[Sentence]
    held: list[Sentence]
    tokens: int


def texts_by_role(asked: Asked, given: Sequence[Text], watcher: Watcher) -> dict[str, Texts]:
    """The text of each role; a language that is new is not replayed, one that is replayed is not watched."""
    found, taken = {role: Texts() for role in ("new", "replay", "watch")}, set[str]()
    for role, here in found.items():
        for text in (text for text in given if text.role == role):
            tell = watcher.progress("text")
            read = read_texts([text.path], language=text.language, column=asked.column, on_progress=tell)
            for side, own in ((read.used, here.used), (read.held_out, here.held_out)):
                for code in (code for code in side if code not in taken):
                    own.setdefault(code, []).extend(side[code])
        taken |= {*here.used}
    return found


def together(*some: Texts) -> Texts:
    """The text of several roles."""
    both = Texts()
    for one in some:
        both.used.update(one.used)
        both.held_out.update(one.held_out)
    return both


def translations(paths: Sequence[str], new: set[str]) -> tuple[list[Sentence], list[Sentence]]:
    """(to learn from, held out): the translations in some files, each in an order by hash.

    new  languages; where there is one, translations that do not say theirs are in it

    Raises AdaptError where there are none, DataError naming a row that cannot be used.
    """
    if not paths:
        return [], []
    files = [file for path in paths for file in tables.find(path)]
    found = pairs.sentences(row for file in files for row in tables.rows(file)) if files else []
    if not found or any(one.translation is None for one in found):
        raise AdaptError(
            f"{', '.join(paths)}: {'rows have a text and no translation' if found else 'there are no rows'}; "
            "translations have two columns, as source and target, or src and tgt; plain text is given by --text"
        )
    if any(not one.language for one in found):
        if len(new) > 1:
            raise AdaptError(
                f"{', '.join(paths)}: say which of {', '.join(sorted(new))} a row is in: a column language"
            )
        (only,) = new
        found = [replace(one, language=one.language or only) for one in found]
    learn, held = pairs.split(found, HELD_PAIRS)
    if not learn or not held:
        raise AdaptError(f"{', '.join(paths)}: {len(found)} translations are too few to hold some out; give more")
    return _by_chance(learn), _by_chance(held)


def of_new_pieces(some: Mapping[str, Passages], tokenizer: Tokenizer, new: set[int], most: int, share: float) -> Chosen:
    """Passages in which new pieces stand.

    some   by role
    most   tokens that are learnt from; `share` of them of new languages, where there is text to replay
    """
    learn, held, size = list[Sentence](), list[Sentence](), 0
    for role, part in (("new", share if some["replay"].used else 1.0), ("replay", 1.0)):
        for sentence, ids in _tokenized(tokenizer, some[role].used):
            if size >= most * part:
                break
            if not new.isdisjoint(ids):
                learn.append(sentence)
                size += len(ids)
        held += [one for one, ids in _tokenized(tokenizer, some[role].held_out) if not new.isdisjoint(ids)]
    return Chosen(learn=learn, held=held, tokens=size)


def of_translations(
    translated: tuple[list[Sentence], list[Sentence]],
    replayed: Passages,
    tokenizer: Tokenizer,
    most: int,
    share: float,
) -> Chosen:
    """Translations, and replayed passages beside them, whose vectors are to stay. Arguments as of `of_new_pieces`."""
    learn, size = list[Sentence](), 0
    for one in translated[0]:
        if size >= most * (share if replayed.used else 1.0):
            break
        learn.append(one)
        size += sum(map(len, tokenizer.encode_plain([one.text, one.translation or ""])))
    for sentence, ids in _tokenized(tokenizer, replayed.used):
        if size >= most:
            break
        learn.append(sentence)
        size += len(ids)
    return Chosen(learn=learn, held=[*translated[1][: 5 * HELD], *replayed.held_out], tokens=size)


def of_texts(texts: Texts, most_bytes: int) -> Passages:
    """The passages of documents, each once, in an order by hash in which languages take turns.

    most_bytes  of a passage
    """
    return Passages(used=_drawn(texts.used, most_bytes), held_out=_drawn(texts.held_out, most_bytes, HELD))


def _drawn(texts: Mapping[str, Sequence[str]], most_bytes: int, most: int | None = None) -> list[Sentence]:
    found: dict[str, list[Sentence]] = {}
    for code, documents in texts.items():
        own = dict.fromkeys(passage for document in documents for passage in cut(document, most_bytes))
        found[code] = _by_chance([Sentence(text=text, language=code, row=code) for text in own])[:most]
    longest = max(map(len, found.values()), default=0)
    return [some[n] for n in range(longest) for some in found.values() if n < len(some)]


def _tokenized(tokenizer: Tokenizer, some: Sequence[Sentence]) -> Iterator[tuple[Sentence, list[int]]]:
    """Passages with their tokens, some thousand at a time."""
    for first in range(0, len(some), 1_024):
        part = some[first : first + 1_024]
        yield from zip(part, (ids.tolist() for ids in tokenizer.encode_plain([one.text for one in part])), strict=True)


def _by_chance(some: Sequence[Sentence]) -> list[Sentence]:
    """In an order that only the texts decide."""

    def chance(one: Sentence) -> bytes:
        text = one.text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=8, person=b"passages").digest()

    return sorted(some, key=chance)
