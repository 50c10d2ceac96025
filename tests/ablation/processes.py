"""What processes of a pool do in tests, where they do not train; imports nothing, so that they start fast."""

import os
import signal
import time
from pathlib import Path


def writes(path: Path, threads: int) -> tuple[float, str | None]:
    path.write_text(str(os.getpid()))
    return 1.0, None


def by_name(path: Path, threads: int) -> tuple[float, str | None]:
    if path.name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if path.name == "sleeps":
        time.sleep(3600)
    if path.name == "never":
        path.write_text("")
    return 0.0, "there is no room"
