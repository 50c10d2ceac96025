"""What people see: progress bars, tables, warnings, tasks, dropped documents; on a terminal and where there is none.

All text is plain: a `[` in the name of a folder is a `[`. Colours are given beside a text, never inside it. Characters
that would command a terminal (escapes, carriage returns) or turn what is read (bidi overrides) are shown as a mark.
"""

import json
import logging
import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import progress as bars
from rich.box import HEAVY_HEAD, Box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from tessera.progress import Progress

if TYPE_CHECKING:  # it brings Arrow, and `tessera plan` should start at once
    from tessera.corpus.dropped import Dropped

# C0 but tab and line feed, DEL, C1, separators of lines, bidi embeddings, overrides, isolates, and lone surrogates.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    """The text with a mark (U+FFFD) for each character that would command a terminal."""
    return _COMMANDS.sub("\ufffd", text)


def harmless_json(text: str) -> str:
    """JSON that says the same, with those characters escaped."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class HarmlessLog(logging.Formatter):
    """What is logged, made harmless: names of files and values out of them stand in it."""

    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


class Terminal(Console):
    """A console on which nothing that is written commands the terminal; its own colours and bars do."""

    def __init__(self, **given: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **given)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The pieces of what is written, those that are text made harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


console = Terminal()
_WIDE = 145  # columns, for a long bar beside all that is said


class Watcher:
    """Progress bars on a terminal, plain lines elsewhere; what is said stands above the bars, warnings in yellow."""

    def __init__(self, target: Console) -> None:
        self.console = target
        self.bars = bars.Progress(
            bars.TextColumn("{task.fields[stage]:<18}", markup=False),
            bars.BarColumn(bar_width=28 if target.width >= _WIDE else 10),
            bars.TextColumn("{task.percentage:>3.0f}%"),
            bars.TimeElapsedColumn(),
            _Remaining(compact=True),
            bars.TextColumn(
                "{task.fields[what]}", style="dim", markup=False, table_column=Column(ratio=1, no_wrap=True)
            ),
            console=target,
            expand=True,  # `what` takes the rest of the line, and is cut where that is not enough
            disable=not target.is_terminal,
        )
        self.lines: dict[str, _Lines] = {}

    def say(self, text: str) -> None:
        """One line for people."""
        self.console.print(harmless(text), style="dim", markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """One line that people should not overlook."""
        self.console.print(harmless(text), style="yellow", markup=False, soft_wrap=True)

    def progress(self, stage: str) -> Progress:
        """A bar for a stage; the last call, with done = total, ends it."""
        if not self.console.is_terminal:
            return lambda done, total, what: self._line(stage, done, total, what)
        task = self.bars.add_task("", stage=stage, what="", total=None)

        def update(done: int, total: int, what: str) -> None:
            self.bars.update(task, completed=done, total=max(1, total), what=harmless(what))

        return update

    def _line(self, stage: str, done: int, total: int, what: str) -> None:
        """A line when a stage begins, when it ends, and in between: every 20 seconds at first, every 5 minutes later.

        A run of days then leaves a few thousand lines.
        """
        now = time.monotonic()
        lines = self.lines.get(stage)
        if lines is None or done < lines.done:  # what has gone back to its beginning is something new
            lines = self.lines[stage] = _Lines(began=now, first=done)
        lines.done = done
        spent = now - lines.began
        if done >= total or now - lines.last > min(300.0, max(20.0, spent / 100)):
            share, left = 100 * done / max(1, total), ""
            if lines.first < done < total:  # a resumed stage began with `first` done
                left = f", {_duration(spent * (total - done) / (done - lines.first))} left"
            line = f"{stage:<18} {share:3.0f}%  {_duration(spent)}{left}  {what}"
            self.console.print(harmless(line), markup=False, soft_wrap=True)
            lines.last = now

    def __enter__(self) -> "Watcher":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()


@dataclass(slots=True, kw_only=True)
class _Lines:
    """The plain lines of one stage."""

    began: float
    first: int  # what was done already when it began
    done: int = 0
    last: float = -math.inf  # when one was written


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours / 24:.1f} days"


class _Remaining(bars.TimeRemainingColumn):
    """Time left, and nothing once a bar is full."""

    def render(self, task: bars.Task) -> Text:
        return Text("") if task.finished else super().render(task)


def show_summary(folder: Path) -> None:
    """The short table that a run ends with."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for table in summary["tables"]:
        print_table(table["title"], table["columns"], table["rows"], table["digits"])
    for name, path in summary["paths"].items():
        console.print(f"{name + ':':<8} {path}", soft_wrap=True)


def show_at_work(found: Any) -> None:
    """What the demo's model does with messages that it has not read: `demo_text.AtWork`, a floor up."""
    rows = [
        [one.language, one.text, one.word, ", ".join(f"{guess} {chance:.0%}" for guess, chance in one.guesses)]
        for one in found.filled
    ]
    title = f"Masked words: the right one is among its first three words in {found.in_three} of {found.masked}"
    print_table(title, ["language", "message of which the model is surest", "was", "the model's words"], rows, left=4)
    title = (
        f"The nearest in another language, of {found.among:,} messages: the same one in {found.right} of {found.asked}"
    )
    near = [
        [one.language, one.text, one.other, one.neighbour, "the same" if one.right else "another one"]
        for one in found.neighbours
    ]
    print_table(title, ["language", "message", "language", "nearest message", ""], near, left=5)


def show_dropped(found: "list[Dropped]") -> None:
    """A table of reasons, and the documents that were drawn for each."""
    rows = []
    for entry in found:
        most = ", ".join(language for language, _ in entry.languages.most_common(5))
        rows.append([entry.source, entry.reason, f"{entry.count:,}", most])
    print_table("dropped documents", ["source", "reason", "documents", "most of them in"], rows, left=2)
    for entry in found:
        for example in entry.examples:
            title = Text.assemble((entry.reason, "bold"), (f"  {example.language}, {example.origin}", "dim"))
            console.print("\n", title, sep="", soft_wrap=True)
            console.print(_shortened(example.text), soft_wrap=True)
            if example.copy_of is not None:
                console.print(Text.assemble(("kept: ", "dim"), _shortened(example.copy_of)), soft_wrap=True)


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:400] + " ..."


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    digits: int = 3,
    left: int = 1,
    *,
    box: Box | None = HEAVY_HEAD,
    at_least: int = 0,
) -> None:
    """A table whose first `left` columns are words, the others numbers; cells are plain text, or rich's `Text`.

    at_least   columns of the screen that it may take, however narrow the terminal is
    """
    table = Table(box=box, pad_edge=box is HEAVY_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_shown(cell, digits) for cell in row))
    # Where there is no terminal nothing has to fit: a line of a file or a pipe may be long.
    width = max(console.width, at_least) if console.is_terminal else 250
    screen = Terminal(width=width, quiet=console.quiet)
    if title:  # on a line of its own: as a title of the table it would be folded to the width of its columns
        screen.print(Text(title, "bold"))
    screen.print(table)


def _shown(cell: Any, digits: int) -> str | Text:
    return cell if isinstance(cell, Text) else f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell or "")
