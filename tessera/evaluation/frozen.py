"""Tasks on frozen embeddings, which train no encoder: bitext mining, and linear probes.

Every text is encoded once, however many tasks of a call read it.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from tessera.bulk.nearest import check_vectors
from tessera.evaluation import about, bitext, load, probe
from tessera.evaluation.rows import DataError
from tessera.files import digest, fingerprint
from tessera.inference import sentence_folder
from tessera.inference.encoder import Encoder
from tessera.labelled.columns import Row
from tessera.plan.languages import spelled
from tessera.plan.recipe import Machine
from tessera.plan.task import SplitName, Task
from tessera.progress import Progress
from tessera.results.result import Json, Result, Scores, finished, identity_of, write

KINDS = ("bitext", "probe")
Outcomes = dict[str, dict[str, list[float]]]  # metric -> language -> one number for each example
Said = list[tuple[str, str]]  # a text and its translation, or its label
Say = Callable[[Task, Row], tuple[str, tuple[str, str]]]  # the language of a row, if it says one, and what it says


@dataclass(slots=True, kw_only=True)
class Embedder:
    """A model folder, and the vectors of all texts that were asked for; the model is read when the first one is."""

    folder: Path
    machine: Machine
    report: Progress
    pooling: str | None  # None: as the folder says
    fingerprint: str
    protocol: Json  # what vectors depend on besides the weights
    encoder: Encoder | None = None
    places: dict[str, int] = field(default_factory=dict)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def of(
        cls, folder: Path, machine: Machine, report: Progress, pooling: Literal["mean", "cls"] | None = None
    ) -> Self:
        """Raises ValueError for a folder without weights or tokenizer, or one that asks for what is not known here."""
        pipeline, inside = sentence_folder.read(folder)
        protocol: Json = {
            "pooling": pooling or "+".join(pipeline.pooling),
            "pipeline": pipeline.fingerprint(),
            "dtype": f"torch.{about.dtype_of(inside, machine.dtype, machine.device)}",
        }
        return cls(
            folder=folder, machine=machine, report=report, pooling=pooling, fingerprint=fingerprint(inside),
            protocol=protocol,
        )  # fmt: skip

    def read(self, texts: Iterable[str]) -> None:
        """Encodes the texts that were not seen before. Raises ValueError naming one whose vector is not finite."""
        new = [text for text in dict.fromkeys(texts) if text not in self.places]
        if not new:
            return
        machine, number = self.machine, self.protocol["dtype"].removeprefix("torch.")
        self.encoder = self.encoder or Encoder.from_pretrained(  # the number format said, or what was tuned is taken
            self.folder, device=machine.device, dtype=number, attention=machine.attention, threads=machine.threads
        )
        rows = self.encoder.encode(
            new, pooling=self.pooling, max_tokens=machine.tokens_at_once, on_progress=self.report
        )
        check_vectors(rows, new)
        self.places.update((text, len(self.places)) for text in new)
        self.vectors = [np.concatenate((*self.vectors, rows))]

    def of_texts(self, texts: Iterable[str]) -> NDArray[np.float32]:
        return self.vectors[0][[self.places[text] for text in texts]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a task says, by split and language; what a probe is trained on by the languages of that, or `all`."""

    test: dict[str, Said]
    train: dict[str, Said] = field(default_factory=dict)
    validation: dict[str, Said] = field(default_factory=dict)
    trained_on: dict[str, str] = field(default_factory=dict)  # a language of `test` -> a key of `train`
    skipped: int = 0  # rows that could not be used

    def texts(self, kind: str) -> Iterator[str]:
        for part in (self.test, self.train, self.validation):
            for pairs in part.values():
                yield from (text for text, _ in pairs)
                if kind == "bitext":
                    yield from (text for _, text in pairs)

    def unseen(self) -> Json:
        """Labels that are only tested on."""
        if not self.train:
            return {}
        of = {key: {label for _, label in said} for key, said in self.train.items()}
        tested = {language: {label for _, label in said} for language, said in self.test.items()}
        return about.unseen(tested, {language: of[self.trained_on[language]] for language in tested})

    def fingerprint(self) -> str:
        return digest([self.test, self.train, self.validation])


def run(task: Task, data_folder: Path | None, out: Path, model: str, embedder: Embedder) -> Path:
    """Runs the task where its result is not there, and returns the file of the result.

    model  its name in the result

    There is no protocol to choose: nothing is tuned but a probe's penalty, on validation rows or by cross-validation.
    Raises DataError for rows that cannot be used, ImportError where a probe lacks scikit-learn.
    """
    began = time.perf_counter()
    rows = read(task, data_folder)
    if task.kind == "bitext":
        how: Json = {"margin": "ratio", "k": bitext.NEIGHBOURS}
    else:
        how = {"C": list(probe.GRID), "chosen_on": "validation" if rows.validation else f"{probe.FOLDS} folds of train"}
    protocol = {**embedder.protocol, **how, **({"skipped": rows.skipped} if rows.skipped else {})}
    identity = identity_of(embedder.fingerprint, protocol, rows.fingerprint())
    path = out / f"{model}.{task.name}.json"
    if finished(path, identity):
        return path
    embedder.read(rows.texts(task.kind))
    chosen: Json = {}
    results, outcomes = _mine(rows, embedder) if task.kind == "bitext" else _probe(rows, embedder, chosen)
    result = Result(
        model=model,
        task=task.name,
        kind=task.kind,
        metric=task.metric,
        protocol=protocol,
        **identity,
        dtype=embedder.protocol["dtype"].removeprefix("torch."),
        results=results,
        interval=dict.fromkeys(next(iter(results.values()))),  # there is no chance in it
        examples={language: len(said) for language, said in rows.test.items()},
        chosen=chosen,
        outcomes=outcomes,
        **about.of_task(task, data_folder, more=rows.unseen()),
        seconds=round(time.perf_counter() - began, 2),
    )
    return write(path, result)


