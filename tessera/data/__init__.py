"""What training and inference read: readers, tokenizer, token shards, dataloader, masking, packing. No torch.

In reading order:

    storage.py         where files lie: on this machine, or at a URL
    readers.py         rows out of jsonl, parquet, plain text and WET
    languages.py       names of languages as FineWeb2 writes them
    scripts.py         which script a text is in, and whether it puts spaces between words
    tokenizer.py       train a byte-level BPE, load any tokenizer.json, special tokens
    tokenizer_json.py  what a tokenizer.json says of itself: roles, template, the bytes of each entry
    unigram.py         special tokens of Unigram vocabularies
    gigatoken.py       a faster engine, used only where its ids are the same
    templates.py       a text, or two, as one document by the tokenizer's template
    words.py           words that are split already, as the pieces they are inside running text
    shards.py          the token store: few memory-mapped files, one index, checksums
    shard_writer.py    how one is written
    blocks.py          documents in blocks of at most `context` tokens, counted once for a billion
    mapped.py          numbers in files as arrays in memory
    stream.py          the batch at any position of a phase, computed
    masking.py         which tokens are hidden: a function of document and key
    packing.py         Batch: documents end to end; micro-batches, shares of processes
"""
