"""Tokenization for inference: texts to token ids, with truncation or chunking (sliding windows) and prompts.

A text that is too long is cut off, or cut into chunks. What is cut off is never tokenized: ten megabytes cost as much
as their first thousands of tokens.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tessera.tokenizer.tokenizer import Tokenizer

Ids = NDArray[np.int32]

_TEXTS = 16_384  # tokenized and sorted by length together: bounds the memory, not the result
_CHARACTERS = 2**21  # the same; a tokenizer needs some 130 bytes for each
_A_TOKEN = 16  # characters, generously
_STRETCH = 2**20  # characters of a text that is read whole, tokenized at once
_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTokenizer:
    """How texts become token ids: one piece of at most `max_length` a text, or several. Checks itself.

    max_length  tokens of a piece, special ones and those of the prompt included
    prompt      stands before every text, and at the beginning of each of its chunks
    long        truncate: what is too long ends there. chunk: it becomes several pieces
    overlap     tokens that a chunk shares with the one before
    """

    tokenizer: Tokenizer
    max_length: int
    prompt: str = ""
    long: Literal["truncate", "chunk"] = "truncate"
    overlap: int = 0
    lower_case: bool = False

    def __post_init__(self) -> None:
        special = sum(map(len, self.tokenizer.template))
        if self.max_length <= special:
            raise ValueError(f"max_length is {self.max_length}; special tokens alone take {special}")
        if self.long not in ("truncate", "chunk"):
            raise ValueError(f"long is {self.long!r}; give truncate or chunk")
        if self.overlap and self.long == "truncate":
            raise ValueError('an overlap is between chunks; give long="chunk" with it')
        if self.long == "chunk":
            room = self.max_length - special - len(self._prompt_ids())
            if not 0 <= self.overlap < room:
                raise ValueError(
                    f"overlap is {self.overlap}, but a chunk has room for {room} tokens of text; give less than that"
                )

    def skipped(self) -> int:
        """Tokens at the beginning of a piece that belong to the prompt."""
        return len(self.tokenizer.template[0]) + len(self._prompt_ids()) if self.prompt else 0

    def pieces(self, texts: Sequence[str]) -> list[list[Ids]]:
        """The pieces of each text; at least one, each with at least one token."""
        return self.read(texts)[0]

    def read(self, texts: Sequence[str]) -> tuple[list[list[Ids]], int]:
        """The pieces of each text, and how many texts lost their end."""
        whole = [self._cased(self.prompt + text) for text in texts]
        if self.long == "truncate":
            useful = [self._useful(text) for text in whole]
            found = self.tokenizer.encode_batch(useful)
            cut = sum(
                len(ids) > self.max_length or len(part) < len(text)
                for ids, part, text in zip(found, useful, whole, strict=True)
            )
            return [[fit(ids, self.tokenizer, self.max_length)] for ids in found], cut
        short = [n for n, text in enumerate(whole) if len(text) <= _STRETCH]
        read = dict(zip(short, self.tokenizer.encode_batch([whole[n] for n in short]), strict=True))
        return [self._chunks(read[n] if n in read else self._in_stretches(text)) for n, text in enumerate(whole)], 0

    def ids(self, texts: Sequence[str]) -> list[Ids]:
        """The only piece of each text, where what is too long ends."""
        assert self.long == "truncate"
        return flat(self.pieces(texts))[0]

    def with_offsets(self, texts: Sequence[str]) -> list[tuple[Ids, NDArray[np.int64], NDArray[np.bool_]]]:
        """Of each text one piece: ids [t], the characters they come from [t, 2], and which are special [t]."""
        before, after = (np.array(ids, np.int32) for ids in self.tokenizer.template)
        room = self.max_length - len(before) - len(after)
        found = []
        for ids, offsets in self.tokenizer.encode_offsets([self._useful(self._cased(text)) for text in texts]):
            whole = fit(np.concatenate((before, ids[:room], after)), self.tokenizer, self.max_length)
            places = np.zeros((len(whole), 2), np.int64)
            inner = slice(len(before), len(before) + len(offsets[:room]))
            places[inner] = offsets[:room]
            special = np.ones(len(whole), np.bool_)
            special[inner] = False
            found.append((whole, places, special))
        return found

    def longest(self) -> int:
        """Characters of a text that are tokenized at once, at most."""
        return 4 * _A_TOKEN * self.max_length if self.long == "truncate" else _STRETCH

    def _prompt_ids(self) -> Ids:
        return self.tokenizer.encode_plain([self._cased(self.prompt)])[0] if self.prompt else np.empty(0, np.int32)

    def _cased(self, text: str) -> str:
        return text.lower() if self.lower_case else text

    def _useful(self, text: str) -> str:
        """The beginning of a text whose first max_length tokens are those of the whole text.

        It ends at a space. What the cut may change, the tokens of its last word, is not counted on.
        """
        size = _A_TOKEN * self.max_length
        while 4 * size < len(text):
            space = _SPACE.search(text, size, 2 * size)
            if space is None:
                return text
            part = text[: space.start()]
            word = (part.rsplit(maxsplit=1) or [""])[-1]
            tokens = len(self.tokenizer.encode_plain([part])[0])
            if tokens - _A_TOKEN * (len(word.encode()) + 1) > self.max_length:
                return part
            size *= 4
        return text

    def _in_stretches(self, text: str) -> Ids:
        """Ids of a very long text, read in stretches that end at a space where there is one: the memory stays small."""
        stretches, start = [], 0
        while start < len(text):
            space = _SPACE.search(text, start + _STRETCH, start + 2 * _STRETCH)
            end = space.start() if space else start + _STRETCH
            stretches.append(self.tokenizer.encode_plain([text[start:end]])[0])
            start = end
        before, after = (np.array(ids, np.int32) for ids in self.tokenizer.template)
        return np.concatenate((before, *stretches, after))

    def _chunks(self, ids: Ids) -> list[Ids]:
        if len(ids) <= self.max_length:
            return [fit(ids, self.tokenizer, self.max_length)]
        before, after = (np.array(part, np.int32) for part in self.tokenizer.template)
        plain = ids[len(before) : len(ids) - len(after)]
        room = self.max_length - len(before) - len(after)
        chunks, end = [np.concatenate((before, plain[:room], after))], room
        prompt = self._prompt_ids()
        room -= len(prompt)
        while end < len(plain):
            start = end - self.overlap
            end = start + room
            chunks.append(np.concatenate((before, prompt, plain[start:end], after)))
        return chunks


def fit(ids: Ids, tokenizer: Tokenizer, max_length: int) -> Ids:
    """Truncation: at most max_length tokens, closed by the template's last ones as any text is; never none."""
    if not len(ids):
        return np.array([tokenizer.bos_id], np.int32)
    if len(ids) <= max_length:
        return ids
    closing = len(tokenizer.template[1])
    return np.concatenate((ids[: max_length - closing], ids[len(ids) - closing :]))


