"""Tests of what runs on a GPU. Each body runs on a CPU too, whose attention kernels are stood in for."""

import sys
from pathlib import Path

import pytest
import torch

ROOM_OF_TRAINING = Path(__file__).parents[1] / "train"
sys.path.append(str(ROOM_OF_TRAINING))  # its tiny run is trained here too


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """A GPU, or a CPU that stands in for one: `auto` chooses there what it chooses on a GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    if request.param == "cpu":
        request.getfixturevalue("varlen_on_cpu")
    return torch.device(request.param)
