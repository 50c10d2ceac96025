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

PANELS = {  # of `tessera --help`: what one wants, and the verbs for it in the order of the work
    "From text to a model": (
        "demo", "demo-text", "recipes", "plan", "prepare", "verify", "run", "train", "merge", "tokenizer"
    ),
    "A model that is there, made yours": ("look", "adapt", "shrink", "vocabulary"),
    "Your labels, your search": ("finetune", "predict", "embed", "index", "search", "serve"),
    "How good it is": ("evaluate", "compare", "report", "ablate", "parity"),
    "Speed, and this machine": ("doctor", "tune", "quantize", "export"),
}  # fmt: skip


def arrange() -> None:
    """Puts every verb into its panel, once all have added themselves. Raises KeyError for one that is in none."""
    places = {name: (panel, place) for panel, names in PANELS.items() for place, name in enumerate(names)}
    order = list(PANELS)
    for those in (app.registered_commands, app.registered_groups):
        for one in those:
            one.rich_help_panel = places[_name(one)][0]
    app.registered_commands.sort(key=lambda one: (order.index(places[_name(one)][0]), places[_name(one)][1]))


def _name(one: typer.models.CommandInfo | typer.models.TyperInfo) -> str:
    return str(one.name or getattr(one.callback, "__name__", ""))


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False) -> None:
    if version:
        console.print(f"tessera {__version__}")
        raise typer.Exit
