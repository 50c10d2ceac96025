"""What is set before torch is loaded, and that a process which meets many sizes stays small."""

import os
import subprocess
import sys

import pytest

from tessera import cpu_libraries

OURS = (*cpu_libraries.SPINS, *cpu_libraries.KEPT)


def said_by(code, given):
    bare = {name: value for name, value in os.environ.items() if name not in (*OURS, "OMP_WAIT_POLICY")}
    return subprocess.run(
        [sys.executable, "-c", code], env=bare | given, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    ("given", "due"),
    [
        ({}, ["1000", "128", "32"]),
        ({"GOMP_SPINCOUNT": "7", "LRU_CACHE_CAPACITY": "9"}, ["7", "128", "9"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["None", "128", "32"]),
    ],
)
def test_variables_are_set_before_torch_is_loaded_unless_somebody_has_set_them(given, due):
    code = f"import sys, tessera, os; assert 'torch' not in sys.modules; print(*map(os.environ.get, {OURS}))"
    assert said_by(code, given).split() == due


GROWTH = """
import tessera, torch
from pathlib import Path
torch.set_num_threads(1)
weight = torch.randn(128, 128, dtype=torch.bfloat16)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
def products(first):
    for rows in range(first, first + 400):
        torch.nn.functional.linear(torch.ones(rows, 128, dtype=torch.bfloat16), weight)
products(1)
before = resident()
products(401)
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_products_of_ever_new_sizes_do_not_pile_up():
    assert float(said_by(GROWTH, {})) < 40  # MB; 259 where 4,096 are kept
