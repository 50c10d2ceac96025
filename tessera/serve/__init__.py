"""Models over HTTP: the server, the APIs that it speaks, its page; what it computes with is the room batching/.

In reading order:

    server.py      the process: port, models, warm-up, stop
    app.py         the web application: all routes together
    call.py        one HTTP call: its body, its client, its answer
    bodies.py      request schemas
    answers.py     vectors, classes, tags, answers, rerank scores and masks, for every API
    openai_api.py  OpenAI's API, and Cohere's rerank
    tei_api.py     the API of text-embeddings-inference
    own_api.py     classify, tag, fill and answer; the one route of Hugging Face's InferenceClient
    guard.py       API keys and request logs
    pages.py       the page at / and the list of routes
"""
