"""Verbs that say how good, how right and how equipped."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from tessera.cli.app import app
from tessera.cli.options import Set, check_outputs, find_model, overrides, read_recipe
from tessera.files import model_name, refuse_url
from tessera.terminal import Watcher, console, print_table

Settings = dict[str, Any]  # of an evaluation


@app.command()
def evaluate(
    model: Annotated[Path | None, typer.Argument(help="a model folder (none with --list)", show_default=False)] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="a task, a group of tasks, or your file; --list shows them (repeatable)")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="how encoders are fine-tuned: eurobert, nlu-evals, modernbert, quick, or your file (default: quick)"
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="the folder with the data of tasks (default: the Hub)")] = None,
    recipe: Annotated[Path | None, typer.Option(help="measure the `evaluation` of a recipe instead")] = None,
    mteb: Annotated[list[str] | None, typer.Option(help="a task of mteb, by mteb's own protocol (repeatable)")] = None,
    benchmark: Annotated[str | None, typer.Option(help='a benchmark of mteb, as "MTEB(Multilingual, v2)"')] = None,
    language: Annotated[
        list[str] | None, typer.Option(help="only this one of each task's, as ron, ron_Latn or ro (repeatable)")
    ] = None,
    available: Annotated[bool, typer.Option("--available", help="mteb: what has data; the rest is named")] = False,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"] | None,
        typer.Option(help="of matrix products (default: auto, bfloat16 where that is fast; results say which)"),
    ] = None,
    out: Annotated[Path, typer.Option(help="the folder for the results")] = Path("evaluation"),
    name: Annotated[str | None, typer.Option(help="the model's name in the results (default: its folder's)")] = None,
    held_out: Annotated[Path | None, typer.Option(help="held-out shards, for bits per byte")] = None,
    oracle: Annotated[bool, typer.Option("--oracle", help="choose on the test set; results are marked")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="write the chosen model of each task as a folder")] = False,
    list_: Annotated[bool, typer.Option("--list", help="show the tasks there are, and stop")] = False,
    set_: Set = None,
) -> None:
    """Measures a model on tasks, by name or of a recipe; finished trials and measurements are not repeated."""
    if list_:
        return _list(task, data)
    refuse_url(out)
    model, way = _way(model, {"--recipe": recipe, "--task": task, "--mteb": mteb or benchmark})
    _refuse_ignored(way, {"--protocol": protocol, "--oracle": oracle, "--available": available, "--set": set_,
                          "--held-out": held_out, "--language": language, "--data": data, "--keep": keep})  # fmt: skip
    from tessera.evaluation import kept
    from tessera.report import compare as beside

    model, found = find_model(model), []
    with Watcher(console) as watcher:
        whole: Settings = {"name": name or model_name(model), "on_progress": watcher.progress("evaluate")}
        if recipe is not None:
            paths = _by_recipe(model, read_recipe(recipe, set_), out, held_out, dtype, whole)
        elif task is not None:
            whole |= {"protocol": protocol or "quick", "data": data, "languages": language or ()}
            whole |= {"oracle": oracle, "keep": keep}
            paths = _by_name(model, task, out, held_out, _machine(dtype, set_), whole)
        else:
            from tessera.mteb.run import run

            whole |= {"tasks": mteb or (), "benchmark": benchmark, "languages": language, "data": data, "dtype": dtype}
            paths = run(model, out, available=available, **whole)
        for path in paths:
            watcher.say(f"{path}\nmodel: {kept.place(path)}" if keep else str(path))
            found.append(path)
    if found:
        _show(*beside.tables(beside.compare(found)))


_GOES_WITH = {  # what nothing else heeds
    "--protocol": ("--task",),
    "--oracle": ("--task",),
    "--available": ("--mteb",),
    "--set": ("--recipe", "--task"),
    "--held-out": ("--recipe", "--task"),
    "--language": ("--task", "--mteb"),
    "--data": ("--task", "--mteb"),
    "--keep": ("--task",),
}


def _way(model: Path | None, asked: dict[str, Any]) -> tuple[Path, str]:
    """The model, and by which of the options it is measured. Raises ValueError unless it is one."""
    ways = [way for way, one in asked.items() if one is not None]
    if model is None or len(ways) != 1:
        raise ValueError(
            "evaluate: give a model folder and one of --task, --recipe and --mteb/--benchmark, e.g. "
            "tessera evaluate runs/demo/merged/final --task sib200-probe --data FOLDER; --list shows the tasks"
        )
    return model, ways[0]


def _refuse_ignored(way: str, given: dict[str, Any]) -> None:
    """Raises ValueError naming an option that would have no effect beside --recipe, --task or --mteb."""
    for option in (option for option, value in given.items() if value and way not in _GOES_WITH[option]):
        inside = {"--protocol": "protocol", "--data": "data"}.get(option)
        way_out = f"; in a recipe that is --set evaluation.{inside}=..." if inside and way == "--recipe" else ""
        own = "; a recipe names its languages itself" if option == "--language" else ""
        raise ValueError(f"evaluate: {option} goes with {' and '.join(_GOES_WITH[option])}, not {way}{way_out}{own}")


def _machine(dtype: str | None, set_: list[str] | None) -> Any:
    """Where tasks by name are run, as --dtype and --set machine.KEY=VALUE say."""
    from tessera.evaluation.catalogue import checked
    from tessera.plan.loading import parse_yaml
    from tessera.plan.recipe import Machine

    given: Settings = {}
    for key, value in overrides(set_).items():
        if not key.startswith("machine."):
            raise ValueError(
                f"evaluate: --set {key}: there is no recipe, so only machine.KEY can be set beside --task; how a model "
                "is trained is said by --protocol, by name or in a file of yours"
            )
        try:
            given[key.removeprefix("machine.")] = parse_yaml(value)
        except ValueError as error:
            raise ValueError(f"evaluate: --set {key}: {value[:80]!r} is not YAML{error}") from None
    return checked(Machine, {**given, **({"dtype": dtype} if dtype is not None else {})}, "--set machine")


def _list(task: list[str] | None, data: Path | None) -> None:
    """Prints the tasks that are asked for, or all."""
    from tessera.evaluation import catalogue

    columns, rows = catalogue.table(catalogue.choose(task) if task else catalogue.known(), data)
    print_table("", columns, rows, left=6, box=None, at_least=120)


def _by_recipe(model: Path, read: Any, out: Path, held_out: Path | None, dtype: str | None, whole: Settings) -> Any:
    """The files of the results of a recipe's `evaluation`, as they come."""
    from tessera.evaluation.evaluate import evaluate_recipe

    machine = read.machine if dtype is None else read.machine.model_copy(update={"dtype": dtype})
    return evaluate_recipe(model, read.evaluation, out, held_out=held_out, seed=read.seed, machine=machine, **whole)


