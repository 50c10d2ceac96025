"""The fine-tuning verb: labelled rows in, a model folder out."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from tessera.cli.app import app
from tessera.cli.options import Device, Dtype
from tessera.terminal import Watcher, console, print_table

Text = str | None
Many = list[str] | None
Whole = int | None
Model = Annotated[Text, typer.Argument(help="a model folder", show_default=False)]
Rows = Annotated[
    Text,
    typer.Argument(
        metavar="[DATA]", help="a file or folder of CSV, TSV, JSONL, JSON, parquet or CoNLL", show_default=False
    ),
]
Out = Annotated[Text, typer.Option(help="the folder to write", show_default=False)]
Recipe = Annotated[Path | None, typer.Option(help="a YAML with these flags as keys; flags go over it")]
Task = Annotated[Text, typer.Option(help="rows of a task of `tessera evaluate --list`, or of your file")]
Data = Annotated[Text, typer.Option(help="the folder with the data of the task (default: the Hub)")]
Kind = Annotated[
    Text,
    typer.Option(
        help="classify, multilabel, pair, regress, tag, span, choose, reward, rerank (guessed); retrieve, distil"
    ),
]
TextColumn = Annotated[Text, typer.Option(help="the column of the text (default: guessed, as all columns)")]
Second = Annotated[Text, typer.Option(help="the column of the second text")]
Label = Annotated[Many, typer.Option(help="the column of the label; several of 0 and 1: each is a label (repeatable)")]
Column = Annotated[Many, typer.Option(help="any other: ROLE=COLUMN, as words=tokens or split=part (repeatable)")]
Labels = Annotated[Text, typer.Option(help="the labels in order, with commas (default: those found)")]
Separator = Annotated[Text, typer.Option(help="between several labels of a cell")]
HeldOut = Annotated[
    float | None,
    typer.Option(help="share of the rows for validation, and for test, where the data has no splits (default: 0.15)"),
]
TrainLanguage = Annotated[Many, typer.Option(help="train on this language alone, test on all (repeatable)")]
Language = Annotated[Many, typer.Option(help="of a task: test on this language alone (repeatable)")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="leave out rows that cannot be used")]
Protocol = Annotated[Text, typer.Option(help="quick (default), or one of `tessera evaluate`, or your file")]
Rates = Annotated[Text, typer.Option(help="learning rates to try, with commas")]
Epochs = Annotated[float | None, typer.Option(help="times that the data is read (default: by its size)")]
Steps = Annotated[Whole, typer.Option(help="steps instead of epochs")]
Batch = Annotated[Whole, typer.Option(help="rows of a step")]
Seeds = Annotated[Whole, typer.Option(help="how many trainings the score is the mean of (default: 3)")]
Patience = Annotated[Whole, typer.Option(help="epochs without a better score before training ends")]
MaxLength = Annotated[Whole, typer.Option(help="tokens that are read of a text")]
Frozen = Annotated[bool, typer.Option("--frozen", help="train the head alone: minutes")]
Lora = Annotated[bool, typer.Option("--lora", help="train the head and low-rank additions, merged in")]
Balance = Annotated[bool, typer.Option("--balance", help="rare labels weigh more")]
Curve = Annotated[bool, typer.Option("--curve", help="what fewer labels give, and twice as many")]
Teacher = Annotated[Text, typer.Option(help="distil: the folder whose vectors are learnt")]
Temperature = Annotated[
    float | None, typer.Option(help="distil: languages are read in proportion to n ** temperature (default: 1)")
]
SourceShare = Annotated[
    float | None, typer.Option(help="distil: share of the pairs whose first side is read as well (default: 1)")
]
Anchors = Annotated[
    Whole, typer.Option(help="distil: vectors of the teacher, whose similarities to a text are learnt too (default: 0)")
]
Retriever = Annotated[Text, typer.Option(help="rerank: a folder whose mistakes are learnt from, and put in order")]
Negatives = Annotated[Whole, typer.Option(help="rerank, retrieve: so many documents a query that do not answer it")]
Candidates = Annotated[Whole, typer.Option(help="rerank: documents of the retriever to put in order (default: 50)")]
Listwise = Annotated[bool, typer.Option("--listwise", help="rerank: learn to find each answer among others")]
Dimensions = Annotated[Text, typer.Option(help="retrieve: sizes that vectors may be cut to, with commas (Matryoshka)")]


@app.command()
def finetune(
    context: typer.Context,
    model: Model = None,
    rows: Rows = None,
    out: Out = None,
    recipe: Recipe = None,
    task: Task = None,
    data: Data = None,
    kind: Kind = None,
    text: TextColumn = None,
    second: Second = None,
    label: Label = None,
    column: Column = None,
    labels: Labels = None,
    separator: Separator = None,
    held_out: HeldOut = None,
    train_language: TrainLanguage = None,
    language: Language = None,
    skip_bad: SkipBad = False,
    protocol: Protocol = None,
    rates: Rates = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch: Batch = None,
    seeds: Seeds = None,
    patience: Patience = None,
    max_length: MaxLength = None,
    frozen: Frozen = False,
    lora: Lora = False,
    balance: Balance = False,
    curve: Curve = False,
    teacher: Teacher = None,
    temperature: Temperature = None,
    source_share: SourceShare = None,
    anchors: Anchors = None,
    retriever: Retriever = None,
    negatives: Negatives = None,
    candidates: Candidates = None,
    listwise: Listwise = False,
    dimensions: Dimensions = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """A model fine-tuned on your labels, as a folder that transformers loads. Run it again to go on after a kill."""
    from tessera.files import refuse_taken
    from tessera.finetune import recipe as recipes

    asked = recipes.read(recipe, _flags(context))
    refuse_taken(Path(asked.out))
    if asked.kind in recipes.PAIRS:
        return _vectors(asked)
    _head(asked)


def _flags(context: typer.Context) -> dict[str, Any]:
    """The keys of a recipe that the command line says."""
    said = {name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE")}
    given = {name: value for name, value in context.params.items() if name in said and name != "recipe"}
    if (rows := given.pop("rows", None)) is not None:
        if "data" in given:
            raise ValueError(f"{rows} and --data {given['data']}: --data is the folder of the data of a --task")
        given["data"] = rows
    if isinstance(label := given.get("label"), list | tuple):
        given["label"] = label[0] if len(label) == 1 else tuple(label)
    if "column" in given:
        given["column"] = dict(map(_column, given["column"]))
    for name in ("labels", "rates", "dimensions"):
        if name in given:
            given[name] = [part.strip() for part in given[name].split(",")]
    if "rates" in given:
        given["rates"] = _rates(given["rates"])
    return given


def _column(said: str) -> tuple[str, Any]:
    role, sign, name = said.partition("=")
    if not sign or not name:
        raise ValueError(f"--column {said}: write it as ROLE=COLUMN, e.g. --column words=tokens")
    return role, tuple(name.split(",")) if "," in name and "{" not in name else name


def _rates(rates: list[str]) -> list[float]:
    try:
        found = [float(part) for part in rates]
    except ValueError:
        found = []
    if not found or not all(0 < rate < 1 for rate in found):
        raise ValueError(f"--rates {','.join(rates)}: give numbers between 0 and 1 with commas, e.g. --rates 3e-5,1e-4")
    return found


def _vectors(asked: Any) -> None:
    """A retriever, or a student of a teacher, out of pairs of texts."""
    from tessera.evaluation import catalogue
    from tessera.retrieval import from_files

    keys = ("temperature", "source_share", "anchors")
    options = {key: value for key in keys if (value := getattr(asked, key)) is not None}
    found = from_files.quick(asked.kind) if asked.protocol == "quick" else catalogue.protocol(asked.protocol)
    with Watcher(console) as watcher:
        done: Any = from_files.fit(
            asked.kind, asked.model, asked.data, Path(asked.out), columns=asked.columns or None,
            protocol=asked.changed(found), held_out=asked.held_out, teacher=asked.teacher, machine=asked.machine,
            watcher=watcher, contrast=from_files.contrast(asked.model, asked.dimensions, asked.negatives), **options,
        )  # fmt: skip
    _show_vectors(done)
    console.print(f"model: {asked.out} (vectors of sentence-transformers differ by {done.difference:.0e})")
    console.print(
        f"next:  tessera embed {asked.out} TEXTS OUT.parquet, or tessera index {asked.out} TEXTS OUT", soft_wrap=True
    )


def _show_vectors(done: Any) -> None:
    """Measures before and after, on test where there is one, over seeds where there are several."""
    rows = {"before": done.before.get("all", done.before), "after": done.after.get("all", done.after)}
    rows |= {"test": done.test} if getattr(done, "test", None) else {}
    measures = list(rows["before"])
    shown = [[name, *(f"{row[one]:.4f}" for one in measures)] for name, row in rows.items()]
    if done.seeds:
        both = [f"{mean:.4f} ± {half:.4f}" for mean, half in (done.seeds[one] for one in measures)]
        shown.append([f"over seeds, on {'test' if 'test' in rows else 'what is held out'}", *both])
    print_table("", ["", *measures], shown, left=1)
    console.print(f"rate {done.rate:g}, {done.summary.steps:,} steps")


def _head(asked: Any) -> None:
    """A model with the head of a task, out of labelled rows."""
    from tessera.evaluation import catalogue
    from tessera.finetune import fit
    from tessera.inference.sentence_folder import model_inside

    model = model_inside(asked.model)
    with Watcher(console) as watcher:
        read = _dataset(asked, model)
        if read.kind == "rerank":
            from tessera.retrieval import rerank

            read, _ = rerank.prepared(
                read, retriever=asked.retriever, negatives=asked.negatives, top=asked.candidates or rerank.TOP,
                machine=asked.machine,
            )  # fmt: skip
        elif ignored := [key for key in ("retriever", "negatives", "candidates") if getattr(asked, key) is not None]:
            raise ValueError(f"--{ignored[0]} is of kind rerank, these rows are of kind {read.kind}")
        for line in read.said:
            watcher.say(f"data: {line}")
        found = fit.quick(read, asked.method) if asked.protocol == "quick" else catalogue.protocol(asked.protocol)
        fitted = fit.finetune(
            model, read, asked.out, protocol=asked.changed(found), method=asked.method, machine=asked.machine,
            balance=asked.balance, curve=asked.curve, listwise=asked.listwise, watcher=watcher,
        )  # fmt: skip
    _show(fitted, read)


def _dataset(asked: Any, model: Path) -> Any:
    """The rows of files, or of a task."""
    from tessera.labelled import dataset
    from tessera.tokenizer.tokenizer import Tokenizer

    held_out = {} if asked.held_out is None else {"held_out": asked.held_out}
    if asked.task is not None:
        from tessera.evaluation.groups import task_dataset

        return task_dataset(asked.task, asked.data, asked.train_language, asked.language, **held_out)
    options = dataset.Options(
        kind=asked.kind, columns=asked.columns, separator=asked.separator, labels=asked.labels,
        train_languages=asked.train_language, skip_bad=asked.skip_bad, **held_out,
    )  # fmt: skip
    return dataset.read(asked.data, options, Tokenizer.load(model))


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
