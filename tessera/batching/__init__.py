"""Dynamic batching: requests of many clients, of many models, in batches of a token budget; no HTTP here.

In reading order:

    token_queue.py  the request queue: batches of a token budget, short texts beside long ones
    heads.py        vectors, logits and masks out of shared hidden states
    worker.py       the thread that runs the forward pass
    models.py       what a folder is decides what it answers; heads that share a trunk
    reading.py      tokenization of requests, truncation as asked
    metrics.py      Prometheus metrics
    refusals.py     what is refused, and how each API writes it
    service.py      models, queue and worker within limits, asked from an event loop
"""
