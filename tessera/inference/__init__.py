"""Data and model without gradients: texts to embeddings, masks filled, quality scores; parity.

In reading order:

    encoder.py          class Encoder: sentence and token embeddings, fill-mask, similarity
    keywords.py         what `encode` takes: texts, our keywords and those of sentence-transformers
    tokenize.py         texts to token ids: truncation, chunks, prompts
    engine.py           batched inference: ids to embeddings or hidden states, the only way there
    sentence_folder.py  the sentence-transformers format: pooling, prompts, length
    sentence_schemas.py  schemas of its JSON files
    compatibility.py    what SentenceTransformer.encode gives for its own keywords
    similarity.py       similarity scores: cosine, dot product, distances
    fill_mask.py        fill-mask: the most probable tokens for a mask
    nearest.py          exact nearest-neighbour search
    text_files.py       files of texts and rows, read twice: their ids, what is wrong with them
    parts.py            batch inference over files in parts, through interruptions
    embed_file.py       a file of texts into a file of embeddings
    search_index.py     semantic search: an index over a file of texts, asked by queries
    text_scorer.py      quality scores of texts by a regression head
    runtime.py          inference with OpenVINO or ONNX Runtime
    tuned.py            the engine that `tessera tune` chose for a folder
    parity.py           numerical parity of a checkpoint: beside transformers, by hand, in every backend
"""
