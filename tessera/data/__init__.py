"""What training and inference read: readers, tokenizer, token shards, dataloader, masking, packing. No torch.

In reading order:

    storage.py         where files lie: on this machine, or at a URL
    readers.py         rows out of jsonl, parquet, plain text and WET
    languages.py       codes of languages, which script a text is in, whether it puts spaces between words
    tokenizer.py       train a byte-level BPE, load any tokenizer.json, special tokens
    tokenizer_json.py  what a tokenizer.json says of itself: roles, template, the bytes of each entry
    gigatoken.py       a faster engine, used only where its ids are the same
    templates.py       a text, two, or words split already, as one document by the tokenizer's template
    shards.py          the token store: few memory-mapped files, one index, checksums
    shard_writer.py    how one is written
    blocks.py          documents in blocks of at most `context` tokens, counted once for a billion
    hashing.py         counter-based randomness: keys, shuffles
    stream.py          the dataloader: the batch at any position of a phase, computed
    masking.py         which tokens are hidden: a function of document and key
    packing.py         Batch: documents end to end; micro-batches, shares of processes
    examples.py        labelled examples of every kind of task
"""
