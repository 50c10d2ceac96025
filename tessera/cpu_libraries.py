"""OpenMP and oneDNN under torch on a CPU: environment variables that they read when they are loaded.

Threads of OpenMP wait for each other asleep rather than spinning: a thread that spins keeps a core from the one it
waits for as soon as another program wants that core. With two threads on two busy cores, training ran at 1/20 of its
speed that way.

oneDNN keeps 1,024 products, each compiled for its sizes, and so does the layer over it in torch. Sizes hardly ever come
again where no text is padded, and the two held 700 MB of a server's memory for no gain in speed; they keep some.

docs/log.md, 2026-11-27, has both measurements. Whoever wants other values sets the variables before tessera is
imported.
"""

import os

SPINS = {"GOMP_SPINCOUNT": "1000"}
"""Rounds that a thread spins before it sleeps: some microseconds, so that the next operator still finds it awake."""

KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "32"}
"""Products that oneDNN keeps, and that the layer over it (ideep) keeps."""


def prepare() -> None:
    """Sets the variables, but for those that are set already, in this process and its children."""
    patient = "OMP_WAIT_POLICY" in os.environ  # which says the same in other words
    for name, value in (KEPT if patient else SPINS | KEPT).items():
        os.environ.setdefault(name, value)
