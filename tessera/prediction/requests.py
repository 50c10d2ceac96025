"""What a `Predictor` is asked: rows of a user as examples, long texts in windows. Bad rows are named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.data.examples import Choices, Labelled, Question, Tagged
from tessera.prediction.features import Example, Item, Reader
from tessera.prediction.words import Words, split
from tessera.tokenizer import templates
from tessera.tokenizer.tokenizer import Tokenizer

# The names under which a mapping may give a text, the first that is there.
_NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "text": (("text", "sentence", "premise", "sentence1", "query", "document"),),
    "pair": (("text", "sentence1", "premise", "query"), ("second", "sentence2", "hypothesis", "document", "text_pair")),
    "rerank": (("query", "text", "sentence1"), ("document", "second", "passage", "sentence2", "text_pair")),
    "span": (("question", "query"), ("context", "text", "document")),
}


_NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Request:
    """One row: an example without an answer, and where its words stand."""

    number: int
    example: Example
    text: str = ""  # tag: what the places of words are places in; "" where words were given
    words: Words | None = None


def request(row: Any, number: int, kind: str, tokenizer: Tokenizer) -> Request:
    """A row as an example of its kind. Raises ValueError naming it, what was given and what may be."""
    head: dict[str, Any] = {"id": str(number), "row": f"rows[{number}]"}
    match kind:
        case "tag":
            given = row.get("words") if isinstance(row, Mapping) else row
            if isinstance(given, (list, tuple)):
                words = tuple(_text(word, number, kind) for word in given)
                if "" in words:
                    raise ValueError(f"rows[{number}]: word {words.index('')} is empty; leave it out")
                return Request(number, Tagged(words=words, **head))
            text = _texts(row, number, kind, "text")[0]
            found = split(text, tokenizer)
            return Request(number, Tagged(words=found.texts, spaced=found.spaced, **head), text, found)
        case "span":
            question, context = _texts(row, number, kind, "span")
            return Request(number, Question(question=question, context=context, **head))
        case "choose":
            return Request(number, _choices(row, number, head))
    pair = kind == "rerank" or isinstance(row, (list, tuple))
    if isinstance(row, Mapping):
        pair = pair or (
            any(name in row for name in _NAMES["pair"][1]) and any(name in row for name in _NAMES["pair"][0])
        )
    texts = _texts(row, number, kind, "rerank" if kind == "rerank" else "pair" if pair else "text")
    return Request(number, Labelled(text=texts[0], second=texts[1] if pair else None, **head))


def _choices(row: Any, number: int, head: dict[str, Any]) -> Choices:
    text = row.get("text") if isinstance(row, Mapping) else row[0] if isinstance(row, (list, tuple)) and row else None
    options = row.get("options") if isinstance(row, Mapping) else row[1] if text is not None and len(row) == 2 else None
    if not isinstance(options, (list, tuple)) or len(options) < 2:
        raise ValueError(f"rows[{number}]: {_shown(row)} is no choice; give {{text, options}} with two options or more")
    several = tuple(_text(option, number, "choose") for option in options)
    return Choices(text=_text(text, number, "choose"), options=several, **head)


def _texts(row: Any, number: int, kind: str, how: str) -> list[str]:
    """The one or two texts of a row."""
    names = _NAMES[how]
    if isinstance(row, Mapping):
        given = [next((row[name] for name in several if name in row), None) for several in names]
        if any(one is None for one in given):
            missing = next(several[0] for several, one in zip(names, given, strict=True) if one is None)
            known = ", ".join(map(str, row))
            raise ValueError(f"rows[{number}]: has no {missing!r}, which {kind} needs; its fields are {known[:200]}")
    else:
        given = [row] if len(names) == 1 else list(row) if isinstance(row, (list, tuple)) else [row]
    if len(given) != len(names):
        wanted = " and ".join(several[0] for several in names)
        raise ValueError(f"rows[{number}]: {_shown(row)} is given, but {kind} needs {wanted}")
    return [_text(one, number, kind) for one in given]


def _text(value: Any, number: int, kind: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"rows[{number}]: {_shown(value)} is a {type(value).__name__}; {kind} needs text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"rows[{number}]: has half a character (a lone surrogate): {_shown(value)}") from None
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."


def cut(reader: Reader, some: Sequence[Request]) -> list[Item]:
    """The items of requests; of a single text that is too long several, its windows in a row."""
    whole = reader.items([one.example for one in some])
    if reader.kind in ("tag", "span", "choose", "rerank"):
        return whole
    before, after = (np.array(ids, np.int32) for ids in reader.tokenizer.template)
    room = reader.max_length - len(before) - len(after)
    full = [n for n, item in enumerate(whole) if item.tokens >= reader.max_length and some[n].example.second is None]  # type: ignore[union-attr]
    if not full:
        return whole
    ids = dict(zip(full, reader.tokenizer.encode_plain([some[n].example.text for n in full]), strict=True))  # type: ignore[union-attr]
    step = room - min(reader.stride, room // 2)
    found: list[Item] = []
    for n, item in enumerate(whole):
        text = ids.get(n, _NOTHING)
        if len(text) <= room:
            found.append(item)
            continue
        for begin in range(0, len(text) - room + step, step):
            document = templates.alone(reader.tokenizer, text[begin : begin + room], reader.max_length)
            found.append(Item(example=item.example, documents=(document,)))
    return found
