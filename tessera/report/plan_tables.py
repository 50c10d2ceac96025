"""A plan as people read it: tables of at most 100 columns, a CSV file, a picture of shares and epochs by language."""

import csv
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tessera.files import atomic_file, csv_cells
from tessera.report.overview import LanguagePlan, Overview, PhasePlan
from tessera.report.style import LIGHT, TOKENS, altair, check_picture, write_picture
from tessera.report.tables import tokens

Table = tuple[str, list[str], list[list[Any]]]
"""Title, columns, rows."""

FIRST, LAST = 15, 5  # of a long list of languages


def tables(plan: Overview, everything: bool = False) -> list[Table]:
    """The tables of a plan. A list of more than 20 languages is cut to 15 and 5 unless `everything`."""
    made: list[Table] = []
    if plan.parameters is not None:
        row = [f"{count:,}" for count in plan.parameters.values()]
        made.append((f"{plan.recipe}: parameters (preset {plan.preset})", list(plan.parameters), [row]))
    made.append(("phases", _PHASE_COLUMNS, [_phase_row(phase) for phase in plan.phases]))
    made.append(("joints: at the start and at the end of each phase", _JOINT_COLUMNS, _joint_rows(plan)))
    made += _cost_tables(plan)
    if plan.merges:
        made.append(("merges", ["merge", "of"], [list(merge.split(": ", 1)) for merge in plan.merges]))
    for phase in plan.phases:
        if phase.languages:
            made.append(_languages_table(phase, everything))
    return made


def write_csv(plan: Overview, path: Path) -> None:
    """One row for each phase and language. Unknown numbers stay empty."""
    columns = [field.name for field in fields(LanguagePlan)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["phase", *columns])
        for phase in plan.phases:
            rows = ([phase.name, *(getattr(row, c) for c in columns)] for row in phase.languages)
            writer.writerows(map(csv_cells, rows))


_PHASE_COLUMNS = ["phase", "from", "tokens", "steps", "batch", "context", "length", "lang.", "FLOPs", "GPU h"]


def _phase_row(phase: PhasePlan) -> list[Any]:
    return [
        phase.name,
        "/".join(phase.from_.split("/")[-2:]),  # of a folder the last two names; the recipe has it in full
        tokens(phase.tokens),
        f"{phase.steps:,}",
        tokens(phase.batch_tokens),
        f"{phase.context:,}",
        "?" if phase.mean_length is None else f"{phase.mean_length:,.0f}",
        str(len(phase.languages) or "?"),
        "?" if phase.flops is None else f"{phase.flops:.2e}",
        "?" if phase.gpu_hours is None else _hours(phase.gpu_hours),
    ]


_JOINT_COLUMNS = ["phase", "at", "learning rate", "mask", "temperature", "batch", "RoPE theta"]


def _joint_rows(plan: Overview) -> list[list[Any]]:
    rows = []
    for phase in plan.phases:
        theta = phase.start.rope_theta
        shown = "as it is" if theta is None else "{:g}, {:g}".format(*theta)
        for joint, first, last in ((phase.start, [phase.name, "start"], shown), (phase.end, ["", "end"], "")):
            rates = [f"{joint.learning_rate:.3g}", f"{joint.mask_ratio:g}", f"{joint.temperature:g}"]
            rows.append([*first, *rates, tokens(joint.batch_tokens), last])
    return rows


def _cost_tables(plan: Overview) -> list[Table]:
    known = [(p.name, p.memory, p.gpu_hours) for p in plan.phases if p.memory is not None and p.gpu_hours is not None]
    if not known:
        return []
    machine = plan.machine
    hours = sum(needed for _, _, needed in known)
    title = (
        f"{_hours(hours)} GPU-hours at an MFU of {machine.mfu:g}: {time(hours / machine.gpus)} on {machine.gpus} x "
        f"{machine.gpu}; memory of one, of {plan.gpu_memory / 1e9:.0f} GB"
    )
    rows = []
    for name, memory, needed in known:
        sizes = (size / 1e9 for size in (*memory.values(), sum(memory.values())))
        cells = [f"{size:.1f}" if size >= 0.1 else f"{size:.3f}" for size in sizes]
        rows.append([name, *cells, time(needed / machine.gpus)])
    return [(title, ["phase", *known[0][1], "GB", "time"], rows)]


