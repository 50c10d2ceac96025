"""Reads rows of a corpus as documents or parallel pairs (translations).

A row that cannot be used is counted and skipped; a file that cannot be used is an error.
"""

import functools
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from tessera.data.languages import language_code, language_of_path
from tessera.plan.corpus import Source
from tessera.sources.readers import BROKEN, UNIT, WARC_LANGUAGE, Values, rows
from tessera.sources.storage import File, files

MAX_LINE_BYTES = 16_000_000

_HOPELESS = 10_000  # rows; where all of the first ones are unusable, nobody waits for the end of a terabyte
_SHOWN = 80  # characters of a row that is not used
_CODE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8}){0,3}")  # what may be meant as one
_half_a_pair = re.compile(rb"\\u[dD]").search  # of surrogates, in JSON; much faster than to encode every text


@dataclass(frozen=True, slots=True)
class Document:
    """One text in one language."""

    text: str
    language: str
    id: str | None = None
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """One text in two languages."""

    source_text: str
    target_text: str
    source_language: str
    target_language: str


class CorpusRow(NamedTuple):
    """A row of a file: a document, a pair, or the reason why it is neither."""

    number: int  # from 1, as an editor counts lines; rises, but leaves out blank lines
    item: Document | Pair | None
    reason: str | None  # the same for all of its kind
    shown: str  # its beginning
    unit: str = "line"  # line, row or record
    language: str = ""  # that a row which cannot be used says, or its file does

    @property
    def place(self) -> str:
        """Where it is in its file, for people."""
        return f"{self.unit} {self.number}"

    @property
    def size(self) -> int:
        """Characters of its text, of both texts of a pair."""
        if isinstance(self.item, Pair):
            return len(self.item.source_text) + len(self.item.target_text)
        return len(self.shown if self.item is None else self.item.text)


@dataclass(frozen=True, slots=True)
class _Unusable:
    """Rows of a source that cannot be used."""

    source: Source
    counts: Counter[str] = field(default_factory=Counter)  # by reason
    first: dict[str, str] = field(default_factory=dict)  # of each

    def add(self, row: CorpusRow, file: File) -> None:
        reason = row.reason or ""
        self.counts[reason] += 1
        self.first.setdefault(reason, f"{file}, {row.place}: {row.shown!r}")

    def check(self, good: int) -> None:
        if (bad := self.counts.total()) > good:  # what is most frequent takes a while to find
            examples = {f"{n} x {reason}": self.first[reason] for reason, n in self.counts.most_common(3)}
            check_usable(self.source, good=good, bad=bad, examples=examples)


NO_LANGUAGE = "no language in a column, in the name of the file (fao_Latn.jsonl) or as `language` of the source"
Lost = dict[str, Counter[str]]  # {language: {reason: rows}}


class _Bad(Exception):
    """A row that cannot be used: the reason, and what shows it where the beginning of the row does not."""

    def __init__(self, reason: str, shown: str = "", language: str = "") -> None:
        super().__init__(reason)
        self.shown, self.language = shown, language


def read(
    source: Source, *, max_line_bytes: int = MAX_LINE_BYTES, lost_languages: Lost | None = None
) -> Iterator[Document | Pair]:
    """The documents (or pairs) of a source, files in sorted order.

    lost_languages  takes how many rows of each language were skipped, by reason; see losses.refuse_lost

    Skipped is what `read_file` gives a reason for. Raises what `read_file` and `files` raise, and ValueError where more
    than half of the source, or all of a file, had to be skipped.
    """
    good, lost = 0, _Unusable(source)
    for file in files(source):
        before = (good, lost.counts.total())
        for row in read_file(file, source, max_line_bytes=max_line_bytes):
            if row.item is not None:
                good += 1
                yield row.item
                continue
            lost.add(row, file)
            if row.language and lost_languages is not None and not source.allow_empty:
                lost_languages.setdefault(row.language, Counter())[row.reason or ""] += 1
            if good == 0 and lost.counts.total() == _HOPELESS:
                lost.check(good)
        if good == before[0] and lost.counts.total() > before[1] and not source.allow_empty:
            lost.check(good)
            raise ValueError(nothing_of(source, {str(file): f"{row.reason} ({row.place}: {row.shown!r})"}))
    lost.check(good)


