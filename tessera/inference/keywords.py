"""What `encode` takes: texts, our keywords and those of sentence-transformers, checked before anything is computed.

Whatever holds texts without being an iterable of them (a table, a mapping, a set, bytes) is refused: what it yields, as
the names of its columns, would be embedded without a word.
"""

import difflib
import logging
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np

from tessera.inference.engine import EncodeOptions, Options
from tessera.inference.sentence_folder import Pipeline
from tessera.inference.tokenize import TextTokenizer, checked
from tessera.model.pooling import POOLINGS
from tessera.model.precision import named_device
from tessera.tokenizer.tokenizer import Tokenizer


class Theirs(TypedDict, total=False):
    """Keywords of SentenceTransformer.encode; see compatibility.py."""

    output_value: str | None
    precision: str | None
    device: Any
    normalize_embeddings: bool | None
    truncate_dim: int | None
    convert_to_tensor: bool
    convert_to_numpy: bool
    batch_size: (
        int  # this and what follows changes no vector: batches are made by tokens, on_progress hears of progress
    )
    chunk_size: int | None
    show_progress_bar: bool | None
    pool: None


class Keywords(Options, Theirs, total=False):
    """All keywords of `Encoder.encode`."""


_LEAST = {  # whole numbers, and the least that each may be
    **dict.fromkeys(("dimensions", "max_length", "max_tokens", "truncate_dim", "batch_size", "chunk_size"), 1),
    "overlap": 0,
}
_FLAGS = (
    *("normalize", "batch_invariant", "normalize_embeddings", "convert_to_tensor", "convert_to_numpy"),
    "show_progress_bar",
)
_WORDS = ("prompt", "prompt_name", "long", "precision", "output_value")

Given = TypeVar("Given", bound=Mapping[str, Any])


def checked_keywords(given: Given, known: Collection[str]) -> Given:
    """The keywords, whole numbers as int; one that is None is as if it were not given, but for output_value.

    Raises TypeError for a name that is not known, with one that is like it, and ValueError for a value of another kind.
    """
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), 1)
            raise TypeError(f"encode has no keyword {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    found: Any = {
        name: _checked(name, value) for name, value in given.items() if value is not None or name == "output_value"
    }
    return found


def _checked(name: str, value: Any) -> Any:
    what = f"{name} is {value!r}, a {type(value).__name__}"
    if name in _LEAST:
        return whole(name, value, _LEAST[name])
    if name in _FLAGS and not isinstance(value, bool | np.bool_):
        raise ValueError(f"{what}; give True or False")
    if name in _WORDS and not isinstance(value, str) and value is not None:
        raise ValueError(f"{what}; give a str")
    if name == "pooling" and not (isinstance(value, str) or (value and isinstance(value, Sequence))):
        raise ValueError(f"{what}; give {', '.join(POOLINGS)}, or several of them in a list")
    if name == "device":
        try:
            return named_device(value)
        except ValueError:
            raise ValueError(f"{what}; an Encoder is on one device, so give its name or leave it out") from None
    if name == "pool":
        raise ValueError("pool: an Encoder has no pool of processes; leave it out, or give each process an Encoder")
    return value


def whole(name: str, value: Any, least: int) -> int:
    """The value as int. Raises ValueError for what is no whole number, or less than `least`."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise ValueError(f"{name} is {value!r}, a {type(value).__name__}; give a whole number, {least} or more")
    if number < least:
        raise ValueError(f"{name} is {number}; give a whole number, {least} or more")
    return number


def log_truncated(source: Path | None, texts: int, longest: int) -> None:
    """Says through the log that texts lost their end."""
    logging.getLogger("tessera").warning(
        '%s: %s of the texts are longer than %s tokens and were cut off there (said once); long="chunk" reads all of '
        "them, and max_length says that it is meant",
        source,
        texts,
        longest,
    )


def settled(options: Options, tokenizer: Tokenizer, line: Pipeline, config: Any, longest: int) -> EncodeOptions:
    """Our keywords, as the folder's pipeline and the model complete them.

    longest  tokens of a text where max_length is not given

    Raises ValueError for what does not fit the model or itself.
    """
    most, names = config.max_position_embeddings, options.get("pooling", line.pooling)
    names = (names,) if isinstance(names, str) else tuple(names or ())
    width = replace(line, pooling=names).width(config.hidden_size)
    own = line.dimensions is not None and not options.keys() & {"dimensions", "normalize"}
    kept = min(width, line.dimensions or width)
    dimensions, max_length = options.get("dimensions", kept), options.get("max_length", longest)
    if dimensions is None or dimensions > width:
        raise ValueError(f"dimensions is {dimensions}; a vector of this model has {width}")
    if max_length is None or max_length > most:
        raise ValueError(f'max_length is {max_length}, but this model reads {most} tokens; long="chunk" reads more')
    reading = TextTokenizer(
        tokenizer=tokenizer,
        prompt=checked(line.prompt(options.get("prompt"), options.get("prompt_name")), 0),
        max_length=max_length,
        long=options.get("long", "truncate"),
        overlap=options.get("overlap", 0),
        lower_case=line.lower_case,
    )
    return EncodeOptions(
        reading=reading,
        pooling=names,
        skip=0 if line.include_prompt else reading.skipped(),
        normalize=bool(options.get("normalize", line.normalize)),
        dimensions=dimensions,
        cut_last=own,
        max_tokens=options.get("max_tokens", 0),
        alone=options.get("batch_invariant", False),
    )


def text_rows(texts: Any) -> Iterable[str]:
    """The texts, one of a single str; what each of them is, is looked at when it is read.

    Raises TypeError for what is no text and no iterable of texts, or yields something other than the texts it holds.
    """
    if isinstance(texts, str):
        return [texts]
    kind = f"{type(texts).__module__.partition('.')[0]}.{type(texts).__qualname__}".removeprefix("builtins.")
    if isinstance(texts, bytes | bytearray | memoryview):
        raise TypeError(f"texts is {kind}, not text; decode it first: texts.decode('utf-8')")
    if isinstance(texts, Mapping):
        raise TypeError(f"texts is a {kind}, which yields its keys; give what is to be encoded: list(texts.values())")
    if isinstance(texts, set | frozenset):
        raise TypeError(f"texts is a {kind}, which has no order to give vectors in; give a list: sorted(texts)")
    if hasattr(texts, "columns") or hasattr(texts, "column_names"):
        raise TypeError(f"texts is a {kind}, a table; give the column that holds the text: list(texts['text'])")
    if isinstance(texts, np.ndarray) and texts.ndim != 1:
        raise TypeError(f"texts is an array of shape {texts.shape}; give one row of texts, [n]")
    if not isinstance(texts, Iterable):
        raise TypeError(f"texts is {texts!r:.40}, a {kind}; give a str, or a list of them")
    return texts
