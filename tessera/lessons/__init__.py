"""What embedding phases of a run learn from beside their text, made before they begin and kept in the run folder.

In reading order:

    teacher_vectors.py  what a teacher says of every text that a phase distils
    hard_negatives.py   mined for the pairs of a contrastive phase
"""
