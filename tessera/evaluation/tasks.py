"""What a task of a recipe asks, read from its files: pairs of sentences, or labelled texts, by language."""

import glob
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tessera.corpus.documents import Document, Pair, Skipped, read
from tessera.evaluation import bitext, probe
from tessera.plan.corpus import Columns, Source
from tessera.plan.recipe import BitextTask, ProbeTask

_LANGUAGE = "{language}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bitext:
    """Sentences and translations by language; row i translates row i. English, if it is a side, is the second."""

    pairs: dict[str, tuple[list[str], list[str]]]
    protocol: dict[str, Any]

    def texts(self) -> Iterator[str]:
        for sources, targets in self.pairs.values():
            yield from sources
            yield from targets

    def examples(self) -> dict[str, int]:
        return {language: len(sources) for language, (sources, _) in self.pairs.items()}


Labelled = tuple[list[str], list[str]]  # texts and their labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """Labelled texts: `test` gives for each language the key of what is trained on for it, and the rows to test.

    `validation` has the keys of `train`, or nothing.
    """

    train: dict[str, Labelled]
    validation: dict[str, Labelled]
    test: dict[str, tuple[str, Labelled]]
    protocol: dict[str, Any]

    def rows(self, key: str) -> list[Labelled]:
        """What a probe is trained on and, if anything is given for that, what its penalty is chosen on."""
        return [part[key] for part in (self.train, self.validation) if part]

    def texts(self) -> Iterator[str]:
        for texts, _ in (*self.train.values(), *self.validation.values()):
            yield from texts
        for _, (texts, _) in self.test.values():
            yield from texts

    def examples(self) -> dict[str, int]:
        return {language: len(texts) for language, (_, (texts, _)) in self.test.items()}


def read_task(task: BitextTask | ProbeTask) -> Bitext | Probing:
    """Reads all files of a task. Lines that cannot be used are skipped and counted in the protocol.

    Raises ValueError naming the task where there are no files or they cannot be used.
    """
    return _bitext(task) if isinstance(task, BitextTask) else _probing(task)


def _bitext(task: BitextTask) -> Bitext:
    skipped = Skipped()
    pairs: dict[str, tuple[list[str], list[str]]] = {}
    for pair in read(Source(name=task.name, path=task.path, kind="pairs", columns=task.columns), skipped):
        assert isinstance(pair, Pair)
        source, target = (pair.source_language, pair.source_text), (pair.target_language, pair.target_text)
        if _is_english(source[0]) and not _is_english(target[0]):
            source, target = target, source
        key = source[0] if _is_english(target[0]) and not _is_english(source[0]) else f"{source[0]}-{target[0]}"
        sources, targets = pairs.setdefault(key, ([], []))
        sources.append(source[1])
        targets.append(target[1])
    pairs = dict(sorted(pairs.items()))
    protocol = {
        "forward": "to English",
        "margin": "ratio",
        "neighbours": bitext.NEIGHBOURS,
        "languages": len(pairs),
        "skipped": skipped.counts.total(),
        "data": _hash(pairs),
    }
    return Bitext(pairs=pairs, protocol=protocol)


def _probing(task: ProbeTask) -> Probing:
    if _LANGUAGE not in task.test:
        raise ValueError(f"task {task.name!r}: test is {task.test!r}; write {_LANGUAGE} where the language stands")
    if task.transfer_from is not None and _LANGUAGE not in task.train:
        raise ValueError(
            f"task {task.name!r}: transfer_from is {task.transfer_from!r}, but train is {task.train!r} for all; "
            f"write {_LANGUAGE} where the language stands, or leave transfer_from out"
        )
    if task.validation is not None and _LANGUAGE in task.validation and _LANGUAGE not in task.train:
        raise ValueError(
            f"task {task.name!r}: validation is {task.validation!r}, but train is {task.train!r} for all; one probe is "
            "trained and one penalty is chosen for it, so name one file to choose it on"
        )
    skipped = Skipped()
    train: dict[str, Labelled] = {}
    validation: dict[str, Labelled] = {}
    test: dict[str, tuple[str, Labelled]] = {}
    for language in _languages(task):
        trained = task.transfer_from or language  # and chosen: no row of another language may have a say in transfer
        path = task.train.replace(_LANGUAGE, trained)
        if path not in train:
            train[path] = _labelled(task, path, skipped)
            if task.validation is not None:
                validation[path] = _labelled(task, task.validation.replace(_LANGUAGE, trained), skipped)
        test[language] = (path, _labelled(task, task.test.replace(_LANGUAGE, language), skipped))
    protocol = {
        "probe": "logistic regression, standardised features",
        "C": list(probe.GRID),
        "chosen_on": f"{probe.FOLDS} folds of train" if task.validation is None else "validation",
        "transfer_from": task.transfer_from,
        "languages": len(test),
        "skipped": skipped.counts.total(),
        "data": _hash(
            [
                list(train.values()),
                list(validation.values()),
                [[language, rows] for language, (_, rows) in test.items()],
            ]
        ),
    }
    return Probing(train=train, validation=validation, test=test, protocol=protocol)


def _languages(task: ProbeTask) -> list[str]:
    """As named, or all for which there is something to train on and to test on; sorted."""
    if task.languages != "all":
        return sorted(task.languages)
    found = _found(task.test)
    if _LANGUAGE in task.train and task.transfer_from is None:
        found &= _found(task.train)
    if not found:
        raise ValueError(f"task {task.name!r}: no language has files at train {task.train!r} and test {task.test!r}")
    return sorted(found)


def _found(path: str) -> set[str]:
    """What {language} may stand for, given the files that are there."""
    before, *after = (re.escape(part) for part in path.split(_LANGUAGE))
    pattern = before + "(?P<language>[^/]+)" + "(?P=language)".join(after)
    files = glob.glob(glob.escape(path).replace(_LANGUAGE, "*"))
    return {match["language"] for file in files if (match := re.fullmatch(pattern, file))}


def _labelled(task: ProbeTask, path: str, skipped: Skipped) -> Labelled:
    # The reader of corpora knows no labels: the label travels as the id. The language is known from the path already;
    # the one named here is not used.
    columns = Columns(text=task.text, id=task.label, language="")
    texts, labels = [], []
    for row in read(Source(name=task.name, path=path, columns=columns, language="code"), skipped):
        assert isinstance(row, Document)
        if row.id is None:
            raise ValueError(
                f"task {task.name!r}: {path}: a row has no {task.label!r}; name the column of labels as `label`"
            )
        texts.append(row.text)
        labels.append(row.id)
    if not texts:
        raise ValueError(f"task {task.name!r}: {path}: holds no rows")
    return texts, labels


def _is_english(language: str) -> bool:
    return language == "eng" or language.startswith("eng_")


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, ensure_ascii=False).encode()).hexdigest()[:16]