def _by_name(model: Path, task: list[str], out: Path, held_out: Path | None, machine: Any, whole: Settings) -> Any:
    """The files of the results of tasks by name, as they come."""
    from tessera.evaluation import evaluate as one

    tasks: list[Any] = [*([one.held_out_task(held_out)] if held_out is not None else []), *task]
    return one.evaluate(model, tasks, out, machine=machine, **whole)


@app.command()
def compare(
    results: Annotated[list[Path] | None, typer.Argument(help="result files, or folders of them")] = None,
    published: Annotated[bool, typer.Option("--published", help="also what papers report on these tasks")] = False,
    task: Annotated[list[str] | None, typer.Option(help="only this task (repeatable)")] = None,
    model: Annotated[list[str] | None, typer.Option(help="only this published model (repeatable)")] = None,
    reference: Annotated[str | None, typer.Option(help="what others are measured against (default: the first)")] = None,
    languages: Annotated[bool, typer.Option("--languages", help="a row for each language")] = False,
    language: Annotated[list[str] | None, typer.Option(help="only this, as ron, ron_Latn or ro (repeatable)")] = None,
    common: Annotated[bool, typer.Option("--common", help="average over languages that all have")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw it, as PNG, SVG or HTML")] = None,
    metric: Annotated[str | None, typer.Option(help="instead of each task's own")] = None,
    groups: Annotated[
        Literal["family", "script", "european"], typer.Option(help="of languages, in a picture")
    ] = "family",
    kind: Annotated[
        Literal["auto", "languages", "groups", "length", "tasks"], typer.Option(help="of picture")
    ] = "auto",
    csv: Annotated[Path | None, typer.Option(help="write a row for each value")] = None,
) -> None:
    """Results beside one another and beside published ones, with what differs for certain."""
    from tessera.report.compare import compare as beside
    from tessera.report.compare import tables, write_csv

    check_outputs(plot, csv)
    found = beside(results or [], published=published, tasks=task or (), models=model or (), metric=metric,
                   reference=reference, common=common, languages=language or ())  # fmt: skip
    _show(*tables(found, languages))
    if csv is not None:
        write_csv(found, csv)
        console.print(f"table: {csv}")
    if plot is not None:
        from tessera.report.compare_charts import draw

        console.print(f"picture: {draw(found, plot, kind, groups=groups)}")


def _show(shown: list[Any], notes: list[str]) -> None:
    for title, columns, rows in shown:
        print_table(title, columns, rows, left=2)
    for note in notes:
        console.print(note)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="a run folder", show_default=False)]) -> None:
    """One HTML page about a run, from its files; opens offline."""
    from tessera.report import write_report

    console.print(f"report: {write_report(folder)}")


@app.command()
def parity(model: Annotated[Path, typer.Argument(help="a model folder", show_default=False)]) -> None:
    """Whether a model gives here what it should: beside transformers, in every backend. Exit status 1 if not."""
    from tessera.inference.parity import parity as compare

    with Watcher(console) as watcher:
        rows = compare(model, on_progress=watcher.progress("parity"), say=watcher.say)
    columns = ["compared", "where", "dtype", "of", "largest difference", "bound", ""]
    verdicts = {True: "ok", False: Text("NOT OK", style="red")}
    shown = [
        [row.check, row.where, row.dtype, row.of, f"{row.difference:.1e}", f"{row.bound:.1e}", verdicts[row.ok]]
        for row in rows
    ]
    title = f"{model}: differences in parts of the number and of the usual size of its kind"
    print_table(title, columns, shown, left=4)
    broken = sum(not row.ok for row in rows)
    if broken:
        console.print(f"{broken} of {len(rows)} NOT OK", style="red")
        raise typer.Exit(1)
    console.print(f"all {len(rows)} ok")


@app.command()
def doctor() -> None:
    """What this machine has, what tessera would use of it, and what is missing."""
    from tessera.doctor import examine

    rows = [[finding.what, finding.found, finding.advice] for finding in examine()]
    print_table("this machine", ["", "found", "what to do"], rows, left=3)
