"""The API of text-embeddings-inference: its routes, bodies and answers, so that its clients need no change.

Its `model_type` has no word for tags, answers and masks; those routes are ours (own_api.py). Where several models are
served a body may name one, `"model": "..."`; without it the first that fits answers.
"""

from typing import Any

import numpy as np
from fastapi import Response

from tessera import __version__
from tessera.batching.models import Served
from tessera.batching.reading import characters
from tessera.batching.refusals import Refused
from tessera.batching.service import Answer, Service
from tessera.inference.similarity import scores
from tessera.serve.answers import logits, options, probabilities, rerank_scores, states, truncates, vectors
from tessera.serve.bodies import Decode, Embed, EmbedAll, Predict, Rerank, Similarity, SimilarityParameters, Tokenize
from tessera.serve.call import Call, as_json
from tessera.serve.openai_api import about

_EVERYTHING = ("embeddings", "fill", "classes", "number", "scores", "tags", "spans", "options")


async def embed(call: Call, body: Embed) -> Response:
    """Vectors: a list for each text."""
    served = call.model(body.model, "embeddings")
    how = options(
        served,
        dimensions=body.dimensions,
        prompt_name=body.prompt_name,
        normalize=body.normalize,
        batch_invariant=body.batch_invariant,
    )
    rows, answer = await vectors(
        call, served, body.inputs.texts, how,
        truncate=truncates(call, body.truncate), direction=body.truncation_direction,
    )  # fmt: skip
    return call.json(rows, [answer], characters=characters(body.inputs.texts))


async def embed_all(call: Call, body: EmbedAll) -> Response:
    """Hidden states: for each text a list for each token."""
    served = call.model(body.model, "embeddings")
    how = options(served, prompt_name=body.prompt_name, batch_invariant=body.batch_invariant)
    rows, answer = await states(
        call, served, body.inputs.texts, how,
        truncate=truncates(call, body.truncate), direction=body.truncation_direction,
    )  # fmt: skip
    return call.json(rows, [answer], characters=characters(body.inputs.texts))


async def predict(call: Call, body: Predict) -> Response:
    """Labels with their scores, the highest first; of a single text one list, else a list of them."""
    found, answer = await labelled(call, body)
    size = characters(body.inputs.rows) if all(not isinstance(row, dict) for row in body.inputs.rows) else 0
    return call.json(found[0] if body.inputs.single else found, [answer], characters=size)


async def labelled(call: Call, body: Predict) -> tuple[list[list[dict[str, Any]]], Answer]:
    """Of each text labels with their scores, and what it took."""
    served = call.model(body.model, "classes", "number", "scores")
    rows, answer = await logits(
        call, served, body.inputs.rows,
        long="truncate" if truncates(call, body.truncate) else "refuse", alone=body.batch_invariant, field="inputs",
    )  # fmt: skip
    found = []
    for row in rows:
        chances = probabilities(served, row, raw=body.raw_scores)
        pairs = zip(served.labels or ("score",), chances, strict=True)
        found.append([{"score": chance, "label": label} for label, chance in sorted(pairs, key=lambda one: -one[1])])
    return found, answer


async def rerank(call: Call, body: Rerank) -> Response:
    """The texts in the order of a cross-encoder."""
    _, numbers, answer = await rerank_scores(
        call, body.model, body.query, body.texts,
        truncate=truncates(call, body.truncate), alone=body.batch_invariant, field="texts", raw=body.raw_scores,
    )  # fmt: skip
    found: list[dict[str, Any]] = []
    for number in sorted(range(len(numbers)), key=lambda n: -numbers[n]):
        text = {"text": body.texts[number]} if body.return_text else {}
        found.append({"index": number, **text, "score": numbers[number]})
    return call.json(found, [answer], characters=len(body.query) + characters(body.texts))


