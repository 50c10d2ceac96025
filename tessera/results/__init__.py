"""Results: one model on one task, as files; published ones beside them, and whether two differ.

In reading order:

    result.py        one model on one task; the only file that writes and reads result files
    remarks.py       warnings about results in words
    published.py     results read from files and from the tables of papers
    significance.py  whether two results differ for certain
"""
