"""mteb, the Massive Text Embedding Benchmark: its own tasks and protocol on a model folder.

In reading order:

    run.py      mteb's own tasks and protocol on a model folder
    model.py    a model folder as mteb wants it
    data.py     mteb's tasks on local data
    results.py  what mteb found as our result files
"""
