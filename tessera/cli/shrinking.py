"""The shrinking verb: a curve of smaller models, each a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tessera.cli.app import app
from tessera.cli.options import ModelPath, check_outputs
from tessera.terminal import Watcher, console, harmless_json, print_table

if TYPE_CHECKING:
    from tessera.shrink.shrink import Curve


Text = Annotated[list[str], typer.Option(help="plain text to learn on: file, folder, glob or URL (repeatable)")]
Layers = Annotated[
    list[int] | None, typer.Option(help="how many are kept (repeatable; default: 3/4, 1/2, 1/3 of them)")
]
By = Annotated[
    Literal["reconstruction", "outcome", "block"],
    typer.Option(help="which layers stay: those that stand best for others; greedy by what it gives; Block Influence"),
]
Neurons = Annotated[
    int | None, typer.Option(help="of each feed-forward network so many are kept (default: all; intermediate_size)")
]
NoReconstruction = Annotated[
    bool, typer.Option("--no-reconstruction", help="do not fit layers to those left out after them")
]
Trim = Annotated[bool, typer.Option("--trim", help="first leave out tokens that the text does not use")]
NoTeaching = Annotated[bool, typer.Option("--no-teaching", help="do not train what is left")]
Keep = Annotated[str | None, typer.Option(help="these layers, whatever their importance, from 0 on: 0,1,2,3")]
SampleBytes = Annotated[str, typer.Option("--sample-bytes", help="text of each language that is read")]
TextLanguage = Annotated[
    str | None, typer.Option("--text-language", help="of text whose files do not say it, as fao_Latn")
]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="score on this, of `tessera evaluate` (repeatable)")]
OfMteb = Annotated[list[str] | None, typer.Option("--mteb", help="score on this task of mteb (repeatable)")]
Language = Annotated[list[str] | None, typer.Option(help="of tasks: only this one, as eng_Latn (repeatable)")]


@app.command()
def shrink(
    model: ModelPath,
    text: Text,
    out: Annotated[Path, typer.Option(help="the folder of the smaller models", show_default=False)],
    layers: Layers = None,
    keep: Keep = None,
    neurons: Neurons = None,
    by: By = "reconstruction",
    no_reconstruction: NoReconstruction = False,
    trim: Trim = False,
    no_teaching: NoTeaching = False,
    epochs: Annotated[float, typer.Option(help="times that the text is read")] = 1.0,
    rates: Annotated[str, typer.Option(help="learning rates to try, with commas")] = "3e-4",
    batch: Annotated[int, typer.Option(help="passages of a step")] = 32,
    sample_bytes: SampleBytes = "20MB",
    text_language: TextLanguage = None,
    column: Annotated[str, typer.Option("--column", help="the column that holds the text")] = "text",
    held_out: Annotated[float, typer.Option(help="share of the documents that is compared on")] = 0.05,
    task: Tasks = None,
    mteb: OfMteb = None,
    language: Language = None,
    data: Annotated[Path | None, typer.Option(help="the folder with the data of tasks (default: the Hub)")] = None,
    no_timing: Annotated[bool, typer.Option("--no-timing", help="do not measure speed")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw the curve, as PNG, SVG or HTML")] = None,
    json_: Annotated[bool, typer.Option("--json", help="a JSON object a model, and no table")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")] = "auto",
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="of the matrix products")] = "auto",
) -> None:
    """Smaller models of one: fewer layers and neurons, fitted to the whole and taught by it; size, speed and scores."""
    from tessera.plan.fields import parse_bytes
    from tessera.plan.recipe import Machine
    from tessera.shrink import measure
    from tessera.shrink.shrink import How
    from tessera.shrink.shrink import shrink as work
    from tessera.vocabulary import texts

    check_outputs(plot)
    if keep is not None and (layers or by != "reconstruction"):
        raise ValueError("--keep names the layers, --layers and --by have them found; give one or the other")
    how = How(
        by=by, keep=() if keep is None else _numbers(keep), neurons=neurons, solve=not no_reconstruction,
        taught=not no_teaching, trim=trim, rates=_rates(rates), epochs=epochs, batch=batch, timed=not no_timing,
    )  # fmt: skip
    scored = measure.Tasks(
        tasks=tuple(task or ()), mteb=tuple(mteb or ()), languages=tuple(language or ()), data=data
    )  # fmt: skip
    with Watcher(console) as watcher:
        found = texts.read_texts(
            text, language=text_language, column=column, held_out=held_out, most_bytes=parse_bytes(sample_bytes),
            on_progress=watcher.progress("text"),
        )  # fmt: skip
        machine = Machine.model_validate({"device": device, "dtype": dtype})
        curve = work(model, found, out, sizes=layers or (), how=how, tasks=scored, machine=machine, watcher=watcher)
    _show(curve, out, plot, as_json=json_)


def _show(curve: "Curve", out: Path, plot: Path | None, *, as_json: bool) -> None:
    if as_json:
        _print_json(curve)
    else:
        print_table("smaller models", *curve.table(), left=2)
    if plot is not None:
        from tessera.report.shrink_chart import draw_curve

        rows = [{"model": point.name, "speed": point.speed, "in_layers": point.in_layers, "near": point.near,
                 "scores": point.scores} for point in curve.points]  # fmt: skip
        console.print(f"picture: {draw_curve(rows, plot, curve.near)}")
    if not as_json:
        verb = "embed" if curve.near == "cosine" else "serve"
        console.print(f"models: {out}; next: tessera {verb} {curve.points[-1].folder}", soft_wrap=True)


def _print_json(curve: "Curve") -> None:
    import json
    import sys
    from dataclasses import asdict

    for point in curve.points:
        line = {**asdict(point), "folder": str(point.folder)}
        sys.stdout.write(harmless_json(json.dumps(line, ensure_ascii=False)) + "\n")


def _numbers(said: str) -> tuple[int, ...]:
    parts = [part.strip() for part in said.split(",")]
    if any(not part.isdecimal() for part in parts):
        raise ValueError(f"--keep {said}: give the numbers of layers with commas, from 0 on, as --keep 0,1,2,3")
    return tuple(map(int, parts))


def _rates(said: str) -> tuple[float, ...]:
    from tessera.cli.tuning import _rates as numbers

    return tuple(numbers([part.strip() for part in said.split(",")]))
