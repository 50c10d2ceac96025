"""The command line: parse, call one function, print. Every verb is one Python function of the same meaning.

In reading order:

    app.py         the command and its groups
    options.py     what several verbs share
    making.py      run, prepare, train, plan, merge, tokenizer
    judging.py     evaluate, compare, report, parity, doctor
    using.py       embed, export, quantize, tune
    asking.py      predict, index, search
    tuning.py      finetune: the verb
    ablating.py    ablate: the verb
    vocabulary.py  vocabulary trim, extend, replace
    adapting.py    look, adapt
    shrinking.py   shrink: the verb
    serving.py     serve: the verb
"""

import errno
import io
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

from pydantic import ValidationError
from rich.text import Text

from tessera import signals
from tessera.cli import ablating, adapting, asking, judging, making, serving, shrinking, tuning, using, vocabulary
from tessera.cli.app import app, arrange
from tessera.files import no_room
from tessera.plan.errors import one_line
from tessera.secrets import redact
from tessera.terminal import HarmlessLog, Terminal

__all__ = [
    "ablating",
    "adapting",
    "app",
    "asking",
    "judging",
    "main",
    "making",
    "serving",
    "shrinking",
    "tuning",
    "using",
    "vocabulary",
]

arrange()


def main() -> None:
    """Entry point: mistakes of people end in one message, not in a traceback; so do signals (tessera/signals.py)."""
    for stream in (sys.stdout, sys.stderr):  # a pipe on Windows is cp1252, which lacks most of the world's letters
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if logging.lastResort is not None:  # which writes warnings to stderr where nobody has said where they go
        logging.lastResort.setFormatter(HarmlessLog())
    with signals.listening():
        try:
            app()
        except signals.Stopped as stopped:
            _stop(stopped)
        except Exception as error:
            if signals.asked():  # it fell over what the signal had ended: a worker, another process of its world
                _stop(signals.Stopped(signals.asked()))
            if (said := _explained(error)) is None:
                raise
            _say("error:", redact(said) + _which_pip(said))
            sys.exit(2)


def _explained(error: Exception) -> str | None:
    """What people are told of an error; None where it is none of theirs, and a traceback says more."""
    temporary = f"what was being written, an output or a temporary file in {tempfile.gettempdir()}"
    place = getattr(error, "filename", None) or temporary
    if isinstance(error, ValidationError):  # of a schema, where nobody said which file it was of
        return one_line(error)
    if isinstance(error, ValueError):
        return str(error) or type(error).__name__
    if (full := no_room(error)) is not None:
        return (
            f"{place}: the disk is full ({os.strerror(full)}); free some space, or write elsewhere, and run the same "
            "command again: what was finished is kept"
        )
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{place}: {error.strerror}; give a folder in which you may read and write, or change who may"
    return str(error) or type(error).__name__ if isinstance(error, (ImportError, OSError)) else None


def _stop(stopped: signals.Stopped) -> None:
    if os.environ.get("RANK", "0") == "0":
        _say("tessera:", str(stopped))
    signals.end(128 + stopped.number)  # threads of libraries are not waited for


def _say(first: str, text: str) -> None:
    Terminal(stderr=True).print(Text.assemble((first, "red"), f" {text}"), soft_wrap=True)


def _which_pip(said: str) -> str:
    """A line more where `pip` would install into another Python than this one, as without `activate`."""
    pip = shutil.which("pip")
    if "pip install" not in said or (pip is not None and Path(pip).parent == Path(sys.executable).parent):
        return ""
    return f"\n(pip of the Python that runs here: {sys.executable} -m pip)"