def read_file(file: File, source: Source, *, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[CorpusRow]:
    """Every row of one file in its order, those that cannot be used with the reason.

    That is: not JSON, without a column or a known language, without text, not UTF-8, or longer than `max_line_bytes`
    bytes. Blank lines are nothing.

    Raises ValueError where the file is broken, lacks its column, holds no text but web pages, or begins with ten
    thousand rows of which none can be used; ConnectionError where its place cannot be reached; ImportError where a
    package is missing.
    """
    make: Callable[[Values, bool], Document | Pair]
    make = _pairs(source) if source.kind == "pairs" else _documents(file, source)
    unit = UNIT.get(file.kind, "line")
    lost: _Unusable | None = _Unusable(source)
    of_file = (language_code(source.language) if source.language else language_of(file)) or ""
    try:
        for number, values, reason, raw in rows(file, source, max_line_bytes):
            shown = language = ""
            if values is not None:
                try:
                    item = make(values, type(raw) is bytes and _half_a_pair(raw) is not None)
                except _Bad as bad:
                    reason, shown, language = str(bad), bad.shown, bad.language
                else:
                    text = item.source_text if isinstance(item, Pair) else item.text
                    yield CorpusRow(number, item, None, text[:_SHOWN], unit)
                    lost = None
                    continue
            if not language and source.kind != "pairs":
                language = _told((values or {}).get(source.columns.language)) or of_file
            row = CorpusRow(number, None, reason, shown or _shown(raw, source), unit, language)
            if lost is not None:
                lost.add(row, file)
                if lost.counts.total() == _HOPELESS:
                    lost.check(0)
            yield row
    except ConnectionError:
        raise
    except BROKEN as error:
        raise ValueError(
            f"{file}: broken ({str(error).strip()}); copy it again, or put it under `exclude` of source {source.name!r}"
        ) from error


def nothing_of(source: Source, lost: Mapping[str, str]) -> str:
    """What to say of files that give nothing: {file: why}; the first three are told."""
    why = "; ".join(f"{file}: {reason}" for file, reason in itertools.islice(lost.items(), 3))
    return (
        f"source {source.name!r}: nothing of {len(lost)} of its files can be used: {why}. See its `columns`, "
        "`language` and `kind`; text that is not UTF-8 is made so by iconv -f latin1 -t utf-8; or put them under "
        "`exclude`, or say `allow_empty: true`"
    )


def check_usable(source: Source, *, good: int, bad: int, examples: Mapping[str, str]) -> None:
    """Raises ValueError where more than half of the rows of a source cannot be used.

    examples  {reason: the first row that had it}; the first three are told
    """
    if bad > good:
        why = "; ".join(f"{reason} (first: {first})" for reason, first in itertools.islice(examples.items(), 3))
        raise ValueError(
            f"source {source.name!r}: {bad} of {good + bad} lines cannot be used: {why}. See its `columns` and `kind`"
        )


# ----------------------------------------------------------------------------------------- documents and pairs of rows


def _documents(file: File, source: Source) -> Callable[[Values, bool], Document]:
    """How a row of this file becomes a Document: the language of the file is looked up once.

    A column says more than the source, the source more than the path, and that more than the guess of a crawler.
    """
    fallback = language_code(source.language) if source.language else language_of(file)
    columns = source.columns
    text_column, id_column, language_column, score = columns.text, columns.id, columns.language, columns.quality

    def make(values: Values, escaped: bool) -> Document:
        text = _string(values, text_column, escaped)
        given, identity = values.get(language_column), _identity(values.get(id_column))
        known = given not in (None, "", [])
        language = _language(given) if known else fallback or _language(values.get(WARC_LANGUAGE))
        if identity is not None and escaped:
            identity = identity.encode("utf-8", "backslashreplace").decode()
        quality = None if score is None else _number(values, score)
        return Document(text, language, identity, quality)

    return make


def language_of(file: File) -> str | None:
    """What the path of a file says about its language."""
    return language_of_path(PurePosixPath(*(part.removesuffix("_removed") for part in file.path.parts)))


def _identity(value: Any) -> str | None:
    """A name of a document as text, whatever it was."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


def _pairs(source: Source) -> Callable[[Values, bool], Pair]:
    columns = source.columns

    def make(values: Values, escaped: bool) -> Pair:
        return Pair(
            source_text=_string(values, columns.source_text, escaped),
            target_text=_string(values, columns.target_text, escaped),
            source_language=_language(values.get(columns.source_language)),
            target_language=_language(values.get(columns.target_language)),
        )

    return make


def _string(values: Values, column: str, escaped: bool) -> str:
    text = values.get(column)
    if text is None:
        raise _Bad(f"no column {column!r}" if column not in values else f"{column!r} is null")
    if not isinstance(text, str):
        raise _Bad(f"{column!r} is not a string")
    if not text or text.isspace():
        raise _Bad("no text")
    if escaped:
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can spell half a surrogate pair
            raise _Bad("not UTF-8") from None
    return text


def _number(values: Values, column: str) -> float:
    value = values.get(column)
    if isinstance(value, str):  # of a table without types
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _Bad(f"{column!r} is not a number")
    return float(value)


def _language(given: Any) -> str:
    if isinstance(given, list):  # the likeliest first
        given = given[0] if given else None
    if not isinstance(given, str):
        raise _Bad(NO_LANGUAGE)
    try:
        return _language_code(given)
    except ValueError:  # also of half a surrogate pair
        raise _Bad("unknown language", repr(given[:_SHOWN]), given if _CODE.fullmatch(given) else "") from None


def _told(given: Any) -> str:
    """The language that a column says; empty where it says none that is known."""
    try:
        return _language(given)
    except _Bad as bad:
        return bad.language


@functools.lru_cache(maxsize=4_096)
def _language_code(given: str) -> str:
    given.encode()
    return language_code(given)


def _shown(raw: Any, source: Source) -> str:
    """The beginning of a row, as text that can be written down whatever it was."""
    if isinstance(raw, bytes):
        return raw[: 4 * _SHOWN].decode("utf-8", "backslashreplace")[:_SHOWN]
    if isinstance(raw, dict):
        text = raw.get(source.columns.text)
        raw = text if isinstance(text, str) and text else {key: str(value)[:_SHOWN] for key, value in raw.items()}
    return str(raw)[:_SHOWN].encode("utf-8", "backslashreplace").decode()
