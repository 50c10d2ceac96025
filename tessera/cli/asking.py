"""Verbs that ask a model: labels, tags, answers and scores of rows; texts that are near to a query."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tessera.cli.app import app
from tessera.cli.options import Device, Dimensions, Dtype, Id, Longer, MaxLength, SkipBad, Threads
from tessera.terminal import Watcher, console, harmless_json


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


@app.command()
def index(
    model: Annotated[str, typer.Argument(help="a model folder, or its name on the Hub", show_default=False)],
    texts: Annotated[str, typer.Argument(help="jsonl, csv, txt, parquet; file, folder, glob or URL")],
    out: Annotated[Path, typer.Argument(help="the folder of the index", show_default=False)],
    text: Annotated[str, typer.Option(help="the column that holds the text")] = "text",
    id_: Id = None,
    prompt: Annotated[str | None, typer.Option(help="before every text (default: the folder's for documents)")] = None,
    dimensions: Dimensions = None,
    max_length: MaxLength = None,
    long: Longer = "truncate",
    output: Annotated[Literal["float32", "float16"], typer.Option(help="number format of the vectors")] = "float32",
    approximate: Annotated[
        bool, typer.Option("--approximate", help="also a graph (HNSW), for millions of texts; needs faiss")
    ] = False,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    threads: Threads = None,
    dtype: Dtype = "auto",
) -> None:
    """An index over the texts of a file, for `tessera search`. Run it again to go on where it was stopped."""
    from tessera.bulk.search_index import build

    with Watcher(console) as watcher:
        written = build(
            model,
            texts,
            out,
            text=text,
            id=id_,
            prompt=prompt,
            dimensions=dimensions,
            max_length=max_length,
            long=long,
            skip_bad=skip_bad,
            output=output,
            approximate=approximate,
            device=device,
            dtype=dtype,
            threads=threads,
            on_progress=watcher.progress("index"),
            say=watcher.say,
        )
    console.print(f"index: {written}")


@app.command()
def search(
    index: Annotated[Path, typer.Argument(help="what `tessera index` wrote", show_default=False)],
    queries: Annotated[list[str] | None, typer.Argument(help="what is looked for", show_default=False)] = None,
    file: Annotated[str | None, typer.Option(help="queries from a file: jsonl, csv, txt, parquet")] = None,
    top: Annotated[int, typer.Option(help="how many texts of each query are shown")] = 5,
    rerank: Annotated[str | None, typer.Option(help="a cross-encoder that puts them in order")] = None,
    candidates: Annotated[int, typer.Option(help="how many texts it reads")] = 50,
    prompt: Annotated[str | None, typer.Option(help="before every query (default: the folder's for queries)")] = None,
    model: Annotated[str | None, typer.Option(help="where the model of the index is now")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="compare every text, also where there is a graph")] = False,
    json_: Annotated[bool, typer.Option("--json", help="a JSON object a query")] = False,
    device: Device = "auto",
    threads: Threads = None,
    dtype: Dtype = "auto",
) -> None:
    """The texts of an index that are nearest to each query."""
    import json
    import sys
    from dataclasses import asdict

    from tessera.bulk.search_index import Query, SearchIndex, read_queries
    from tessera.prediction.predictor import Predictor
    from tessera.prediction.rerank import check_reranker
    from tessera.prediction.rerank import rerank as by_cross_encoder

    asked = [Query(n, text) for n, text in enumerate(queries or (), 1)] + (read_queries(file) if file else [])
    if not asked or top < 1:
        raise ValueError('give a query, as `tessera search INDEX "what I look for"`, or --file; and --top from 1 on')
    if empty := [str(query.id) for query in asked if not query.text.strip()]:
        raise ValueError(f"nothing is asked in query {', '.join(empty[:5])}: its text is empty; leave it out")
    reader = Predictor.from_pretrained(rerank, device=device, dtype=dtype) if rerank else None
    if reader is not None:
        check_reranker(reader)
    texts = [query.text for query in asked]
    opened = SearchIndex.open(index, model, approximate=not exact, device=device, dtype=dtype, threads=threads)
    found = opened.search(texts, max(top, candidates) if reader else top, prompt=prompt)
    if reader is not None:
        found = by_cross_encoder(reader, texts, found)
    for query, hits in zip(asked, found, strict=True):
        if json_:
            line = {"id": query.id, "query": query.text, "hits": [asdict(hit) for hit in hits[:top]]}
            sys.stdout.write(harmless_json(json.dumps(line, ensure_ascii=False)) + "\n")
            continue
        console.print(f"\n{query.text}", style="bold")
        for hit in hits[:top]:
            console.print(f"  {hit.score:.2f}  {hit.id}: {' '.join(hit.text.split())[:200]}", soft_wrap=True)
