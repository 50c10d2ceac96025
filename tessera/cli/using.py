"""Verbs that put a model to use: vectors of texts, other runtimes, int8."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tessera.cli.app import app
from tessera.cli.options import (
    Device,
    Dimensions,
    Dtype,
    Id,
    Longer,
    MaxLength,
    ModelPath,
    SkipBad,
    Threads,
    Written,
    WrittenToo,
    written,
)  # fmt: skip
from tessera.terminal import Watcher, console, print_table

Engine = Literal["onnx", "openvino"]
DropHead = Annotated[
    bool, typer.Option("--drop-head", help="of a classifier: leave its head out, take what is beneath")
]
RealText = Annotated[
    str | None, typer.Option(help="real text of the kind that will be encoded; of a head --rows are enough")
]
TestRows = Annotated[
    str | None, typer.Option(help="of a head: rows with what is right, as it was fine-tuned on, for its score")
]


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help="a model folder, or its name on the Hub", show_default=False)],
    texts: Annotated[str, typer.Argument(help="jsonl, txt (also compressed) or parquet; file, folder, glob or URL")],
    out: Annotated[Path, typer.Argument(help="NAME.parquet or NAME.npy", show_default=False)],
    text: Annotated[str, typer.Option(help="the column that holds the text")] = "text",
    id_: Id = None,
    pooling: Annotated[str | None, typer.Option(help="mean, cls, ... (default: as the folder says)")] = None,
    prompt: Annotated[str | None, typer.Option(help="put before every text")] = None,
    prompt_name: Annotated[str | None, typer.Option(help="a prompt of the folder: query, document, ...")] = None,
    dimensions: Dimensions = None,
    max_length: MaxLength = None,
    long: Longer = "truncate",
    overlap: Annotated[int, typer.Option(help="tokens that a chunk shares with the one before")] = 0,
    batch_invariant: Annotated[
        bool, typer.Option("--batch-invariant", help="the same bytes for a text in any file; slower")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="vectors as they are, not of length 1")] = False,
    output: Annotated[Literal["float32", "float16"], typer.Option(help="number format of the file")] = "float32",
    skip_bad: SkipBad = False,
    drop_head: DropHead = False,
    device: Device = "auto",
    threads: Threads = None,
    dtype: Dtype = "auto",
) -> None:
    """A vector for every text of a file. Run it again to go on where it was stopped."""
    from tessera.bulk.embed_file import embed_file

    with Watcher(console) as watcher:
        written = embed_file(
            model,
            texts,
            out,
            text=text,
            id=id_,
            skip_bad=skip_bad,
            drop_head=drop_head,
            output=output,
            device=device,
            dtype=dtype,
            threads=threads,
            on_progress=watcher.progress("embed"),
            say=watcher.say,
            pooling=pooling,
            normalize=False if raw else None,
            prompt=prompt,
            prompt_name=prompt_name,
            dimensions=dimensions,
            max_length=max_length,
            long=long,
            overlap=overlap,
            batch_invariant=batch_invariant,
        )
    console.print(f"vectors: {written}")


@app.command()
def export(
    model: ModelPath,
    out: Written = None,
    out_too: WrittenToo = None,
    to: Annotated[Engine, typer.Option(help="ONNX Runtime or OpenVINO")] = "onnx",
    output: Annotated[
        Literal["embeddings", "logits"] | None,
        typer.Option(help="what the graph gives (default: logits of the head of a task, else embeddings)"),
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="of the embedding (default: as the folder says)")] = None,
    normalize: Annotated[bool | None, typer.Option(help="to length 1 (default: as the folder says)")] = None,
    texts: Annotated[str | None, typer.Option(help="yours, compared beside those built in")] = None,
    drop_head: DropHead = False,
) -> None:
    """A model as one graph for another runtime, held against our own before it is written."""
    from tessera.export.graph import export as write
    from tessera.export.model_card import by_text
    from tessera.export.real_text import read_texts

    folder = written(out, out_too)
    with Watcher(console) as watcher:
        checks = write(
            model,
            folder,
            to,
            output=output,
            pooling=pooling,
            normalize=normalize,
            texts=[text for text, _ in read_texts(texts, limit=100)] if texts is not None else (),
            drop_head=drop_head,
            say=watcher.say,
        )
    columns, rows = by_text(checks)
    print_table(f"{folder} beside our own model", columns, rows)


@app.command()
def quantize(
    model: ModelPath,
    texts: RealText = None,
    out: Written = None,
    out_too: WrittenToo = None,
    to: Annotated[Engine, typer.Option(help="OpenVINO, or ONNX Runtime")] = "openvino",
    text: Annotated[str, typer.Option(help="the column that holds the text")] = "text",
    pairs: Annotated[str | None, typer.Option(help="pairs of translations, for retrieval before and after")] = None,
    min_cosine: Annotated[float, typer.Option(help="of every text with its vector in float32")] = 0.99,
    max_drop: Annotated[float, typer.Option(help="points of retrieval, or of the score of a head, to lose")] = 0.5,
    rows: TestRows = None,
    min_agreement: Annotated[float, typer.Option(help="of a head without rows: answers of 100 that stay")] = 98.0,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="smaller, hardly faster, nearer")] = False,
    max_length: Annotated[int, typer.Option(help="tokens that are read of a text")] = 512,
    drop_head: DropHead = False,
) -> None:
    """A model in int8, measured before and after; nothing is written that falls under a bound."""
    from tessera.export.quantize import quantize as write
    from tessera.export.real_text import read_pairs
    from tessera.files import refuse_taken

    folder = written(out, out_too)
    refuse_taken(folder)
    labelled = _labelled(model, rows)
    with Watcher(console) as watcher:
        measured = write(
            model,
            folder,
            to,
            texts=[one for one, _ in _real(texts, rows, text)],
            pairs=read_pairs(pairs) if pairs is not None else (),
            min_cosine=min_cosine,
            max_drop=max_drop,
            weights_only=weights_only,
            max_length=max_length,
            drop_head=drop_head,
            rows=labelled,
            min_agreement=min_agreement,
            say=watcher.say,
        )
    console.print(f"{folder}: {measured}")


@app.command()
def tune(
    model: ModelPath,
    texts: RealText = None,
    goal: Annotated[
        Literal["throughput", "latency"], typer.Option("--for", help="many texts at once, or one at a time")
    ] = "throughput",
    text: Annotated[str, typer.Option(help="the column that holds the text; lang may hold its language")] = "text",
    min_cosine: Annotated[float, typer.Option(help="of every text with its vector in float32")] = 0.999,
    rows: TestRows = None,
    min_agreement: Annotated[float, typer.Option(help="of a head without rows: answers of 100 that stay")] = 98.0,
    max_drop: Annotated[
        float, typer.Option(help="points of retrieval, or of a head's score, a language may lose")
    ] = 0.5,
    max_length: Annotated[int, typer.Option(help="tokens that are read of a text")] = 512,
) -> None:
    """Which engine is fastest here for a model, within bounds; `embed`, `predict`, `serve` ... then take it."""
    from tessera.export.tune import tune as measure

    labelled = _labelled(model, rows)
    with Watcher(console) as watcher:
        found = measure(
            model,
            _real(texts, rows, text),
            rows=labelled,
            goal=goal,
            min_cosine=min_cosine,
            min_agreement=min_agreement,
            max_drop=max_drop,
            max_length=max_length,
            say=watcher.say,
        )
    print_table(f"{model}: engines on this machine", *found.table())
    chosen = found.chosen
    console.print(
        f"{model / 'tuned'}: {chosen.name}, {chosen.threads} threads, batches of {chosen.max_tokens:,} tokens"
    )


def _real(texts: str | None, rows: str | None, column: str) -> list[Any]:
    """Texts with their languages."""
    from tessera.export.real_text import read_texts

    if texts is None and rows is None:
        raise ValueError("nothing is given to measure on: --texts FILE, or where the model has a head --rows FILE")
    return read_texts(texts, column=column) if texts is not None else []


def _labelled(model: Path, rows: str | None) -> list[Any]:
    from tessera.export.head_scores import read_rows

    return read_rows(model, rows) if rows is not None else []
