"""The serving verb: every model of some folders over HTTP."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.app import app
from tessera.cli.options import Device, Dtype, Threads
from tessera.terminal import HarmlessLog, Watcher, console


@app.command()
def serve(
    models: Annotated[list[str], typer.Argument(help="model folders, or NAME=FOLDER", show_default=False)],
    host: Annotated[str, typer.Option(help="the address to listen at; 0.0.0.0 is every one")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes one that is free", min=0, max=65535)] = 8080,
    api_key_file: Annotated[Path | None, typer.Option(help="keys, one a line; a request must bear one")] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="a page of another host that may ask, from a browser (repeatable)")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(help="tokens that are read of a text (default: the folder's)")
    ] = None,
    auto_truncate: Annotated[
        bool, typer.Option("--auto-truncate", help="cut what is too long where a request does not say")
    ] = False,
    max_batch_tokens: Annotated[
        int | None, typer.Option(help="of one forward pass (default: 4096; 16384 on GPUs)")
    ] = None,
    max_queue_tokens: Annotated[int, typer.Option(help="that may wait; beyond it the answer is 429")] = 262_144,
    max_texts: Annotated[int, typer.Option(help="of one request")] = 2_048,
    max_body: Annotated[int, typer.Option(help="bytes of one request")] = 8 * 2**20,
    timeout: Annotated[float, typer.Option(help="seconds until a request is answered, or given up")] = 120.0,
    stop_timeout: Annotated[float, typer.Option(help="seconds for requests at work when it is stopped")] = 30.0,
    log_requests: Annotated[bool, typer.Option("--log-requests", help="a line for each; never its text")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="errors with tracebacks, which may hold text")] = False,
    device: Device = "auto",
    threads: Threads = None,
    dtype: Dtype = "auto",
) -> None:
    """Models over HTTP: the APIs of OpenAI and text-embeddings-inference, and a page to try them."""
    from tessera.batching.models import How
    from tessera.batching.service import Limits
    from tessera.model.precision import find_device
    from tessera.serve.server import Settings, serve

    limits = Limits(
        batch_tokens=max_batch_tokens or (4_096 if find_device(device).type == "cpu" else 16_384),
        queue_tokens=max_queue_tokens,
        texts=max_texts,
        body_bytes=max_body,
        auto_truncate=auto_truncate,
        answer_seconds=timeout,
        stop_seconds=stop_timeout,
    )
    settings = Settings(
        host=host,
        port=port,
        how=How(device=device, dtype=dtype, max_length=max_length, threads=threads),
        limits=limits,
        threads=threads,
        key_file=api_key_file,
        origins=tuple(cors_origin or ()),
        logged=log_requests,
    )
    _log(verbose=verbose)
    watcher = Watcher(console)
    serve(models, settings, watcher.say, lambda text: console.print(text, soft_wrap=True))
    console.print("stopped")


def _log(*, verbose: bool) -> None:
    """Lines of the server on stderr; tracebacks, which may hold paths and text, only where they are asked for."""
    handler = logging.StreamHandler()
    handler.setFormatter(HarmlessLog("%(asctime)s %(message)s"))
    log = logging.getLogger("tessera.serve")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
