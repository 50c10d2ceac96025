"""The fine-tuning verb: labelled rows in, a model folder out."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tessera.cli.app import app
from tessera.cli.options import ModelPath
from tessera.terminal import Watcher, console, print_table

DataPath = Annotated[
    str, typer.Argument(help="a file or folder of CSV, TSV, JSONL, JSON, parquet or CoNLL", show_default=False)
]
Kind = Annotated[
    str | None,
    typer.Option(
        help="classify, multilabel, pair, regress, tag, span, choose, reward, rerank (guessed); retrieve, distil"
    ),
]
Label = Annotated[
    list[str] | None, typer.Option(help="the column of the label; several of 0 and 1: each is a label (repeatable)")
]
ColumnOf = Annotated[
    list[str] | None, typer.Option(help="any other: ROLE=COLUMN, as words=tokens or split=part (repeatable)")
]
HeldOut = Annotated[
    float, typer.Option(help="share of the rows for validation, and for test, where the data has no splits")
]
TrainLanguage = Annotated[list[str] | None, typer.Option(help="train on this language alone, test on all (repeatable)")]


@app.command()
def finetune(
    model: ModelPath,
    data: DataPath,
    out: Annotated[Path, typer.Option(help="the folder to write", show_default=False)],
    kind: Kind = None,
    text: Annotated[str | None, typer.Option(help="the column of the text (default: guessed, as all columns)")] = None,
    second: Annotated[str | None, typer.Option(help="the column of the second text")] = None,
    label: Label = None,
    column: ColumnOf = None,
    labels: Annotated[str | None, typer.Option(help="the labels in order, with commas (default: those found)")] = None,
    separator: Annotated[str | None, typer.Option(help="between several labels of a cell")] = None,
    held_out: HeldOut = 0.15,
    train_language: TrainLanguage = None,
    teacher: Annotated[Path | None, typer.Option(help="distil: the folder whose vectors are learnt")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave out rows that cannot be used")] = False,
    protocol: Annotated[str, typer.Option(help="quick, or one of `tessera evaluate`, or your file")] = "quick",
    rates: Annotated[str | None, typer.Option(help="learning rates to try, with commas")] = None,
    epochs: Annotated[float | None, typer.Option(help="times that the data is read (default: by its size)")] = None,
    steps: Annotated[int | None, typer.Option(help="steps instead of epochs")] = None,
    batch: Annotated[int | None, typer.Option(help="rows of a step")] = None,
    seeds: Annotated[int | None, typer.Option(help="how many trainings the score is the mean of (default: 3)")] = None,
    patience: Annotated[int | None, typer.Option(help="epochs without a better score before training ends")] = None,
    max_length: Annotated[int | None, typer.Option(help="tokens that are read of a text")] = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="train the head alone: minutes")] = False,
    lora: Annotated[bool, typer.Option("--lora", help="train the head and low-rank additions, merged in")] = False,
    balance: Annotated[bool, typer.Option("--balance", help="rare labels weigh more")] = False,
    curve: Annotated[bool, typer.Option("--curve", help="what fewer labels give, and twice as many")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")] = "auto",
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="of the matrix products")] = "auto",
) -> None:
    """A model fine-tuned on your labels, as a folder that transformers loads. Run it again to go on after a kill."""
    from tessera.files import refuse_taken
    from tessera.finetune import fit
    from tessera.labelled import dataset
    from tessera.plan.recipe import Machine
    from tessera.tokenizer.tokenizer import Tokenizer

    refuse_taken(out)
    machine = Machine.model_validate({"device": device, "dtype": dtype})
    if kind in ("retrieve", "distil") or teacher is not None:
        return _pairs(kind, model, data, out, _columns(text, second, label, column), teacher, machine)
    options = dataset.Options(
        kind=kind, columns=_columns(text, second, label, column), separator=separator, held_out=held_out,
        labels=tuple(part.strip() for part in labels.split(",")) if labels else None,
        train_languages=tuple(train_language or ()), skip_bad=skip_bad,
    )  # fmt: skip
    changes: dict[str, Any] = {"epochs": epochs, "steps": steps, "batch_size": batch, "patience": patience}
    changes |= {"max_length": max_length}
    changes |= {"learning_rates": _rates(rates), "seeds": None if seeds is None else tuple(range(seeds))}
    how = _method(frozen, lora)
    with Watcher(console) as watcher:
        read = dataset.read(data, options, Tokenizer.load(model))
        for line in read.said:
            watcher.say(f"data: {line}")
        asked = _protocol(protocol, read, changes, how)
        fitted = fit.finetune(
            model, read, out, protocol=asked, method=how, machine=machine, balance=balance, curve=curve, watcher=watcher
        )
    _show(fitted, read)


def _columns(text: str | None, second: str | None, label: list[str] | None, more: list[str] | None) -> dict[str, Any]:
    """Columns by role, as flags say them."""
    given: dict[str, Any] = {"text": text, "second": second}
    if label:
        given["label"] = label[0] if len(label) == 1 else tuple(label)
    for item in more or []:
        role, sign, name = item.partition("=")
        if not sign or not name:
            raise ValueError(f"--column {item}: write it as ROLE=COLUMN, e.g. --column words=tokens")
        given[role] = tuple(name.split(",")) if "," in name and "{" not in name else name
    return {role: name for role, name in given.items() if name is not None}


def _rates(rates: str | None) -> tuple[float, ...] | None:
    if rates is None:
        return None
    try:
        found = tuple(float(part) for part in rates.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < rate < 1 for rate in found):
        raise ValueError(f"--rates {rates}: give numbers between 0 and 1 with commas, e.g. --rates 3e-5,1e-4")
    return found


def _pairs(
    kind: Any, model: Path, data: str, out: Path, columns: dict[str, Any], teacher: Path | None, machine: Any
) -> None:
    """A retriever, or a student of a teacher, out of pairs of texts."""
    from tessera.retrieval.from_files import fit

    with Watcher(console) as watcher:
        done = fit(
            kind or "distil",
            model,
            data,
            out,
            columns=columns or None,
            teacher=teacher,
            machine=machine,
            watcher=watcher,
        )
    console.print(str(done))
    console.print(f"model: {out}\nnext: tessera embed {out} TEXTS OUT.parquet, or tessera index {out} TEXTS OUT")


def _method(frozen: bool, lora: bool) -> Any:
    if frozen and lora:
        raise ValueError("finetune: --frozen leaves the encoder as it is, --lora changes it; give one of them")
    return "frozen" if frozen else "lora" if lora else "full"


def _protocol(name: str, read: Any, flags: dict[str, Any], method: Any) -> Any:
    """The protocol of that name with what flags change."""
    changes = {key: value for key, value in flags.items() if value is not None}
    from tessera.evaluation import catalogue
    from tessera.finetune import fit
    from tessera.plan.task import Protocol

    found = fit.quick(read, method) if name == "quick" else catalogue.protocol(name)
    given = found.model_dump(by_alias=True)
    if "steps" in changes or "epochs" in changes:
        given |= {"steps": None, "epochs": None}
    return catalogue.checked(Protocol, given | changes, f"protocol {name}")


def _show(fitted: Any, read: Any) -> None:
    """What a stranger wants to know: how good, what was chosen, where it is, what comes next."""
    from tessera.finetune.card import points

    names = list(fitted.score)
    rows = [["all", *(points(*fitted.score[name]) for name in names)]]
    rows += [[code, *(points(*row[name]) for name in names)] for code, row in fitted.languages.items()]
    part = read.test if fitted.on == "test" else read.validation
    print_table(f"scores on {fitted.on}, {len(part):,} examples, in hundredths", ["", *names], rows, left=1)
    if 0 < len(fitted.labels) <= 40:
        counted = "words" if read.kind == "tag" else "rows"
        shown = [[name, points(f1, half), f"{n:,}"] for name, (f1, half, n) in fitted.labels.items()]
        print_table("", ["label", "F1", counted], shown, left=1)
    tried = ", ".join(
        f"{rate:g} ({'failed' if score is None else points(score, math.nan)})" for rate, score in fitted.rates.items()
    )
    console.print(f"rate {fitted.rate:g} chosen by {fitted.metric} on validation, of {tried}", soft_wrap=True)
    for count, score in fitted.curve:
        console.print(f"with {count:,} rows to train on: {points(score, math.nan)}")
    if fitted.curve:
        more = "no better, by this curve" if fitted.twice is None else f"about {points(fitted.twice, math.nan)}"
        console.print(f"with twice as many, {2 * fitted.curve[-1][0]:,}: {more}")
    for line in fitted.warnings:
        console.print(f"note: {line}", style="yellow", soft_wrap=True)
    console.print(f"model: {fitted.folder} (transformers' logits differ by {fitted.difference:.0e})", soft_wrap=True)
    console.print(f"next:  tessera predict {fitted.folder} TEXTS OUT", soft_wrap=True)
