"""Loss spikes and NaNs: what is wrong with a step, what was read in it, and whether the run may go on.

Which steps went wrong is part of the position of a run, so a run that is stopped and resumed forgives as many as one
that never stopped. Everything here is a function of the step and of that list.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tessera.data.pair_stream import EmbeddingStream
from tessera.data.stream import Stream
from tessera.files import write_json
from tessera.plan import schedule
from tessera.plan.errors import some
from tessera.plan.phase import Phase

Steps = tuple[int, int]  # first and last step of those that were read and not learnt from


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What went wrong in a step."""

    step: int
    why: str
    loss: float
    gradient_norm: float
    made: bool = False  # found in the weights, after the update


def find(phase: Phase, vocab_size: int, step: int, loss: float, gradient_norm: float) -> Fault | None:
    """What is wrong with a step, if anything: no number, or above a bound of `blow_up`.

    loss   nats for each masked token; guessing costs ln(vocab_size)
    """
    bounds, why = phase.blow_up, None
    if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
        why = f"the loss is {loss} and the gradient norm {gradient_norm}"
    elif bounds.loss_above_uniform is not None and loss > math.log(vocab_size) + bounds.loss_above_uniform:
        why = (
            f"the loss is {loss:.3f}, more than {bounds.loss_above_uniform:g} above the {math.log(vocab_size):.3f} of "
            "guessing (blow_up.loss_above_uniform)"
        )
    elif bounds.gradient_norm is not None and gradient_norm > bounds.gradient_norm:
        why = f"the gradient norm is {gradient_norm:.3g}, above {bounds.gradient_norm:g} (blow_up.gradient_norm)"
    return None if why is None else Fault(step=step, why=why, loss=loss, gradient_norm=gradient_norm)


def too_many(phase: Phase, left_out: Sequence[Steps], first: int) -> str | None:
    """Why no more is forgiven, or None. `first` is the first step that would be left out now.

    In a row are those between which no step was kept: each begins where one ended, or where one began.
    """
    bounds, row, place = phase.blow_up, 0, first
    for begin, end in reversed(left_out):
        if place not in (begin, end + 1):
            break
        row, place = row + 1, begin
    if row >= bounds.in_a_row:
        return f"{row} in a row have been forgiven already (blow_up.in_a_row)"
    if len(left_out) >= bounds.in_all:
        return f"{len(left_out)} in this phase have been forgiven already (blow_up.in_all)"
    return None


def record(folder: Path, phase: Phase, fault: Fault, stream: Stream | EmbeddingStream) -> str:
    """Writes `faults/step-<n>.json` into the phase's folder and returns a message for people.

    The file has every document that was read in the step; the message the first few.
    """
    begin, end = schedule.boundary(phase, fault.step), schedule.boundary(phase, fault.step + 1)
    read = stream.origins(begin, end)
    total = sum(tokens for *_, tokens in read)
    rows = [
        {"bucket": stream.buckets[bucket].key, "document": number, "first_token": first, "tokens": tokens}
        for bucket, number, first, tokens in read
    ]
    path = folder / "faults" / f"step-{fault.step}.json"
    write_json(
        path,
        {
            "phase": phase.name,
            "step": fault.step,
            "planned_tokens": [begin, end],
            "tokens": total,
            "loss": _number(fault.loss),
            "gradient_norm": _number(fault.gradient_norm),
            "why": fault.why,
            "documents": rows,
        },
    )
    shown = some([f"{row['bucket']} {row['document']}" for row in rows], 6)
    return (
        f"{phase.name}, step {fault.step}: {fault.why}. It read {total:,} tokens, planned tokens "
        f"{begin:,} to {end:,}, of the documents {shown} (all are in {path})"
    )


def _number(value: float) -> float | str:
    """JSON knows no nan and no infinity."""
    return value if math.isfinite(value) else json.dumps(value)
