"""The request queue: a queue of tokens, not of requests, which leave it in batches of a token budget.

    queue.put(job)            refused where too many tokens wait
    batch = queue.take()      pieces that go through the network together, or None once it is closed
    queue.drop(job)           its client has gone away: its place is free

Each batch begins with whoever waits longest for a turn, a client being a connection, and is filled by going round all
clients, a piece from each, as long as one fits. So a short text waits for the batch that runs and for at most one long
text in its own, however many long ones are there; what a client asks first is computed first.
"""

# Nothing here knows asyncio, torch or the time, so that every order can be tested by hand.

import itertools
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tessera.inference.tokenize import Ids


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Piece:
    """What goes through the network together: one document, or several of one question.

    trunk     the network; a batch is of one
    heads     what is made of its hidden states: pairs of a head and what that is told
    segments  of each document, that of each token; none where the model knows none
    alone     nothing else is in its batch: the same bytes whatever else is asked
    """

    trunk: Hashable
    documents: tuple[Ids, ...]
    heads: tuple[tuple[Any, Any], ...]
    segments: tuple[Ids, ...] = ()
    alone: bool = False

    @property
    def tokens(self) -> int:
        return sum(map(len, self.documents))


@dataclass(slots=True, eq=False)
class Job:
    """One request: its pieces, and what becomes of each.

    client   whose order is kept
    deliver  called once, where the last piece is computed, or something went wrong: see `failure`
    """

    client: Hashable
    pieces: tuple[Piece, ...]
    deliver: Callable[["Job"], None]
    results: list[list[Any]] = field(default_factory=list)  # of each piece that of each of its heads
    failure: Exception | None = None
    tokens: int = 0
    left: int = 0  # pieces without a result
    gone: bool = False
    started: float = 0.0  # when the first of it was computed, by the clock of the worker
    computing: float = 0.0  # seconds of the batches that it was in

    def __post_init__(self) -> None:
        self.tokens, self.left = sum(piece.tokens for piece in self.pieces), len(self.pieces)
        self.results = [[] for _ in self.pieces]


Placed = tuple[Job, int]  # a piece: its request, and its number there


class Full(Exception):
    """There is no room for a request; `tokens` are there already."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


class TokenQueue:
    """Requests that wait, of any number of networks; threads may share it.

    budget  tokens of a batch
    most    tokens that may be there, those at work included; a request of more comes in where there is nothing else
    """

    def __init__(self, budget: int, most: int) -> None:
        self.budget, self.most = budget, most
        self.tokens = 0  # waiting and at work
        self._clients: dict[Hashable, deque[Placed]] = {}  # whose turn is first stands first
        self._changed = threading.Condition()
        self._closed = False

    def put(self, job: Job) -> None:
        """Raises Full where there is no room. A job has one piece at least."""
        assert job.pieces
        with self._changed:
            if self._closed or (self.tokens and self.tokens + job.tokens > self.most):
                raise Full(self.tokens)
            self.tokens += job.tokens
            line = self._clients.setdefault(job.client, deque())
            line.extend((job, number) for number in range(len(job.pieces)))
            self._changed.notify()

    def take(self) -> list[Placed] | None:
        """The next batch, once there is anything; None when the queue is closed and empty."""
        with self._changed:
            while not self._clients and not self._closed:
                self._changed.wait()
            return self._batch() if self._clients else None

    def done(self, batch: Iterable[Placed]) -> None:
        """What was taken is computed: there is room for more."""
        with self._changed:
            self.tokens -= sum(job.pieces[number].tokens for job, number in batch)

    def drop(self, job: Job) -> None:
        """Takes out what is left of a request; what is at work is finished for nothing."""
        with self._changed:
            job.gone = True
            line = self._clients.get(job.client)
            if line is None:
                return
            kept = deque(placed for placed in line if placed[0] is not job)
            self.tokens -= sum(one.pieces[n].tokens for one, n in line) - sum(one.pieces[n].tokens for one, n in kept)
            if kept:
                self._clients[job.client] = kept
            else:
                del self._clients[job.client]

    def close(self) -> None:
        """Nothing more comes in; what is there is still given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _batch(self) -> list[Placed]:
        first = next(iter(self._clients))
        job, number = self._clients[first][0]
        begin = job.pieces[number]
        taken, served = [self._clients[first].popleft()], dict.fromkeys([first])
        if not begin.alone:
            room = self.budget - begin.tokens if begin.tokens <= self.budget else self.budget
            going = [*itertools.islice(self._clients, 1, None), first]
            while going:  # once round: a piece from each client whose next one fits
                going = [client for client in going if self._fits(client, begin.trunk, room)]
                for client in going:
                    if self._fits(client, begin.trunk, room):
                        job, number = placed = self._clients[client].popleft()
                        taken.append(placed)
                        served[client] = None
                        room -= job.pieces[number].tokens
        for client in served:  # to the back of the line
            line = self._clients.pop(client)
            if line:
                self._clients[client] = line
        return taken

    def _fits(self, client: Hashable, trunk: Hashable, room: int) -> bool:
        line = self._clients[client]
        if not line:
            return False
        job, number = line[0]
        piece = job.pieces[number]
        return piece.trunk == trunk and not piece.alone and piece.tokens <= room


def by_job(batch: Iterable[Placed]) -> list[list[Placed]]:
    """The pieces of each request together."""
    ordered = sorted(batch, key=lambda placed: id(placed[0]))
    return [list(some) for _, some in itertools.groupby(ordered, key=lambda placed: id(placed[0]))]
