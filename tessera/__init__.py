"""Make, adapt, merge, measure and run modern multilingual text encoders.

from tessera import Encoder, Predictor
"""

import importlib
from typing import Any

importlib.import_module("tessera.telemetry").off()  # before any library that would report its use
importlib.import_module("tessera.cpu_libraries").prepare()  # before torch

__version__ = "0.1.0"

_CLASSES = {"Encoder": "tessera.inference.encoder", "Predictor": "tessera.prediction.predictor"}


def __getattr__(name: str) -> Any:
    """`Encoder` and `Predictor` when they are asked for: the command line should not wait for torch."""
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name]), name)
    raise AttributeError(f"module 'tessera' has no attribute {name!r}")