def _languages_table(phase: PhasePlan, everything: bool) -> Table:
    moves = ["at start", "at end"] if phase.moves else []
    columns = ["language", "available", "share", *moves, "tokens", "epochs"]
    rows = [_language_row(row, phase.moves) for row in phase.languages]
    between = phase.languages[FIRST:-LAST]
    if between and not everything:
        share, read = sum(row.share for row in between), sum(row.tokens for row in between)
        rows[FIRST:-LAST] = [[f"... {len(between)} between", "", _share(share), *("" for _ in moves), tokens(read), ""]]
    return f"{phase.name}: {len(phase.languages)} languages", columns, rows


def _language_row(row: LanguagePlan, moves: bool) -> list[Any]:
    available = "?" if row.available is None else tokens(row.available)
    shares = [row.share, *((row.share_start, row.share_end) if moves else ())]
    epochs = "?" if row.epochs is None else f"{row.epochs:.2f}" if row.epochs >= 0.1 else f"{row.epochs:.2g}"
    capped = "capped " if row.capped else ""
    return [row.language, available, *map(_share, shares), tokens(row.tokens), capped + epochs]


def _share(share: float) -> str:
    return f"{share:.3%}" if share >= 1e-5 or share == 0 else f"{100 * share:.0e}%"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def time(hours: float) -> str:
    """Hours in the unit that people would say."""
    if hours < 1 / 60:
        return "under a minute"
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def said(plan: Overview) -> Sequence[str]:
    """What stands below the tables: where the sizes are from, and the warnings."""
    if plan.inventory is None:
        first = "No text yet: `tessera prepare` makes the shards, or give counts with --counts FILE."
    else:
        first = f"Text: {plan.inventory}."
    if any(phase.flops is not None and phase.mean_length is None for phase in plan.phases):
        first += " The length of documents is not known: FLOPs are for pieces as long as the context, an upper bound."
    return [first, *plan.mining, *(f"warning: {line}" for line in plan.warnings)]


# -------------------------------------------------------------------------------------------------------- its picture


def draw_plan(plan: Overview, path: Path) -> Path:
    """Writes the shares of the languages by rank and their epochs by available text; returns the file.

    Raises ValueError where the plan knows no languages or `path` ends in something else than .png, .svg or .html,
    ImportError without the extra `report`.
    """
    known = [phase for phase in plan.phases if phase.languages]
    if not known:
        raise ValueError("--plot: the plan knows no languages yet; prepare the shards, or give --counts FILE")
    check_picture(path)
    alt = altair()
    colour = alt.Color("phase:N", scale=alt.Scale(domain=[phase.name for phase in known], range=list(LIGHT)))
    shares = [
        {"x": rank, "y": 100 * row.share, "phase": phase.name}
        for phase in known
        for rank, row in enumerate(phase.languages, 1)
    ]
    epochs = [
        {"x": row.available, "y": row.epochs, "phase": phase.name}
        for phase in known
        for row in phase.languages
        if row.available and row.epochs
    ]
    lines = alt.Chart(alt.Data(values=shares), title="Share of each language").mark_line(strokeWidth=1.6)
    points = alt.Chart(alt.Data(values=epochs), title="How often it is read").mark_point(
        size=16, filled=True, opacity=0.7
    )
    parts = [
        chart.encode(x=_axis(alt, "x", x, rows), y=_axis(alt, "y", y, rows), color=colour).properties(
            width=360, height=300
        )
        for chart, x, y, rows in (
            (lines, "rank of the language", "share of tokens, %", shares),
            (points, "tokens available", "epochs", epochs),
        )
        if rows
    ]
    return write_picture(alt.hconcat(*parts), path)


def _axis(alt: Any, name: str, title: str, rows: list[dict[str, Any]]) -> Any:
    """A logarithmic axis with marks at the powers of ten."""
    values = [row[name] for row in rows if row[name] > 0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 1e-9)
    marks = [10.0**n for n in range(low, max(high, low + 1) + 1)]
    label = TOKENS if marks[-1] > 1000 else "format(datum.value, '~g')"
    scale = alt.Scale(type="log", domain=[marks[0], marks[-1]], nice=False)
    axis = alt.Axis(title=title, values=marks, labelExpr=label)
    return (alt.X if name == "x" else alt.Y)(f"{name}:Q", scale=scale, axis=axis)
