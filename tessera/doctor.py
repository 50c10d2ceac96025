"""Diagnosis of the environment: what this machine has, what tessera would use of it, and what is missing."""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from packaging.requirements import Requirement

from tessera.model.attention import BACKENDS, choose
from tessera.model.precision import compute_dtype
from tessera.plan.shipped import DISTRIBUTION, pip_line
from tessera.train.throughput import product_rate

_INSTRUCTIONS = {  # of torch.cpu.get_capabilities, in rising order of use for bfloat16
    "avx2": "AVX2",
    "avx512_f": "AVX512",
    "avx512_bf16": "AVX512_BF16",
    "amx_bf16": "AMX",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    what: str
    found: str
    advice: str = ""  # what to do; empty where nothing is wrong


def examine(seconds: float = 0.25) -> list[Finding]:
    """Everything there is to say about this machine.

    seconds   for which each matrix product is timed
    """
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    findings = [*_software(), *_processor(), _memory(), *_gpus(), *_features()]
    for device in devices[:2]:  # GPUs of one machine are of one kind
        findings += _rates(device, seconds)
        findings += _choices(device)
    return [*findings, *_extras(), _torchvision()]


def _software() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("tessera", _version(DISTRIBUTION) or "not installed as a distribution")
    version = torch.version
    built = f"CUDA {version.cuda}" if version.cuda else f"ROCm {version.hip}" if version.hip else ""
    blind = built and not torch.cuda.is_available()
    missed = f"torch is built for {built} but sees no GPU: check the driver" if blind else ""
    yield Finding("torch", f"{torch.__version__}, built for {built or 'CPUs'}", missed)
    yield Finding("transformers", _version("transformers") or "not installed")


def _processor() -> Iterator[Finding]:
    able = torch.cpu.get_capabilities()
    name = _in_file(r"^model name\s*:\s*(.+)$", "/proc/cpuinfo")  # torch knows the vendor only
    yield Finding("processor", str(name or able.get("cpu_name") or platform.processor() or "unknown"))
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    advice = f"more threads than cores: set machine.threads={allowed}" if allowed and threads > allowed else ""
    yield Finding("cores", f"{os.cpu_count()}, usable {allowed}; threads of torch {threads}", advice)
    has = [shown for key, shown in _INSTRUCTIONS.items() if able.get(key)]
    lacks = [shown for key, shown in _INSTRUCTIONS.items() if not able.get(key)]
    text = f"{', '.join(has) or 'none of these'}" + (f"; not {', '.join(lacks)}" if lacks else "")
    intel = able.get("architecture") in ("x86_64", "AMD64")
    yield Finding("instructions", text if intel else f"those of {platform.machine()}")


def _in_file(pattern: str, path: str) -> str | None:
    """What a pattern finds in a file of Linux; None without the file, or where it is not there."""
    match = (
        re.search(pattern, Path(path).read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        if Path(path).exists()
        else None
    )
    return match[1] if match else None


def _memory() -> Finding:
    """What the machine has, or what the container lets it use."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Finding("memory", "unknown")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = int(_in_file(r"^(\d+)$", "/sys/fs/cgroup/memory.max") or total)
    free = _in_file(r"^MemAvailable:\s+(\d+) kB", "/proc/meminfo")
    text = _gib(total) + (f", limited to {_gib(limit)}" if limit < total else "")
    return Finding("memory", text + (f", {_gib(1024 * int(free))} available" if free else ""))


def _gpus() -> Iterator[Finding]:
    if torch.backends.mps.is_available():
        yield Finding("GPUs", "Apple's, for machine.device=mps and --device mps; auto means the CPU here")
        return
    if not torch.cuda.is_available():
        yield Finding("GPUs", "none that torch sees")
        return
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        capability = f"capability {found.major}.{found.minor}"
        yield Finding(f"GPU {number}", f"{found.name}, {_gib(found.total_memory)}, {capability}")


def _features() -> Iterator[Finding]:
    for what, module, used in (
        ("variable-length attention", "torch.nn.attention.varlen", "on CUDA"),
        ("flex attention", "torch.nn.attention.flex_attention", "forward only on CPUs"),
    ):
        there = importlib.util.find_spec(module) is not None
        found, advice = (f"in this torch; {used}", "") if there else ("not in this torch", "upgrade torch")
        yield Finding(what, found, advice)
    compiler = next((path for path in map(shutil.which, ("g++", "clang++", "c++", "cl")) if path), None)
    yield Finding("C++ compiler, for torch.compile", compiler or "none")


def _rates(device: torch.device, seconds: float) -> Iterator[Finding]:
    """Matrix products per second, and whether auto chooses the faster kind."""
    rates = {dtype: product_rate(device, dtype, seconds) for dtype in (torch.float32, torch.bfloat16)}
    chosen = compute_dtype("auto", device)
    for dtype, rate in rates.items():
        slower = dtype is chosen and rate < 0.8 * max(rates.values())
        other = next(name for name in ("float32", "bfloat16") if name != _name(dtype))
        advice = f"auto chooses {_name(dtype)} though it is slower here: set machine.dtype={other}" if slower else ""
        yield Finding(f"products in {_name(dtype)} on {device.type}", f"{rate / 1e9:,.0f} GFLOP/s", advice)


def _choices(device: torch.device) -> Iterator[Finding]:
    """What machine.attention and machine.dtype mean on this device."""
    backend, dtype = choose("auto", device), compute_dtype("auto", device)
    lacking = backend == "varlen" and dtype is not torch.bfloat16
    advice = "varlen needs bfloat16, which this GPU lacks: set machine.attention=reference" if lacking else ""
    yield Finding(f"auto on {device.type}", f"attention {backend} in {_name(dtype)}", advice)
    runs = []
    for name in BACKENDS:
        with contextlib.suppress(ValueError):
            runs.append(choose(name, device))
    yield Finding(f"attention that runs on {device.type}", ", ".join(runs))


# ------------------------------------------------------------------------------------------------------------ extras


def _extras() -> Iterator[Finding]:
    """Each extra: its packages, those missing or outside their bounds, the line that brings them."""
    if _version(DISTRIBUTION) is None:
        yield Finding("extras", "not known, since tessera is not installed", pip_line("prepare,evaluate,report"))
        return
    extras: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, importlib.metadata.requires(DISTRIBUTION) or []):
        if match := re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker)):
            extras.setdefault(match[1], []).append(requirement)
    for extra, requirements in extras.items():
        there, wanting = [], []
        for requirement in requirements:
            name, bounds, version = requirement.name, requirement.specifier, _version(requirement.name)
            if version is None:
                wanting.append(f"{name} is missing")
            elif not bounds.contains(version, prereleases=True):
                wanting.append(f"{name} {version} is not {bounds}")
            else:
                there.append(f"{name} {version}")
        found = "; ".join([*([", ".join(there)] if there else []), *wanting])
        yield Finding(f"extra [{extra}]", found, pip_line(extra) if wanting else "")


def _torchvision() -> Finding:
    """Nobody here needs it, and where it is of another torch, transformers cannot be imported."""
    version = _version("torchvision")
    if version is None:
        return Finding("torchvision", "not installed, and not needed")
    tried = subprocess.run(
        [sys.executable, "-c", "import torchvision"], capture_output=True, text=True, errors="replace", check=False
    )
    if tried.returncode == 0:
        return Finding("torchvision", f"{version}, fits torch {torch.__version__}; not needed")
    problem = tried.stderr.strip().splitlines()[-1:] or ["it cannot be imported"]
    found = f"{version} does not fit torch {torch.__version__}: {problem[0]}"
    return Finding("torchvision", found, "it breaks transformers: pip uninstall torchvision")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
