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
    sample_bytes: Annotated[
        str | None, typer.Option(help="text of each language that is read (default: 200kB, less of many)")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw it, as PNG, SVG or HTML")] = None,
) -> None:
    """Does this model know my language, and what should I do? Tokens, hidden words, speed, a verdict, its price."""
    from tessera.adapt.look import look as work
    from tessera.plan.fields import parse_bytes
    from tessera.progress import Silent
    from tessera.report import look as report

    check_outputs(plot)
    size = None if sample_bytes is None else parse_bytes(sample_bytes)
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


@app.command()
def adapt(
    model: ModelPath,
    text: Annotated[list[str], typer.Option(help="text of the new language: file, folder, glob or URL (repeatable)")],
    out: Annotated[Path, typer.Option(help="the folder to work in; the model will be in its `final`")],
    replay: Annotated[list[str] | None, typer.Option(help="text of languages that are to be kept (repeatable)")] = None,
    watch: Annotated[
        list[str] | None, typer.Option(help="text of languages that are not read, to see what they lose (repeatable)")
    ] = None,
    pairs: Annotated[
        list[str] | None, typer.Option(help="translations, for a model that makes vectors: two columns (repeatable)")
    ] = None,
    language: Language = None,
    column: Column = "text",
    trim: Annotated[
        bool, typer.Option("--trim", help="leave out the tokens that none of these languages uses")
    ] = False,
    extend: Annotated[
        int | None, typer.Option(help="add so many pieces to the vocabulary (default: as the verdict says)")
    ] = None,
    no_vocabulary: Annotated[bool, typer.Option("--no-vocabulary", help="leave the vocabulary as it is")] = False,
    tokens: Annotated[
        str | None, typer.Option(help="to read, as 2M (default: the new text four times, at most 2M)")
    ] = None,
    share: Annotated[float, typer.Option(help="of the new text where old text is replayed")] = 0.7,
    peak: Annotated[float | None, typer.Option(help="the learning rate (default: by the width of the model)")] = None,
    average: Annotated[
        float | None, typer.Option(help="weight of the trained model in the average; 1: no average (default: a half)")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="a task measured before and after, as of evaluate (repeatable)")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="folder of the tasks' data")] = None,
    seed: Annotated[int, typer.Option(help="of the training")] = 0,
) -> None:
    """Makes a released model know your language: vocabulary, continued training with replay, average, what it cost."""
    from tessera.adapt.adapt import adapt as work
    from tessera.adapt.asked import Asked
    from tessera.plan.fields import parse_tokens

    if no_vocabulary and (trim or extend):
        raise ValueError("adapt: --no-vocabulary leaves the vocabulary as it is; leave out --trim and --extend")
    asked = Asked(
        model=str(model), text=tuple(text), replay=tuple(replay or ()), watch=tuple(watch or ()),
        pairs=tuple(pairs or ()), language=language,
        column=column, trim=trim, extend=0 if no_vocabulary else extend,
        tokens=None if tokens is None else parse_tokens(tokens), share=share, peak=peak, average=average,
        tasks=tuple(task or ()), data=None if data is None else str(data), seed=seed,
    )  # fmt: skip
    with Watcher(console) as watcher:
        done = work(asked, out, watcher)
    title, columns, rows = done.table
    print_table(title, columns, rows, left=2)
    if done.tasks:
        names = list(next(iter(done.tasks.values())))
        print_table("tasks", ["task", *names], [[task, *values.values()] for task, values in done.tasks.items()])
    if (recipe := out / "adapt.yaml").is_file():
        console.print(f"recipe: {recipe} (yours to edit)", soft_wrap=True)
    console.print(f"model:  {done.model}", soft_wrap=True)
