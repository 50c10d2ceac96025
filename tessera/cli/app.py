"""The command and its groups, to which the verbs add themselves."""

from typing import Annotated

import typer

from tessera import __version__
from tessera.terminal import console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Make, adapt, merge, measure and run modern multilingual text encoders.",
)
tokenizer_app = typer.Typer(no_args_is_help=True, help="Train a tokenizer, or look at one.")
app.add_typer(tokenizer_app, name="tokenizer")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False) -> None:
    if version:
        console.print(f"tessera {__version__}")
        raise typer.Exit