async def similarity(call: Call, body: Similarity) -> Response:
    """The cosine of a text with each of some others."""
    asked = body.parameters or SimilarityParameters(truncation_direction="right")
    served = call.model(body.model or asked.model, "embeddings")
    if not body.inputs.sentences:
        raise Refused("empty", "inputs.sentences cannot be empty")
    texts: list[Any] = [body.inputs.source_sentence, *body.inputs.sentences]
    how = options(served, prompt_name=asked.prompt_name, normalize=False, batch_invariant=asked.batch_invariant)
    rows, answer = await vectors(
        call, served, texts, how,
        truncate=truncates(call, asked.truncate), direction=asked.truncation_direction,
    )  # fmt: skip
    return call.json(scores(rows[0], rows[1:], "cosine")[0], [answer], characters=characters(texts))


async def tokenize(call: Call, body: Tokenize) -> Response:
    """The tokens of each text, with the characters that they come from."""
    served = call.model(body.model, *_EVERYTHING)  # type: ignore[arg-type]
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    call.service.check_texts(texts, "inputs")
    prompt = ""
    if body.prompt_name is not None:
        if served.encoder is None or body.prompt_name not in served.encoder.prompts:
            raise Refused("invalid", "prompt_name: this model has no such prompt")
        prompt = served.encoder.prompts[body.prompt_name]
    whole = [prompt + text for text in texts]
    found = await call.service.read(
        characters(whole), lambda: [_tokens(served, text, special=body.add_special_tokens) for text in whole]
    )
    return as_json(found)


def _tokens(served: Served, text: str, *, special: bool) -> list[dict[str, Any]]:
    ids, offsets = served.tokenizer.encode_offsets([text])[0]
    found = [
        {"id": int(token), "text": text[begin:end], "special": False, "start": int(begin), "stop": int(end)}
        for token, (begin, end) in zip(ids, offsets, strict=True)
    ]
    before, after = ([_special(served, token) for token in ids] for ids in served.tokenizer.template)
    return [*before, *found, *after] if special else found


def _special(served: Served, token: int) -> dict[str, Any]:
    return {"id": token, "text": served.tokenizer.token(token), "special": True, "start": None, "stop": None}


async def decode(call: Call, body: Decode) -> Response:
    """The text of each list of ids."""
    served = call.model(body.model, *_EVERYTHING)  # type: ignore[arg-type]
    call.service.check_texts(body.ids.texts, "ids")
    size = served.tokenizer.vocab_size
    if not all(isinstance(ids, np.ndarray) and int(ids.max()) < size for ids in body.ids.texts):
        raise Refused("invalid", f"ids is no list of token ids of this model; give ids from 0 to {size - 1}")
    rows: list[Any] = body.ids.texts
    special = not body.skip_special_tokens
    return as_json(
        await call.service.read(
            sum(map(len, rows)), lambda: [served.tokenizer.decode(ids, special=special) for ids in rows]
        )
    )


def info(service: Service) -> Response:
    """What is served, as text-embeddings-inference says it of its one model; of all of them under `models`."""
    first = service.model(None, *_EVERYTHING)  # type: ignore[arg-type]
    limits = service.limits
    named = {"id2label": {str(n): name for n, name in enumerate(first.labels)}}
    named["label2id"] = {name: n for n, name in enumerate(first.labels)}  # type: ignore[misc]
    pooling = "+".join(first.encoder.pipeline.pooling) if first.encoder else ""
    kinds: dict[str, Any] = {
        "scores": {"reranker": named},
        "number": {"reranker": named},
        "classes": {"classifier": named},
    }
    found = {
        "model_id": first.name,
        "model_sha": None,
        "model_dtype": str(first.trunk.dtype).removeprefix("torch."),
        "served_model_name": first.name,
        "model_type": kinds.get(first.answers[0], {"embedding": {"pooling": pooling}}),
        "max_concurrent_requests": limits.queue_tokens,
        "max_input_length": first.max_length,
        "max_batch_tokens": limits.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": limits.texts,
        "auto_truncate": limits.auto_truncate,
        "tokenization_workers": 2,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "models": [about(served) for served in service.models],
        "tokens_per_second": round(service.metrics.speed(), 1),
        "waiting_tokens": service.queue.tokens,
    }
    return as_json(found)
