"""OpenAI's API: /v1/embeddings and /v1/models, for its clients and LangChain's; /v1/rerank of Cohere and Jina."""

import base64
import time
from typing import Any

from fastapi import Response

from tessera.batching.models import Served
from tessera.batching.reading import characters
from tessera.batching.refusals import Refused
from tessera.batching.service import Service
from tessera.serve.answers import options, rerank_scores, truncates, vectors
from tessera.serve.bodies import OpenAIEmbeddings, RerankV1
from tessera.serve.call import Call, as_json

BEGAN = int(time.time())


async def embeddings(call: Call, body: OpenAIEmbeddings) -> Response:
    """Embeddings of texts or token ids, as OpenAI's clients ask for them."""
    served = call.model(body.model, "embeddings")
    how = options(
        served,
        dimensions=body.dimensions,
        prompt_name=body.prompt_name,
        batch_invariant=bool(body.batch_invariant),
    )
    texts = body.input.texts
    truncate = truncates(call, body.truncate)
    rows, answer = await vectors(call, served, texts, how, truncate=truncate, field="input")
    if body.encoding_format == "base64":
        written: list[Any] = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
    else:
        written = list(rows)
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    if truncate:
        usage["truncated_texts"] = answer.truncated
    found = {
        "object": "list",
        "data": [{"object": "embedding", "index": n, "embedding": row} for n, row in enumerate(written)],
        "model": served.name,
        "usage": usage,
    }
    return call.json(found, [answer], characters=characters(texts))


def about(served: Served) -> dict[str, Any]:
    """A model in words: what it answers, what computes it."""
    found: dict[str, Any] = {
        "id": served.name,
        "object": "model",
        "created": BEGAN,
        "owned_by": "tessera",
        "answers": list(served.answers),
        "kind": served.kind,
        "engine": served.engine,
        "max_length": served.max_length,
    }
    if served.encoder is not None and served.vectors is not None:
        found |= {"dimensions": served.encoder.dimensions, "prompts": sorted(served.encoder.prompts)}
    if served.filler is not None:
        found["mask_token"] = served.tokenizer.token(served.tokenizer.mask_id)
    if served.labels:
        found["labels"] = list(served.labels)
    return found | ({"shares_trunk_with": served.shares} if served.shares else {})


def models(service: Service) -> Response:
    """All models that are served."""
    return as_json({"object": "list", "data": [about(served) for served in service.models]})


def one_model(service: Service, name: str) -> Response:
    """The model of that name. Raises Refused where there is none."""
    found = next((served for served in service.models if served.name == name), None)
    if found is None:
        raise Refused("unknown_model", "there is no such model", param="model")
    return as_json(about(found))


async def rerank(call: Call, body: RerankV1) -> Response:
    """Documents in the order of a cross-encoder, as Cohere's and Jina's clients ask for them."""
    documents = [one if isinstance(one, str) else one.get("text") for one in body.documents]
    if not all(isinstance(one, str) for one in documents):
        raise Refused("invalid", "documents: each is a text, or an object with a text", param="documents")
    truncate = truncates(call, body.truncate)
    served, scores, answer = await rerank_scores(
        call, body.model, body.query, documents, truncate=truncate, alone=body.batch_invariant, field="documents",
        raw=False,
    )  # fmt: skip
    order = sorted(range(len(scores)), key=lambda n: -scores[n])[: body.top_n]
    results: list[dict[str, Any]] = [{"index": n, "relevance_score": scores[n]} for n in order]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    found: dict[str, Any] = {
        "id": f"rerank-{int(1e6 * time.time()):x}",
        "model": served.name,
        "results": results,
        "usage": {"total_tokens": answer.tokens},
        "meta": {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": answer.tokens}},
    }
    if truncate:
        found["truncated_texts"] = answer.truncated
    return call.json(found, [answer], characters=len(body.query) + characters(documents))
