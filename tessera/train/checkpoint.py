"""A checkpoint is a Hugging Face folder with the training state in `training/`, whole or not there at all.

checkpoint-<step>/
  config.json model.safetensors tokenizer.json ... README.md    what transformers loads
  training/
    optimizer.safetensors optimizer.json                        moments and counts
    state.json                                                  where the run stands: integers
  manifest.json                                                 size and SHA-256 of every file above, written last
"""

import errno
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera import checksums
from tessera.checksums import MANIFEST
from tessera.files import atomic_folder, link_folder
from tessera.huggingface import hub
from tessera.plan import schedule
from tessera.plan.errors import one_line
from tessera.plan.phase import Phase
from tessera.train.optimizer import unpack_state

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NEEDED = ("config.json", "model.safetensors", "training/optimizer.safetensors", "training/optimizer.json",
           "training/state.json")  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read, with the file and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a phase stands. Everything else follows from the recipe."""

    step: int  # updates made
    tokens: int  # on the planned clock of the phase
    tokens_read: int  # really read
    documents: int
    total_tokens_before: int  # planned tokens of the phases this one builds on
    tokens_by_bucket: list[int]
    left_out: list[list[int]] = field(default_factory=list)  # first and last step of what was not learnt from

    @property
    def total_tokens(self) -> int:
        """Planned tokens from the first phase to here."""
        return self.total_tokens_before + self.tokens


def save(
    folder: Path,
    model: hub.AnyMaskedLM,
    optimizer: tuple[dict[str, Tensor], str],
    position: Position,
    *,
    tokenizer_files: Path | None,
    card: str,
) -> None:
    """Writes `folder`; an error or a kill leaves nothing of it, or the folder as it was before.

    optimizer   as `pack_state` gives it
    Raises CheckpointError when the disk is full.
    """
    try:
        with atomic_folder(folder, replace=True, sealed=True) as staging:
            hub.save(model, staging, tokenizer_files, card)
            training = staging / "training"
            training.mkdir()
            tensors, plain = optimizer
            save_file(tensors, training / "optimizer.safetensors")
            (training / "optimizer.json").write_text(plain, encoding="utf-8", newline="\n")
            (training / "state.json").write_text(json.dumps(asdict(position)), encoding="utf-8", newline="\n")
    except (OSError, SafetensorError) as error:
        why = full(error)
        if why is None:
            raise
        raise CheckpointError(
            f"{folder}: the disk is full ({why}), the checkpoint was not written (the last one is untouched); "
            "free some space and run the same command again"
        ) from error


def full(error: Exception) -> str | None:
    """The system's words where an error says that there is no room to write; safetensors has the number in its text."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, SafetensorError) and (found := re.search(r"os error (\d+)", str(error))):
        number = int(found[1])
    return os.strerror(number) if number in _FULL else None


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None if it is whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return f"{folder}: no {MANIFEST}, so it was not written to the end"
    except (OSError, ValueError, RecursionError):
        return f"{folder / MANIFEST}: is not JSON"
    if not isinstance(manifest, dict) or not all(name in manifest for name in _NEEDED):
        return f"{folder / MANIFEST}: does not name all files of a checkpoint"
    return checksums.damage(folder)


def checkpoints(phase_folder: Path) -> list[Path]:
    """The checkpoint folders of a phase, oldest first, whole or not."""
    found = [
        p for p in phase_folder.glob("checkpoint-*") if p.is_dir() and p.name.removeprefix("checkpoint-").isdigit()
    ]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("checkpoint-"))


def latest(phase_folder: Path) -> tuple[Path | None, list[str]]:
    """(the last whole checkpoint or None, what is wrong with each later one)."""
    broken: list[str] = []
    for folder in reversed(checkpoints(phase_folder)):
        problem = damage(folder)
        if problem is None:
            return folder, broken
        broken.append(problem)
    return None, broken


def position(folder: Path) -> Position:
    """Where the run stood when the checkpoint was written."""
    path = folder / "training" / "state.json"
    try:
        return TypeAdapter(Position).validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError) as error:
        why = one_line(error)[:400] if isinstance(error, ValidationError) else error
        raise CheckpointError(f"{path}: does not say where the run stood: {why}") from None


def check_clock(phase: Phase, position: Position) -> None:
    """Raises CheckpointError where a changed recipe counts steps otherwise than the checkpoint did: text would be left
    out, or read again. A phase that was made longer goes on, also where its last batch was cut at its end."""
    here, after = (schedule.boundary(phase, step) for step in (position.step, position.step + 1))
    if here == position.tokens or (position.tokens < here < after and here - position.tokens < after - here):
        return
    raise CheckpointError(
        f"{phase.name}: the checkpoint stands at {position.tokens:,} tokens after {position.step:,} steps, which are "
        f"{here:,} tokens by the batch_tokens, batch_warmup and tokens of this recipe, so text would be left out or "
        "read twice; put these back, or start the phase anew (--out)"
    )


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Puts the moments and counts of a checkpoint into `optimizer`. Raises CheckpointError naming what is wrong."""
    training = folder / "training"
    try:
        plain = (training / "optimizer.json").read_text(encoding="utf-8")
        unpack_state(optimizer, load_file(training / "optimizer.safetensors"), plain)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{training}: {error}") from error


def point(link: Path, target: Path) -> None:
    """Makes `link` lead to `target` beside it, at once."""
    link_folder(link, target)
