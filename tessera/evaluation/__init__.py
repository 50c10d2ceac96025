"""Is it any good: tasks and protocols in, results out.

In reading order:

    evaluate.py        one model on tasks of the catalogue: each by what its kind needs
    catalogue.py       tasks and protocols by name, and those of your own files
    rows.py            where rows lie: below a folder, in a copy of the Hub, on the Hub
    parts.py           which rows belong to a split
    columns.py         the cells of a row by the roles a task gives them
    load.py            examples of a task; whatever is wrong with a row is said with it
    load_retrieval.py  queries, documents and grades of a retrieval task
    trial.py           one trial: its data, a file that is never written twice, kinds with a head
    retrieve.py        retrieval as a kind of trial: documents ranked for each query, nDCG, MRR, recall
    sweep.py           all settings with every seed, the best chosen on validation, then the test set
    frozen.py          tasks that train no encoder: bitext mining, probes
    suite.py           one model on all tasks of a recipe; one JSON file a task
    tasks.py           what a task of a recipe asks, read from its files
    bitext.py          does a sentence lie nearest to its translation
    probe.py           logistic regression on frozen embeddings, its penalty chosen on validation
    metrics.py         scores, their mean and spread over seeds, what each example adds
    answers.py         answers to questions compared as SQuAD and MLQA do
    mteb.py            mteb's own tasks and protocol on a model folder
    mteb_results.py    what mteb found as our result files
    mteb_model.py      a model folder as mteb wants it
    mteb_data.py       mteb's tasks on local data
"""
