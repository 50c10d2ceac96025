"""One HTTP call: its body within bounds of size and time, its client, and its answer.

Bodies are read here and not by the framework, so that a large, slow, deep or broken one ends in a clear refusal.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from tessera.batching.models import Answers, Served
from tessera.batching.refusals import Refused, Shape
from tessera.batching.service import Answer, Gone, Service

Body = TypeVar("Body", bound=BaseModel)


class Call:
    """What a route is given.

    shape  of its API, for errors
    """

    def __init__(self, request: Request, service: Service) -> None:
        self.request, self.service = request, service
        self.began = time.perf_counter()
        host = request.client
        self.client = f"{host.host}:{host.port}" if host else "unknown"
        self.answered_by: list[str] = []  # names of models
        self._held = 0

    def model(self, name: str | None, *answers: Answers) -> Served:
        """As `Service.model`; what answers is remembered, for whoever counts."""
        found = self.service.model(name, *answers)
        self.answered_by.append(found.name)
        return found

    async def body(self, kind: type[Body]) -> Body:
        """The JSON of the body, checked. Raises Refused naming the field that is wrong."""
        content = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content != "application/json":
            raise Refused("media", "give JSON, with the header Content-Type: application/json")
        data = await self._bytes()
        if not data:
            raise Refused("invalid", "the body is empty; give a JSON object")
        try:
            return kind.model_validate_json(data)
        except ValidationError as error:
            raise invalid(error) from None

    async def _bytes(self) -> bytes:
        most, parts, size = self.service.limits.body_bytes, [], 0
        too_large = Refused("too_large", f"the body is larger than {most} bytes; send fewer texts at once")
        length = self.request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > most):
            raise too_large
        try:
            async with asyncio.timeout(self.service.limits.read_seconds):
                while True:
                    message = await self.request.receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part = message.get("body", b"")
                    size += len(part)
                    self._hold(len(part))
                    if size > most:
                        raise too_large
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused("slow", "the body did not arrive in time") from None

    def _hold(self, size: int) -> None:
        """Raises Refused where all requests together hold too much."""
        self._held += size
        self.service.bytes_held += size
        if self.service.bytes_held > self.service.limits.reading_bytes:
            raise Refused("overloaded", "too many requests are being read; try again later", retry_after=1)

    def release(self) -> None:
        """The body is needed no more."""
        self.service.bytes_held -= self._held
        self._held = 0

    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.began

    async def gone(self) -> None:
        """Returns when the client has gone away."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass

    async def ask(self, read: Any) -> Answer:
        """What `Service.ask` gives, for this client."""
        return await self.service.ask(read, client=self.client, gone=self.gone)

    def json(self, content: Any, answers: "list[Answer]", *, characters: int = 0) -> Response:
        """The answer, with what it took in its headers, as text-embeddings-inference has them."""
        truncated = sum(answer.truncated for answer in answers)
        if truncated:
            self.service.metrics.truncated.inc(truncated)
        took = {
            "x-compute-type": "cpu" if self.service.models[0].trunk.device.type == "cpu" else "gpu",
            "x-compute-characters": characters,
            "x-compute-tokens": sum(answer.tokens for answer in answers),
            "x-total-time": _milliseconds(time.perf_counter() - self.began),
            "x-queue-time": _milliseconds(max((answer.queue_seconds for answer in answers), default=0.0)),
            "x-inference-time": _milliseconds(sum(answer.inference_seconds for answer in answers)),
            "x-truncated-texts": truncated,
        }
        return as_json(content, {name: str(value) for name, value in took.items()})


def as_json(content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """A Response of JSON; arrays of numbers are written as they are."""
    data = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(data, media_type="application/json", headers=dict(headers or {}))


def refusal(error: Refused, shape: Shape) -> Response:
    """The answer that says no."""
    return Response(error.body(shape), error.status(shape), error.headers(), media_type="application/json")


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def invalid(error: ValidationError) -> Refused:
    """The first thing that is wrong, without what was given."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return Refused("invalid", (f"{place}: {message}" if place else message)[:400], param=place or None)
