"""The trial of a kernel: on each GPU it is held against PyTorch's numbers once, before it is used."""

import logging
from collections.abc import Callable


def failure(trial: Callable[[], None], instead: str) -> str | None:
    """Why a kernel cannot be used here, which the log is told; None where its trial passes.

    trial    imports the kernel, computes with it, and raises what is wrong
    instead  what is done without it, for the log
    """
    try:
        trial()
    except ImportError:
        reason = "Triton is not installed"
    except Exception as error:  # whatever its compiler, the driver or a missing C compiler says, or other numbers
        reason = f"it does not work here: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    else:
        return None
    logging.getLogger("tessera").warning("%s; %s", instead, reason)
    return reason
