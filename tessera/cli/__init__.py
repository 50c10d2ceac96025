"""The command line: parse, call one function, print. Every verb is one Python function of the same meaning.

In reading order:

    app.py       the command and its groups
    options.py   what several verbs share
    making.py    run, prepare, train, plan, merge, tokenizer
    judging.py   evaluate, compare, report, parity, doctor
    using.py     embed, export, quantize
    ablating.py  ablate: the verb
"""

import sys

from rich.text import Text

from tessera.cli import ablating, judging, making, using
from tessera.cli.app import app
from tessera.terminal import Terminal

__all__ = ["ablating", "app", "judging", "main", "making", "using"]


def main() -> None:
    """Entry point: mistakes of people end in one message, not in a traceback."""
    try:
        app()
    except (ValueError, FileExistsError, FileNotFoundError, ImportError, OSError) as error:
        text = Text.assemble(("error:", "red"), f" {str(error) or type(error).__name__}")
        Terminal(stderr=True).print(text, soft_wrap=True)
        sys.exit(2)
