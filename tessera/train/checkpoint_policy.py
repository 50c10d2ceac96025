"""When checkpoints are written and which of them stay."""

import time
from pathlib import Path

import torch

from tessera import signals
from tessera.files import remove_folder
from tessera.huggingface import hub
from tessera.huggingface.model_card import card
from tessera.model.mlm import MaskedLM
from tessera.plan import schedule
from tessera.plan.fields import show_tokens
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe
from tessera.train import checkpoint, distributed
from tessera.train.checkpoint import CheckpointError, Position
from tessera.train.optimizer import pack_state
from tessera.train.start import TrainState


class CheckpointPolicy:
    """Writes checkpoints: by the clock on the wall, at every `checkpoint_every` tokens, and at the end."""

    def __init__(self, recipe: Recipe, phase: Phase, folder: Path, tokenizer: Path, world: distributed.World) -> None:
        self.recipe, self.phase, self.folder, self.tokenizer, self.world = recipe, phase, folder, tokenizer, world
        self.saved_at = time.monotonic()

    def due(self, position: Position) -> tuple[bool, int]:
        """(whether a checkpoint is to be written now, the signal that asks to stop after it, or 0).

        All processes ask together: a signal that reached one of them stops all at the same step.
        """
        late = time.monotonic() - self.saved_at > 60 * self.recipe.machine.checkpoint_minutes
        last = position.step == schedule.total_steps(self.phase)
        due = self.world.leads and (last or late or self._lasting(position.step))  # one clock for all
        told = distributed.gathered([float(due), float(signals.asked())], self.world)
        number = int(max(signal for _, signal in told))
        return number > 0 or any(due for due, _ in told), number

    def write(self, state: TrainState) -> None:
        """Writes a checkpoint. All processes come here together; a full disk is an error in each of them."""
        target = self.folder / f"checkpoint-{state.position.step}"
        model, packed = whole_model(state.model, self.world), pack_state(state.optimizer, keep=self.world.leads)
        problem = None
        if model is not None:
            position = state.position
            made = f"Tokens read from the first phase to this checkpoint: {show_tokens(position.total_tokens)}."
            text = card(self.recipe, self.phase.name, model.config, made)
            try:
                checkpoint.save(target, model, packed, position, tokenizer_files=self.tokenizer, card=text)
            except CheckpointError as error:
                problem = str(error)
            else:
                self._drop(target, self.recipe.machine.keep_checkpoints - 1)
        problem = distributed.from_lead(problem, self.world)
        if problem is not None:
            raise CheckpointError(problem)
        self.saved_at = time.monotonic()

    def finish(self, position: Position) -> None:
        """Points `final` to the last checkpoint and drops the passing ones: the phase is whole."""
        if self.world.leads:
            target = self.folder / f"checkpoint-{position.step}"
            self._drop(target, 0)
            checkpoint.point(self.folder / "final", target)

    def before(self, step: int) -> Path | None:
        """The last whole checkpoint up to `step` that stays, whenever a run was interrupted; None is the start."""
        found = None
        if self.world.leads:
            staying = [f for f in checkpoint.checkpoints(self.folder) if self._lasting(checkpoint.step_of(f))]
            found = next(
                (f for f in reversed(staying) if checkpoint.step_of(f) <= step and checkpoint.damage(f) is None), None
            )
        return distributed.from_lead(found, self.world)

    def _drop(self, newest: Path, kept: int) -> None:
        passing = [
            f for f in checkpoint.checkpoints(self.folder) if f != newest and not self._lasting(checkpoint.step_of(f))
        ]
        for folder in passing[: len(passing) - kept]:
            remove_folder(folder)

    def _lasting(self, step: int) -> bool:
        return schedule.passes_multiple(self.phase, step, self.phase.checkpoint_every)


def whole_model(model: hub.AnyMaskedLM, world: distributed.World) -> hub.AnyMaskedLM | None:
    """The model with all its weights in the leading process, None in the others; every process calls this.

    A model that is not spread is returned as it is.
    """
    if not any(isinstance(p, distributed.DTensor) for p in model.parameters()):
        return model if world.leads else None
    assert isinstance(model, MaskedLM)  # start.py spreads no other
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not world.leads:
        return None
    with torch.device("meta"):
        twin = MaskedLM(model.config, model.encoder.backend)
    twin.load_state_dict(state, assign=True)
    return twin
