"""Result tables of the report: what came out of a run, by model, by language group and by language."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tessera.checksums import Damaged
from tessera.files import read_json
from tessera.plan.recipe import Merge
from tessera.report.run_files import EVERYTHING, Reading, Run, group_mean, language_of, parents_of
from tessera.report.tables import (
    LOWER_IS_BETTER,
    NOTHING,
    Cell,
    Columns,
    Table,
    best,
    duration,
    gap_cell,
    metric_cell,
    metric_title,
    percent,
    tokens,
)
from tessera.results.result import HELD_OUT, Result

UNTRAINED, CHANCE = "untrained", "chance"  # rows beside the models
_LANGUAGE = ("language", "code", "group")
_SAMPLED = "* measured on a sample during training, not yet on all held-out text."


def summary(run: Run) -> list[Table]:
    """One table for held-out text, one for each retrieval task: a row a model, a column a language group."""
    _, sampled = run.final_bits()
    made, unseen = [], False
    for title, metric, values in measures(run):
        groups, means = by_group(run, values)
        tops = [best(metric, of_group) for of_group in zip(*means.values(), strict=True)]
        rows = []
        for model, of_model in means.items():
            read = run.has_read(model)
            cells = [_result_cell(metric, mean, top) for mean, top in zip(of_model, tops, strict=True)]
            for number, group in enumerate(groups):
                if read and not read.intersection(run.groups[group]):
                    cells[number], unseen = replace(cells[number], css="unseen"), True
            rows.append([Cell(model + (" *" if model in sampled and metric == "bits_per_byte" else "")), *cells])
        made.append(Table(title=title, words=("model",), numbers=[Columns("", tuple(groups))], rows=rows))
    notes = ["Each language counts once in a mean."]
    if any(UNTRAINED in values for _, _, values in measures(run)):
        notes += ["Untrained: every token equally likely, as before the first step."]
    if any(CHANCE in values for _, _, values in measures(run)):
        notes += ["Chance: a sentence drawn blindly from those of the other language."]
    notes += ["Italics: the model was not trained on any language of the group."] if unseen else []
    notes += [_SAMPLED] if sampled else []
    return [*made[:-1], replace(made[-1], note=" ".join(notes))] if made else []


def by_group(run: Run, values: dict[str, dict[str, float]]) -> tuple[list[str], dict[str, list[float | None]]]:
    """The language groups in which any model has a value, and the means of each model over them."""
    groups = [g for g, codes in run.groups.items() if any(group_mean(v, codes) is not None for v in values.values())]
    return groups, {m: [group_mean(v, run.groups[g]) for g in groups] for m, v in values.items()}


def measures(run: Run) -> list[tuple[str, str, dict[str, dict[str, float]]]]:
    """What the summary shows: title, metric, and values by model and language."""
    bits, _ = run.final_bits()
    guessing = {UNTRAINED: untrained} if (untrained := run.untrained_bits()) else {}
    found = [("Held-out bits per byte (lower is better)", "bits_per_byte", {**guessing, **bits})] if bits else []
    for task in tasks(run):
        results = [r for r in run.results if r.task == task and r.kind == "bitext"]
        if values := {r.model: of for r in results if (of := _of(r, "accuracy"))}:
            sizes = {code: size for r in results for code, size in r.examples.items() if size}
            sentences = _between(list(sizes.values()), "sentence")
            title = f"{task}: retrieval accuracy, %{sentences and f', among {sentences} a language'} (higher is better)"
            chance = {CHANCE: {code: 1 / size for code, size in sizes.items()}} if sizes else {}
            found.append((title, "accuracy", {**chance, **values}))
    return found


def _between(sizes: list[int], what: str) -> str:
    """`23 sentences`, or `6 to 23 sentences` where they differ; nothing where none is known."""
    if not sizes:
        return ""
    least, most = min(sizes), max(sizes)
    return f"{most:,} {what}{'s' * (most != 1)}" if least == most else f"{least:,} to {most:,} {what}s"


def mixture(run: Run, names: dict[str, str]) -> list[Table]:
    """What each phase was to read of each language, and what it read."""
    logs = [p for p in run.phases if p.mixture]
    if not logs:
        return []
    groups, rows = _group_of(run), []
    for code, size in sorted(run.available.items(), key=lambda item: (-item[1], item[0])):
        cells = [cell for log in logs for cell in _reading_cells(log.mixture.get(code))]
        rows.append([*_named(code, names, groups), Cell(tokens(size), size), *cells])
    columns = [Columns("text", ("tokens",)), *(Columns(p.name, ("planned, %", "read, %", "epochs")) for p in logs)]
    title = f"Shares by language and phase ({len(rows):,})"
    return [Table(fold=title, ident="mixture-table", words=_LANGUAGE, numbers=columns, rows=rows)]


def _reading_cells(reading: Reading | None) -> list[Cell]:
    if reading is None or not (reading.planned or reading.read):
        return [NOTHING] * 3
    planned = Cell(percent(reading.planned), reading.planned)
    read = NOTHING if reading.read is None else Cell(percent(reading.read), reading.read)
    return [planned, read, NOTHING if reading.epochs is None else Cell(f"{reading.epochs:.3g}", reading.epochs)]


def bits_per_byte(run: Run, names: dict[str, str]) -> list[Table]:
    """Held-out bits per byte at the end, by language and model."""
    bits, sampled = run.final_bits()
    if not bits:
        return []
    codes = sorted({code for values in bits.values() for code in values}, key=lambda c: names.get(c, c))
    groups = _group_of(run)
    rows = []
    for code in codes:
        top = best("bits_per_byte", (bits[m].get(code) for m in bits))
        cells = [_result_cell("bits_per_byte", bits[m].get(code), top) for m in bits]
        rows.append([*_named(code, names, groups), *cells])
    columns = [Columns("", tuple(m + (" *" if m in sampled else "") for m in bits))]
    title, note = f"Bits per byte at the end, by language ({len(rows):,})", _SAMPLED if sampled else ""
    return [Table(fold=title, ident="bits-table", words=_LANGUAGE, numbers=columns, rows=rows, note=note)]


def of_task(run: Run, task: str, names: dict[str, str]) -> list[Table]:
    """One task: the averages of the models, then every language."""
    results = [r for r in run.results if r.task == task and r.kind != HELD_OUT]
    metrics = sorted({m for r in results for m in r.average}, key=lambda m: (m != results[0].metric, m))
    shown = tuple(metric_title(m) for m in metrics)
    tops = {m: best(m, (r.average.get(m) for r in results)) for m in metrics}
    rows = [[Cell(r.model), *(_result_cell(m, r.average.get(m), tops[m]) for m in metrics)] for r in results]
    average = Table(title=task, kind=results[0].kind, lines=_protocols(results),
                    words=("model",), numbers=[Columns("", shown)], rows=rows)  # fmt: skip
    keys = sorted({key for r in results for key in r.results}, key=lambda k: names.get(language_of(k), k))
    if not keys:
        return [average]
    rows = []
    for key in keys:
        of = {m: [r.results.get(key, {}).get(m) for r in results] for m in metrics}
        cells = [_result_cell(m, value, best(m, values)) for m, values in of.items() for value in values]
        rows.append([Cell(names.get(language_of(key), key)), Cell(key), *cells])
    columns = [Columns(title, tuple(r.model for r in results)) for title in shown]
    title, ident = f"{task} by language ({len(rows):,})", f"task-{tasks(run).index(task)}"
    return [average, Table(fold=title, ident=ident, words=_LANGUAGE[:2], numbers=columns, rows=rows)]


def of_merge(run: Run, merge: Merge) -> list[Table]:
    """A merge beside its parents: every measure there is by language group, and how far it is from them."""
    bits, _ = run.final_bits()
    measures = [("bits per byte", "bits_per_byte", bits)]
    for task in tasks(run):
        results = {r.model: r for r in run.results if r.task == task and r.kind != HELD_OUT}
        metric = next(iter(results.values())).metric
        measures.append((f"{task} {metric_title(metric)}", metric, {m: _of(r, metric) for m, r in results.items()}))
    models = [m for m in (*parents_of(merge), merge.name) if any(m in values for _, _, values in measures)]
    rows = []
    for title, metric, values in measures:
        for group, codes in run.groups.items():
            means = {m: group_mean(values.get(m, {}), codes) for m in models}
            own, known = means.get(merge.name), [v for m in models if m != merge.name and (v := means[m]) is not None]
            if own is None or not known:
                continue
            top = best(metric, means.values())
            reference = min(known) if metric in LOWER_IS_BETTER else max(known)
            cells = [_result_cell(metric, means[m], top) for m in models]
            gaps = [gap_cell(metric, own - reference), gap_cell(metric, own - sum(known) / len(known))]
            rows.append([Cell(title), Cell(group), *cells, *gaps])
    columns = [Columns("", (*models, "to the best parent", "to their mean"))]
    table = Table(title=f"{merge.name}: {merge.method}", words=("measure", "group"), numbers=columns, rows=rows)
    return [table] if rows else []


def stages(run: Run) -> list[Table]:
    """What each phase has read, and how fast."""
    rows = []
    for log in run.phases:
        state = "finished" if log.finished else "started" if log.started else "not started"
        planned, done = log.phase.tokens, log.steps["step"][-1] if log.started else 0.0
        read = next((t for t in reversed(log.steps["tokens_read"]) if t == t), 0.0)
        speed = read / log.seconds if log.seconds else 0.0
        measured = [Cell(tokens(read), read), Cell(f"{done:,.0f}", done), Cell(duration(log.seconds), log.seconds)]
        read_cell, steps, time = measured if log.started else [NOTHING] * 3
        rows.append(
            [*map(Cell, (log.name, log.phase.from_, state)), Cell(tokens(planned), planned), read_cell, steps,
             Cell(f"{log.phase.context:,}", log.phase.context), time,
             Cell(f"{tokens(speed)}/s", speed) if speed else NOTHING]
        )  # fmt: skip
    columns = [Columns("", ("planned tokens", "read tokens", "steps", "context", "time", "speed"))]
    return [Table(words=("phase", "from", "state"), numbers=columns, rows=rows, note="; ".join(_mined(run)))]


def _mined(run: Run) -> Iterator[str]:
    """What was mined for phases with hard negatives, where it is there and whole."""
    for log in run.phases:
        asked = log.phase.contrast.negatives if log.phase.contrast is not None else 0
        try:
            found = read_json(run.folder / log.name / "negatives" / "mined.json") if asked else None
        except (OSError, Damaged):
            continue
        counts = [found.get(key) for key in ("negatives", "pairs", "lacking")] if isinstance(found, dict) else []
        match counts:
            case [int(mined), int(pairs), int(lacking)]:
                few = f"{lacking:,} of which have fewer than {asked}"
                yield f"{log.name}: {mined:,} hard negatives of {pairs:,} pairs, {few}"


def _named(code: str, names: dict[str, str], groups: dict[str, str]) -> list[Cell]:
    return [Cell(names.get(code, code)), Cell(code), Cell(groups.get(code, ""))]


def _group_of(run: Run) -> dict[str, str]:
    """The group of each language, without the one that holds all."""
    return {code: group for group, codes in run.groups.items() if group != EVERYTHING for code in codes}


def tasks(run: Run) -> list[str]:
    """The tasks that were evaluated, besides held-out text."""
    return list(dict.fromkeys(r.task for r in run.results if r.kind != HELD_OUT))


def _of(result: Result, metric: str) -> dict[str, float]:
    return {code: row[metric] for code, row in result.results.items() if metric in row}


def _result_cell(metric: str, value: float | None, top: float | None) -> Cell:
    """A result, marked where it is as good as the best in the digits that are shown."""
    cell = metric_cell(metric, value)
    return replace(cell, css="best") if value is not None and cell.text == metric_cell(metric, top).text else cell


def _protocols(results: list[Result]) -> tuple[str, ...]:
    """How the task was measured; each way once, with its models where there are several."""
    ways: dict[str, list[str]] = {}
    for result in results:
        way = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in result.protocol.items())
        ways.setdefault(way, []).append(result.model)
    return tuple(way if len(ways) == 1 else f"{', '.join(models)}: {way}" for way, models in ways.items() if way)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
