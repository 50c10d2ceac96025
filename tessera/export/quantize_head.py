"""Quantization of a model with the head of a task, measured by what the head says: agreement, and score where known.

head_scores.py has the scores. Agreement is the score of int8 with the answers of the float model in the place of the
right ones.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tessera.export import heads
from tessera.export.head_scores import CALIBRATED, FEWEST, right_answer, score
from tessera.export.int8 import batches, size, write_int8
from tessera.export.model_card import refuse_different
from tessera.export.tracing import To, write_graph
from tessera.files import write_json
from tessera.inference.runtime import ABOUT
from tessera.prediction.predictor import Predictor, Row
from tessera.prediction.requests import request
from tessera.progress import Say

_TIMED = 64  # rows


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
        say(f"int8, calibrated on {calibrated} rows" if calibrated else "int8 without calibration")
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
