"""Tokenization of requests: texts, token ids and rows as pieces for the queue; what is too long is cut only as asked.

Every error names the place of what is meant (`inputs[3]`), and repeats nothing of the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tessera.batching.models import Served
from tessera.batching.refusals import Refused
from tessera.batching.token_queue import Piece
from tessera.inference.engine import EncodeOptions
from tessera.inference.tokenize import Ids, fit
from tessera.prediction.features import Item
from tessera.prediction.requests import Request, cut, request

Text = str | Ids
Direction = Literal["left", "right"]
Long = Literal["refuse", "truncate", "windows"]
_SETTINGS = "set truncate to true to read a part of it, or send a shorter one"


@dataclass(frozen=True, slots=True)
class Read:
    """Pieces of a request, and how many of its texts lost something."""

    pieces: tuple[Piece, ...]
    truncated: int = 0

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)


def characters(texts: Sequence[Any]) -> int:
    """Of all texts and ids, however deep."""
    return sum(len(one) if isinstance(one, str | np.ndarray) else characters(one) for one in texts)


def for_vectors(
    served: Served, texts: Sequence[Text], how: EncodeOptions, *, truncate: bool, direction: Direction, field: str
) -> Read:
    """A piece for each text, to be pooled as `how` says."""
    assert served.vectors is not None
    documents, truncated = _documents(served, texts, how, truncate=truncate, direction=direction, field=field)
    return Read(_pieces(served, documents, [(served.vectors, how)] * len(documents), alone=how.alone), truncated)


def for_states(
    served: Served, texts: Sequence[Text], how: EncodeOptions, *, truncate: bool, direction: Direction, field: str
) -> Read:
    """A piece for each text, whose hidden states are wanted."""
    documents, truncated = _documents(served, texts, how, truncate=truncate, direction=direction, field=field)
    return Read(_pieces(served, documents, [(served.states, None)] * len(documents), alone=how.alone), truncated)


def _pieces(
    served: Served, documents: Sequence[Ids], heads: Sequence[tuple[Any, Any]], *, alone: bool
) -> tuple[Piece, ...]:
    return tuple(
        Piece(trunk=served.trunk, documents=(ids,), heads=(head,), alone=alone)
        for ids, head in zip(documents, heads, strict=True)
    )


def _documents(
    served: Served, texts: Sequence[Text], how: EncodeOptions, *, truncate: bool, direction: Direction, field: str
) -> tuple[list[Ids], int]:
    found: list[Ids] = [np.empty(0, np.int32)] * len(texts)
    words = [n for n, text in enumerate(texts) if isinstance(text, str)]
    truncated = 0
    if words and (direction == "right" or not truncate):
        given: Any = [texts[n] for n in words]
        pieces, truncated = how.reading.read(given)
        if truncated and not truncate:
            first = next(n for n in words if how.reading.read([texts[n]])[1])  # type: ignore[list-item]
            raise _too_long(f"{field}[{first}]", how.reading.max_length)
        for n, (ids,) in zip(words, pieces, strict=True):
            found[n] = ids
    else:
        for n in words:
            text = str(texts[n])
            whole = how.reading.prompt + (text.lower() if how.reading.lower_case else text)
            found[n], was_cut = _framed(served, served.tokenizer.encode_plain([whole])[0], how, direction)
            truncated += was_cut
    for n in sorted({*range(len(texts))}.difference(words)):
        given_ids: Any = texts[n]
        if not len(given_ids) or int(given_ids.min()) < 0 or int(given_ids.max()) >= served.tokenizer.vocab_size:
            most = served.tokenizer.vocab_size - 1
            raise Refused("invalid", f"{field}[{n}] is no list of token ids of this model; give ids from 0 to {most}")
        found[n], was_cut = _framed(served, given_ids.astype(np.int32), how, direction)
        if was_cut and not truncate:
            raise _too_long(f"{field}[{n}]", how.reading.max_length)
        truncated += was_cut
    return found, truncated


def _framed(served: Served, ids: Ids, how: EncodeOptions, direction: Direction) -> tuple[Ids, bool]:
    """Ids with the special tokens of the template around them, where they are not there yet; whether some were cut."""
    before, after = (np.array(part, np.int32) for part in served.tokenizer.template)
    size = len(before) + len(after)
    whole = len(ids) >= size and np.array_equal(ids[: len(before)], before)
    if whole and np.array_equal(ids[len(ids) - len(after) :], after):
        ids = ids[len(before) : len(ids) - len(after)]
    room = how.reading.max_length - size
    was_cut = len(ids) > room
    if was_cut:
        ids = ids[len(ids) - room :] if direction == "left" else ids[:room]
    return fit(np.concatenate((before, ids, after)), served.tokenizer, how.reading.max_length), was_cut


def _too_long(place: str, most: int) -> Refused:
    return Refused("too_long", f"{place} has more than the {most} tokens that this model reads; {_SETTINGS}")


# -------------------------------------------------------------------------------------------------------- rows of tasks


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a task: as they are asked, and the items that they became; each item is a piece."""

    read: Read
    asked: tuple[Request, ...]
    items: tuple[Item, ...]


