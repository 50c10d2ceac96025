"""Triton kernels without a GPU: a child process runs them in Triton's interpreter, or compiles them for a GPU.

A process of its own, since TRITON_INTERPRET holds from the import of Triton on. The children are the files
*_in_triton.py beside the tests; each prints a JSON object.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: torch for CPUs comes without it"
)


def child(script: Path, what: str, cache: Path) -> Any:
    """What `python script what` prints; Triton keeps what it compiles in `cache`."""
    path = os.pathsep.join(filter(None, (str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, what],
        env={**os.environ, "PYTHONPATH": path, "TRITON_CACHE_DIR": str(cache)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_ptx(made: Any) -> dict[str, int]:
    """What a compiled kernel reads and writes: instructions, those of 16 bytes, and spills to the stack."""
    lines = made.asm["ptx"].splitlines()
    loads, stores = ([line for line in lines if f"{what}.global" in line] for what in ("ld", "st"))
    return {
        "bytes": len(made.asm["cubin"]),
        "loads": len(loads), "loads_of_16_bytes": sum(".v4.b32" in line for line in loads),
        "stores": len(stores), "stores_of_16_bytes": sum(".v4.b32" in line for line in stores),
        "spilled": made.asm["ptx"].count("st.local"),
    }  # fmt: skip
