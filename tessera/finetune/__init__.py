"""Fine-tuning: labelled rows to a model with a head, trained, chosen on validation, saved as a folder.

In reading order:

    recipe.py          what is asked for: one strict YAML, whose keys are the flags of the verb
    learner.py         an encoder with a task head: forward pass and loss
    checkpoint.py      early stopping; a stopped training goes on at its last checkpoint
    loop.py            the training loop: schedule, clipping, early stopping; train and predict
    frozen_head.py     the head alone, trained on features that are computed once
    lora.py            low-rank adaptation of the encoder's matrices beside a whole head
    listwise.py        a reranker that is to find each answer among others
    scores.py          the metric of each kind, by language and label; thresholds of several labels
    trials.py          the search for a rate on validation, a file for each trial, over seeds
    saved.py           what comes out as a folder, compared with transformers before it counts
    adapter_folder.py  adapters as peft writes and loads them: written, and merged into their base
    card.py            the model card: data, scores with intervals, how to load it
    fit.py             from rows to a model folder, and the learning curve
    text_scorer.py     a regression head fitted to marked texts by ridge regression
"""
