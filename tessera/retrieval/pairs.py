"""Pairs and triplets for retrieval, reranking and distillation, out of rows: judged documents, translations.

    {query, positive[, negatives]}     a document that answers it, others that do not; two texts that belong together
    {query, document, grade}           how well a document answers it: 0 not at all
    {text}                             a sentence, for a teacher
    {source, target[, language]}       a sentence that the teacher reads, and its translation

Columns are those that are named, else those that data sets usually call so.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tessera.data.examples import Search, Triple
from tessera.data.hashing import named_keys
from tessera.labelled.columns import Row
from tessera.labelled.tables import DataError, Placed
from tessera.plan.errors import some
from tessera.plan.task_data import Column, guess

_GRADES = ("grade", "relevance", "rel", "label", "score")
_DOCUMENTS = ("document", "passage", "positive", "text", "code", "doc", "answer", "sentence2", "text2", "content")
_SOURCES = ("source_text", "english", "eng", "en", "sentence1", "text1", "sentence", "text", "content", "source")
_TARGETS = ("target_text", "translation", "translated", "sentence2", "text2", "target")
_LANGUAGES = ("language", "lang", "target_language", "target_lang", "language_code")
_SIDES = {"src": "src_lang", "tgt": "tgt_lang"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A query and the grade of each document that was judged for it; some grade is above 0 where there is an answer."""

    query: str
    grades: dict[str, int] = field(default_factory=dict)  # by text; 0: it does not answer the query
    row: str  # where the query stands first

    @property
    def answers(self) -> list[str]:
        return [text for text, grade in self.grades.items() if grade > 0]

    @property
    def others(self) -> list[str]:
        return [text for text, grade in self.grades.items() if grade <= 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence that a teacher reads, and perhaps its translation, which shall have the same vector."""

    text: str
    translation: str | None = None
    language: str = ""  # of the translation, else of the sentence; "": not known
    row: str


def judged(rows: Iterable[Placed], columns: Mapping[str, Column] | None = None) -> list[Judged]:
    """The queries of rows of pairs, triplets or grades, in the order in which each stands first.

    columns  role -> column, of query, positive and negatives, or of query, document and grade; those that are not named
             are guessed from the first row

    A document that answers a query in one row is no negative of it in another. Raises DataError naming the row: for
    cells that are no text, a query or document without text, grades below 0, and two grades of one document.
    """
    found: dict[str, Judged] = {}
    roles: dict[str, Column] = {}
    for place, cells in rows:
        roles = roles or _judging(cells, columns or {}, place)
        row = Row(place, cells, roles)
        query = _text(row, "query")
        here = found.setdefault(query, Judged(query=query, row=place)).grades
        if "grade" in roles:
            document, grade = _text(row, "document"), row.whole("grade")
            if grade < 0:
                raise DataError(
                    f"{place}: the grade is {grade}; give 0 for what does not answer, above 0 for what does"
                )
            if here.setdefault(document, grade) != grade:
                raise DataError(f"{place}: grades {document[:40]!r} as {grade} for {query[:40]!r}, but a row before it "
                                f"as {here[document]}; keep one of the two")  # fmt: skip
            continue
        for text in _texts(row, "positive"):
            here[text] = 1
        for text in _texts(row, "negatives", empty=True) if "negatives" in roles and _there(row, "negatives") else ():
            here.setdefault(text, 0)
    if not found:
        raise DataError("there are no rows of pairs")
    return list(found.values())


def sentences(rows: Iterable[Placed], columns: Mapping[str, Column] | None = None) -> list[Sentence]:
    """The sentences and translations of rows. columns: role -> column, of source, target and language.

    Of rows with src, tgt and their languages the English side is the source, else src. A target of null makes a row a
    plain sentence. Raises DataError naming the row.
    """
    found = []
    roles: dict[str, Column] = {}
    for place, cells in rows:
        roles = roles or _sides(cells, columns or {}, place)
        row = Row(place, cells, roles)
        language = sys.intern(row.name("language")) if "language" in roles and _there(row, "language") else ""
        target = roles.get("target")
        alone = target is None or (isinstance(target, str) and row.row.get(target, "") is None)
        other = None if alone else _text(row, "target")
        found.append(Sentence(text=_text(row, "source"), translation=other, language=language, row=place))
    if not found:
        raise DataError("there are no rows of sentences")
    return found


# --------------------------------------------------------------------------------------------------------- what of them


def triples(judged: Sequence[Judged]) -> list[Triple]:
    """A triple for each document that answers a query, to train a retriever on."""
    return [
        Triple(query=one.query, positive=text, negatives=tuple(one.others), id=one.query, row=one.row)
        for one in judged
        for text in one.answers
    ]


def search(judged: Sequence[Judged], beside: Iterable[str] = ()) -> Search:
    """Queries that have an answer, and all documents judged for any, to test on; texts are their own ids.

    beside  more documents that are searched
    """
    texts = dict.fromkeys([*(text for one in judged for text in one.grades), *beside])
    return Search(
        queries={one.query: one.query for one in judged if one.answers},
        corpus={text: text for text in texts},
        relevant={one.query: dict(one.grades) for one in judged if one.answers},
    )


Held = TypeVar("Held", Judged, Sentence)


def split(rows: Sequence[Held], share: float) -> tuple[list[Held], list[Held]]:
    """(to train on, held out): by a hash of the query or of the sentence, so a text is on one side in all languages."""
    keys = named_keys([[row.query if isinstance(row, Judged) else row.text] for row in rows])
    out = (keys / 2.0**64 < share).tolist()
    return [r for r, o in zip(rows, out, strict=True) if not o], [r for r, o in zip(rows, out, strict=True) if o]


# ------------------------------------------------------------------------------------------------------------- columns


def _judging(cells: Mapping[str, Any], columns: Mapping[str, Column], place: str) -> dict[str, Column]:
    """The columns of each role; graded where one is called a grade and none a positive."""
    given = dict(columns)
    if unknown := [role for role in given if role not in ("query", "positive", "negatives", "document", "grade")]:
        raise DataError(f"{unknown[0]!r} is no role of pairs; roles are query, positive, negatives, document and grade")
    grade = _first(cells, _GRADES)
    if "grade" in given or "document" in given or (grade and not {"positive", "negatives"} & {*given}
                                                   and "positive" not in cells):  # fmt: skip
        given.setdefault("query", guess(("query",), cells).get("query", "query"))
        given.setdefault("document", _first(cells, _DOCUMENTS, given) or "document")
        given.setdefault("grade", grade or "grade")
        wanted: tuple[str, ...] = ("query", "document", "grade")
    else:
        left = {name: 0 for name in cells if name not in given.values()}
        given |= guess([role for role in ("query", "positive", "negatives") if role not in given], left)
        wanted = ("query", "positive")
    _check(given, wanted, cells, place, "query and positive (and negatives), or of query, document and grade")
    return given


def _sides(cells: Mapping[str, Any], columns: Mapping[str, Column], place: str) -> dict[str, Column]:
    given = dict(columns)
    if unknown := [role for role in given if role not in ("source", "target", "language")]:
        raise DataError(f"{unknown[0]!r} is no role of sentences; roles are source, target and language")
    if not given and "src" in cells and "tgt" in cells:
        english = str(cells.get("tgt_lang", "")).lower().startswith("en")
        source, target = ("tgt", "src") if english else ("src", "tgt")
        given = {"source": source, "target": target}
        given |= {"language": _SIDES[target]} if _SIDES[target] in cells else {}
    given.setdefault("source", _first(cells, _SOURCES, given) or "text")
    other = None if columns else _first(cells, _TARGETS, given)
    if other is not None:
        given.setdefault("target", other)
    if "language" not in given and (language := _first(cells, _LANGUAGES, given)):
        given["language"] = language
    _check(given, ("source",), cells, place, "source (and target, language)")
    return given


def _first(cells: Mapping[str, Any], names: Iterable[str], taken: Mapping[str, Column] | None = None) -> str | None:
    there = {name.lower(): name for name in cells if name not in (taken or {}).values()}
    return next((there[name] for name in names if name in there), None)


def _check(given: Mapping[str, Column], wanted: Sequence[str], cells: Mapping[str, Any], place: str, say: str) -> None:
    for role in wanted:
        column = given.get(role)
        plain = isinstance(column, str) and "{" not in column and "." not in column
        if column is None or (plain and column not in cells):
            raise DataError(
                f"{place}: no column is the {role}; name the columns of {say}; the row has {some(list(cells), 20)}"
            )


def _there(row: Row, role: str) -> bool:
    """Whether a cell that a row may lack is filled."""
    column = row.columns[role]
    return not isinstance(column, str) or row.row.get(column) not in (None, "", [])


def _text(row: Row, role: str) -> str:
    text = row.text(role)
    if not text.strip():
        raise DataError(f"{row.place}: {role} has no text")
    return text


def _texts(row: Row, role: str, *, empty: bool = False) -> tuple[str, ...]:
    found = row.texts(role)
    if not found and not empty:
        raise DataError(f"{row.place}: {role} is empty; a text is needed")
    for text in found:
        if not text.strip():
            raise DataError(f"{row.place}: {role} has no text")
    return found
