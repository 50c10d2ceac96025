"""Progress and Watcher: the one way in which work tells how far it is, and those that keep silent."""

from collections.abc import Callable
from typing import Protocol

Progress = Callable[[int, int, str], None]
"""A progress callback, called with (done, total, what is being done); done = total ends it."""

Say = Callable[[str], None]
"""Called with one line of plain text for people."""


class Watcher(Protocol):
    """Who is told how far a run is. All text is plain: what colours it has, and what must be escaped, is theirs."""

    def say(self, text: str) -> None:
        """One line for people."""

    def warn(self, text: str) -> None:
        """One line that people should not overlook."""

    def progress(self, stage: str) -> Progress:
        """A stage begins; the result is called as it goes on."""


def silent(*_: object) -> None:
    """A Progress, or a Say, that shows nothing."""


class Silent:
    """A Watcher that shows nothing."""

    def say(self, text: str) -> None:
        """Says nothing."""

    def warn(self, text: str) -> None:
        """Says nothing."""

    def progress(self, stage: str) -> Progress:
        """Shows nothing."""
        return silent
