"""Fine-tuning: a head on a task, a retriever by contrastive learning.

In reading order:

    labels.py       what a label is and which number it has, decided in one place
    tables.py       rows out of JSON lines, JSON, CSV, TSV, parquet and plain lines, one dict each
    columns.py      the cells of a row by the roles a task gives them: texts, labels, tags, answers
    learner.py      an encoder with a task head: forward pass and loss
    loop.py         the training loop: schedule, clipping, early stopping; train and predict
    frozen_head.py  the head alone, trained on features that are computed once
    lora.py         low-rank adaptation of the encoder's matrices beside a whole head
    saved.py        what comes out as a folder, compared with transformers before it counts
    adapter_folder.py  adapters as peft writes and loads them: written, and merged into their base
    retriever.py    a bi-encoder: queries and documents to vectors
    contrastive.py  a retriever trained in that loop: InfoNCE, cached gradients, hard negatives
    text_scorer.py  a regression head fitted to marked texts by ridge regression
"""
