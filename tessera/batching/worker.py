"""The inference worker: one thread that takes batches from the queue, runs the forward pass, and hands out results.

One thread, because torch gives each forward pass all cores; requests that come in meanwhile make the next batch.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tessera.batching.heads import Head, part
from tessera.batching.refusals import Refused
from tessera.batching.token_queue import Placed, TokenQueue, by_job
from tessera.inference.tuned import Choice
from tessera.model.encoder import pack
from tessera.model.precision import autocast

log = logging.getLogger("tessera.serve")


@dataclass(frozen=True, slots=True, eq=False)
class Trunk:
    """An encoder that any number of heads stand on.

    model   (tokens [T], starts [N+1]) -> hidden states; a third argument where it tells segments
    device  where it is
    dtype   of its matrix products
    tuned   the engine that `tessera tune` chose, with its threads; None: nobody did
    """

    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    tuned: Choice | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """One forward pass, for whoever counts them."""

    documents: int
    tokens: int
    seconds: float


class Worker:
    """Computes what a queue holds, until that is closed.

    on_batch  hears of each forward pass, in the thread of the worker
    """

    def __init__(self, queue: TokenQueue, on_batch: Callable[[Ran], None]) -> None:
        self.queue, self.on_batch = queue, on_batch
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether it still computes."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> None:
        """Waits until what the closed queue held is computed."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        batch, threads = self.queue.take(), torch.get_num_threads()
        while batch is not None:
            trunk: Any = _piece(batch[0]).trunk
            torch.set_num_threads(threads if trunk.tuned is None else trunk.tuned.threads)
            # Open as long as batches of one trunk follow: it keeps the weights that it has rounded.
            with torch.inference_mode(), autocast(trunk.device, trunk.dtype):
                while batch is not None and _piece(batch[0]).trunk is trunk:
                    self._compute(batch, trunk)
                    batch = self.queue.take()

    def _compute(self, batch: list[Placed], trunk: Trunk) -> None:
        began = time.perf_counter()
        try:
            _forward([placed for placed in batch if not placed[0].gone and placed[0].failure is None], trunk)
        except Exception as error:
            self._one_by_one(batch, trunk, error)
        ended = time.perf_counter()
        self.queue.done(batch)
        for some in by_job(batch):
            job = some[0][0]
            job.started = job.started or began
            job.computing += ended - began
            job.left -= len(some)
            if job.failure is not None and job.left:
                self.queue.drop(job)
                job.left = 0
            if not job.left:
                job.deliver(job)
        tokens = sum(_piece(placed).tokens for placed in batch)
        self.on_batch(Ran(sum(len(_piece(placed).documents) for placed in batch), tokens, ended - began))

    def _one_by_one(self, batch: list[Placed], trunk: Trunk, error: Exception) -> None:
        """After an error: each request by itself, so that it is the failure of one only."""
        several = by_job(batch)
        for some in several:
            job = some[0][0]
            try:
                if len(several) == 1:
                    raise error
                for _, number in some:
                    job.results[number] = []
                _forward(some, trunk)
            except Exception as own:
                log.error("a batch could not be computed: %s", type(own).__name__)
                log.debug("why", exc_info=own)
                job.failure = Refused("failed", "the model could not compute this; the log of the server says more")


def _piece(placed: Placed) -> Any:
    job, number = placed
    return job.pieces[number]


def _forward(batch: Sequence[Placed], trunk: Trunk) -> None:
    """One forward pass over pieces, the longest first, and what each of its heads makes of it."""
    if not batch:
        return
    order = sorted(batch, key=lambda placed: -_piece(placed).tokens)
    pieces = [_piece(placed) for placed in order]
    documents = [document for piece in pieces for document in piece.documents]
    tokens, starts = pack(documents, trunk.device)
    told: tuple[Tensor, ...] = ()
    if any(piece.segments for piece in pieces):
        rows = [row for piece in pieces for row in piece.segments or map(np.zeros_like, piece.documents)]
        told = (torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(trunk.device),)
    hidden = trunk.model(tokens, starts, *told)
    begins = [0, *accumulate(len(piece.documents) for piece in pieces)]
    asked: dict[int, tuple[Head, list[tuple[int, int, Any]]]] = {}
    for number, piece in enumerate(pieces):
        for place, (head, told_head) in enumerate(piece.heads):
            asked.setdefault(id(head), (head, []))[1].append((number, place, told_head))
    found: list[dict[int, Any]] = [{} for _ in pieces]
    for head, several in asked.values():
        mine = [document for number, _, _ in several for document in range(begins[number], begins[number + 1])]
        states, edges = (hidden, starts) if mine == list(range(len(documents))) else part(hidden, starts, mine)
        results = head.finish(states, edges, [what for _, _, what in several])
        for (number, place, _), result in zip(several, results, strict=True):
            found[number][place] = result
    for (job, number), mine_found in zip(order, found, strict=True):
        job.results[number] = [mine_found[place] for place in range(len(mine_found))]
        if not all(_is_finite(result) for result in job.results[number]):
            job.failure = Refused("failed", "what the model gives for a text is not finite; is the model broken?")


def _is_finite(result: Any) -> bool:
    return not isinstance(result, np.ndarray) or bool(np.isfinite(result).all())
