"""The doctor says what is there, measures it, and gives the line to type where something is missing."""

import importlib.metadata
import re
import subprocess
import time

import pytest
import torch
from typer.testing import CliRunner

from tessera import doctor
from tessera.cli import app
from tessera.doctor import examine, product_rate


def found(*, seconds: float = 0.001) -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in examine(seconds)}


@pytest.fixture
def versions(monkeypatch):
    """versions(name=version or None): what is installed, as far as the doctor can see."""
    real = doctor._version

    def pretend(**given: str | None) -> None:
        monkeypatch.setattr(doctor, "_version", lambda name: given.get(name, real(name)))

    return pretend


def test_everything_that_decides_about_speed_is_named_once():
    findings = examine(0.001)
    names = [finding.what for finding in findings]
    assert len(set(names)) == len(names)
    assert {"python", "torch", "transformers", "processor", "cores", "instructions", "memory"} <= set(names)
    assert {"auto on cpu", "products in float32 on cpu", "products in bfloat16 on cpu"} <= set(names)
    assert {"variable-length attention", "flex attention", "torchvision"} <= set(names)
    assert all(finding.found for finding in findings)


def test_what_is_said_of_this_machine_is_so():
    said = found()
    assert torch.__version__ in said["torch"].found
    assert said["tessera"].found == importlib.metadata.version("tessera-encoders")
    assert f"threads of torch {torch.get_num_threads()}" in said["cores"].found
    assert said["attention that runs on cpu"].found == "reference, cpu"
    if torch.cpu._is_avx512_bf16_supported():
        assert "AVX512_BF16" in said["instructions"].found.partition("not")[0]
        assert said["auto on cpu"].found == "attention cpu in bfloat16"


def test_the_rate_counts_a_multiply_add_as_two_and_is_that_of_this_processor(monkeypatch):
    rate = product_rate(torch.device("cpu"), torch.float32, 0.01)
    assert 1e8 < rate < 1e14
    clock = iter([0.0, 0.5, 2.0, 2.0])  # the second product ends after two seconds
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert product_rate(torch.device("cpu"), torch.float32, 1.0) == pytest.approx(2 * 2 * 1024**3 / 2.0)


def test_a_format_that_auto_chooses_and_that_is_slower_is_advised_against(monkeypatch):
    rates = {torch.float32: 9e9, torch.bfloat16: 2e9}
    monkeypatch.setattr(doctor, "product_rate", lambda device, dtype, seconds: rates[dtype])
    for chosen, advice in ((torch.bfloat16, "set machine.dtype=float32"), (torch.float32, "")):
        monkeypatch.setattr(doctor, "compute_dtype", lambda name, device, chosen=chosen: chosen)
        said = found()
        assert said["products in bfloat16 on cpu"].found == "2 GFLOP/s"
        assert said["products in bfloat16 on cpu"].advice.endswith(advice)
        assert said["products in float32 on cpu"].advice == ""


def test_more_threads_than_cores_are_noticed(monkeypatch):
    monkeypatch.setattr(doctor.torch, "get_num_threads", lambda: 10_000)
    assert re.search(r"more threads than cores: set machine.threads=\d+", found()["cores"].advice)


@pytest.mark.parametrize(
    ("installed", "said"), [(None, "scikit-learn is missing"), ("1.2.3", "scikit-learn 1.2.3 is not <2,>=1.6")]
)
def test_an_extra_that_is_not_whole_comes_with_the_line_to_type(versions, installed, said):
    assert found()["extra [evaluate]"].advice == ""
    versions(**{"scikit-learn": installed})
    finding = found()["extra [evaluate]"]
    assert said in finding.found
    assert finding.advice == 'pip install "tessera-encoders[evaluate]"'
    assert found()["extra [report]"].advice == ""


@pytest.mark.parametrize(
    ("status", "advice"), [(0, ""), (1, "it breaks transformers: pip uninstall torchvision")], ids=["fits", "does not"]
)
def test_a_torchvision_of_another_torch_is_noticed(versions, monkeypatch, status, advice):
    assert found()["torchvision"].found == "not installed, and not needed"
    versions(torchvision="0.28.0")
    end = subprocess.CompletedProcess([], status, "", "Trace\nRuntimeError: operator torchvision::nms does not exist")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: end)
    finding = found()["torchvision"]
    assert finding.advice == advice
    assert ("operator torchvision::nms does not exist" in finding.found) is (status == 1)


def test_the_command_prints_the_line_to_type_whole(versions):
    versions(altair=None)
    shown = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "250"})
    assert shown.exit_code == 0, shown.output
    assert 'pip install "tessera-encoders[report]"' in shown.output
    assert "extra [evaluate]" in shown.output
