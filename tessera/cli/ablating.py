"""The ablation verb: one phase trained many times, with one value changed at a time."""

from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.app import app
from tessera.cli.options import RecipePath, Set, overrides
from tessera.files import read_json
from tessera.terminal import Watcher, console, print_table


@app.command()
def ablate(
    recipe: RecipePath,
    from_: Annotated[
        str, typer.Option("--from", help="a finished phase of the run, or a checkpoint folder", show_default=False)
    ],
    vary: Annotated[
        list[str],
        typer.Option(
            help="an axis: 'phases.decay.mask_ratio=0.05,0.1', values in YAML (repeatable)", show_default=False
        ),
    ],
    set_: Set = None,
    seeds: Annotated[int, typer.Option(help="how many, from the recipe's own on")] = 3,
    evaluate: Annotated[
        str | None, typer.Option(help="tasks of the recipe, with commas (default: all); held_out is always measured")
    ] = None,
    merge: Annotated[
        list[str] | None, typer.Option(help="an axis, by its key, whose models are merged, too (TIES; repeatable)")
    ] = None,
    jobs: Annotated[int, typer.Option(help="variants at the same time")] = 1,
    run: Annotated[
        Path | None, typer.Option(help="whose tokenizer and shards are read (default: that of the checkpoint)")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="where to write (default: runs/<name>-ablations)")] = None,
) -> None:
    """One phase from one checkpoint, one value changed at a time, over seeds: what it does. Run it again to go on."""
    from tessera.report.style import altair

    altair()  # rather now than after hours of training
    from tessera.ablation import tables as report
    from tessera.ablation.axes import read
    from tessera.ablation.folders import find_start
    from tessera.ablation.study import ablate as walk

    asked = read(recipe, vary, overrides(set_), merge or ())
    name = asked.recipe.name
    tasks = None if evaluate is None else [task.strip() for task in evaluate.split(",")]
    out = out or Path("runs") / f"{name}-ablations"
    start = find_start(from_, run or Path("runs") / name)
    with Watcher(console) as watcher:
        written = walk(asked, start, out, seeds=seeds, tasks=tasks, jobs=jobs, watcher=watcher)
    found = read_json(written)
    for title, columns, rows in report.tables(found):
        print_table(title, columns, rows, left=2)
    for line in report.said(found):
        console.print(line, soft_wrap=True)
    for file in ("deltas.png", "deltas.html"):
        console.print(f"plot: {report.draw(found, out / file)}", soft_wrap=True)
