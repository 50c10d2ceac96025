"""The command line: parse, call one function, print. Every verb is one Python function of the same meaning.

In reading order:

    app.py       the command and its groups
    options.py   what several verbs share
    making.py    run, prepare, train, plan, merge, tokenizer
    judging.py   evaluate, compare, report, parity, doctor
    using.py     embed, export, quantize
    ablating.py  ablate: the verb
"""

import os
import sys

from rich.console import Console
from rich.text import Text

from tessera import signals
from tessera.cli import ablating, judging, making, using
from tessera.cli.app import app

__all__ = ["ablating", "app", "judging", "main", "making", "using"]


def main() -> None:
    """Entry point: mistakes of people end in one message, not in a traceback; so do signals (tessera/signals.py)."""
    with signals.listening():
        try:
            app()
        except signals.Stopped as stopped:
            _stop(stopped)
        except Exception as error:
            if signals.asked():  # it fell over what the signal had ended: a worker, another process of its world
                _stop(signals.Stopped(signals.asked()))
            if not isinstance(error, (ValueError, ImportError, OSError)):
                raise
            _say("error:", str(error) or type(error).__name__)
            sys.exit(2)


def _stop(stopped: signals.Stopped) -> None:
    if os.environ.get("RANK", "0") == "0":
        _say("tessera:", str(stopped))
    signals.end(int(stopped.code))  # threads of libraries are not waited for


def _say(first: str, text: str) -> None:
    Console(stderr=True, highlight=False).print(Text.assemble((first, "red"), f" {text}"), soft_wrap=True)
