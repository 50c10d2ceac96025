"""Fine-tuning: a head on a task, a retriever by contrastive learning.

In reading order:

    learner.py      an encoder with a task head: forward pass and loss
    loop.py         the training loop: schedule, clipping, early stopping; train and predict
    retriever.py    a bi-encoder: queries and documents to vectors
    contrastive.py  a retriever trained in that loop: InfoNCE, cached gradients, hard negatives
    text_scorer.py  a regression head fitted to marked texts by ridge regression
"""
