"""A labelled dataset out of files: which kind of task it is, its columns, labels and train, validation and test split.

What is not said is guessed, and all that is guessed is told in `said`. What is wrong with rows is one DataError that
names them, before anything is trained.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tessera.data.examples import Example
from tessera.files import digest
from tessera.labelled import examples as reading
from tessera.labelled import guess as guessing
from tessera.labelled import labels as labelling
from tessera.labelled import tables
from tessera.labelled.columns import Row, UnknownLabel
from tessera.labelled.examples import Asked
from tessera.labelled.remarks import remarks
from tessera.labelled.splits import Placed, divided, placed, split_of
from tessera.labelled.tables import DataError
from tessera.plan.errors import some
from tessera.plan.languages import resolve
from tessera.plan.task_data import SPLITS, Column
from tessera.prediction import tags
from tessera.tokenizer.tokenizer import Tokenizer

_LOOKED_AT = 1_000  # rows, to guess
_SHOWN = 5  # rows that cannot be used, in an error
_BROKEN = 0.01  # of the sentences may have a tag that cannot stand where it does, as the best sets have some
_FEWEST = 8  # rows that one can learn from, and divide


@dataclass(frozen=True, slots=True)
class Part:
    """A split."""

    examples: list[Any] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)  # of each; "" where rows do not say

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Labelled examples, ready to learn from."""

    source: str
    kind: str
    columns: dict[str, Column]
    labels: tuple[str, ...]  # their names in the order of their numbers; none for numbers, options and answers
    train: Part
    validation: Part
    test: Part
    said: tuple[str, ...]  # what was guessed and done, a line each
    left_out: tuple[str, ...]  # rows that could not be used
    no_answer: bool = False
    highest: float = 1.0  # rerank: the grade that counts as 1

    @property
    def pair(self) -> bool:
        """Whether examples are two texts."""
        return bool(self.train.examples) and getattr(self.train.examples[0], "second", None) is not None

    @property
    def fingerprint(self) -> str:
        """What changes when any example does."""
        parts = [[dataclasses.astuple(anywhere(e)) for e in part.examples] for part in self.parts]
        return digest([self.kind, self.labels, self.no_answer, parts])

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        return self.train, self.validation, self.test


