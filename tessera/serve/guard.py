"""API keys and request logs, around the whole application: who may ask, and one line for each that was answered.

A line holds method, path, status and time: never a text, never a key.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from tessera.batching.refusals import Refused, Shape

Scope = MutableMapping[str, Any]
Messages = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# What says nothing of anybody: whether the server lives, its counters, and pages without data.
FREE = frozenset({"/health", "/ping", "/metrics", "/docs", "/openapi.json"})
log = logging.getLogger("tessera.serve.requests")


def read_keys(path: Path) -> tuple[bytes, ...]:
    """Digests of the keys in a file, one a line. Raises ValueError where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no file of keys: {getattr(error, 'strerror', None) or error}") from None
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise ValueError(f"{path}: holds no key; write one a line")
    return tuple(hashlib.sha256(key.encode()).digest() for key in keys)


def shape_of(path: str) -> Shape:
    """The API that a path belongs to."""
    if path == "/v1/rerank":
        return "rerank"
    if path.startswith("/v1/") or path in ("/classify", "/tag", "/fill", "/answer"):
        return "openai"
    return "tei"


class Guard:
    """ASGI middleware.

    keys    digests; none: everybody may ask
    logged  whether each request leaves a line in the log
    """

    def __init__(self, app: Any, keys: tuple[bytes, ...], logged: bool) -> None:
        self.app, self.keys, self.logged = app, keys, logged

    async def __call__(self, scope: Scope, receive: Messages, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, seen = time.perf_counter(), [499]

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                seen[0] = message["status"]
            await send(message)

        if self._may(scope):
            await self.app(scope, receive, sent)
        else:
            await _refuse(scope, sent)
        if self.logged:
            path = scope["path"].encode("ascii", "backslashreplace").decode()[:200]
            log.info("%s %s %s %.1f ms", scope["method"], path, seen[0], 1000 * (time.perf_counter() - began))

    def _may(self, scope: Scope) -> bool:
        """Compares with every key in the same time, whichever it is."""
        path = scope["path"]
        asks_first = scope["method"] == "OPTIONS"  # a browser, whether it may ask at all
        if not self.keys or asks_first or path in FREE or (path == "/" and scope["method"] in ("GET", "HEAD")):
            return True
        headers = dict(scope["headers"])
        kind, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = hashlib.sha256(given).digest()
        equal = [hmac.compare_digest(digest, key) for key in self.keys]
        return any(equal)


async def _refuse(scope: Scope, send: Send) -> None:
    error, shape = Refused("unauthorized", "give a key: Authorization: Bearer KEY"), shape_of(scope["path"])
    headers = {"content-type": "application/json", **error.headers()}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status(shape), "headers": pairs})
    await send({"type": "http.response.body", "body": error.body(shape)})
