"""Verbs that make a released model one's own: look at it, adapt it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.app import app
from tessera.cli.options import ModelPath, check_outputs
from tessera.terminal import Watcher, console, harmless_json, print_table

Language = Annotated[str | None, typer.Option(help="of text whose files do not say it (default: as it is identified)")]
Column = Annotated[str, typer.Option("--column", help="the column that holds the text")]


@app.command()
def look(
    model: ModelPath,
    text: Annotated[list[str], typer.Argument(help="text: files, folders, globs or URLs", show_default=False)],
    language: Language = None,
    column: Column = "text",
    sample_bytes: Annotated[str, typer.Option(help="text of each language that is read")] = "200kB",
    json_: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw it, as PNG, SVG or HTML")] = None,
) -> None:
    """Does this model know my language, and what should I do? Tokens, hidden words, speed, a verdict, its price."""
    from tessera.adapt.look import look as work
    from tessera.plan.fields import parse_bytes
    from tessera.progress import Silent
    from tessera.report import look as report

    check_outputs(plot)
    size = parse_bytes(sample_bytes)
    with Watcher(console) as watcher:
        found = work(
            str(model), text, language=language, column=column, sample_bytes=size,
            watcher=Silent() if json_ else watcher,
        ).as_json()  # fmt: skip
    if plot is not None:
        report.draw_look(found, plot)
    if json_:
        print(harmless_json(json.dumps(found, ensure_ascii=False)))
        return
    print_table(str(model), report.COLUMNS, report.rows(found), left=3)
    for line in report.said(found):
        console.print(line, soft_wrap=True)
