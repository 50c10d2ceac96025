"""Scores of a head's answers, out of a hundred, and labelled rows to measure them on.

classify, choose  of a hundred rows, those with the right label or option
multilabel        of a hundred rows and labels, those that are rightly there or not
tag               of a hundred words, those with the right tag
span              of a hundred questions, those with the right answer
regress           correlation with the right numbers, times a hundred (Pearson's)
rerank            rank correlation with the right scores, times a hundred (Spearman's)
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tessera.export.heads import has_head
from tessera.inference import sentence_folder as folders
from tessera.labelled import judged
from tessera.prediction.predictor import Prediction, Predictor, Row

FEWEST = 32  # rows to measure on, or the figures mean nothing
CALIBRATED = 128  # rows; more made no difference to embeddings
_ANSWERS = {  # under which names a row may say what is right, the first that is there
    "classify": ("label",), "multilabel": ("labels", "label"), "tag": ("tags", "labels"), "span": ("answer", "answers"),
    "regress": ("score", "label"), "rerank": ("score", "label"), "choose": ("choice", "label"),
}  # fmt: skip


def read_rows(folder: str | Path, where: str) -> list[dict[str, Any]]:
    """Rows that say what is right, of a file that the model of a folder could be fine-tuned on.

    Raises ValueError where it has no head, DataError as `judged.rows`.
    """
    place = folders.local(folder)
    if not has_head(place):
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
