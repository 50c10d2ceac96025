"""Data and model, standing still: texts to vectors, masks filled, numbers for texts; parity.

In reading order:

    encoder.py          class Encoder: texts to vectors, tokens to vectors, masks to words
    engine.py           its batches through the model, and what comes after pooling
    tokenize.py         from texts to token ids of at most the model's length, one piece a text or several
    sentence_folder.py  what a folder says of itself: pooling, prompts, length
    similarity.py       an Encoder called as sentence-transformers is
    fill_mask.py        what may stand where a text has a mask
    nearest.py          exact nearest neighbours, scores by length, clusters
    embed_file.py       a file of texts into a file of vectors, through interruptions
    encode.py           texts to vectors inside a run, without what a folder adds
    text_scorer.py      one number for each text, from a model with a regression head
    runtime.py          an exported folder at work behind the interface of an Encoder
    parity.py           a checkpoint on this machine: beside transformers, by hand, in every backend
"""
