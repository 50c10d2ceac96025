"""Our own routes, for what no other API has a word for: /classify, /tag, /fill and /answer.

And the one route by which huggingface_hub's InferenceClient asks a server, by its URL, for any task: what the model is
decides what is answered, in the shape of transformers' pipelines.

    InferenceClient("http://127.0.0.1:8080/models/topics").text_classification("...")
"""

from typing import Any

from fastapi import Response
from scipy.special import expit, softmax

from tessera.batching.models import Served
from tessera.batching.reading import characters
from tessera.batching.refusals import Refused
from tessera.serve import tei_api
from tessera.serve.answers import filled, predictions, task_models
from tessera.serve.bodies import Answering, Classify, Embed, Fill, HubTask, Predict, Rerank, Similarity
from tessera.serve.call import Call

_MOST_GUESSES = 100
_ANY = ("embeddings", "fill", "classes", "number", "scores", "tags", "spans")


async def classify(call: Call, body: Classify) -> Response:
    """What the heads of one or several models say of each text: classes, numbers, tags."""
    return await _predicted(call, body, "classes", "number", "scores", "tags", "options")


async def tag(call: Call, body: Classify) -> Response:
    """Entities or tags of each text, with the characters they stand at."""
    return await _predicted(call, body, "tags")


async def _predicted(call: Call, body: Classify, *kinds: Any) -> Response:
    served = task_models(call, body.model, *kinds)
    rows = body.inputs.rows
    found, answer = await predictions(
        call, served, rows, long="truncate" if body.truncate else "windows", alone=body.batch_invariant
    )
    several: list[dict[str, Any]] = [
        {"model": one.name, "predictions": mine} for one, mine in zip(served, found, strict=True)
    ]
    content = {"results": several} if isinstance(body.model, list) else several[0]
    return call.json(_with_usage(content, answer), [answer])


async def fill(call: Call, body: Fill) -> Response:
    """The likeliest tokens for each mask of each text."""
    served = call.model(body.model, "fill")
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    found, answer = await filled(call, served, texts, body.top_k, alone=body.batch_invariant)
    content = {"model": served.name, "predictions": found}
    return call.json(_with_usage(content, answer), [answer], characters=characters(texts))


async def answer(call: Call, body: Answering) -> Response:
    """Answers out of texts, with the characters they stand at."""
    served = call.model(body.model, "spans")
    asked = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    rows = [{"question": one.question, "context": one.context} for one in asked]
    (found,), took = await predictions(
        call, [served], rows, long="truncate" if body.truncate else "windows", alone=body.batch_invariant
    )
    return call.json(_with_usage({"model": served.name, "predictions": found}, took), [took])


def _with_usage(content: dict[str, Any], answer: Any) -> dict[str, Any]:
    return {**content, "usage": {"tokens": answer.tokens, "truncated_texts": answer.truncated}}


# --------------------------------------------------------------------------------------- the route of InferenceClient


async def any_task(call: Call, body: HubTask, name: str | None) -> Response:
    """Whatever the model is for."""
    served = call.model(name or body.model, *_ANY)  # type: ignore[arg-type]
    given = body.inputs
    if served.kind == "tag":
        return await _tags(call, served, _text(given))
    if served.kind == "span":
        return await _answer(call, served, given)
    everything = body.given(served.name)
    if served.kind != "embed":
        if given is None:
            return await tei_api.rerank(call, Rerank.model_validate(everything))
        return await _labels(call, given, everything, body)
    if isinstance(given, dict):
        return await tei_api.similarity(call, Similarity.model_validate({**everything, "parameters": body.parameters}))
    if served.filler is not None and isinstance(given, str) and _mask(served) in given:
        return await _fills(call, served, given, body)
    return await tei_api.embed(call, Embed.model_validate(everything))


async def _labels(call: Call, given: Any, everything: dict[str, Any], body: HubTask) -> Response:
    """As a pipeline of transformers: a list is of texts, and what is applied to logits may be said."""
    if isinstance(given, list) and all(isinstance(one, str) for one in given):
        everything = {**everything, "inputs": [[one] for one in given]}
    function = body.parameters.get("function_to_apply")
    if function not in (None, "none", "sigmoid", "softmax"):
        raise Refused("invalid", "parameters.function_to_apply: give none, sigmoid or softmax")
    raw = {} if function is None else {"raw_scores": True}
    found, took = await tei_api.labelled(call, Predict.model_validate({**everything, **raw}))
    if function in ("sigmoid", "softmax"):
        for labels in found:
            logits = [label["score"] for label in labels]
            chances = expit(logits) if function == "sigmoid" else softmax(logits)
            for label, chance in zip(labels, chances.tolist(), strict=True):
                label["score"] = chance
    most = _top_k(body, None)
    return call.json([labels[:most] for labels in found], [took])  # lists even of one text, as that client wants it


def _top_k(body: HubTask, default: int | None) -> int | None:
    found = body.parameters.get("top_k")
    if found is None:
        return default
    if type(found) is not int or found < 1:
        raise Refused("invalid", "parameters.top_k: give a whole number, at least 1")
    return found


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise Refused("invalid", "inputs: give a text")
    return given


def _mask(served: Served) -> str:
    return served.tokenizer.token(served.tokenizer.mask_id)


async def _tags(call: Call, served: Served, text: str) -> Response:
    ((found,),), took = await predictions(call, [served], [text], long="windows", alone=False)
    whole = "entities" in found
    rows = [
        {
            "entity_group" if whole else "entity": one["label"],
            "score": one["score"],
            "word": one["text"],
            "start": one["start"],
            "end": one["end"],
        }
        for one in found["entities" if whole else "tags"]
    ]
    return call.json(rows, [took], characters=len(text))


async def _answer(call: Call, served: Served, given: Any) -> Response:
    if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in ("question", "context")):
        raise Refused("invalid", "inputs: give a question and a context")
    row = {"question": given["question"], "context": given["context"]}
    ((found,),), took = await predictions(call, [served], [row], long="windows", alone=False)
    return call.json({key: found[key] for key in ("answer", "score", "start", "end")}, [took])


async def _fills(call: Call, served: Served, text: str, body: HubTask) -> Response:
    top_k = _top_k(body, 5)
    if top_k is None or top_k > _MOST_GUESSES:
        raise Refused("invalid", f"parameters.top_k: give a whole number from 1 to {_MOST_GUESSES}")
    (masks,), took = await filled(call, served, [text], top_k, alone=False)
    rows = [
        [
            {
                "score": guess["score"],
                "token": guess["token"],
                "token_str": guess["text"],
                "sequence": text.replace(_mask(served), guess["text"].strip(), 1),
            }
            for guess in guesses
        ]
        for guesses in masks
    ]
    return call.json(rows[0] if len(rows) == 1 else rows, [took], characters=len(text))
