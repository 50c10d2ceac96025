"""The command line: parse, call one function, print. Every verb is one Python function of the same meaning.

In reading order:

    app.py       the command and its groups
    options.py   what several verbs share
    making.py    run, prepare, train, plan, merge, tokenizer
    judging.py   evaluate, compare, report, parity, doctor
    using.py     embed, export, quantize
    ablating.py  ablate: the verb
"""

import io
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tessera.cli import ablating, judging, making, using
from tessera.cli.app import app

__all__ = ["ablating", "app", "judging", "main", "making", "using"]


def main() -> None:
    """Entry point: mistakes of people end in one message, not in a traceback."""
    for stream in (sys.stdout, sys.stderr):  # a pipe on Windows is cp1252, which lacks most of the world's letters
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app()
    except (ValueError, FileExistsError, FileNotFoundError, ImportError, OSError) as error:
        text = Text.assemble(("error:", "red"), f" {str(error) or type(error).__name__}{_which_pip(str(error))}")
        Console(stderr=True, highlight=False).print(text, soft_wrap=True)
        sys.exit(2)


def _which_pip(said: str) -> str:
    """A line more where `pip` would install into another Python than this one, as without `activate`."""
    pip = shutil.which("pip")
    if "pip install" not in said or (pip is not None and Path(pip).parent == Path(sys.executable).parent):
        return ""
    return f"\n(pip of the Python that runs here: {sys.executable} -m pip)"
