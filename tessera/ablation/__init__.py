"""Ablations: one phase, one value changed at a time, over seeds; differences to the baseline with intervals.

In reading order:

    axes.py     what is varied: the baseline and its variants
    folders.py  the checkpoint that all start from, the run folder of each variant and seed
    study.py    each of them trained or merged, and measured, several processes at a time
    deltas.py   differences to the baseline, paired by seed, with intervals
    tables.py   tables and a plot of them
"""
