"""What processes do in tests of signals; as a script, two workers of Daft that sleep in a folder."""

import os
import signal
import sys
import time
from pathlib import Path

from tessera import signals


def until_asked(path: Path, threads: int) -> tuple[float, str | None]:
    """Work with steps, that writes a checkpoint when it is asked to stop."""
    with signals.deferred():
        path.with_suffix(".begun").write_text("")
        while not signals.asked():
            time.sleep(0.01)
        path.write_text("checkpoint")
    return 1.0, None


def killed(number: int) -> int:
    """Ends its process as the system does where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleeps(folder: str) -> str:
    Path(folder, f"{os.getpid()}.pid").write_text("")
    time.sleep(60)
    return folder


if __name__ == "__main__":
    from tessera import cli
    from tessera.corpus import daft_runner

    def work() -> None:
        daft_runner.choose("native")
        list(daft_runner.spread(sleeps, [sys.argv[1]] * 2, workers=2))

    cli.app = work
    cli.main()
