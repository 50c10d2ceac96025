"""Prometheus metrics of the server, under the names of text-embeddings-inference where it has the same thing.

Each server has a registry of its own, so that several may run in one process.
"""

import time
from collections import deque
from typing import Any

from tessera.batching.worker import Ran
from tessera.plan.shipped import pip_line

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)
_WINDOW = 60.0  # seconds that the speed is the mean of


class Metrics:
    """Counters of one server. Raises ImportError where prometheus-client is not installed."""

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError:
            raise ImportError(f"the server needs prometheus-client; {pip_line('serve')}") from None
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry}
        self.requests = Counter("te_request_count", "requests that were read", ["route", "model"], **own)
        self.succeeded = Counter("te_request_success", "requests that were answered", ["route", "model"], **own)
        self.failed = Counter("te_request_failure", "requests that were refused, and why", ["err"], **own)
        self.duration = Histogram("te_request_duration", "seconds of a request", buckets=_SECONDS, **own)
        self.queued = Histogram("te_request_queue_duration", "seconds that it waited", buckets=_SECONDS, **own)
        self.inference = Histogram("te_request_inference_duration", "seconds of its batches", buckets=_SECONDS, **own)
        self.tokens = Counter("tessera_tokens", "tokens that were computed", **own)
        self.truncated = Counter("tessera_truncated_texts", "texts that lost something, as was asked", **own)
        self.gone = Counter("tessera_gone_clients", "clients that went away before their answer", **own)
        self.batch_tokens = Histogram("te_batch_next_tokens", "tokens of a batch", buckets=_TOKENS, **own)
        self.batch_size = Histogram("te_batch_next_size", "documents of a batch", buckets=_TOKENS, **own)
        self.queue_tokens = Gauge("te_queue_size", "tokens that wait or are at work", **own)
        self.ready = Gauge("tessera_ready", "1 once the models are warm", **own)
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=4096)  # when, tokens, seconds of a batch

    def ran(self, batch: Ran) -> None:
        """One forward pass."""
        self.tokens.inc(batch.tokens)
        self.batch_tokens.observe(batch.tokens)
        self.batch_size.observe(batch.documents)
        self._recent.append((time.monotonic(), batch.tokens, batch.seconds))

    def speed(self) -> float:
        """Tokens a second of the batches of the last minute, or of the last ones there were; 0.0 before the first."""
        known = list(self._recent)
        recent = [one for one in known if one[0] > time.monotonic() - _WINDOW] or known[-16:]
        seconds = sum(one[2] for one in recent)
        return sum(one[1] for one in recent) / seconds if seconds else 0.0

    def text(self) -> bytes:
        """As Prometheus reads it."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
