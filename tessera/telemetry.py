"""Telemetry of the libraries underneath: off, before any of them is imported, in this process and its children.

tessera sends nothing to anybody, and what it stands on should not do so in its name. Whoever wants to sets the
variable to another value before tessera is imported. docs/libraries.md says which library reads which.
"""

import os
import sys

OFF = {
    "DO_NOT_TRACK": "1",  # Daft, huggingface_hub (and so transformers, datasets) and others: https://donottrack.sh
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers asks the Hub to convert a model of pickles, in a thread
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime
    "RAY_USAGE_STATS_ENABLED": "0",
}


def off() -> None:
    """Turns reports off, but for variables that are set already."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
    # It reads no variable. OpenVINO and NNCF do without it where it is not installed, and so it is for them here.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
