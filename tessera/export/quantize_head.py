"""Quantization of a model with the head of a task, measured by what the head says: agreement, and score where known.

    classify, choose  of a hundred rows, those with the right label or option
    multilabel        of a hundred rows and labels, those that are rightly there or not
    tag               of a hundred words, those with the right tag
    span              of a hundred questions, those with the right answer
    regress           correlation with the right numbers, times a hundred (Pearson's)
    rerank            rank correlation with the right scores, times a hundred (Spearman's)

The same is asked of int8 with the answers of the float model in the place of the right ones: that is the agreement.
"""

import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tessera.export import heads
from tessera.export.int8 import batches, size, write_int8
from tessera.export.model_card import refuse_different
from tessera.export.tracing import To, write_graph
from tessera.files import write_json
from tessera.inference import sentence_folder as folders
from tessera.inference.runtime import ABOUT
from tessera.labelled import judged
from tessera.prediction.predictor import Prediction, Predictor, Row
from tessera.prediction.requests import request
from tessera.progress import Say

FEWEST = 32  # rows to measure on, or the figures mean nothing
CALIBRATED = 128  # rows; more made no difference to embeddings
_TIMED = 64  # rows
_ANSWERS = {  # under which names a row may say what is right, the first that is there
    "classify": ("label",), "multilabel": ("labels", "label"), "tag": ("tags", "labels"), "span": ("answer", "answers"),
    "regress": ("score", "label"), "rerank": ("score", "label"), "choose": ("choice", "label"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeadMeasured:
    """What int8 costs and brings the head of a task on the rows at hand."""

    kind: str
    rows: int
    agreement: float  # of int8 with the float model, of a hundred
    before: float | None  # the score of the float model; None: nobody said what is right
    after: float | None
    faster: float  # than the graph before, both in what auto chooses, in turns; least of three
    smaller: float  # files
    threads: int

    @property
    def drop(self) -> float:
        """Points of the score that are lost."""
        return 0.0 if self.before is None or self.after is None else self.before - self.after

    def __str__(self) -> str:
        score = "" if self.before is None else f"score {self.before:.2f} before, {self.after:.2f} after; "
        return (
            f"agreement {self.agreement:.2f} of 100 over {self.rows} rows ({self.kind}); {score}"
            f"{self.faster:.2f} times as fast with {self.threads} threads, {self.smaller:.1f} times smaller"
        )


def _reading(folder: Path, max_length: int) -> Predictor:
    """The model of a folder in float32, which reads at most so many tokens of a text."""
    found = Predictor.from_pretrained(folder, device="cpu", dtype="float32")
    return replace(found, reader=replace(found.reader, max_length=min(max_length, found.reader.max_length)))


def quantize_head(
    folder: Path,
    target: Path,
    to: To,
    *,
    calibrating: Sequence[Row],
    measuring: Sequence[str],
    rows: Sequence[Mapping[str, Any]] = (),
    min_agreement: float = 98.0,
    max_drop: float = 0.5,
    weights_only: bool = False,
    max_length: int = 512,
    say: Say,
) -> HeadMeasured:
    """Writes `target` with the model in int8, unless it falls under a bound: then nothing is written.

    calibrating    texts, or rows of the task
    rows           of the task, as `Predictor.predict` takes them, each also with what is right: label, labels, score,
                   choice, tags or answer. They are measured on instead of `measuring`, and `max_drop` is the bound
    min_agreement  of a hundred answers on plain texts, those that must stay: the bound where there are no rows

    The rest, and errors, as of `quantize.quantize`.
    """
    predictor = _reading(folder, max_length)
    task, max_length = predictor.model.task, predictor.reader.max_length
    right = [right_answer(predictor, row, number) for number, row in enumerate(rows)] if rows else []
    asked: list[Row] = list(rows) or heads.asked(task, measuring)
    if len(asked) < FEWEST:
        raise ValueError(f"{len(asked)} rows; give {FEWEST} or more to measure on")
    with heads.drafted(target, folder) as draft, tempfile.TemporaryDirectory(dir=draft.parent) as work:
        plain = Path(work, "plain")
        with heads.drafted(plain, folder) as place:
            say(f"{to}: tracing {predictor.model.config.num_hidden_layers} layers and a head for {task.kind}")
            write_graph(heads.padded(predictor), place, to)
            write_json(place / ABOUT, heads.about(predictor, to))
        refuse_different(heads.compare(predictor, plain))
        calibrated = 0 if weights_only or to == "onnx" else len(calibrating)
        what = "texts" if all(isinstance(one, str) for one in calibrating) else "rows"
        say(f"int8, calibrated on {calibrated} {what}" if calibrated else "int8 without calibration")
        write_int8(plain, draft, to, weights_only, calls(predictor, heads.asked(task, calibrating[:CALIBRATED])))
        write_json(draft / ABOUT, heads.about(predictor, to))
        say(f"measuring on {len(asked)} rows that were not calibrated on")
        before, after = (Predictor.from_pretrained(place, max_length=max_length) for place in (plain, draft))
        said, changed = predictor.predict(asked), after.predict(asked)
        measured = HeadMeasured(
            kind=task.kind,
            rows=len(asked),
            agreement=score(task.kind, changed, said),
            before=score(task.kind, said, right) if right else None,
            after=score(task.kind, changed, right) if right else None,
            faster=_faster(before, after, asked[:_TIMED]),
            smaller=size(plain) / size(draft),
            threads=torch.get_num_threads(),
        )
        del before, after  # or their files cannot be moved everywhere
        _refuse_below(measured, min_agreement, max_drop, "; weights_only loses less" if calibrated else "")
        how: dict[str, Any] = {"weights_only": weights_only, "calibrated_on": calibrated, "max_length": max_length}
        how |= {"min_agreement": min_agreement, "max_drop": max_drop, "measured": asdict(measured)}
        write_json(draft / ABOUT, {**heads.about(predictor, to), "int8": how})
        heads.write_card(predictor, draft, to, target.name, f"In int8. Measured: {measured}.")
    return measured


def _refuse_below(measured: HeadMeasured, min_agreement: float, max_drop: float, hint: str) -> None:
    labelled = measured.before is not None
    if measured.drop <= max_drop if labelled else measured.agreement >= min_agreement:
        return
    bound = f"{max_drop} points of its score" if labelled else f"an agreement of {min_agreement} of 100"
    raise ValueError(f"nothing was written: the bound is {bound}, measured was: {measured}{hint}")


def calls(predictor: Predictor, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Inputs of calls of the graph."""
    examples = [request(row, n, predictor.kind, predictor.reader.tokenizer).example for n, row in enumerate(rows)]
    items = predictor.reader.items(examples)
    segments = []
    if predictor.reader.segments:  # of a text alone they are all 0, and an item does not say them
        segments = [told for item in items for told in item.segments or map(np.zeros_like, item.documents)]
    return batches([document for item in items for document in item.documents], segments)


def _faster(before: Predictor, after: Predictor, rows: Sequence[Row]) -> float:
    """Time of one over time of the other, in turns, the least of three after one to warm up."""
    least = [float("inf")] * 2
    for turn in range(4):
        for n, predictor in enumerate((before, after)):
            began = time.perf_counter()
            predictor.predict(rows)
            if turn:
                least[n] = min(least[n], time.perf_counter() - began)
    return least[0] / least[1]


# ------------------------------------------------------------------------------------------------------------- scoring


def read_rows(folder: str | Path, where: str) -> list[dict[str, Any]]:
    """Rows that say what is right, of a file that the model of a folder could be fine-tuned on.

    Raises ValueError where it has no head, DataError as `judged.rows`.
    """
    place = folders.local(folder)
    if not heads.has_head(place):
        raise ValueError(f"{place}: rows are for the head of a task, and there is none")
    model = Predictor.from_pretrained(place, device="cpu", dtype="float32")
    return judged.rows(where, kind=model.kind, pair=model.model.task.pair, labels=model.labels,
                       tokenizer=model.reader.tokenizer)  # fmt: skip


def divided(rows: Sequence[Mapping[str, Any]], seed: int) -> tuple[list[Row], list[Mapping[str, Any]]]:
    """Rows to calibrate on, and others to measure on."""
    if len(rows) < 2 * FEWEST:
        raise ValueError(f"{len(rows)} rows; give {2 * FEWEST} or more, to calibrate and measure on, or texts besides")
    chosen = random.Random(seed).sample(list(rows), len(rows))
    cut = min(CALIBRATED, len(chosen) // 2)
    return list(chosen[:cut]), chosen[cut:]


def right_answer(predictor: Predictor, row: Mapping[str, Any], number: int) -> Prediction:
    """What a row says is right, as a prediction says it. Raises ValueError naming the row."""
    kind, labels = predictor.kind, predictor.labels
    names = _ANSWERS[kind]
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None or (kind == "tag" and "words" not in row):
        raise ValueError(
            f"rows[{number}]: does not say what is right; give {' or '.join(names)}"
            f"{', and words' if kind == 'tag' else ''}"
        )
    given = row[name]

    def label(value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and str(value) not in labels:
            value = labels[value] if 0 <= value < len(labels) else value
        if str(value) not in labels:
            raise ValueError(f"rows[{number}]: {name} {value!r} is none of the model's labels: {', '.join(labels)}")
        return str(value)

    match kind:
        case "classify":
            return {"label": label(given)}
        case "multilabel":
            return {"labels": [label(one) for one in given], "scores": dict.fromkeys(labels)}
        case "tag":
            return {"tags": [{"label": label(one)} for one in given]}
        case "choose":
            return {"choice": int(given)}
        case "span":
            given = given.get("text", given) if isinstance(given, Mapping) else given  # as SQuAD has them
            several = [given] if isinstance(given, str) else list(given)
            answers = [one if isinstance(one, str) or not isinstance(one, list | tuple) else one[0] for one in several]
            if isinstance(given, Mapping) or not all(isinstance(one, str) for one in answers):
                raise ValueError(f"rows[{number}]: {name} is {given!r:.80}; give a text, or a list of texts")
            return {"answers": answers or [""]}
    return {"score": float(given)}


def score(kind: str, found: Sequence[Prediction], right: Sequence[Prediction]) -> float:
    """Of a hundred, as the head of this file says of each kind. A correlation with what is all the same is 0."""
    from scipy.stats import pearsonr, spearmanr

    match kind:
        case "regress" | "rerank":
            sides = [np.array([one["score"] for one in several]) for several in (found, right)]
            if any(side.std() == 0 for side in sides):
                return 100.0 if np.array_equal(sides[0], sides[1]) else 0.0
            return 100.0 * float((pearsonr if kind == "regress" else spearmanr)(*sides).statistic)
        case "multilabel":
            hits = [
                (label in a["labels"]) == (label in b["labels"])
                for a, b in zip(found, right, strict=True)
                for label in a["scores"]
            ]
        case "tag":
            pairs = [pair for a, b in zip(found, right, strict=True) for pair in _words(a, b)]
            hits = [a == b for a, b in pairs]
        case "span":
            hits = [a["answer"] in b.get("answers", [b.get("answer")]) for a, b in zip(found, right, strict=True)]
        case _:
            key = "choice" if kind == "choose" else "label"
            hits = [a[key] == b[key] for a, b in zip(found, right, strict=True)]
    return 100.0 * float(np.mean(hits)) if hits else 100.0


def _words(found: Prediction, right: Prediction) -> list[tuple[Any, Any]]:
    """The tags of words, or where text was given and entities are said, these."""
    if "tags" in found and "tags" in right:
        return [(a["label"], b["label"]) for a, b in zip(found["tags"], right["tags"], strict=True)]
    sides = [{(e["start"], e["end"], e["label"]) for e in one["entities"]} for one in (found, right)]
    return [(entity in sides[0], entity in sides[1]) for entity in sorted(sides[0] | sides[1])]
