"""Logging of metrics: `metrics.jsonl`, one line a step, TensorBoard events beside it, the shares of the mixture."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TextIO

from torch.utils.tensorboard import SummaryWriter

from tessera import checksums
from tessera.files import write_json, write_text
from tessera.plan.corpus import Bucket
from tessera.plan.fields import Curve
from tessera.plan.mixture import MixtureSchedule
from tessera.plan.phase import Phase
from tessera.progress import Say, silent
from tessera.train.checkpoint import Position

_DRAWN = ("loss", "learning_rate", "mask_ratio", "gradient_norm", "tokens_per_second", "mfu", "data_wait_seconds",
          "packing", "peak_memory_bytes")  # fmt: skip
_TAIL = 2**20  # bytes; a line of held-out text in all languages is long


class Metrics:
    """Appends to the metrics of a phase. Lines of steps that are not in the checkpoint are dropped when it resumes.

    folder   of the phase
    step     updates already made: what the file holds beyond that was computed again
    writes   whether this process is the one that writes; the others say the same and nothing comes of it
    warn     told what is wrong with the lines that are there
    """

    def __init__(self, folder: Path, step: int, *, writes: bool = True, warn: Say = silent) -> None:
        self._file: TextIO | None = None
        self._events: SummaryWriter | None = None
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        try:
            checksums.check(path)
        except checksums.Damaged as error:
            warn(f"{error}; what can be read of it is kept")
        path.with_name(path.name + checksums.BESIDE).unlink(missing_ok=True)
        kept = "".join(line + "\n" for line in _up_to(path, step, warn))
        write_text(path, kept)  # at once: a kill here would else lose the lines of all steps before
        self._file = path.open("a", encoding="utf-8", newline="\n")
        self._events = SummaryWriter(str(folder), purge_step=step + 1)

    def step(self, **values: float | int) -> None:
        """One line for one update of the weights: the science of it, then what it took (see train/throughput.py)."""
        drawn = {key: values[key] for key in _DRAWN if key in values}
        self._write({"kind": "step", **values}, **drawn)

    def held_out(self, position: Position, languages: dict[str, dict[str, float]]) -> None:
        """The held-out loss of every language after so many updates."""
        languages = {
            code: {key: round(float(value), 5) for key, value in row.items()} for code, row in sorted(languages.items())
        }
        bits = [row["bits_per_byte"] for row in languages.values()]
        drawn = {"held_out_bits_per_byte": sum(bits) / len(bits)} if bits else {}
        self._write({"kind": "held_out", **_place(position), "languages": languages}, **drawn)

    def left_out(self, policy: str, position: Position, first: int, last: int) -> None:
        """Steps `first` to `last`, counted from 0, were read and not learnt from; `position` is where it goes on."""
        self._write({"kind": policy, **_place(position), "first": first, "last": last})

    def _write(self, line: dict[str, Any], **drawn: float) -> None:
        """A line of the file, and events of TensorBoard."""
        if self._file is None or self._events is None:
            return
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        for key, value in drawn.items():
            self._events.add_scalar(key, value, int(line["step"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._events is not None:
            self._file.close()
            self._events.close()
            checksums.seal_file(Path(self._file.name))


def _place(position: Position) -> dict[str, int]:
    return {"step": position.step, "tokens": position.tokens, "total_tokens": position.total_tokens}


def write_mixture(
    folder: Path, phase: Phase, buckets: Sequence[Bucket], shares: MixtureSchedule, position: Position | None
) -> None:
    """Writes mixture.json of a phase; arguments as of `mixture`."""
    write_json(folder / "mixture.json", mixture(phase, buckets, shares, position), sealed=True)


def mixture(
    phase: Phase, buckets: Sequence[Bucket], shares: MixtureSchedule, position: Position | None
) -> dict[str, object]:
    """Planned beside realised shares of every bucket over the phase; `position` is None until it has ended."""
    temperature = phase.mixture.temperature
    rows = [
        {
            "key": bucket.key,
            "source": bucket.source,
            "language": bucket.language,
            "tokens_available": bucket.tokens,
            "share_planned": planned,
            "share_read": position and position.tokens_by_bucket[number] / max(1, position.tokens_read),
            "tokens_planned": round(planned * phase.tokens),
            "epochs": planned * phase.tokens / max(1, bucket.tokens),
        }
        for number, (bucket, planned) in enumerate(zip(buckets, shares.mean(), strict=True))
    ]
    moves = temperature.model_dump(by_alias=True) if isinstance(temperature, Curve) else temperature
    return {"temperature": moves, "buckets": rows}


def last_step(folder: Path) -> int:
    """Updates of the weights that the metrics of a phase know of; 0 where there are none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        ends = re.findall(rb'"kind": "step", "step": (\d+)', file.read())
    return int(ends[-1]) if ends else 0


def _up_to(path: Path, step: int, warn: Say) -> list[str]:
    """The lines of a file up to `step`; those that are not whole are left out, and `warn` is told.

    Not of half a line at the end: a killed run may leave one.
    """
    lines: list[str] = []
    found = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    bad = []
    for number, line in enumerate(found, 1):
        try:
            given = json.loads(line)
            if given["step"] <= step:
                lines.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            bad += [number] if line and number < len(found) else []
    if bad:
        warn(f"{path}: {len(bad)} damaged line(s) left out, the first is line {bad[0]}; the others are kept")
    return lines
