"""What several verbs share: options, and a recipe out of them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

RecipePath = Annotated[
    Path, typer.Argument(help="a recipe: a file, or a name that `tessera recipes` lists", show_default=False)
]
ModelPath = Annotated[Path, typer.Argument(help="a model folder", show_default=False)]
Written = Annotated[Path | None, typer.Argument(metavar="out", help="the folder to write", show_default=False)]
WrittenToo = Annotated[Path | None, typer.Option("--out", help="the same, as finetune, adapt and merge have it")]
Set = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="change one value: --set phases.mid.mask_ratio=0.2 (repeatable)")
]
Out = Annotated[Path | None, typer.Option(help="the run folder (default: runs/<name of the recipe>)")]
Accept = Annotated[bool, typer.Option("--accept-changes", help="go on although the recipe changed since the run began")]

Id = Annotated[str | None, typer.Option("--id", help="the column that is kept (default: id, else row)")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="leave out rows that cannot be read")]
Dimensions = Annotated[int | None, typer.Option(help="the first ones only, for Matryoshka models")]
MaxLength = Annotated[int | None, typer.Option(help="tokens that are read of a text")]
Longer = Annotated[Literal["truncate", "chunk"], typer.Option(help="what is done with longer texts")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")]
Threads = Annotated[int | None, typer.Option(help="of the processor (default: all)")]
Dtype = Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="of the matrix products")]


def overrides(set_: list[str] | None) -> dict[str, str]:
    """What --set changes, by key. Raises RecipeError in words for the person who wrote it."""
    from tessera.plan.loading import RecipeError

    for item in set_ or []:
        if "=" not in item:
            raise RecipeError(f"--set {item}: write it as key=value, e.g. --set phases.mid.mask_ratio=0.2")
    return dict(item.split("=", 1) for item in set_ or [])


def written(out: Path | None, out_too: Path | None) -> Path:
    """The folder to write, given in its place or as --out; a mistake of use where it is in neither or in both."""
    given = [one for one in (out, out_too) if one is not None]
    if len(given) != 1:
        raise typer.BadParameter("name the folder to write once: after the model, or with --out", param_hint="'out'")
    return given[0]


def find_model(place: Path) -> Path:
    """The model folder that is meant by a folder of a run. Raises ValueError naming those there are."""
    from tessera.huggingface import hf_files

    return hf_files.find_model(place)


def check_outputs(plot: Path | None, csv: Path | None = None) -> None:
    """Raises what is wrong with a picture or table that is asked for: rather now than after the work."""
    from tessera.files import refuse_unwritable

    for path in filter(None, (plot, csv)):
        refuse_unwritable(path)
    if plot is not None:
        from tessera.report.style import altair, check_picture

        check_picture(plot)
        altair()


def read_recipe(path: Path, set_: list[str] | None) -> Any:
    """The recipe with what --set changes."""
    from tessera.plan.loading import load

    return load(path, overrides(set_))
