"""The web application: FastAPI's routes of every API, their errors in its own shape, and the OpenAPI page."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from tessera import __version__
from tessera.batching.refusals import Refused
from tessera.batching.service import Gone, Service
from tessera.serve import bodies, openai_api, own_api, pages, tei_api
from tessera.serve.call import Call, invalid, refusal
from tessera.serve.guard import Guard, shape_of

Handler = Callable[[Call, Any], Awaitable[Response]]
log = logging.getLogger("tessera.serve")

_POSTS: tuple[tuple[str, Handler, type[BaseModel], str], ...] = (
    ("/v1/embeddings", openai_api.embeddings, bodies.OpenAIEmbeddings, "OpenAI"),
    ("/v1/rerank", openai_api.rerank, bodies.RerankV1, "Cohere and Jina"),
    ("/embed", tei_api.embed, bodies.Embed, "text-embeddings-inference"),
    ("/embed_all", tei_api.embed_all, bodies.EmbedAll, "text-embeddings-inference"),
    ("/predict", tei_api.predict, bodies.Predict, "text-embeddings-inference"),
    ("/rerank", tei_api.rerank, bodies.Rerank, "text-embeddings-inference"),
    ("/similarity", tei_api.similarity, bodies.Similarity, "text-embeddings-inference"),
    ("/tokenize", tei_api.tokenize, bodies.Tokenize, "text-embeddings-inference"),
    ("/decode", tei_api.decode, bodies.Decode, "text-embeddings-inference"),
    ("/classify", own_api.classify, bodies.Classify, "tessera"),
    ("/tag", own_api.tag, bodies.Classify, "tessera"),
    ("/fill", own_api.fill, bodies.Fill, "tessera"),
    ("/answer", own_api.answer, bodies.Answering, "tessera"),
)


def make_app(
    service: Service, *, keys: tuple[bytes, ...] = (), origins: Sequence[str] = (), logged: bool = False
) -> FastAPI:
    """The application around a service.

    keys     digests of those who may ask (guard.read_keys); none: everybody
    origins  pages of other hosts that browsers may let ask; none: none may
    logged   whether each request leaves a line in the log
    """
    app = FastAPI(
        title="tessera", version=__version__, docs_url=None, redoc_url=None, description="Encoders over HTTP."
    )
    for path, handler, body, api in _POSTS:
        _post(app, service, path, handler, body, api)
    _hub(app, service)
    _gets(app, service)
    _errors(app, service)
    if origins:
        from fastapi.middleware.cors import CORSMiddleware

        allowed: Any = {"allow_methods": ["GET", "POST"], "allow_headers": ["Authorization", "Content-Type"]}
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), **allowed)
    app.add_middleware(Guard, keys=keys, logged=logged)
    return app


def _post(app: FastAPI, service: Service, path: str, handler: Handler, body: type[BaseModel], api: str) -> None:
    async def endpoint(request: Request) -> Response:
        return await answered(service, request, path, body, handler)

    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = schema.pop("$defs", {})
    content = {"application/json": {"schema": schema}}
    app.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        tags=[api],
        name=handler.__name__,
        summary=(handler.__doc__ or "").partition("\n")[0],
        operation_id=path.strip("/").replace("/", "_"),
        openapi_extra={"requestBody": {"required": True, "content": content}, "x-parts": parts},
    )


def _hub(app: FastAPI, service: Service) -> None:
    async def any_task(request: Request) -> Response:
        name = request.path_params.get("name")

        async def handler(call: Call, body: bodies.HubTask) -> Response:
            return await own_api.any_task(call, body, name)

        return await answered(service, request, "/", bodies.HubTask, handler)

    for path in ("/", "/models/{name:path}"):
        app.add_api_route(path, any_task, methods=["POST"], include_in_schema=False)


async def answered(service: Service, request: Request, path: str, kind: type[BaseModel], handler: Handler) -> Response:
    """What a route answers, whatever happens on the way."""
    call, shape, metrics = Call(request, service), shape_of(path), service.metrics
    service.at_work += 1
    try:
        response = await handler(call, await call.body(kind))
        metrics.succeeded.labels(path, ",".join(call.answered_by)).inc()
        return response
    except Gone:
        metrics.gone.inc()
        return Response(status_code=499)
    except (Refused, ValidationError) as error:
        refused = error if isinstance(error, Refused) else invalid(error)
        metrics.failed.labels(refused.kind).inc()
        return refusal(refused, shape)
    except Exception as error:
        metrics.failed.labels("failed").inc()
        log.error("%s failed: %s", path, type(error).__name__)
        log.debug("why", exc_info=error)
        return refusal(Refused("failed", "the server could not do this; its log says more"), shape)
    finally:
        service.at_work -= 1
        call.release()
        metrics.requests.labels(path, ",".join(call.answered_by)).inc()
        metrics.duration.observe(call.seconds())


def _gets(app: FastAPI, service: Service) -> None:
    async def health() -> Response:
        if service.ready and not service.stopping and service.worker.is_alive():
            return Response(status_code=200)
        return refusal(Refused("unready", "stopping" if service.stopping else "loading", retry_after=5), "tei")

    async def metrics() -> Response:
        service.metrics.queue_tokens.set(service.queue.tokens)
        service.metrics.ready.set(int(service.ready))
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def info() -> Response:
        return tei_api.info(service)

    async def models() -> Response:
        return openai_api.models(service)

    async def one_model(request: Request) -> Response:
        return openai_api.one_model(service, request.path_params["name"])

    async def page() -> Response:
        return pages.page()

    async def docs() -> Response:
        return pages.reference(app.openapi())

    def add(path: str, handler: Callable[..., Awaitable[Response]], **how: Any) -> None:
        app.add_api_route(path, handler, **how)
        app.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)  # as checks of health ask

    add("/health", health, tags=["text-embeddings-inference"], summary="200 once the models are warm.")
    add("/ping", health, include_in_schema=False)
    add("/metrics", metrics, tags=["text-embeddings-inference"], summary="Prometheus metrics.")
    add("/info", info, tags=["text-embeddings-inference"], summary="What is served.")
    add("/v1/models", models, tags=["OpenAI"], summary="All models that are served.")
    add("/v1/models/{name:path}", one_model, tags=["OpenAI"], summary="One of them.")
    add("/", page, include_in_schema=False)
    add("/docs", docs, include_in_schema=False)
    made = app.openapi

    def openapi() -> dict[str, Any]:
        """FastAPI's, with the parts of the bodies where references look for them."""
        found = made()
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for operation in (one for way in found["paths"].values() for one in way.values()):
            schemas.update(operation.pop("x-parts", {}))
        return found

    app.openapi = openapi  # type: ignore[method-assign]


def _errors(app: FastAPI, service: Service) -> None:
    """What no route answers: unknown paths, wrong methods, and refusals of the routes above."""

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kinds: dict[int, Refused] = {
            404: Refused("not_found", "there is no such path; GET /docs lists them"),
            405: Refused("method", "this path knows another method; GET /docs lists them"),
        }
        return refusal(kinds.get(error.status_code, Refused("invalid", "bad request")), shape_of(request.url.path))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return refusal(error, shape_of(request.url.path))

    app.add_exception_handler(HTTPException, unknown)
    app.add_exception_handler(Refused, refused)
