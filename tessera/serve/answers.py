"""What every API asks for: vectors, hidden states, classes, numbers, tags, answers, rerank scores, filled masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from tessera.batching.models import Answers, Served
from tessera.batching.reading import (
    Direction,
    Long,
    Read,
    Rows,
    Text,
    characters,
    for_masks,
    for_states,
    for_task,
    for_vectors,
    together,
)
from tessera.batching.refusals import Refused
from tessera.batching.service import Answer
from tessera.inference.engine import EncodeOptions
from tessera.prediction import answers
from tessera.serve.call import Call

Prediction = dict[str, Any]
Array = np.ndarray[Any, Any]


def options(
    served: Served, *, dimensions: int | None = None, prompt_name: str | None = None, **more: Any
) -> EncodeOptions:
    """How texts are embedded. Raises Refused for what this model cannot do."""
    assert served.encoder is not None
    if dimensions is not None and dimensions > served.encoder.dimensions:
        raise Refused(
            "invalid", f"dimensions is {dimensions}; vectors here have {served.encoder.dimensions}", param="dimensions"
        )
    if prompt_name is not None and prompt_name not in served.encoder.prompts:
        known = ", ".join(sorted(served.encoder.prompts)) or "none"
        raise Refused("invalid", f"there is no such prompt; this model has {known}", param="prompt_name")
    given: dict[str, Any] = {"dimensions": dimensions, "prompt_name": prompt_name, "max_length": served.max_length}
    return served.encoder.how(**given, **more)


def truncates(call: Call, asked: bool | None) -> bool:
    """Whether a part of what is too long is read: as the request says, else as the server is set."""
    return call.service.limits.auto_truncate if asked is None else asked


async def vectors(
    call: Call,
    served: Served,
    texts: Sequence[Text],
    how: EncodeOptions,
    *,
    truncate: bool,
    direction: Direction = "right",
    field: str = "inputs",
) -> tuple[Array, Answer]:
    """float32 [n, h], and what it took."""
    call.service.check_texts(texts, field)
    read = await call.service.read(
        characters(texts),
        lambda: for_vectors(served, texts, how, truncate=truncate, direction=direction, field=field),
    )
    answer = await call.ask(read)
    return np.stack([row for (row,) in answer.results]), answer


async def states(
    call: Call,
    served: Served,
    texts: Sequence[Text],
    how: EncodeOptions,
    *,
    truncate: bool,
    direction: Direction = "right",
    field: str = "inputs",
) -> tuple[list[Array], Answer]:
    """Of each text float32 [t, C], and what it took. Raises Refused where that is too much for one answer."""
    call.service.check_texts(texts, field)
    read = await call.service.read(
        characters(texts),
        lambda: for_states(served, texts, how, truncate=truncate, direction=direction, field=field),
    )
    assert served.encoder is not None
    numbers, most = read.tokens * served.encoder.config.hidden_size, call.service.limits.answer_numbers
    if numbers > most:
        raise Refused("too_large", f"the answer has {numbers} numbers, more than {most}; send fewer texts at once")
    answer = await call.ask(read)
    return [rows for (rows,) in answer.results], answer


# ------------------------------------------------------------------------------------------------- heads of tasks


async def predictions(
    call: Call, served: Sequence[Served], rows: Sequence[Any], *, long: Long, alone: bool, field: str = "inputs"
) -> tuple[list[list[Prediction]], Answer]:
    """What each model says of each row, as Predictor.predict does, and what it took.

    Models that stand on one trunk share its forward pass where they read a row as the same tokens.
    """
    call.service.check_texts(rows, field)

    def read() -> list[Rows]:
        return [for_task(one, rows, long=long, alone=alone, field=field) for one in served]

    several = await call.service.read(len(served) * _size(rows), read)
    whole, places = together([one.read for one in several])
    answer = await call.ask(whole)
    found = []
    for model, mine, at in zip(served, several, places, strict=True):
        assert model.predictor is not None
        scores = [answer.results[piece][slot] for piece, slot in at]
        found.append(list(answers.of(model.predictor.model.task, mine.asked, mine.items, scores)))
    return found, answer


async def logits(
    call: Call, served: Served, rows: Sequence[Any], *, long: Long, alone: bool, field: str
) -> tuple[list[Array], Answer]:
    """Of each row float32 [K], and what it took; of kinds that score whole documents."""
    call.service.check_texts(rows, field)
    read = await call.service.read(
        _size(rows), lambda: for_task(served, rows, long=long, alone=alone, field=field).read
    )
    answer = await call.ask(read)
    return [scores for (scores,) in answer.results], answer


async def rerank_scores(
    call: Call,
    name: str | None,
    query: str,
    texts: Sequence[Any],
    *,
    truncate: bool,
    alone: bool,
    field: str,
    raw: bool,
) -> tuple[Served, list[float], Answer]:
    """The score of each text for a query: from 0 to 1, or `raw` as the model gives it."""
    served = call.model(name, "scores", "number")
    if served.labels and len(served.labels) > 1:
        raise Refused("wrong_model", f"{served.name} gives classes; a reranker gives one number", param="model")
    pairs = [(query, text) for text in texts]
    rows, answer = await logits(
        call, served, pairs, long="truncate" if truncate else "refuse", alone=alone, field=field
    )
    numbers = [float(row[0]) for row in rows]
    return served, numbers if raw else expit(numbers).tolist(), answer


def probabilities(served: Served, row: Array, *, raw: bool) -> list[float]:
    """Of each label, out of logits [K]: softmax of classes, sigmoid of labels; a number as it is."""
    if raw or served.kind == "regress":
        return [float(value) for value in row]
    chances: list[float] = (softmax if served.kind == "classify" else expit)(row.astype(np.float64)).tolist()
    return chances


async def filled(
    call: Call, served: Served, texts: Sequence[str], top_k: int, *, alone: bool, field: str = "inputs"
) -> tuple[list[list[list[Prediction]]], Answer]:
    """Of each text, for each of its masks, the likeliest tokens, and what it took."""
    call.service.check_texts(texts, field)

    def read() -> Read:
        return for_masks(served, texts, top_k, alone=alone, field=field)

    answer = await call.ask(await call.service.read(characters(texts), read))
    found = [
        [
            [
                {"token": guess.id, "text": guess.text, "score": guess.probability}
                for guess in guesses
            ]
            for guesses in masks
        ]
        for (masks,) in answer.results
    ]  # fmt: skip
    return found, answer


def task_models(call: Call, names: str | list[str] | None, *kinds: Answers) -> list[Served]:
    """The models of some names; of none the first that answers any of `kinds`."""
    if isinstance(names, list) and (not names or len(set(names)) < len(names)):
        raise Refused("invalid", "model is a name, or a list of names, each once", param="model")
    return [call.model(name, *kinds) for name in (names if isinstance(names, list) else [names])]


def _size(rows: Sequence[Any]) -> int:
    """Characters of rows, about."""
    return sum(len(str(row)) if isinstance(row, dict) else characters([row]) for row in rows)
