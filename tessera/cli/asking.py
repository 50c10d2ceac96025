"""Verbs that ask a model: labels, tags, answers and scores of rows; texts that are near to a query."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tessera.cli.app import app
from tessera.terminal import Watcher, console

Dtype = Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="of the matrix products")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")]
Threads = Annotated[int | None, typer.Option(help="of the processor (default: all)")]
Id = Annotated[str | None, typer.Option("--id", help="the column that is kept (default: id, else row)")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="leave out rows that cannot be read")]


@app.command()
def predict(
    folder: Annotated[str, typer.Argument(help="a model with the head of a task", show_default=False)],
    rows: Annotated[str, typer.Argument(help="jsonl, csv, tsv, txt, parquet; file, folder, glob or URL")],
    out: Annotated[Path, typer.Argument(help="NAME.jsonl (also .zst, .gz), .csv or .parquet", show_default=False)],
    text: Annotated[str | None, typer.Option(help="the column with the text, or the query of a reranker")] = None,
    second: Annotated[str | None, typer.Option(help="the column with the second text, or the document")] = None,
    question: Annotated[str | None, typer.Option(help="the column with the question")] = None,
    context: Annotated[str | None, typer.Option(help="the column with the text that answers it")] = None,
    words: Annotated[str | None, typer.Option(help="the column with the words, for a tagger")] = None,
    options: Annotated[str | None, typer.Option(help="the column with the options, or columns: a,b,c,d")] = None,
    id_: Id = None,
    long: Annotated[Literal["windows", "truncate"], typer.Option(help="what is done with longer texts")] = "windows",
    threshold: Annotated[float | None, typer.Option(help="probability from which on a label holds")] = None,
    top: Annotated[int | None, typer.Option(help="write so many scores, the highest")] = None,
    max_length: Annotated[int | None, typer.Option(help="tokens that are read at once")] = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    threads: Threads = None,
    dtype: Dtype = "auto",
) -> None:
    """Labels, tags, answers or scores for every row of a file. Run it again to go on where it was stopped."""
    from tessera.prediction.predict_file import Roles, predict_file

    with Watcher(console) as watcher:
        written = predict_file(
            folder,
            rows,
            out,
            roles=Roles(text=text, second=second, question=question, context=context, words=words, options=options),
            id=id_,
            long=long,
            threshold=threshold,
            top=top,
            max_length=max_length,
            device=device,
            dtype=dtype,
            threads=threads,
            skip_bad=skip_bad,
            on_progress=watcher.progress("predict"),
            say=watcher.say,
        )
    console.print(f"predictions: {written}")
