"""Labelled data: rows of files to the examples of a dataset, whose columns, labels and splits are known or guessed.

In reading order:

    labels.py    what a label is and which number it has, decided in one place
    tables.py    rows out of JSON lines, JSON, CSV, TSV, parquet and plain lines, one dict each
    columns.py   the cells of a row by the roles a task gives them: texts, labels, tags, answers
    examples.py  labelled examples out of rows, of every kind of task; tags and spans are checked
    guess.py     which kind of task rows are, and which column plays which role
    splits.py    train, validation and test by files, by a column, or by a hash of each row
    remarks.py   what looks wrong with rows that can be read
    dataset.py   a dataset out of files: guessed where nothing is said, and what was guessed
    judged.py    test rows for a model that is there, read the same way
"""
