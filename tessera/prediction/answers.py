"""Logits to predictions: probabilities, thresholds, entities with character offsets, answers out of texts."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.special import expit, logsumexp, softmax

from tessera.bulk.nearest import Floats
from tessera.data.examples import Question, Tagged
from tessera.model.task_config import TaskConfig
from tessera.prediction.features import Item
from tessera.prediction.requests import Request
from tessera.prediction.tags import entities, says_entities
from tessera.prediction.windows import Best

Prediction = dict[str, Any]


def of(
    task: TaskConfig, some: Sequence[Request], items: Sequence[Item], scores: Sequence[Floats]
) -> Iterator[Prediction]:
    """The prediction of each request, in order.

    items   theirs, in order; a long text has several
    scores  of each item, as `item_scores.predicted` gives them
    """
    mine: list[list[int]] = [[] for _ in some]
    for number, item in enumerate(items):
        mine[item.example].append(number)
    for one, numbers in zip(some, mine, strict=True):
        parts = [(items[n], scores[n]) for n in numbers]
        match task.kind:
            case "tag":
                yield _tagged(task, one, parts)
            case "span":
                yield _span(task, one, parts)
            case _:
                yield _document(task, parts)


def _document(task: TaskConfig, parts: Sequence[tuple[Item, Floats]]) -> Prediction:
    """Of a text, a pair or options; windows of a text weigh as many tokens as they have."""
    tokens = np.array([item.tokens for item, _ in parts], np.float64)
    weights = tokens / tokens.sum()
    logits = np.stack([rows for _, rows in parts]).astype(np.float64)
    more: Prediction = {"windows": len(parts)} if len(parts) > 1 else {}
    more |= _truncated(parts)
    match task.kind:
        case "regress":
            return {"score": float(weights @ logits[:, 0]), **more}
        case "rerank":
            return {"score": float(weights @ expit(logits[:, 0])), **more}
        case "choose":
            chances = softmax(logits[0])
            return {"choice": int(chances.argmax()), "scores": chances.tolist(), **more}
        case "multilabel":
            chances = weights @ expit(logits)
            bounds = task.thresholds or (0.5,) * len(task.labels)
            held = [name for name, p, bound in zip(task.labels, chances, bounds, strict=True) if p >= bound]
            return {"labels": held, "scores": dict(zip(task.labels, chances.tolist(), strict=True)), **more}
    chances = weights @ softmax(logits, axis=1)
    best = int(chances.argmax())
    scores = dict(zip(task.labels, chances.tolist(), strict=True))
    return {"label": task.labels[best], "score": float(chances[best]), "scores": scores, **more}


def _span(task: TaskConfig, one: Request, parts: Sequence[tuple[Item, Floats]]) -> Prediction:
    """The best answer of all windows; its score is the product of the probabilities of its ends in its window."""
    assert isinstance(one.example, Question)
    best, chance = Best(), 0.0
    for item, rows in parts:
        assert item.window is not None
        found = best.better(item.window, rows)
        if found.score > best.score:
            chance = float(np.exp(found.score - logsumexp(rows.astype(np.float64), axis=0).sum()))
        best = found
    text, more = best.text(one.example.context, task.no_answer), _truncated(parts)
    if not text:
        return {"answer": "", "start": 0, "end": 0, "score": chance if not task.no_answer else 1.0 - chance, **more}
    inside = one.example.context[best.begin : best.end]
    begin = best.begin + len(inside) - len(inside.lstrip())
    return {"answer": text, "start": begin, "end": begin + len(text), "score": chance, **more}


def _truncated(parts: Sequence[tuple[Item, Floats]]) -> Prediction:
    return {"truncated": True} if any(item.truncated for item, _ in parts) else {}


# ---------------------------------------------------------------------------------------------------------------- tags


def _tagged(task: TaskConfig, one: Request, parts: Sequence[tuple[Item, Floats]]) -> Prediction:
    """A label for each word; entities where labels say where one begins and goes on."""
    assert isinstance(one.example, Tagged)
    words = one.example.words
    chances = np.zeros((len(words), len(task.labels)))
    for item, rows in parts:
        np.add.at(chances, item.owners, softmax(rows.astype(np.float64), axis=1))
    chances /= np.maximum(chances.sum(1, keepdims=True), 1e-12)
    numbers = chances.argmax(1) if len(words) else np.zeros(0, np.int64)
    labels = [task.labels[n] for n in numbers]
    places = one.words.places if one.words is not None else _joined(words)
    text = one.text if one.words is not None else " ".join(words)
    tags = [
        {"label": label, "text": text[begin:end], "start": begin, "end": end, "score": float(chances[n, numbers[n]])}
        for n, (label, (begin, end)) in enumerate(zip(labels, places, strict=True))
    ]
    if not says_entities(task.labels):
        return {"tags": tags}
    found = {"entities": [_entity(text, tags[a:b], name) for a, b, name in entities(labels)]}
    return found if one.words is not None else {**found, "tags": tags}


def _joined(words: Sequence[str]) -> list[tuple[int, int]]:
    """Where words stand with a space between them."""
    ends = np.cumsum([len(word) + 1 for word in words])
    return [(int(end) - len(word) - 1, int(end) - 1) for end, word in zip(ends, words, strict=True)]


def _entity(text: str, tags: Sequence[Prediction], name: str) -> Prediction:
    begin, end = tags[0]["start"], tags[-1]["end"]
    score = float(np.mean([tag["score"] for tag in tags]))
    return {"label": name, "text": text[begin:end], "start": begin, "end": end, "score": score}


# ------------------------------------------------------------------------------------------------------- less of them


def narrowed(found: Prediction, threshold: float | None = None, top: int | None = None) -> Prediction:
    """A prediction with less in it.

    threshold  the probability from which on a label holds, instead of the folder's; a label that reaches it not is
               None, an entity or a tag is left out
    top        only so many scores, the highest; of equals the first label
    """
    found = dict(found)
    if threshold is not None:
        if "labels" in found:
            found["labels"] = [name for name, p in found["scores"].items() if p >= threshold]
        elif "label" in found and found["score"] < threshold:
            found["label"] = None
        for several in ("entities", "tags"):
            if several in found:
                found[several] = [one for one in found[several] if one["score"] >= threshold]
    if top is not None and isinstance(found.get("scores"), dict):
        best = sorted(found["scores"].items(), key=lambda item: -item[1])[:top]
        found["scores"] = dict(best)
    return found


def names(found: Prediction) -> list[str]:
    """What a prediction says, to be counted: labels, of entities or tags too, options, whether there is an answer."""
    if "labels" in found:
        return list(found["labels"]) or ["(none)"]
    if "label" in found:
        return [found["label"] if found["label"] is not None else "(none)"]
    if "choice" in found:
        return [f"option {found['choice']}"]
    if "answer" in found:
        return ["answer" if found["answer"] else "(none)"]
    return [one["label"] for one in (found["entities"] if "entities" in found else found.get("tags", []))]
