"""Tasks that train no encoder: bitext mining, and probes on frozen embeddings; every text is encoded once."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.evaluation import bitext, load, probe
from tessera.evaluation.trial import Json, Progress, fingerprint_of_rows
from tessera.files import fingerprint
from tessera.finetune.examples import Labelled
from tessera.inference import sentence_folder
from tessera.inference.encoder import Encoder
from tessera.plan.recipe import Machine
from tessera.plan.result import Result, finished, identity_of, write
from tessera.plan.strict import name_of
from tessera.plan.task import Task

KINDS = ("bitext", "probe")
Rows = dict[str, dict[str, list[Labelled]]]  # split -> language -> examples
Scores = dict[str, dict[str, float]]


def run(
    model_folder: str | Path,
    task: Task,
    data_folder: str | Path | None,
    out: str | Path,
    machine: Machine | None = None,
    on_progress: Progress | None = None,
    *,
    name: str | None = None,
) -> Path:
    """Runs the task where its result is not there, and returns the file of the result.

    The arguments are those of sweep.run; there is no protocol to choose: nothing is tuned but a probe's penalty, on
    validation rows. Raises DataError for rows that cannot be used, ValueError for a task of another kind.
    """
    if task.kind not in KINDS:
        raise ValueError(f"task {task.name} is of kind {task.kind}, which trains the encoder")
    began, model_folder, machine = time.perf_counter(), Path(model_folder), machine or Machine()
    model = name or name_of(model_folder)
    report = on_progress or (lambda done, total, what: None)
    rows = _read(task, None if data_folder is None else Path(data_folder))
    path = Path(out) / f"{model}.{task.name}.json"
    encoder = Encoder.from_pretrained(
        model_folder, device=machine.device, dtype=machine.dtype, attention=machine.attention, threads=machine.threads
    )
    pipeline, inside = sentence_folder.read(model_folder)
    protocol: Json = {
        "pooling": "+".join(pipeline.pooling),
        "pipeline": pipeline.fingerprint(),
        "dtype": str(encoder.dtype),
    }
    protocol |= {"k": bitext.NEIGHBOURS} if task.kind == "bitext" else {"C": probe.GRID, "folds": probe.FOLDS}
    identity = identity_of(fingerprint(inside), protocol, fingerprint_of_rows(rows))
    if finished(path, identity):
        return path
    several = [examples for part in rows.values() for examples in part.values()]
    vectors = _Vectors(encoder, (text for examples in several for text in _texts(examples)), report)
    chosen: dict[str, Json] = {}
    results, outcomes = _mine(rows["test"], vectors) if task.kind == "bitext" else _probe(task, rows, vectors, chosen)
    result = Result(
        model=model,
        task=task.name,
        kind=task.kind,
        metric=task.metric,
        protocol=protocol,
        **identity,
        results=results,
        interval=dict.fromkeys(next(iter(results.values()))),  # there is no chance in it
        examples={language: len(several) for language, several in rows["test"].items()},
        chosen=chosen,
        outcomes=outcomes,
        seconds=round(time.perf_counter() - began, 2),
    )
    return write(path, result)


def _read(task: Task, folder: Path | None) -> Rows:
    """The examples of all splits that the task reads; the labels of a language go by the names of its training rows."""
    found: Rows = {"test": {}, "train": {}, "validation": {}}
    for language in load.languages(task, folder):
        names = load.labels(task, folder, language) if task.kind == "probe" else None
        found["test"][language] = _labelled(load.load(task, "test", language, folder, names=names))
        if task.kind == "bitext":
            continue
        source = task.trained_on(language)
        key = "+".join(source) or "all"
        if key in found["train"]:
            continue
        several = source or load.languages(task, folder)
        found["train"][key] = _labelled(load.load(task, "train", several, folder, names=names))
        if task.source("validation").splits.validation is not None:
            found["validation"][key] = _labelled(load.load(task, "validation", several, folder, names=names))
    return found


def _labelled(examples: Sequence[Any]) -> list[Labelled]:
    assert all(isinstance(example, Labelled) for example in examples)
    return list(examples)


def _texts(examples: Iterable[Labelled]) -> Iterable[str]:
    for example in examples:
        yield example.text
        if example.second is not None:
            yield example.second


class _Vectors:
    """The vector of every text, encoded once."""

    def __init__(self, encoder: Encoder, texts: Iterable[str], report: Progress) -> None:
        different = list(dict.fromkeys(texts))
        self._place = {text: number for number, text in enumerate(different)}
        self._rows = encoder.encode(different, on_progress=report)

    def of(self, texts: Iterable[str]) -> NDArray[np.float32]:
        return self._rows[[self._place[text] for text in texts]]


def _mine(pairs: dict[str, list[Labelled]], vectors: _Vectors) -> tuple[Scores, bitext.Outcomes]:
    """Each sentence's translation among all of its language, both ways."""
    return bitext.in_languages(
        (language, vectors.of(one.text for one in several), vectors.of(one.second or "" for one in several))
        for language, several in pairs.items()
    )


def _probe(task: Task, rows: Rows, vectors: _Vectors, chosen: dict[str, Json]) -> tuple[Scores, bitext.Outcomes]:
    """A probe for each set of training languages, tested on every language that it is for."""

    def features(examples: Sequence[Labelled]) -> tuple[NDArray[np.float32], list[str]]:
        return vectors.of(one.text for one in examples), [str(one.label) for one in examples]

    probes: dict[str, probe.Probe] = {}
    results: Scores = {}
    right: dict[str, list[float]] = {}
    for language, several in rows["test"].items():
        key = "+".join(task.trained_on(language)) or "all"
        if key not in probes:
            validation = rows["validation"].get(key)
            probes[key], how = probe.choose(
                features(rows["train"][key]), features(validation) if validation is not None else None
            )
            chosen[key] = asdict(how)
        given, truth = features(several)
        predicted = probes[key].predict(given)
        results[language] = probe.scores(predicted, truth)
        right[language] = [float(p == t) for p, t in zip(predicted, truth, strict=True)]
    return results, {"accuracy": right}
