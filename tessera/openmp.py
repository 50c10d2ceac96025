"""OpenMP: its threads wait for each other asleep rather than spinning, before torch and its GNU OpenMP are loaded.

A thread that spins while it waits keeps a core from the one it waits for as soon as another program wants that core.
With two threads on two busy cores, training ran at 1/20 of its speed that way: docs/log.md, 2026-11-27. Whoever wants
another value sets the variable before tessera is imported.
"""

import os

SPINS = {"GOMP_SPINCOUNT": "1000"}
"""Rounds that a thread spins before it sleeps: some microseconds, so that the next operator still finds it awake."""


def patient() -> None:
    """Sets the variables, but for those that are set already, in this process and its children."""
    if "OMP_WAIT_POLICY" not in os.environ:  # which says the same in other words
        for name, value in SPINS.items():
            os.environ.setdefault(name, value)
