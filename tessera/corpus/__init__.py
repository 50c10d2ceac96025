"""Raw text to token shards, on Daft: filters, language identification, deduplication, decontamination, tokens.

In reading order:

    prepare.py        a corpus into two token stores, to train on and held out, with a report
    documents.py      documents and pairs out of rows; what cannot be used has its reason
    parallel.py       pairs of translations into training documents, both ways
    ingest.py         a corpus read once: scored, filtered, written down with what speaks against each document
    filters.py        what is not trained on: length, repetition, language, contamination
    language_id.py    which language a text is surely in
    decontaminate.py  passages of evaluation sets
    dedup.py          exact and near copies, as Daft queries
    copies.py         which documents are copies of which, at rest
    split.py          what is held out, decided for the whole corpus at once
    quality.py        scores by a function, and scores into four tiers
    dropped.py        what is lost and why, with examples
    tokenize.py       the tasks of that: documents into small stores
    mds.py            MosaicML Streaming's shards of samples
    token_sources.py  token ids that were made elsewhere as documents of our tokenizer
    daft_runner.py    work over many files, spread by Daft: this machine, or a Ray cluster
"""