def anywhere(example: Example) -> Example:
    """An example without its place, however its file was called: neither as its row nor in place of an id."""
    own = "" if example.row and example.id.startswith(example.row) else example.id
    return dataclasses.replace(example, row="", id=own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What somebody says about the data, in place of what would be guessed."""

    kind: str | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)  # role -> column
    labels: tuple[str, ...] | None = None  # in order
    separator: str | None = None  # between several labels of a cell
    held_out: float = 0.15  # share of the rows for validation, and for test, where there are no such files
    train_languages: tuple[str, ...] = ()  # only these are trained and chosen on; none: all
    skip_bad: bool = False  # rows that cannot be used are left out and counted


def read(where: str, options: Options | None = None, tokenizer: Tokenizer | None = None) -> Dataset:
    """The examples of a file, a folder, a glob or a URL.

    tokenizer  splits raw text into words, where rows are text with spans

    Raises DataError for files and rows that cannot be used, with their places and what to do.
    """
    options = options or Options()
    said: list[str] = []
    given, left_out = _files(where, said, options.skip_bad)
    looked = [row for _, _, row, _ in given[:_LOOKED_AT]]
    several = options.separator is not None
    found = guessing.guess(looked, options.kind or ("multilabel" if several else None), options.columns)
    if found.kind not in guessing.KINDS:
        raise DataError(f"{where}: these are rows of kind {found.kind}; say so, if that is meant: --kind {found.kind}")
    if several and found.kind != "multilabel":
        raise DataError(f"--separator is for several labels in a cell, --kind multilabel; you said {found.kind}")
    shown = ", ".join(f"{role}: {guessing.shown(column)}" for role, column in found.columns.items())
    said.append(f"kind {found.kind} ({found.why}); columns {shown}")
    rows = [Placed(split, Row(place, row, found.columns), folder) for split, place, row, folder in given]
    rows, wrong = placed(rows, "split" in options.columns)
    if wrong and not options.skip_bad:
        refuse(wrong)
    rows, drawn = divided(rows, found.kind, options.held_out, said)
    return _Reading(where, options, found, tokenizer, said, left_out, drawn).dataset(rows, wrong)


def _files(where: str, said: list[str], skip_bad: bool) -> tuple[list[tuple[str, str, dict[str, Any], str]], list[str]]:
    """(split by the file's name, place, row, folder) of all rows; and what is no row."""
    files = tables.find(where, said)
    if not files:
        raise DataError(f"{where}: there is no such file, and no folder with rows; give a file, a folder or a glob")
    splits = {str(file): split_of(str(file), where) for file in files}
    named = {file: split for file, split in splits.items() if split}
    if named and (others := [file for file in splits if file not in named]):
        said.append(f"not read, as their names say no split: {some([os.path.basename(name) for name in others])}")
        files = [file for file in files if str(file) in named]
    left_out: list[str] = []
    found = [
        (splits[str(file)], place, row, os.path.basename(os.path.dirname(str(file))))
        for file in files
        for place, row in tables.rows(file, left_out if skip_bad else None)
    ]
    if not found:
        raise DataError(f"{where}: holds no rows")
    return found, left_out


@dataclass(frozen=True, slots=True)
class _Reading:
    where: str
    options: Options
    found: guessing.Guess
    tokenizer: Tokenizer | None
    said: list[str]
    left_out: list[str]
    drawn: bool  # the test set is a part of the same rows, so its labels are theirs

    def dataset(self, rows: list[Placed], unplaced: Mapping[str, DataError]) -> Dataset:
        """Labels, then the examples of all rows. unplaced: what is wrong with rows whose split is none."""
        asked, wrong = self._asked(rows)
        wrong |= unplaced
        several = len({one.folder for one in rows}) > 1
        languages = [_language(one.row, one.folder if several else "") for one in rows]
        wanted = {code for said in self.options.train_languages for code in resolve(said, languages)}
        parts: dict[str, Part] = {name: Part() for name in SPLITS}
        broken: dict[str, DataError] = {}
        for one, language in zip(rows, languages, strict=True):
            try:
                made = reading.examples_of(one.row, asked)
            except DataError as error:
                wrong.setdefault(one.row.place, error)
                continue
            broken.update(reading.broken_tags(made, asked))
            if self.options.train_languages and one.split != "test" and language not in wanted:
                continue
            parts[one.split].examples.extend(made)
            parts[one.split].languages.extend([language] * len(made))
        if broken and (self.options.skip_bad or len(broken) <= _BROKEN * len(rows)):
            first = next(iter(broken.values()))
            self.said.append(
                f"{len(broken)} rows with a tag that cannot stand there, read as a beginning; first: {first}"
            )
        else:
            wrong |= broken
        self._refuse(wrong, asked)
        self._tell(parts, asked)
        return Dataset(
            source=self.where,
            kind=asked.kind,
            columns=self.found.columns,
            labels=asked.names,
            train=parts["train"],
            validation=parts["validation"],
            test=parts["test"],
            said=tuple(self.said),
            left_out=tuple(self.left_out),
            no_answer=asked.no_answer,
            highest=asked.highest,
        )

    def _asked(self, rows: Sequence[Placed]) -> tuple[Asked, dict[str, DataError]]:
        """What is asked of rows, the labels among it; and rows whose label is none."""
        kind, wrong = self.found.kind, dict[str, DataError]()
        asked = Asked(
            kind=kind, separator=self.options.separator, tokenizer=self.tokenizer, names=self.options.labels or (),
            declared=self.options.labels is not None,
        )  # fmt: skip
        learned = [one.row for one in rows if one.split != "test" or self.drawn]
        if kind == "reward":
            return dataclasses.replace(asked, names=("wrong", "right")), wrong
        if kind == "span":
            return dataclasses.replace(asked, no_answer=self._without_answers(learned)), wrong
        if kind == "rerank" and "label" in self.found.columns:
            return dataclasses.replace(asked, highest=highest_grade(learned)), wrong
        if kind not in ("classify", "pair", "multilabel", "tag"):
            return dataclasses.replace(asked, names=()), wrong
        if self.options.labels is None:
            asked = dataclasses.replace(asked, names=self._labels(learned, asked, wrong))
        elif "spans" in self.found.columns:
            asked = dataclasses.replace(asked, names=tags.of_spans(asked.names))
        try:
            if kind == "tag":
                tags.scheme(asked.names)
        except ValueError as error:
            raise DataError(f"{self.where}: {error}") from None
        return asked, wrong

    def _labels(self, rows: Sequence[Row], asked: Asked, wrong: dict[str, DataError]) -> tuple[str, ...]:
        counts: Counter[str] = Counter()
        for row in rows:
            try:
                counts.update(reading.labels_of(row, asked))
            except DataError as error:
                wrong[row.place] = error
        try:
            names = labelling.in_order(counts)
        except ValueError as error:
            raise DataError(f"{self.where}: labels of two sorts: {error}") from None
        if len(names) < 2 and asked.kind != "multilabel":
            self._refuse(wrong, asked)
            raise DataError(f"{self.where}: the labels are {list(names)}; at least two are needed")
        if asked.kind != "tag" and len(names) > 20 and len(names) > len(rows) / 2:
            hint = "say which column it is (--label), or what kind of task this is (--kind)"
            if asked.kind == "multilabel" and asked.separator is None:
                hint = "say what stands between the labels of a cell (--separator ';')"
            column = guessing.shown(self.found.columns["label"])
            raise DataError(f"{self.where}: {column} has {len(names)} different values in {len(rows)} rows; {hint}")
        return names

    def _without_answers(self, rows: Sequence[Row]) -> bool:
        none = 0
        for row in rows:
            try:
                none += not row.answers(row.text("context"), True)
            except DataError:  # it is refused where it is read
                continue
        if none:
            self.said.append(
                f"{none:,} of {len(rows):,} questions have no answer, so the model may say that there is none"
            )
        return none > 0

    def _refuse(self, wrong: Mapping[str, DataError], asked: Asked) -> None:
        """Raises one DataError for all rows that cannot be used; with skip_bad they are counted instead."""
        if self.options.skip_bad:
            self.left_out.extend(map(str, wrong.values()))
            if self.left_out:
                self.said.append(f"{len(self.left_out):,} rows left out, first: {self.left_out[0]}")
            return
        if wrong:
            refuse(wrong, asked.names)

    def _tell(self, parts: Mapping[str, Part], asked: Asked) -> None:
        """Says what there is. Raises DataError where that is too little."""
        for name in ("train", "validation"):
            if not len(parts[name]):
                total = sum(map(len, parts.values()))
                few = f"; of {total} rows none fell there, so give more, or a file of its own" if total else ""
                if (
                    total
                    and self.drawn
                    and len({e.text for p in parts.values() for e in p.examples if hasattr(e, "text")}) == 1
                ):
                    few = f": all {total} have the same text"
                if wanted := self.options.train_languages:
                    there = sorted({x for p in parts.values() for x in p.languages} - {""})
                    known = (
                        f"languages are {some(there, 20)}"
                        if there
                        else "no column says a language (--column language=...)"
                    )
                    few = f"; {known}, you said {', '.join(wanted)}"
                raise DataError(f"{self.where}: there are no rows for {name}{few}")
        if len(parts["train"]) < _FEWEST:
            raise DataError(f"{self.where}: {len(parts['train'])} rows to train on; at least {_FEWEST} are needed")
        if asked.names and asked.kind != "tag":
            self.said.append(_counts(parts["train"], asked.names))
        elif asked.names:
            scheme = tags.scheme(asked.names)
            self.said.append(f"{len(asked.names)} tags{f' of {scheme}' if scheme else ''}: {some(asked.names, 12)}")
        every = [one for part in parts.values() for one in part.examples]
        self.said.extend(remarks(every, asked.kind, asked.names, self.found.columns))
        if asked.highest != 1.0:
            self.said.append(f"grades are divided by {asked.highest:g}, the highest")


def refuse(wrong: Mapping[str, DataError], names: Sequence[str] = ()) -> NoReturn:
    """Raises one DataError for all rows that cannot be used, by their places; names: of the labels that are known."""
    lines = [str(error) for error in list(wrong.values())[:_SHOWN]]
    if len(wrong) > _SHOWN:
        lines.append(f"and {len(wrong) - _SHOWN:,} more rows that cannot be used")
    unknown = sorted({error.label for error in wrong.values() if isinstance(error, UnknownLabel)})
    if unknown and names:
        lines.append(f"labels that only the test set has are declared with --labels {','.join([*names, *unknown])}")
    raise DataError("\n  ".join([*lines, "mend them, or leave them out with --skip-bad"]))


def _counts(train: Part, names: Sequence[str]) -> str:
    """How many rows each label has; of many the rarest."""
    counts: Counter[int] = Counter()
    for one in train.examples:
        counts.update(one.label if isinstance(one.label, tuple) else [one.label])
    rare = sorted(range(len(names)), key=lambda n: counts[n])[: 1 if len(names) > 8 else None]
    listed = ", ".join(f"{names[n]} {counts[n]:,}" for n in (rare if len(names) > 8 else range(len(names))))
    unseen = [names[n] for n in range(len(names)) if not counts[n]]
    more = f"; NO row to train on for {some(unseen)}" if unseen else ""
    return f"{len(names)} labels, rows to train on: {'fewest ' if len(names) > 8 else ''}{listed}{more}"


def highest_grade(rows: Sequence[Row]) -> float:
    """What grades are divided by: the highest, 1 at least."""
    found = [1.0]
    for row in rows:
        try:
            found.append(row.number("label", None))
        except DataError:  # truth values, or refused where it is read
            continue
    return max(found)


def _language(row: Row, folder: str) -> str:
    if not row.has("language"):
        return folder
    try:
        return row.name("language")
    except DataError:
        return folder
