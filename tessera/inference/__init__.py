"""Data and model without gradients: texts to embeddings, masks filled, quality scores; parity.

In reading order:

    encoder.py           class Encoder: sentence and token embeddings, fill-mask, similarity
    keywords.py          what `encode` takes: texts, our keywords and those of sentence-transformers
    tokenize.py          texts to token ids: truncation, chunks, prompts
    engine.py            batched inference: ids to embeddings or hidden states, the only way there
    sentence_folder.py   the sentence-transformers format: pooling, prompts, length
    sentence_schemas.py  schemas of its JSON files
    compatibility.py     what SentenceTransformer.encode gives for its own keywords
    similarity.py        similarity scores: cosine, dot product, distances
    fill_mask.py         fill-mask: the most probable tokens for a mask
    text_scorer.py       quality scores of texts by a regression head
    runtime.py           inference with OpenVINO or ONNX Runtime
    tuned.py             the engine that `tessera tune` chose for a folder
    parity.py            numerical parity of a checkpoint: beside transformers, by hand, in every backend
"""
