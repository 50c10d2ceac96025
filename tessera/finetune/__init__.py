"""Fine-tuning: a head on a task, a retriever by contrastive learning, a reranker, a student by distillation.

In reading order:

    labels.py       what a label is and which number it has, decided in one place
    tables.py       rows out of JSON lines, JSON, CSV, TSV, parquet and plain lines, one dict each
    columns.py      the cells of a row by the roles a task gives them: texts, labels, tags, answers
    learner.py      an encoder with a task head: forward pass and loss
    loop.py         the training loop: schedule, clipping, early stopping; train and predict
    saved.py        what comes out as a folder, compared with transformers before it counts
    retriever.py    a bi-encoder: queries and documents to vectors
    contrastive.py  a retriever trained in that loop: InfoNCE, cached gradients, hard negatives
    ranking.py      rankings by a retriever, and measures of them: nDCG, MRR, recall
    pairs.py        queries with judged documents, sentences with translations, out of rows
    retrieval.py    a retriever out of pairs, chosen on held-out queries, as a folder
    rerank.py       a cross-encoder out of pairs: negatives for it, training, what it does to a retriever's ranking
    teacher.py      the vectors of a teacher, computed once and kept
    distil.py       a student that learns these vectors, also for translations, as a folder
    text_scorer.py  a regression head fitted to marked texts by ridge regression
"""