def windows(texts: Iterable[Any], longest: int) -> Iterator[list[str]]:
    """The texts in order, some thousand at a time, checked. `longest`: characters of a text that will be tokenized.

    Raises TypeError for what is no str and ValueError for what no tokenizer can read; both name its place.
    """
    window: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        length = min(len(checked(text, number)), longest)
        if window and (len(window) == _TEXTS or size + length > _CHARACTERS):
            yield window
            window, size = [], 0
        window.append(text)
        size += length
    if window:
        yield window


def checked(text: Any, number: int) -> str:
    """The text, if it is one."""
    if not isinstance(text, str):
        raise TypeError(f"texts[{number}] is a {type(text).__name__}, not a str: {str(text)[:40]!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"texts[{number}] has half a character (a lone surrogate, U+{ord(text[error.start]):04X}) at place "
            f"{error.start}; mend it: text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from None
    return text


def check_vocabulary(tokenizer: Tokenizer, config: Any, folder: Path | None = None) -> None:
    """Raises ValueError where the tokenizer knows tokens that the model does not."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{f'{folder}: ' if folder else ''}the tokenizer has {tokenizer.vocab_size} tokens, the model only "
            f"{config.vocab_size}; give the tokenizer that the model was trained with"
        )


def flat(pieces: Sequence[Sequence[Ids]]) -> tuple[list[Ids], NDArray[np.int64]]:
    """All pieces in a row, and where those of each text begin: int64 [texts + 1]."""
    return list(chain.from_iterable(pieces)), np.cumsum([0, *map(len, pieces)], dtype=np.int64)
