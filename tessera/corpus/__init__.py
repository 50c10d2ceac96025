"""Raw text to token shards, on Daft: filters, language identification, deduplication, decontamination, tokens.

In reading order:

    prepare.py        the order of it: a corpus into two token stores, to train on and held out, with a report
    documents.py      documents and parallel pairs out of rows; what cannot be used has its reason
    pairs.py          pairs as training documents: which are fit, two texts in one, both ways
    ingest.py         a corpus read once: scored, filtered, hashed, written down with what speaks against each document
    losses.py         files and languages that come to nothing, codes that are odd
    filters.py        quality filtering by rules: length, repetition, language, contamination
    language_id.py    language identification: which language a text is surely in
    decontaminate.py  decontamination: passages of evaluation sets, looked for in documents
    quality.py        quality scores by a function, and scores into four tiers
    dedup.py          deduplication: exact and near copies (MinHash), as Daft queries
    copies.py         the index of duplicates: which documents are copies of which
    split.py          the held-out split, decided for the whole corpus at once
    dropped.py        a report of dropped documents: what is lost and why, with examples
    tokenize.py       tokenization: documents into small token stores
    token_sources.py  pre-tokenized sources: token ids that were made elsewhere, as documents of our tokenizer
    daft_runner.py    parallel execution over many files, by Daft: this machine, or a Ray cluster
"""
