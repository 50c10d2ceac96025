"""Models over HTTP: the server, its queue of tokens, its page.

In reading order:

    server.py       the process: port, models, warm-up, stop
    models.py       what a folder is decides what it answers; heads that share a trunk
    token_queue.py  the request queue: batches of a token budget, short texts beside long ones
    heads.py        vectors, logits and masks out of shared hidden states
    worker.py       the thread that runs the forward pass
    reading.py      tokenization of requests, truncation as asked
    metrics.py      Prometheus metrics
    service.py      models, queue and worker within limits, asked from an event loop
    refusals.py     HTTP errors in the shape of each API
    call.py         one HTTP call: its body, its client, its answer
    bodies.py       request schemas
    answers.py      vectors, classes, tags, answers, rerank scores and masks, for every API
    openai_api.py   OpenAI's API, and Cohere's rerank
    tei_api.py      the API of text-embeddings-inference
    own_api.py      classify, tag, fill and answer; the one route of Hugging Face's InferenceClient
    guard.py        API keys and request logs
    pages.py        the page at / and the list of routes
    app.py          the web application: all routes together
"""
