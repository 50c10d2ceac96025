"""What training and inference read: token shards, dataloader, masking, packing. No torch.

In reading order:

    languages.py     codes of languages, which script a text is in, whether it puts spaces between words
    shards.py        the token store: few memory-mapped files, one index, checksums
    shard_writer.py  how one is written
    blocks.py        documents in blocks of at most `context` tokens, counted once for a billion
    hashing.py       counter-based randomness: keys, shuffles
    draws.py         the n-th draw of a mixture, computed
    stream.py        the dataloader: the batch at any position of a phase, computed
    pair_stream.py   the dataloader of sentence embeddings: documents and aligned pairs
    masking.py       which tokens are hidden: a function of document and key
    packing.py       Batch: documents end to end; micro-batches, shares of processes
    examples.py      labelled examples of every kind of task
"""
