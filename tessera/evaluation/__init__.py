"""Is it any good: tasks and protocols in, results out.

In reading order:

    evaluate.py        the only entrance: one model on tasks, by name or of a recipe; held-out text is one of them
    catalogue.py       tasks and protocols by name, and those of your own files
    rows.py            where rows lie: below a folder, in a copy of the Hub, on the Hub
    load.py            examples and splits of a task; whatever is wrong with a row is said with it
    load_retrieval.py  queries, documents and grades of a retrieval task
    trial.py           one trial: a file that is never written twice; the kinds with a head
    retrieve.py        retrieval as a kind of trial: documents ranked for each query, nDCG, MRR, recall
    about.py           warnings about the data of a result: answers out of reach, languages without training rows ...
    groups.py          the data of a sweep by what is trained together, test sets without their labels
    kept.py            the chosen model of a sweep as a folder, and weights for another task to begin with
    sweep.py           all settings with every seed, the best chosen on validation, then the test set
    frozen.py          tasks that train no encoder: bitext mining, probes
    bitext.py          does a sentence lie nearest to its translation
    probe.py           linear probe: logistic regression on frozen embeddings, its penalty chosen on validation
"""