def for_task(served: Served, rows: Sequence[Any], *, long: Long, alone: bool, field: str) -> Rows:
    """Pieces of rows: texts, pairs, words, questions with a context, texts with options.

    long  of a single text that is too long. windows: it is read in several; truncate: its beginning; refuse: an error
    """
    assert served.predictor is not None
    reader = served.predictor.reader
    asked = tuple(_request(served, row, n, field) for n, row in enumerate(rows))
    try:
        items = cut(reader, asked) if long == "windows" else reader.items([one.example for one in asked])
    except ValueError as error:
        raise Refused("invalid", str(error)) from None
    truncated = {item.example for item in items if item.truncated}
    if truncated and long != "truncate":
        raise _too_long(f"{field}[{min(truncated)}]", reader.max_length)
    pieces = tuple(
        Piece(
            trunk=served.trunk,
            documents=item.documents,
            heads=((served.task, item),),
            segments=item.segments,
            alone=alone,
        )
        for item in items
    )
    return Rows(Read(pieces, len(truncated)), asked, tuple(items))


_NEEDS = {
    "classify": "a text, or a pair of texts", "multilabel": "a text, or a pair of texts",
    "regress": "a text, or a pair of texts", "rerank": "a pair: a query and a text", "tag": "a text, or its words",
    "span": "a question and a context", "choose": "a text and two options or more",
}  # fmt: skip


def _request(served: Served, row: Any, number: int, field: str) -> Request:
    assert served.predictor is not None
    try:
        return request(row, number, served.kind, served.tokenizer)
    except ValueError:
        raise Refused("invalid", f"{field}[{number}] does not fit; {served.name} needs {_NEEDS[served.kind]}") from None


def for_masks(served: Served, texts: Sequence[str], top_k: int, *, alone: bool, field: str) -> Read:
    """A piece for each text that has masks."""
    assert served.filler is not None
    mask, most = served.tokenizer.token(served.tokenizer.mask_id), served.max_length
    pieces = []
    for number, text in enumerate(texts):
        if len(text) > 64 * most:
            raise _too_long(f"{field}[{number}]", most)
        try:
            ids, masks = served.filler.read(text, number)
        except ValueError:
            fits = len(served.filler.reader.encode(text).ids) <= most
            problem = Refused("invalid", f"{field}[{number}] has no {mask}, which is how this model writes a mask")
            raise (problem if fits else _too_long(f"{field}[{number}]", most)) from None
        document = ids.numpy().astype(np.int32)
        pieces.append(
            Piece(trunk=served.trunk, documents=(document,), heads=((served.masks, (masks, top_k)),), alone=alone)
        )
    return Read(tuple(pieces))


def together(reads: Sequence[Read]) -> tuple[Read, list[list[tuple[int, int]]]]:
    """Reads of the same texts for heads that may share a trunk: what is equal is one piece, with all heads.

    returns  also, for each piece of each read, the number of the piece and of the head there that it became
    """
    numbers: dict[tuple[Any, ...], int] = {}
    pieces: list[Piece] = []
    found: list[list[tuple[int, int]]] = []
    for read in reads:
        found.append([])
        for piece in read.pieces:
            key = (id(piece.trunk), piece.alone, *(ids.tobytes() for ids in (*piece.documents, *piece.segments)))
            number = numbers.setdefault(key, len(pieces))
            if number == len(pieces):
                pieces.append(piece)
            else:
                pieces[number] = replace(pieces[number], heads=(*pieces[number].heads, *piece.heads))
            found[-1].append((number, len(pieces[number].heads) - 1))
    return Read(tuple(pieces), max((read.truncated for read in reads), default=0)), found
