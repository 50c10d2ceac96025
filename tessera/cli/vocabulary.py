"""Verbs that give a model another vocabulary: trim, extend, replace, factor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tessera.cli.app import app
from tessera.cli.options import ModelPath
from tessera.terminal import Watcher, console, print_table

if TYPE_CHECKING:
    from tessera.vocabulary.proof import Proof

vocabulary_app = typer.Typer(no_args_is_help=True, help="Another vocabulary for a model: trimmed, extended ...")
app.add_typer(vocabulary_app, name="vocabulary")

Text = Annotated[list[str], typer.Option(help="text of the languages: file, folder, glob or URL (repeatable)")]
Out = Annotated[Path, typer.Option(help="the new folder", show_default=False)]
Language = Annotated[str | None, typer.Option(help="of text whose files do not say it, as fao_Latn")]
Column = Annotated[str, typer.Option("--column", help="the column that holds the text")]
HeldOut = Annotated[float, typer.Option(help="share of the documents that the outcome is measured on")]
MostBytes = Annotated[str, typer.Option("--sample-bytes", help="text of each language that is read, as 20MB")]
NoTiming = Annotated[bool, typer.Option("--no-timing", help="do not measure speed")]


@vocabulary_app.command()
def trim(
    model: ModelPath,
    text: Text,
    out: Out,
    keep: Annotated[
        float | None, typer.Option(help="of each language the most frequent tokens of this share (default: 0.9999)")
    ] = None,
    min_count: Annotated[int | None, typer.Option(help="instead: all tokens that come so often")] = None,
    size: Annotated[int | None, typer.Option(help="instead: so many rows in all")] = None,
    prior: Annotated[
        float,
        typer.Option(help="of --size: weight of the probabilities of a Unigram vocabulary beside the text, as 0.3"),
    ] = 0.0,
    script: Annotated[
        list[str] | None, typer.Option(help="besides: all tokens of this script, as Taml (repeatable)")
    ] = None,
    whole: Annotated[
        list[str] | None,
        typer.Option(help="besides: all tokens of this text, which is like what will be read (repeatable)"),
    ] = None,
    language: Language = None,
    column: Column = "text",
    held_out: HeldOut = 0.05,
    sample_bytes: MostBytes = "20MB",
    no_timing: NoTiming = False,
) -> None:
    """A model without the tokens that its languages do not use; proved equal where pieces are kept."""
    from tessera.files import refuse_taken
    from tessera.vocabulary import card, texts
    from tessera.vocabulary.proof import Checked
    from tessera.vocabulary.trim import trim as work
    from tessera.vocabulary.usage import Rule

    rule = Rule(coverage=keep, min_count=min_count, size=size, scripts=tuple(script or ()), prior=prior)
    refuse_taken(out)
    with Watcher(console) as watcher:
        found = texts.read_texts(
            text, language=language, column=column, held_out=held_out, most_bytes=_bytes(sample_bytes),
            on_progress=watcher.progress("text"),
        )  # fmt: skip
        all_of = texts.read_whole(whole, column=column) if whole else None
        done = work(model, found, out, rule, whole=all_of, check=Checked(speed=not no_timing), watcher=watcher)
    print_table(
        "held-out text",
        ["language", "documents", "all pieces kept", "tokens, all documents", "unknown"],
        card.language_rows(done.proof),
    )
    print_table("", ["", "before", "after"], card.cost_rows(done.proof))
    console.print(_equal(done.proof), soft_wrap=True)
    if done.left_out:
        console.print(f"not copied, they hold the old vocabulary: {', '.join(done.left_out)}", soft_wrap=True)
    console.print(f"model: {done.folder} ({done.rows[0]:,} rows -> {done.rows[1]:,})")


@vocabulary_app.command()
def extend(
    model: ModelPath,
    text: Text,
    tokens: Annotated[int, typer.Option(help="how many pieces are added at most")],
    out: Out,
    init: Annotated[Literal["mean", "focus"], typer.Option(help="how new rows begin")] = "mean",
    watch: Annotated[
        list[str] | None, typer.Option(help="text of languages the model knows, to see what changes for them")
    ] = None,
    language: Language = None,
    column: Column = "text",
    held_out: HeldOut = 0.05,
    sample_bytes: MostBytes = "20MB",
) -> None:
    """A model with more tokens for its new languages; old rows and, where nothing new stands, old ids stay."""
    from tessera.files import refuse_taken
    from tessera.vocabulary import card, texts
    from tessera.vocabulary.extend import extend as work

    refuse_taken(out)
    how: dict[str, Any] = {"column": column, "held_out": held_out, "most_bytes": _bytes(sample_bytes)}
    with Watcher(console) as watcher:
        found = texts.read_texts(text, language=language, **how)
        known = texts.read_texts(watch, **how) if watch else None
        done = work(model, found, out, tokens, init, watched=known, watcher=watcher)
    print_table("held-out text", card.CHANGED, card.change_rows(done.change), left=2)
    if done.left_out:
        console.print(f"not copied, they hold the old vocabulary: {', '.join(done.left_out)}", soft_wrap=True)
    console.print(f"model: {done.folder} ({done.rows[0]:,} rows -> {done.rows[1]:,}, {len(done.pieces):,} of them new)")


@vocabulary_app.command()
def replace(
    model: ModelPath,
    tokenizer: Annotated[Path, typer.Option(help="a tokenizer.json or a folder that holds one", show_default=False)],
    text: Text,
    out: Out,
    language: Language = None,
    column: Column = "text",
    held_out: HeldOut = 0.05,
    sample_bytes: MostBytes = "20MB",
) -> None:
    """A model with another tokenizer: rows that both vocabularies have are copied, the rest are means of old rows."""
    from tessera.files import refuse_taken
    from tessera.vocabulary import card, texts
    from tessera.vocabulary.replace import replace as work

    refuse_taken(out)
    with Watcher(console) as watcher:
        found = texts.read_texts(
            text, language=language, column=column, held_out=held_out, most_bytes=_bytes(sample_bytes)
        )
        done = work(model, tokenizer, out, found, watcher=watcher)
    print_table("held-out text", card.CHANGED, card.change_rows(done.change), left=2)
    if done.left_out:
        console.print(f"not copied, they hold the old vocabulary: {', '.join(done.left_out)}", soft_wrap=True)
    console.print(f"model: {done.folder} ({done.rows[0]:,} rows -> {done.rows[1]:,}, {done.copied:,} of them copied)")


@vocabulary_app.command()
def factor(
    model: ModelPath,
    text: Text,
    rank: Annotated[int, typer.Option(help="numbers of a row, less than the hidden size")],
    out: Out,
    language: Language = None,
    column: Column = "text",
    sample_bytes: MostBytes = "20MB",
) -> None:
    """BERT with narrower rows and a projection: more tokens for as many parameters; an approximation, to be trained."""
    from tessera.files import refuse_taken
    from tessera.vocabulary import texts
    from tessera.vocabulary.factor import factor as work

    refuse_taken(out)
    with Watcher(console) as watcher:
        found = texts.read_texts(text, language=language, column=column, most_bytes=_bytes(sample_bytes))
        done = work(model, found, out, rank, watcher=watcher)
    if done.left_out:
        console.print(f"not copied, they hold the old embedding: {', '.join(done.left_out)}", soft_wrap=True)
    before, after = done.parameters
    console.print(
        f"model: {done.folder} (rows of {done.rank} numbers; {before / 1e6:.1f}M parameters -> {after / 1e6:.1f}M; "
        f"{done.kept:.1%} of the rows' squared length is kept; train it before you judge it)",
        soft_wrap=True,
    )


def _equal(proof: "Proof") -> str:
    """What was proved, in one line."""
    kept = sum(row.kept for row in proof.languages)
    logits = "" if proof.logits is None else f", logits within {proof.logits:.0e} of the largest"
    return (
        f"documents whose pieces are all kept: {kept:,}; their ids map one to one, all of them; of {proof.states:,} "
        f"hidden states and vectors were compared: equal to the last bit{logits}"
    )


def _bytes(text: str) -> int:
    """A number of bytes as recipes write it: 20M."""
    from tessera.plan.fields import parse_bytes

    return parse_bytes(text)
