"""docs/training.md says what is so: the keys of metrics.jsonl and of machine, its recipe, what is printed, its job."""

import re
import subprocess
from pathlib import Path

import pytest
from going import go, lines
from torch.distributed import constants

from tessera.plan.loading import load
from tessera.plan.recipe import Machine

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
JOB = re.findall(r"^```bash\n(#!/bin/bash\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0]


def first_column(heading: str) -> list[str]:
    """The `keys` in the first column of the table that begins with this row."""
    table = PAGE[PAGE.index(heading) :].partition("\n\n")[0].splitlines()[2:]
    return [key for row in table for key in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_every_key_of_a_step_is_explained_and_no_other(whole):
    assert sorted(first_column("| key of a step | meaning |")) == sorted(lines(whole)[0].keys() - {"kind"})


def test_every_key_of_the_machine_that_is_shown_is_one():
    shown = {*first_column("| key | laptop | GPUs |"), *re.findall(r"machine\.(\w+)", PAGE)}
    assert shown <= set(Machine.model_fields)
    assert shown >= {"parallel", "micro_batch_tokens", "checkpoint_minutes", "keep_checkpoints"}


def test_the_recipe_that_goes_on_from_a_model_loads(tmp_path):
    (block,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "more.yaml").write_text(block, encoding="utf-8")
    phase = load(tmp_path / "more.yaml").phases[0]
    assert phase.from_ == "./model"
    assert phase.mixture.shares == {"old": 0.2}
    muon = re.findall(r"`optimizer: (\{name: muon.*?\})`", PAGE)[0]
    assert load(tmp_path / "more.yaml", {"phases.adapt.optimizer": muon}).phases[0].optimizer.name == "muon"


def test_lines_are_printed_as_they_are_shown(tmp_path, text):
    shown = re.search(r"^(pretrain: [\d,]+ tokens in .*)$", PAGE, re.MULTILINE)
    share = re.search(r"^pretrain: (MFU counts as a share of .*) \(2 x .*\)(, .*)$", PAGE, re.MULTILINE)
    assert shown is not None
    assert share is not None
    said = go(tmp_path, text)

    def shape(line: str) -> str:
        return re.sub(r"\d[\d,.]*\b", "N", re.sub(r"^\w+: ", "", re.sub(r"b?float\d\d", "kind", line)))

    assert shape(said[-1]) == shape(shown[1])
    assert any(shape(line) == shape(share[1] + share[2]) for line in said)


def test_those_who_wait_give_up_when_the_page_says():
    assert constants.default_pg_timeout.total_seconds() == 30 * 60
    if constants.default_pg_nccl_timeout is not None:  # in builds with NCCL
        assert constants.default_pg_nccl_timeout.total_seconds() == 10 * 60


def test_the_job_is_a_script_that_bash_reads(tmp_path):
    (tmp_path / "job.sh").write_text(JOB)
    done = subprocess.run(["bash", "-n", tmp_path / "job.sh"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(line.startswith("#SBATCH --") for line in JOB.splitlines()[1:10])


@pytest.mark.parametrize("word", ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", "--max-restarts 3", "wait $!"])
def test_the_job_has_what_restarts_need(word):
    assert word in JOB
