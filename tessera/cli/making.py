"""Verbs that make models: from a recipe, phase by phase, or out of other models."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD

from tessera import terminal
from tessera.cli.app import app, tokenizer_app
from tessera.cli.options import Accept, Out, RecipePath, Set, check_outputs, read_recipe
from tessera.terminal import Terminal, Watcher, console, harmless_json, print_table

_DEMO_TEXT = Path("runs/demo-text")  # where the demo's recipe reads
Method = Literal["ties", "linear", "exponential"]


@app.command()
def run(recipe: RecipePath, set_: Set = None, out: Out = None, accept_changes: Accept = False) -> None:
    """The whole journey: tokenizer, shards, phases, merges, evaluation, report. Run it again to go on."""
    folder = _walk(recipe, set_, out, accept_changes, "report")
    terminal.show_summary(folder)


@app.command()
def prepare(
    recipe: RecipePath,
    set_: Set = None,
    out: Out = None,
    accept_changes: Accept = False,
    engine: Annotated[
        Literal["native", "ray"] | None, typer.Option(help="this machine, or a Ray cluster (default: the recipe's)")
    ] = None,
    show_dropped: Annotated[
        int | None, typer.Option(help="read and look only: show so many documents of each reason to drop one")
    ] = None,
) -> None:
    """Raw text -> documents -> tokenizer -> token shards, and stop there."""
    set_ = [*(set_ or []), *([f"machine.engine={engine}"] if engine else [])]
    if show_dropped is not None:
        from tessera.corpus.dropped import dropped
        from tessera.run import documents_of

        folder = _walk(recipe, set_, out, accept_changes, "documents")
        terminal.show_dropped(dropped(documents_of(folder, read_recipe(recipe, set_)), show_dropped))
        return
    console.print(f"shards: {_walk(recipe, set_, out, accept_changes, 'shards') / 'shards'}")


@app.command()
def train(recipe: RecipePath, set_: Set = None, out: Out = None, accept_changes: Accept = False) -> None:
    """The phases of a recipe (and what they need). Under torchrun, on all its processes."""
    console.print(f"checkpoints: {_walk(recipe, set_, out, accept_changes, 'train')}")


@app.command()
def plan(
    recipe: RecipePath,
    set_: Set = None,
    out: Out = None,
    counts: Annotated[
        str | None, typer.Option(help="CSV of language,tokens[,source] where there are no shards; FILE:COLUMN chooses")
    ] = None,
    counts_exponent: Annotated[float, typer.Option(help="1.4286 turns counts drawn as n^0.7 into n")] = 1.0,
    warn_epochs: Annotated[float, typer.Option(help="warn where a language is read more often in one phase")] = 5.0,
    gpu: Annotated[str, typer.Option(help="what hours and memory are stated for: h100, a100, mi300x, ...")] = "h100",
    gpus: Annotated[int, typer.Option(help="how many of them")] = 1,
    mfu: Annotated[float, typer.Option(help="share of their peak that is reached")] = 0.4,
    all_: Annotated[bool, typer.Option("--all", help="every language, not the first 15 and the last 5")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
    csv: Annotated[Path | None, typer.Option(help="write a row for each phase and language")] = None,
    plot: Annotated[Path | None, typer.Option(help="draw shares and epochs, as PNG")] = None,
) -> None:
    """What a recipe will do, before anything is spent: languages, steps, rates, FLOPs, memory, hours."""
    from tessera.plan import cost, fit, token_counts
    from tessera.report import plan_tables
    from tessera.report.overview import Machine, missing_paths, overview

    check_outputs(plot, csv)
    read = read_recipe(recipe, set_)
    shards = (out or Path("runs") / read.name) / "shards" / "train"
    text = token_counts.from_counts(counts, read, counts_exponent) if counts is not None else None
    if text is None and (shards / "index.json").exists():
        text = token_counts.from_shards(shards)
    if text is not None:
        read = fit.settled(read, text)
    if text is not None and not text.counted:
        fit.check([phase for phase in read.phases if phase.kind == "masked"], text.buckets)  # pairs: another store
    planned = overview(read, text, Machine(gpu=gpu, gpus=gpus, mfu=mfu), warn_epochs)
    planned = dataclasses.replace(planned, warnings=(*missing_paths(read), *planned.warnings))
    if csv is not None:
        plan_tables.write_csv(planned, csv)
    if plot is not None:
        plan_tables.draw_plan(planned, plot)
    if json_:
        print(harmless_json(json.dumps(dataclasses.asdict(planned), ensure_ascii=False)))
        return
    for title, columns, rows in plan_tables.tables(planned, all_):
        print_table(title, columns, rows, box=SIMPLE_HEAD, at_least=100)
    wide = Terminal(width=max(100, console.width))
    for line in plan_tables.said(planned):
        wide.print(line, style="yellow" if line.startswith("warning") else None)
    needed = [phase.flops for phase in planned.phases if phase.flops is not None]
    if needed:
        where, flops = cost.this_machine()
        hours = plan_tables.time(sum(needed) / (flops * mfu) / 3600)
        wide.print(f"On this machine ({where}): {hours} at an MFU of {mfu:g}; the log of a run says what it reaches")


@app.command()
def merge(
    models: Annotated[list[Path], typer.Argument(help="two or more folders; one with --adapter", show_default=False)],
    out: Annotated[Path, typer.Option(help="the folder to write", show_default=False)],
    method: Annotated[Method, typer.Option(help="exponential: models oldest first")] = "ties",
    base: Annotated[Path | None, typer.Option(help="ties: the model that the others branched from")] = None,
    density: Annotated[float, typer.Option(help="ties: share of each task vector that is kept")] = 0.2,
    weight: Annotated[list[float] | None, typer.Option(help="one for each model (default: equal)")] = None,
    decay: Annotated[float, typer.Option(help="exponential: weight of a model relative to the next")] = 0.5,
    adapter: Annotated[
        Path | None, typer.Option(help="a LoRA adapter (of peft, or ours) to merge into the one model")
    ] = None,
    config_of: Annotated[
        Path | None, typer.Option(help="the model whose configuration holds where theirs differ (rotary bases, ...)")
    ] = None,
) -> None:
    """Several models into one, as a Hugging Face folder."""
    if adapter is not None:
        from tessera.finetune.adapter_folder import merge_adapter

        if len(models) != 1:
            raise ValueError(f"merge: an adapter is merged into one model, its base, but {len(models)} are given")
        console.print(f"model: {merge_adapter(models[0], adapter, out)}")
        return
    from tessera.train.merge_models import merge_folders

    weights = tuple(weight) if weight else None
    written = merge_folders(
        models, out, method=method, base=base, density=density, weights=weights, decay=decay, config_of=config_of
    )
    console.print(f"model: {written}")


@app.command()
def verify(shards: Annotated[Path, typer.Argument(help="a folder of token shards", show_default=False)]) -> None:
    """Checks every byte of token shards against the checksums written with them."""
    from tessera.data.shards import verify as check

    check(shards)
    console.print(f"{shards}: whole")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="one of them, to be shown or copied", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="the file to copy it to", show_default=False)] = None,
) -> None:
    """The recipes that come with tessera: all of them; one, printed; or one copied to a file, to be edited."""
    from tessera.files import write_text
    from tessera.plan import shipped

    if name is None:
        if out is not None:
            raise ValueError(f"recipes: name the one to copy: tessera recipes mmbert-small --out {out}")
        known = shipped.recipes()
        print_table(
            "",
            ["recipe", "what it is"],
            [[name, shipped.description(known[name])] for name in known],
            left=2,
            box=SIMPLE_HEAD,
        )
        console.print(
            "tessera plan NAME, tessera run NAME; to edit one: tessera recipes NAME --out mine.yaml", soft_wrap=True
        )
        return
    text = shipped.named(name).read_text(encoding="utf-8")
    if out is None:
        print(text, end="")
        return
    if out.exists():
        raise FileExistsError(f"{out}: there already; choose another name")
    write_text(out, text)
    console.print(f"recipe: {out}")


@app.command()
def demo(out: Out = None) -> None:
    """The demo: its text, its recipe run in a few minutes, and the model at work. Run it again to go on."""
    folder = _walk(Path("demo"), None, out, False, "report")
    terminal.show_summary(folder)
    from tessera.demo_text import at_work

    model = folder / "merged" / "final"
    terminal.show_at_work(at_work(model, _DEMO_TEXT))
    command, texts = _this_command(), _DEMO_TEXT / "bitext" / "deu_Latn-eng.jsonl.zst"
    console.print("Next:")
    for line, why in (
        (f"embed {model} {texts} vectors.parquet --text src", "a vector for each text of a file"),
        (f"compare {folder / 'evaluation'}", "all results of the run beside one another"),
        ("recipes demo --out mine.yaml", f"to edit for your own text; then {command} run mine.yaml"),
    ):
        console.print(f"  {command} {line}    # {why}", soft_wrap=True)


@app.command("demo-text")
def demo_text(folder: Annotated[Path, typer.Argument(help="where to write", show_default=False)]) -> None:
    """Real text in many languages from Django's translations and Python's library, for recipes/demo.yaml."""
    from tessera.demo_text import write_demo_text

    if folder.exists():
        console.print(f"{folder}: there already")
        return
    with Watcher(console) as watcher:
        write_demo_text(folder, watcher.progress("demo text"))


@tokenizer_app.command("train")
def tokenizer_train(recipe: RecipePath, set_: Set = None, out: Out = None, accept_changes: Accept = False) -> None:
    """The tokenizer of a recipe."""
    console.print(f"tokenizer: {_walk(recipe, set_, out, accept_changes, 'tokenizer') / 'tokenizer'}")


@tokenizer_app.command("report")
def tokenizer_report(
    tokenizer: Annotated[Path, typer.Argument(help="a tokenizer.json or a folder that holds one", show_default=False)],
    recipe: Annotated[Path, typer.Option(help="the recipe whose text is measured", show_default=False)],
    set_: Set = None,
    sample_bytes: Annotated[int, typer.Option(help="text of each language to measure, in bytes")] = 50_000,
    parallel: Annotated[bool, typer.Option("--parallel", help="the text of all languages says the same")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print JSON and nothing else")] = False,
    csv: Annotated[Path | None, typer.Option(help="write a row for each language")] = None,
    plot: Annotated[Path | None, typer.Option(help="draw what each language pays, as PNG, SVG or HTML")] = None,
) -> None:
    """What each language pays for a tokenizer: fertility, unknown pieces, word boundaries, cost."""
    from tessera.files import write_text
    from tessera.tokenizer.tokenizer import Tokenizer
    from tessera.vocabulary.fertility import as_csv, as_json, fertility, sample_of_each

    check_outputs(plot, csv)
    texts = sample_of_each(read_recipe(recipe, set_).corpus, sample_bytes)
    measured = fertility(Tokenizer.load(tokenizer), texts, parallel=parallel)
    if csv is not None:
        write_text(csv, as_csv(measured))
    if plot is not None:
        from tessera.report.fertility import draw_fertility

        draw_fertility(measured, plot)
    if json_:
        print(harmless_json(as_json(measured)))
        return
    columns = {
        "language": "language",
        "texts": "texts",
        "tokens_per_word": "tokens / word",
        "bytes_per_token": "bytes / token",
        "unknown_share": "unknown",
        "byte_fallback_share": "byte pieces",
        "fresh_word_share": "fresh words",
        "context_share": "change in context",
        "cost": "cost" if parallel else "cost (estimate)",
    }
    print_table(str(tokenizer), list(columns.values()), [[row[name] for name in columns] for row in measured])


def _walk(recipe: Path, set_: list[str] | None, out: Path | None, accept_changes: bool, until: Any) -> Path:
    from tessera.run import run as walk
    from tessera.train.distributed import leads

    console.quiet = not leads()
    if str(recipe) == "demo" and not _DEMO_TEXT.exists():
        demo_text(_DEMO_TEXT)
    read = read_recipe(recipe, set_)
    with Watcher(console) as watcher:
        return walk(read, out or Path("runs") / read.name, until=until, accept_changes=accept_changes, watcher=watcher)


def _this_command() -> str:
    """How this command was started: `tessera` may not be on the path, as without `activate`."""
    if shutil.which("tessera"):
        return "tessera"
    return sys.argv[0] if Path(sys.argv[0]).stem == "tessera" else f"{sys.executable} -m tessera"
