"""The job of docs/training.md, run by stand-ins for Slurm: two nodes on this machine, a process killed in between."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import HANGS

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
JOB = re.findall(r"^```bash\n(#!/bin/bash\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0]
SRUN = """#!/bin/bash
"$@" > node-0.txt 2>&1 & one=$!
"$@" > node-1.txt 2>&1 & other=$!
wait $one && wait $other
"""
SCONTROL = """#!/bin/bash
echo localhost
"""


def ranks(job: int) -> dict[int, int]:
    """The processes of the job's training by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            values = (place / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is somebody else's
            continue
        if f"SLURM_JOB_ID={job}".encode() in values:
            found |= {int(v[5:]): int(place.name) for v in values if v.startswith(b"RANK=")}
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds its processes in /proc")
def test_the_job_trains_on_two_nodes_and_survives_a_dead_process(recipe_file, tmp_path):
    (tmp_path / "bin").mkdir()
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    shutil.copy(recipe_file, tmp_path / "mine.yaml")
    sets = "--set phases.pretrain.tokens=30k --set machine.checkpoint_minutes=1e-9"
    port = 29_000 + os.getpid() % 1_000
    (tmp_path / "job.sh").write_text(JOB.replace("mine.yaml &", f"mine.yaml {sets} &").replace(":29500", f":{port}"))
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    number = os.getpid()
    slurm = {"SLURM_JOB_ID": str(number), "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_NODELIST": "here"}
    job = subprocess.Popen(
        ["bash", "job.sh"], cwd=tmp_path, env={**os.environ, **slurm, "PATH": path, "OMP_NUM_THREADS": "1"}
    )
    metrics, killed = next((tmp_path.glob("runs")), tmp_path / "runs"), False
    until = time.monotonic() + HANGS
    while job.poll() is None and time.monotonic() < until:
        written = sum(file.read_bytes().count(b"\n") for file in metrics.glob("*/pretrain/metrics.jsonl"))
        if written >= 3 and not killed and 1 in (there := ranks(number)):
            os.kill(there[1], signal.SIGKILL)
            killed = True
        time.sleep(0.02)
    job.kill()
    said = "".join((tmp_path / f"node-{n}.txt").read_text() for n in (0, 1))
    assert job.wait() == 0, said
    assert killed
    assert "pretrain: resuming at checkpoint-" in said
    assert list((tmp_path / "runs").glob("*/decay-a/final/model.safetensors"))
