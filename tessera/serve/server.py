"""The HTTP server process: binds the port, loads and warms the models, serves, and stops in good order.

serve(["/models/e5-small"], Settings(port=8080))
"""

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tessera import signals
from tessera.batching.metrics import Metrics
from tessera.batching.models import How, Served, open_models
from tessera.batching.reading import for_masks, for_task, for_vectors
from tessera.batching.service import Limits, Service
from tessera.plan.shipped import pip_line

Say = Callable[[str], None]
_POLL = 0.1  # seconds between looks at whether a signal came
_STOPPING = "stopping: requests at work are answered first; once more stops at once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server is run.

    port     0: one that is free
    key_file keys, one a line, of which a request must bear one
    origins  pages of other hosts that browsers may let ask
    logged   whether each request leaves a line in the log `tessera.serve.requests`
    """

    host: str = "127.0.0.1"
    port: int = 8080
    how: How = field(default_factory=How)
    limits: Limits = field(default_factory=Limits)
    threads: int | None = None
    key_file: Path | None = None
    origins: tuple[str, ...] = ()
    logged: bool = False


def serve(models: Sequence[str], settings: Settings, say: Say, on_ready: Say | None = None) -> None:
    """Serves until a signal asks to stop; then what is at work is answered, within `limits.stop_seconds`.

    Raises ValueError for a port that is taken, and models that cannot be opened; ImportError where the extra is not
    installed.
    """
    with contextlib.suppress(signals.Stopped), running(models, settings, say) as (url, server):
        (on_ready or say)(f"serving at {url}")
        with signals.deferred(_STOPPING):
            while server.is_alive() and not signals.asked():
                server.join(_POLL)


@contextlib.contextmanager
def running(models: Sequence[str], settings: Settings, say: Say) -> Iterator[tuple[str, threading.Thread]]:
    """The URL of a server that is warm, and its thread; it stops in good order at the end of the block."""
    try:
        import uvicorn

        from tessera.serve.app import make_app
        from tessera.serve.guard import read_keys
    except ImportError as error:
        raise ImportError(f"the server needs {error.name}; {pip_line('serve')}") from None
    keys = read_keys(settings.key_file) if settings.key_file else ()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    service = Service(settings.limits, Metrics())
    bound = _bind(settings.host, settings.port)
    app = make_app(service, keys=keys, origins=settings.origins, logged=settings.logged)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.limits.stop_seconds)),
        backlog=1024,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],), name="http", daemon=True)
    thread.start()
    try:
        service.models = open_models(models, settings.how)
        service.worker.start()
        for served in service.models:
            say(f"{served.name}: {', '.join(served.answers)}; at most {served.max_length} tokens; {said(served)}")
        warm(service)
        service.ready = True
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{port}", thread
    finally:
        _stop(service, server, thread, settings.limits.stop_seconds)


def said(served: Served) -> str:
    """What computes a model, and why."""
    return f"one forward pass with {served.shares}" if served.shares else served.engine


def warm(service: Service) -> None:
    """A forward pass of every model and head, short and long, so that the first request is as fast as the next."""
    from tessera.batching.token_queue import Job

    for served in service.models:
        done = threading.Event()
        job = Job("warm", _warming(served), lambda _, done=done: done.set())  # type: ignore[misc]
        service.queue.put(job)
        done.wait()
        if job.failure is not None:
            raise ValueError(f"{served.name}: it opens, but computes nothing: {job.failure}")


def _warming(served: Served) -> tuple[Any, ...]:
    long = " a" * 64
    pieces: list[Any] = []
    if served.encoder is not None and served.vectors is not None:
        how = served.encoder.how(max_length=served.max_length)
        pieces += for_vectors(served, ["a", long], how, truncate=True, direction="right", field="").pieces
    if served.predictor is not None:
        row = {"text": "a", "query": "a", "document": "a", "question": "a", "context": "a", "options": ["a", "b"]}
        pieces += for_task(served, [row], long="truncate", alone=False, field="").read.pieces
    if served.filler is not None:
        mask = served.tokenizer.token(served.tokenizer.mask_id)
        pieces += for_masks(served, [f"a {mask}"], 1, alone=False, field="").pieces
    return tuple(pieces)


def _bind(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ValueError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":  # elsewhere it would let two servers share a port
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(1024)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"{host}:{port} is taken: another program listens there, perhaps another `tessera serve`; give another "
                "--port, or 0 for any that is free"
            ) from None
        raise ValueError(f"{host}:{port}: {error.strerror}; give an address of this machine, and a port") from None
    return found


def _stop(service: Service, server: object, thread: threading.Thread, seconds: float) -> None:
    """No new requests, then the answers of those at work, then the end of the worker."""
    service.stopping = True
    until = time.monotonic() + seconds
    while service.at_work and thread.is_alive() and time.monotonic() < until:
        time.sleep(_POLL / 10)
    server.should_exit = True  # type: ignore[attr-defined]
    thread.join(max(1.0, until - time.monotonic()) + 2.0)
    service.queue.close()
    service.worker.join(max(1.0, until - time.monotonic()))
