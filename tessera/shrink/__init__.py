"""Smaller models of a released or own one: layers and neurons left out, the rest fitted to the whole model and taught.

In reading order:

    layers.py       layer pruning: a folder without some of its layers, and with the values that were learnt
    feedforward.py  the products of a layer's neurons, found by watching it
    reconstruct.py  what is left is solved by least squares, neurons are left out by Optimal Brain Surgeon
    spans.py        which layers can best stand for those after them
    gives.py        what a model gives, by which its students are held against it: vectors, guesses, answers
    importance.py   which layers a model can do without
    passages.py     plain text as passages to learn on
    student.py      what is left learns the hidden states and the vectors of the whole model
    teach.py        a student, taught, compared with what other libraries make of its folder
    measure.py      parameters, speed, and scores on tasks
    card.py         the model card, and the table of a curve
    shrink.py       a curve of size, speed and score, each point a folder
"""
