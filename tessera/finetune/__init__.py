"""Fine-tuning: a head on a task, a retriever by contrastive learning.

In reading order:

    examples.py     examples of every kind of task
    features.py     examples as documents of tokens, scores of a head as answers
    windows.py      questions about long texts, in windows that overlap
    learner.py      an encoder with a head on a task
    loop.py         training and predicting on packed documents
    contrastive.py  a retriever trained: InfoNCE, cached gradients, hard negatives
    retriever.py    an encoder as queries and documents
    text_scorer.py  a regression head fitted to marked texts in closed form
"""
