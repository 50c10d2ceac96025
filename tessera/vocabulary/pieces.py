"""New vocabulary entries learnt on text beside the old ones: merges continued (BPE), pieces with scores, whole words.

BPE        the text in old tokens is merged further. New merges come after all old ones, so a text is first what it was,
           and then pieces of it that lie side by side become one
Unigram    pieces with the log probabilities of a Unigram model of the new text; those that save most tokens are taken
WordPiece  words and parts of words, those that save most tokens
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from tessera.tokenizer.special_tokens import reader
from tessera.vocabulary.entries import Entries, Json, byte_level, with_model
from tessera.vocabulary.merges import Merges, pairs

_PLANE = 0x10000  # old token i is written as the letter of this number and i: beyond all white space, below 0x110000
_LONGEST = 16  # old tokens in a new one: scripts without spaces would otherwise turn whole sentences into tokens
_AT_ONCE = 1_000  # texts
_SPACE = "▁"
_RARE = 2  # what comes less often is not learnt
_KEPT = 0.5  # of the candidates after each round of a Unigram model: as good as 0.75, in six tenths of the time


@dataclass(frozen=True, slots=True)
class Learnt:
    """New entries of a vocabulary.

    definition  tokenizer.json with them: old entries of the model have their ids, the new ones follow, and then the
                tokens that are only added, moved up
    pieces      the new entries, by id
    first       the id of the first of them
    parts       of each the old ids that stood for it; empty where nothing but unknown did
    """

    definition: Json
    pieces: tuple[str, ...]
    first: int
    parts: tuple[tuple[int, ...], ...]

    def ids(self, vocab_size: int) -> dict[int, int]:
        """Old id -> new id, of all old ids."""
        return {i: i if i < self.first else i + len(self.pieces) for i in range(vocab_size)}


def learn(old: Entries, texts: Sequence[str], tokens: int) -> Learnt:
    """At most `tokens` new entries, fewer where the text does not hold so many that come twice.

    Raises ValueError where it holds none.
    """
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}; give how many are to be added, e.g. 2000")
    make = {"BPE": _merged, "Unigram": _scored, "WordPiece": _whole}[old.kind]
    model, pieces = make(old, texts, tokens)
    if not pieces:
        raise ValueError("the text holds no piece that comes twice and is not in the vocabulary; give more text")
    first = max(old.model.values()) + 1
    count = len(pieces)
    top = max(old.ids.values()) + 1
    ids = {i: i if i < first else i + count for i in range(top)}
    parts = tuple(old_ids(old, piece) for piece in pieces)
    return Learnt(with_model(old.definition, model, ids), tuple(pieces), first, parts)


def old_ids(old: Entries, piece: str) -> tuple[int, ...]:
    """What the old vocabulary writes a piece with; without unknown tokens."""
    unknown = old.tokenizer.unknown_id
    if old.kind == "WordPiece":
        found = _greedy(old.model, piece, old.continuing)
    else:
        found = [token.id for token in old.inner.model.tokenize(piece)]
    return tuple(i for i in found if i != unknown)


def _greedy(vocab: dict[str, int], piece: str, prefix: str) -> list[int]:
    """WordPiece of a part of a word: the longest entry that fits, again and again; [] where one fits no longer."""
    inside, rest, found = piece.startswith(prefix), piece.removeprefix(prefix), list[int]()
    while rest:
        names = ((n, (prefix if inside or found else "") + rest[:n]) for n in range(len(rest), 0, -1))
        fit = next(((n, vocab[name]) for n, name in names if name in vocab), None)
        if fit is None:
            return []
        found.append(fit[1])
        rest = rest[fit[0] :]
    return found


# ------------------------------------------------------------------------------------------------------------------ BPE


def _merged(old: Entries, texts: Sequence[str], tokens: int) -> tuple[Json, list[str]]:
    """The model with letters that it could only write in bytes, and with merges that go on where the old ones end."""
    model = dict(old.definition["model"])
    model["vocab"] = dict(model["vocab"])
    pieces = [] if byte_level(old.definition) else _letters(old, texts, tokens)
    first = max(model["vocab"].values()) + 1
    model["vocab"] |= {piece: first + n for n, piece in enumerate(pieces)}
    reading = reader(old.tokenizer.path, {**old.definition, "model": model, "added_tokens": [], "post_processor": None})
    barred = {i for i in range(first) if _is_barred(old, i)}
    rules, merges = Merges(model), [[*pair] for pair in pairs(model)]
    names = {i: token for token, i in model["vocab"].items()}
    written = {chr(_PLANE + i): token for i, token in names.items() if _PLANE + i < 0x110000}
    for a, b in _continued(_words(reading, texts, barred, names), tokens - len(pieces)):
        pair = written[a], written[b]
        made = written[a + b] = rules.joined(pair)
        if made not in model["vocab"]:
            if len(pieces) == tokens:
                break
            model["vocab"][made] = first + len(pieces)
            pieces.append(made)
        merges.append([*pair])
    return {**model, "merges": merges}, pieces


def _is_barred(old: Entries, i: int) -> bool:
    """Whether a token may be no part of a new one: bytes in place of a letter are not read when they are joined."""
    name = old.inner.id_to_token(i) or ""
    return i in old.added.values() or i == old.tokenizer.unknown_id or (name.startswith("<0x") and len(name) == 6)


def _letters(old: Entries, texts: Sequence[str], tokens: int) -> list[str]:
    """Letters of the text that the vocabulary lacks, the most frequent first; at most half of what is learnt."""
    normal, found = old.inner.normalizer, Counter[str]()
    for text in texts:
        found.update(normal.normalize_str(text) if normal else text)
    lacking = [letter for letter, n in found.most_common() if n >= _RARE and letter not in old.model]
    return [letter for letter in lacking if not letter.isspace()][: max(1, tokens // 2)]


def _words(
    reading: tokenizers.Tokenizer, texts: Sequence[str], barred: set[int], names: dict[int, str]
) -> Counter[str]:
    """Words as the old tokens they are made of, a letter for each; merges stay within them."""
    found: Counter[str] = Counter()
    for start in range(0, len(texts), _AT_ONCE):
        for encoded in reading.encode_batch(list(texts[start : start + _AT_ONCE]), add_special_tokens=False):
            word, last, before = "", None, ""
            for i, number in zip(encoded.ids, encoded.word_ids, strict=True):
                name = names[i]
                begins = name.startswith(_SPACE) and before.strip(_SPACE)  # where a text is not split at spaces
                if number != last or begins or i in barred:
                    found[word] += 1
                    word = ""
                word = word if i in barred else word + chr(_PLANE + i)
                last, before = number, name
            found[word] += 1
    return Counter({word: n for word, n in found.items() if len(word) > 1})


def _continued(words: Counter[str], merges: int) -> list[tuple[str, str]]:
    """BPE on words whose letters are old tokens: pairs to merge, by rank, more than `merges`: some make the same."""
    if merges < 1 or not words:
        return []
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    alphabet = len(set("".join(words)))
    trainer = trainers.BpeTrainer(
        vocab_size=alphabet + merges + merges // 4 + 64, min_frequency=_RARE, show_progress=False,
        max_token_length=_LONGEST,
    )  # fmt: skip
    inner.train_from_iterator(_repeated(words), trainer)
    model = json.loads(inner.to_str())["model"]
    return pairs(model)


def _repeated(words: Counter[str]) -> Iterator[str]:
    for word, n in words.items():
        for start in range(0, n, _AT_ONCE):
            yield f"{word} " * min(_AT_ONCE, n - start)


# -------------------------------------------------------------------------------------------------- Unigram, WordPiece


def _scored(old: Entries, texts: Sequence[str], tokens: int) -> tuple[Json, list[str]]:
    """The model with pieces of a Unigram model of the text; no score is below the lowest, see `_anchor`."""
    model, lowest = old.definition["model"], min(score for _, score in old.definition["model"]["vocab"])
    inner = tokenizers.Tokenizer(models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=_candidates(old, texts, tokens), show_progress=False, unk_token="<unk>", special_tokens=["<unk>"],
        shrinking_factor=_KEPT,
    )  # fmt: skip
    found, known = _trained(old, inner, texts, trainer), old.ids
    scores = {piece: max(score, lowest) for piece, score in found["vocab"] if piece not in known and piece}
    scores.pop("<unk>", None)

    def with_pieces(pieces: Sequence[str]) -> Json:
        return {**model, "vocab": [*model["vocab"], *([piece, scores[piece]] for piece in pieces)]}

    pieces = _worth(old, texts, list(scores), tokens, with_pieces)
    return with_pieces(pieces), pieces


def _whole(old: Entries, texts: Sequence[str], tokens: int) -> tuple[Json, list[str]]:
    """The model with words and parts of words; letters come with the form that they have inside a word."""
    model = old.definition["model"]
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token=model.get("unk_token") or "[UNK]"))
    trainer = trainers.WordPieceTrainer(
        vocab_size=_candidates(old, texts, tokens), min_frequency=_RARE, show_progress=False,
        continuing_subword_prefix=old.continuing, special_tokens=[model.get("unk_token") or "[UNK]"],
    )  # fmt: skip
    found = _trained(old, inner, texts, trainer)["vocab"]
    known = old.ids
    candidates = [piece for piece in found if piece not in known]
    first = max(old.model.values()) + 1

    def with_pieces(pieces: Sequence[str]) -> Json:
        return {**model, "vocab": {**model["vocab"], **{piece: first + n for n, piece in enumerate(pieces)}}}

    pieces = _worth(old, texts, candidates, tokens, with_pieces)
    return with_pieces(pieces), pieces


def _candidates(old: Entries, texts: Sequence[str], tokens: int) -> int:
    """How large a vocabulary of the text alone is, of which what is not in the old one is looked at."""
    return 3 * tokens + 2 * len(set().union(*map(set, texts))) + 64


def _trained(old: Entries, inner: tokenizers.Tokenizer, texts: Sequence[str], trainer: Any) -> Json:
    """The model of a tokenizer trained on the text as the old tokenizer normalizes and splits it."""
    if old.inner.normalizer is not None:
        inner.normalizer = old.inner.normalizer
    if old.inner.pre_tokenizer is not None:
        inner.pre_tokenizer = old.inner.pre_tokenizer
    inner.train_from_iterator(texts, trainer)
    found: Json = json.loads(inner.to_str())["model"]
    return found


def _worth(old: Entries, texts: Sequence[str], candidates: Sequence[str], tokens: int, with_pieces: Any) -> list[str]:
    """The candidates that save most tokens: how often each is used, times the old tokens beyond one that it replaces.

    Counted twice: with all of them, and with the better half, whose members are then used more often. A letter that
    could not be written at all is worth most.
    """
    lengths = {piece: len(old_ids(old, piece)) or len(piece) + 2 for piece in candidates}
    chosen = list(candidates)
    for wanted in (2 * tokens, tokens):
        first = max(old.model.values()) + 1
        definition = {**old.definition, "model": with_pieces(chosen), "added_tokens": [], "post_processor": None}
        reading, uses = reader(old.tokenizer.path, definition), Counter[int]()
        for start in range(0, len(texts), _AT_ONCE):
            some = list(texts[start : start + _AT_ONCE])
            for encoded in reading.encode_batch_fast(some, add_special_tokens=False):
                uses.update(i for i in encoded.ids if i >= first)
        saved = {piece: uses[first + n] * (lengths[piece] - 1) for n, piece in enumerate(chosen)}
        lacking = [
            piece for piece in chosen if not old_ids(old, piece) and len(piece.removeprefix(old.continuing)) == 1
        ]
        ranked = sorted((piece for piece in chosen if saved[piece] >= _RARE), key=lambda piece: (-saved[piece], piece))
        chosen = list(dict.fromkeys([*lacking[: wanted // 2], *ranked]))[:wanted]
    return chosen
