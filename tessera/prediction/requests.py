"""What a `Predictor` is asked: rows of a user as examples, long texts in windows. Bad rows are named."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.data.examples import Choices, Labelled, Question, Tagged
from tessera.prediction.features import Example, Item, Reader
from tessera.prediction.words import Words, split
from tessera.tokenizer import templates
from tessera.tokenizer.tokenizer import Tokenizer

# The names that texts go by, those of two texts of a row together: a "document" beside a "text" may be anything.
TEXT = ("text", "sentence", "premise", "sentence1", "query", "document")
PAIR = (
    ("text", "second"),
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("query", "document"),
    ("query", "passage"),
)
SPAN = (("question", "context"), ("query", "context"), ("question", "text"), ("question", "document"))

_NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Request:
    """One row: an example without an answer, and where its words stand."""

    number: int
    example: Example
    text: str = ""  # tag: what the places of words are places in; "" where words were given
    words: Words | None = None

    @property
    def characters(self) -> int:
        """Of all its texts."""
        match self.example:
            case Labelled(text=text, second=second):
                return len(text) + len(second or "")
            case Question(question=question, context=context):
                return len(question) + len(context)
            case Choices(text=text, options=options):
                return sum(len(text) + len(option) for option in options)
            case Tagged(words=words):
                return sum(map(len, words))


def rows_of(rows: Any) -> Iterable[Any]:
    """The rows. Raises TypeError for what is no iterable of rows, or yields something other than the rows it holds."""
    kind = type(rows).__name__
    if isinstance(rows, str | bytes | bytearray | memoryview):
        raise TypeError(f"rows is one {kind}; give a list of rows: [{rows!r:.40}]")
    if isinstance(rows, Mapping):
        raise TypeError(f"rows is one {kind}, which yields its keys; give a list of rows: [{{...}}]")
    if isinstance(rows, set | frozenset):
        raise TypeError(f"rows is a {kind}, which has no order to answer in; give a list: sorted(rows)")
    if hasattr(rows, "columns"):
        raise TypeError(f'rows is a {kind}, which yields its columns; give its rows: rows.to_dict("records")')
    if not isinstance(rows, Iterable):
        raise TypeError(f"rows is a {kind}; give a list of rows")
    return rows


def request(row: Any, number: int, kind: str, tokenizer: Tokenizer) -> Request:
    """A row as an example of its kind. Raises ValueError naming it, what was given and what may be."""
    try:
        found = example(row, kind, str(number), f"rows[{number}]")
    except ValueError as error:
        raise ValueError(f"rows[{number}]: {error}") from None
    if not isinstance(found, str):
        return Request(number, found)
    words = split(found, tokenizer)
    tagged = Tagged(words=words.texts, spaced=words.spaced, id=str(number), row=f"rows[{number}]")
    return Request(number, tagged, found, words)


def example(row: Any, kind: str, id: str = "", place: str = "") -> Example | str:
    """A row as an example of its kind; a text that is to be tagged as it is. Raises ValueError saying what is wrong."""
    if isinstance(row, np.ndarray):
        row = row.tolist()
    match kind:
        case "tag":
            given = row.get("words") if isinstance(row, Mapping) else row
            given = given.tolist() if isinstance(given, np.ndarray) else given
            if not isinstance(given, list | tuple):
                return _texts(row, kind, [(name,) for name in TEXT])[0]
            words = tuple(_text(word, kind) for word in given)
            if "" in words:
                raise ValueError(f"word {words.index('')} is empty; leave it out")
            return Tagged(words=words, id=id, row=place)
        case "span":
            question, context = _texts(row, kind, SPAN)
            return Question(question=question, context=context, id=id, row=place)
        case "choose":
            return _choices(row, id, place)
    pair = kind == "rerank" or isinstance(row, list | tuple)
    if isinstance(row, Mapping):
        pair = pair or any(row.get(first) is not None and row.get(second) is not None for first, second in PAIR)
    texts = _texts(row, kind, PAIR if pair else [(name,) for name in TEXT])
    return Labelled(text=texts[0], second=texts[1] if pair else None, id=id, row=place)


def _choices(row: Any, id: str, place: str) -> Choices:
    both = (row.get("text"), row.get("options")) if isinstance(row, Mapping) else row
    text, options = both if isinstance(both, list | tuple) and len(both) == 2 else (None, None)
    options = options.tolist() if isinstance(options, np.ndarray) else options
    if not isinstance(options, list | tuple) or len(options) < 2:
        raise ValueError(f"{_shown(row)} is no choice; give {{text, options}} with two options or more")
    several = tuple(_text(option, "choose") for option in options)
    return Choices(text=_text(text, "choose"), options=several, id=id, row=place)


def _texts(row: Any, kind: str, names: Sequence[tuple[str, ...]]) -> list[str]:
    """The one or two texts of a row, by the first names of which all are there."""
    if isinstance(row, Mapping):
        found = next((several for several in names if all(row.get(name) is not None for name in several)), None)
        if found is None:
            near = next((several for several in names if row.get(several[0]) is not None), names[0])
            missing = next(name for name in near if row.get(name) is None)
            known = ", ".join(map(str, row))
            empty = f"nothing in {missing!r}" if missing in row else f"no {missing!r}"
            raise ValueError(f"has {empty}, which {kind} needs; its fields are {known[:200]}")
        given = [row[name] for name in found]
    else:
        given = list(row) if isinstance(row, list | tuple) else [row]
    if len(given) != len(names[0]):
        raise ValueError(f"{_shown(row)} is given, but {kind} needs {' and '.join(names[0])}")
    return [_text(one, kind) for one in given]


def _text(value: Any, kind: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is a {type(value).__name__}; {kind} needs text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"has half a character (a lone surrogate): {_shown(value)}") from None
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
    full = [n for n, item in enumerate(whole) if item.truncated and some[n].example.second is None]  # type: ignore[union-attr]
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
