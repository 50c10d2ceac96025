"""The service behind the routes: models, queue and worker, asked from an event loop.

answer = await service.ask(read, client="127.0.0.1:40000", gone=call.gone)
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from tessera.batching.metrics import Metrics
from tessera.batching.models import Answers, Served
from tessera.batching.reading import Read
from tessera.batching.refusals import Refused
from tessera.batching.token_queue import Full, Job, TokenQueue
from tessera.batching.worker import Worker

Made = TypeVar("Made")
_AT_ONCE = 4_096  # characters that are tokenized without leaving the event loop, which takes less than going elsewhere
_READERS = 2  # threads that tokenize


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of memory and of waiting; beyond each a request is refused in clear words. Checks itself."""

    batch_tokens: int = 4_096  # of one forward pass; a longer text makes it as long as it is
    queue_tokens: int = 262_144  # that may wait or be at work; a request beyond it is answered 429
    texts: int = 2_048  # of one request
    body_bytes: int = 8 * 2**20  # of one request
    reading_bytes: int = 256 * 2**20  # of all requests that are being read or answered
    auto_truncate: bool = False  # read a part of what is too long where a request does not say
    answer_numbers: int = 8 * 2**20  # in one answer: of hidden states there are many
    read_seconds: float = 30.0  # until the body of a request is there
    answer_seconds: float = 120.0  # until it is answered
    stop_seconds: float = 30.0  # for what is at work when the server is asked to stop

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if name != "auto_truncate" and not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number above 0")


@dataclass(frozen=True, slots=True)
class Answer:
    """Of each piece the result of each of its heads, and what it took."""

    results: list[list[Any]]
    tokens: int
    truncated: int
    queue_seconds: float
    inference_seconds: float


class Gone(Exception):
    """The client went away; nobody waits for an answer."""


class Service:
    """Models that answer, from the moment that they are warm."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self.models: list[Served] = []
        self.queue = TokenQueue(limits.batch_tokens, limits.queue_tokens)
        self.worker = Worker(self.queue, metrics.ran)
        self.ready = False
        self.stopping = False
        self.at_work = 0  # requests
        self.bytes_held = 0  # of bodies that are read or answered
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="tokenize")

    def model(self, name: str | None, *answers: Answers) -> Served:
        """The model of that name; without one the first that answers any of `answers`.

        Raises Refused for a name that is not there, and a model that does not answer that.
        """
        if not self.ready:
            raise Refused("unready", "the models are being loaded", retry_after=5)
        if self.stopping:
            raise Refused("unready", "the server is stopping", retry_after=10)
        here = ", ".join(model.name for model in self.models)
        fits = [model for model in self.models if set(model.answers) & set(answers)]
        if name is None:
            if not fits:
                said = " or ".join(answers)
                raise Refused("wrong_model", f"none of the models here gives {said}; here are {here}", param="model")
            return fits[0]
        found = next((model for model in self.models if model.name == name), None)
        if found is None:
            raise Refused("unknown_model", f"there is no such model; here are {here}", param="model")
        if found not in fits:
            said = " and ".join(found.answers)
            raise Refused("wrong_model", f"{found.name} gives {said}, not {' or '.join(answers)}", param="model")
        return found

    def check_texts(self, texts: Sequence[Any], field: str) -> None:
        """Raises Refused for no texts, and for too many."""
        if not len(texts):
            raise Refused("empty", f"{field} cannot be empty", param=field)
        if len(texts) > self.limits.texts:
            raise Refused(
                "too_many", f"{field} has {len(texts)} entries; one request may have {self.limits.texts}", param=field
            )

    async def read(self, size: int, make: Callable[[], Made]) -> Made:
        """What `make` makes of `size` characters: long ones beside the event loop."""
        if self.queue.tokens >= self.limits.queue_tokens:
            raise self._full(self.queue.tokens)
        if size <= _AT_ONCE:
            return make()
        return await asyncio.get_running_loop().run_in_executor(self._readers, make)

    async def ask(self, read: Read, *, client: Hashable, gone: Callable[[], Awaitable[None]]) -> Answer:
        """Computes pieces. Raises Refused where that cannot be, or not in time, and Gone where nobody waits."""
        if not read.pieces:  # texts without a word, for a tagger
            return Answer([], 0, read.truncated, 0.0, 0.0)
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        waiting: asyncio.Future[Job] = loop.create_future()

        def arrive(job: Job) -> None:
            if not waiting.done():
                waiting.set_result(job)

        def deliver(job: Job) -> None:  # in the thread of the worker
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped
                loop.call_soon_threadsafe(arrive, job)

        job = Job(client, read.pieces, deliver)
        if job.tokens > self.limits.queue_tokens:
            most = self.limits.queue_tokens
            raise Refused("too_large", f"this request has {job.tokens} tokens; give at most {most} in one request")
        try:
            self.queue.put(job)
        except Full as full:
            raise self._full(full.tokens) from None
        away = asyncio.ensure_future(gone())
        both: set[asyncio.Future[Any]] = {waiting, away}
        try:
            await asyncio.wait(both, timeout=self.limits.answer_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            away.cancel()
            if not waiting.done():
                self.queue.drop(job)
        if not waiting.done():
            if away.done() and not away.cancelled():
                raise Gone
            raise Refused("timeout", f"not answered within {self.limits.answer_seconds:g} seconds", retry_after=10)
        if job.failure is not None:
            raise job.failure
        queued = max(0.0, job.started - began)
        self.metrics.queued.observe(queued)
        self.metrics.inference.observe(job.computing)
        return Answer(job.results, job.tokens, read.truncated, queued, job.computing)

    def _full(self, tokens: int) -> Refused:
        seconds = math.ceil(tokens / (self.metrics.speed() or tokens))
        return Refused(
            "overloaded", f"{tokens} tokens wait already; try again later", retry_after=min(60, max(1, seconds))
        )
