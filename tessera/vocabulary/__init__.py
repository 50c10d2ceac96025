"""Vocabularies: what one costs each language, and another one for a model: trimmed, extended, replaced, narrower.

In reading order:

    fertility.py   fertility: tokens per word and byte, and the cost beside the best-served language
    texts.py       text by language, with a held-out split by hash
    usage.py       token frequencies of each language, and which entries to keep
    merges.py      BPE: what a token is made of, the closure of a vocabulary
    entries.py     a tokenizer.json and the files beside it with other ids
    tables.py      weights with a row for each token, of any model and head, rewritten
    proof.py       parity on held-out text: ids, hidden states, logits, speed
    pieces.py      new entries learnt on text: merges continued, pieces with scores, words
    initialize.py  rows of new entries as sums of old rows
    change.py      what a changed vocabulary does to languages: tokens a word, ids that moved
    card.py        the model card, and vocabulary.json
    trim.py        vocabulary trimming
    extend.py      vocabulary extension
    replace.py     vocabulary replacement: another tokenizer, rows that overlap copied
    factor.py      factorized embedding: narrower rows and a projection
"""
