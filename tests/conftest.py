import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path

import damage
import hypothesis
import offline
import pytest
import torch

# Tests run side by side on few cores: threads of one test that wait for those of another are slower than one thread.
torch.set_num_threads(1)

# No test depends on the clock: a busy machine may take its time for an example.
hypothesis.settings.register_profile("tessera", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tessera")

# A shell that starts the tests in the background (`make test &`, nohup) lets its children ignore Ctrl-C, and theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["whole_run"]  # its fixtures: a corpus, a recipe, a finished run

# Nothing in the whole run, and in no process that it starts, reaches for another machine.
_attempts = Path(tempfile.mkdtemp(prefix="tessera-attempts-"), "attempts.txt")
_children = offline.for_children(str(_attempts))
offline.block(str(_attempts))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_children, os.environ.get("PYTHONPATH", ""))))


def pytest_terminal_summary(terminalreporter):
    """What `make test-slow` is asked for: how much was tried."""
    if any(damage.TRIED.values()):
        terminalreporter.write_line(", ".join(f"{n:,} {what}" for what, n in damage.TRIED.items()))


def pytest_unconfigure():
    for folder in (_attempts.parent, Path(_children)):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _heard(monkeypatch):
    """Our log can be heard in every test, whatever a library has silenced in one before."""
    log = logging.getLogger("tessera")
    monkeypatch.setattr(log, "disabled", False)
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr(logging.root.manager, "disable", 0)
    monkeypatch.setattr(log, "level", logging.WARNING)  # libraries change that of the root
    log.manager._clear_cache()


@pytest.fixture(autouse=True)
def _offline():
    """Ends a test that reached for the network, even where a library kept the error to itself."""
    yield
    if _attempts.exists():
        found = _attempts.read_text(encoding="utf-8")
        _attempts.unlink()
        pytest.fail(f"this test, or a process of it, reached for the network:\n{found}")


@pytest.fixture
def logged(monkeypatch):
    """What our log is told, whatever a library has done to logging before."""
    told = []
    monkeypatch.setattr(logging.getLogger("tessera"), "warning", lambda text, *args: told.append(text % args))
    return told
