"""Make, adapt, merge, measure and run modern multilingual text encoders.

from tessera import Encoder
"""

import importlib
from typing import Any

importlib.import_module("tessera.telemetry").off()  # before any library that would report its use

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`Encoder` when it is asked for: the command line should not wait for torch."""
    if name == "Encoder":
        return importlib.import_module("tessera.inference.encoder").Encoder
    raise AttributeError(f"module 'tessera' has no attribute {name!r}")
