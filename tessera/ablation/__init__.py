"""One phase, one value changed at a time, over seeds: differences to a baseline with intervals.

In reading order:

    axes.py     what `--vary` means
    study.py    floor 4: one phase from one checkpoint, once for each value of each axis, over seeds
    variant.py  one variant of an ablation, trained and measured
    deltas.py   differences to a reference, paired by seed, with intervals
    tables.py   what an ablation found: tables and a picture of differences
"""
