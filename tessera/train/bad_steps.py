"""A step that goes wrong: what is wrong with it, what was read in it, and whether the run may go on.

Which steps went wrong is part of the position of a run, so a run that is stopped and resumed forgives as many as one
that never stopped. Everything here is a function of the step and of that list.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.data.hashing import mix
from tessera.data.stream import Stream, cut
from tessera.files import write_json
from tessera.plan import schedule
from tessera.plan.recipe import Phase

_SHOWN = 6  # documents in a message; all are in the file

Stretch = tuple[int, int]  # first and last step whose reading was left out


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


def too_many(phase: Phase, left_out: Sequence[Stretch], first: int) -> str | None:
    """Why no more is forgiven, or None. `first` is the first step that would be left out now.

    In a row are stretches between which no step was kept: each begins where one ended, or where one began.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """What a batch was made of, in its order: [N] each."""

    bucket: NDArray[np.int64]
    number: NDArray[np.int64]  # of the document within its bucket
    begin: NDArray[np.int64]  # first token, within the document
    tokens: NDArray[np.int64]


def documents(stream: Stream, t0: int, t1: int) -> Documents:
    """Where each document of the batch of the window [t0, t1) stands in the store."""
    bucket, starts, lengths, keys = stream.pieces(t0, t1)
    if stream.crop is not None:
        piece, starts, lengths, keys = cut(starts, lengths, keys, stream.crop, stream.context)
        bucket = bucket[piece]
    order = np.argsort(mix(~keys), kind="stable")  # as Stream.read has them
    bucket, starts, lengths = bucket[order], starts[order], lengths[order]
    offsets = stream.shards.offsets
    place = np.searchsorted(offsets, starts, side="right") - 1
    first = np.asarray(stream.shards.first_document, np.int64)[bucket]
    return Documents(bucket=bucket, number=place - first, begin=starts - np.asarray(offsets[place]), tokens=lengths)


def record(folder: Path, phase: Phase, fault: Fault, stream: Stream) -> str:
    """Writes `faults/step-<n>.json` into the phase's folder and returns a message for people.

    The file has every document that was read in the step; the message the first few.
    """
    begin, end = schedule.boundary(phase, fault.step), schedule.boundary(phase, fault.step + 1)
    read = documents(stream, begin, end)
    names = [bucket.key for bucket in stream.shards.buckets]
    rows = [
        {"bucket": names[b], "document": n, "first_token": f, "tokens": t}
        for b, n, f, t in zip(*(a.tolist() for a in (read.bucket, read.number, read.begin, read.tokens)), strict=True)
    ]
    path = folder / "faults" / f"step-{fault.step}.json"
    write_json(
        path,
        {
            "phase": phase.name,
            "step": fault.step,
            "planned_tokens": [begin, end],
            "tokens": int(read.tokens.sum()),
            "loss": _number(fault.loss),
            "gradient_norm": _number(fault.gradient_norm),
            "why": fault.why,
            "documents": rows,
        },
    )
    shown = ", ".join(f"{row['bucket']} {row['document']}" for row in rows[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return (
        f"{phase.name}, step {fault.step}: {fault.why}. It read {int(read.tokens.sum()):,} tokens, planned tokens "
        f"{begin:,} to {end:,}, of the documents {shown}{more} (all are in {path})"
    )


def _number(value: float) -> float | str:
    """JSON knows no nan and no infinity."""
    return value if math.isfinite(value) else json.dumps(value)
