"""Fine-tuning: labelled rows to a model with a head, trained, chosen on validation, saved as a folder.

In reading order:

    labels.py       what a label is and which number it has, decided in one place
    tables.py       rows out of JSON lines, JSON, CSV, TSV, parquet and plain lines, one dict each
    columns.py      the cells of a row by the roles a task gives them: texts, labels, tags, answers
    examples.py     labelled examples out of rows, of every kind of task; tags and spans are checked
    guess.py        which kind of task rows are, and which column plays which role
    splits.py       train, validation and test by files, by a column, or by a hash of each row
    dataset.py      a dataset out of files: guessed where nothing is said, and what was guessed
    learner.py      an encoder with a task head: forward pass and loss
    loop.py         the training loop: schedule, clipping, early stopping; train and predict
    frozen_head.py  the head alone, trained on features that are computed once
    lora.py         low-rank adaptation of the encoder's matrices beside a whole head
    scores.py       the metric of each kind, by language and label; thresholds of several labels
    trials.py       the search for a rate on validation, a file for each trial, over seeds
    saved.py        what comes out as a folder, compared with transformers before it counts
    adapter_folder.py  adapters as peft writes and loads them: written, and merged into their base
    card.py         the model card: data, scores with intervals, how to load it
    fit.py          from rows to a model folder, and the learning curve
    text_scorer.py  a regression head fitted to marked texts by ridge regression
"""