# ------------------------------------------------------------------------------------------------------------- the rows


def read(task: Task, folder: Path | None) -> Rows:
    """All rows that a task reads. Raises DataError for rows that cannot be used, or too many of them."""
    skipped: list[str] = []
    languages: Sequence[str | None] = load.languages(task, folder) if task.by_language("test") else (None,)
    rows = _pairs(task, languages, folder, skipped) if task.kind == "bitext" else _labelled(task, folder, skipped)
    kept = sum(len(said) for part in (rows.test, rows.train, rows.validation) for said in part.values())
    if len(skipped) > kept:
        raise DataError(
            f"task {task.name}: {len(skipped)} of {len(skipped) + kept} rows cannot be used; the first is {skipped[0]}"
        )
    return replace(rows, skipped=len(skipped))


def _pairs(task: Task, languages: Sequence[str | None], folder: Path | None, skipped: list[str]) -> Rows:
    """Sentences and translations by language, English second where it is one of the two."""
    found: dict[str, Said] = {}
    for language in languages:
        for key, one in _said(task, "test", language, folder, skipped, _pair):
            found.setdefault(key or (spelled(language) if language is not None else task.name), []).append(one)
    return Rows(test=dict(sorted(found.items())))


def _pair(task: Task, row: Row) -> tuple[str, tuple[str, str]]:
    text, second = row.text("text"), row.text("second")
    if not row.has("language"):
        return "", (text, second)
    first = spelled(row.name("language"))
    if not row.has("second_language"):
        return first, (text, second)
    other = spelled(row.name("second_language"))
    if first.startswith("eng") and not other.startswith("eng"):
        first, other, text, second = other, first, second, text
    return (first if other.startswith("eng") and not first.startswith("eng") else f"{first}-{other}"), (text, second)


def _labelled(task: Task, folder: Path | None, skipped: list[str]) -> Rows:
    """Texts with the names of their labels."""
    found = Rows(test={})
    languages = load.languages(task, folder)
    for language in languages:
        source = task.trained_on(language)
        key = found.trained_on[spelled(language)] = "+".join(map(spelled, source)) or "all"
        found.test[spelled(language)] = [one for _, one in _said(task, "test", language, folder, skipped, _label)]
        if key in found.train:
            continue
        parts: list[tuple[SplitName, dict[str, Said]]] = [("train", found.train), ("validation", found.validation)]
        for split, part in parts:
            if task.source(split).splits.place(split) is not None:
                several = (source or languages) if task.by_language(split) else (None,)
                part[key] = [one for other in several for _, one in _said(task, split, other, folder, skipped, _label)]
    return found


def _label(task: Task, row: Row) -> tuple[str, tuple[str, str]]:
    if task.labels is not None:
        return "", (row.text("text"), task.labels[row.label("label", task.labels, declared=True)])
    names = row.labels("label")
    if len(names) != 1:
        raise DataError(f"{row.place}: has {len(names)} labels; one is needed")
    return "", (row.text("text"), names.pop())


def _said(
    task: Task, split: SplitName, language: str | None, folder: Path | None, skipped: list[str], say: Say
) -> list[tuple[str, tuple[str, str]]]:
    """What the rows of a split say, as `say` has it, in their order."""
    found, ids = [], []
    for row in load.rows_of(task, split, language, folder, skipped=skipped if task.skip else None):
        try:
            key, said = say(task, row)
            if (task.skip or task.kind == "bitext") and not all(text.strip() for text in said):
                out = "" if task.skip else "; fill or drop it, or leave such rows out (skip: true in the task)"
                raise DataError(f"{row.place}: has no text{f' of language {language!r}' if language else ''}{out}")
        except DataError as error:
            if not task.skip:
                raise
            skipped.append(str(error))
        else:
            ids.append((row.identity(), row.place))
            found.append((key, said))
    load.refuse_twins(ids)
    return found


# ----------------------------------------------------------------------------------------------------------- the scores


def _mine(rows: Rows, embedder: Embedder) -> tuple[Scores, Outcomes]:
    """Each sentence's translation among all of its language, both ways."""
    results: Scores = {}
    outcomes: Outcomes = {}
    for language, said in rows.test.items():
        source, target = (embedder.of_texts(side) for side in zip(*said, strict=True))
        results[language], each = bitext.mine(source, target)
        for metric, values in each.items():
            outcomes.setdefault(metric, {})[language] = values
    return results, outcomes


def _probe(rows: Rows, embedder: Embedder, chosen: Json) -> tuple[Scores, Outcomes]:
    """A probe for each set of training languages, tested on every language that it is for."""

    def features(said: Said) -> tuple[NDArray[np.float32], list[str]]:
        return embedder.of_texts(text for text, _ in said), [label for _, label in said]

    probes: dict[str, probe.Probe] = {}
    results: Scores = {}
    right: dict[str, list[float]] = {}
    for number, (language, said) in enumerate(rows.test.items()):
        embedder.report(number, len(rows.test), f"probes {language}")
        key = rows.trained_on[language]
        if key not in probes:
            held = rows.validation.get(key)
            probes[key], how = probe.choose(features(rows.train[key]), features(held) if held else None)
            accuracy = {str(c): share for c, share in how.accuracy.items()}
            chosen[key] = {"C": how.c, "accuracy": accuracy, "rows": how.rows}
        given, truth = features(said)
        predicted = probes[key].predict(given)
        results[language] = probe.scores(predicted, truth)
        right[language] = [float(p == t) for p, t in zip(predicted, truth, strict=True)]
    return results, {"accuracy": right}
