"""What people see where there is no terminal, and on terminals of any width."""

import io
import re

import pytest
from rich.console import Console

from tessera import terminal
from tessera.terminal import Watcher

WHAT = "loss 4.798, 22,200 tokens/s, MFU 41.9%, data wait 1%, packing 93%, 12.4 GiB"


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [1_000.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def plain(clock, times: list[float], done: list[int], total: int = 1_000_000) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    with Watcher(console) as watcher:
        tell = watcher.progress("mid")
        for seconds, tokens in zip(times, done, strict=True):
            clock[0] = 1_000 + seconds
            tell(tokens, total, WHAT)
    return console.file.getvalue().splitlines()


def test_a_line_is_whole_and_says_what_is_left_of_a_resumed_stage(clock):
    # 400,000 were done before; 200,000 took 90 s, so the other 400,000 take 180 s.
    said = plain(clock, [0, 10, 90], [400_000, 420_000, 600_000])
    assert said == [
        f"mid                 40%  0.0 s  {WHAT}",
        f"mid                 60%  2 min, 3 min left  {WHAT}",
    ]


def test_what_begins_again_is_timed_from_its_own_beginning(clock):
    # Embedding takes 90 s; then fine-tuning does a quarter in 30 s, so the rest takes 90 s.
    said = plain(clock, [0, 90, 100, 130], [0, 1000, 0, 250], 1000)
    times = [line.split("  loss")[0].split("%  ")[1] for line in said]
    assert times == ["0.0 s", "2 min", "0.0 s", "30.0 s, 2 min left"]


def test_a_run_of_ten_days_leaves_thousands_of_lines_and_not_a_line_for_each_step(clock):
    steps = 10 * 24 * 3600 // 5
    said = plain(clock, [5.0 * n for n in range(steps)], list(range(steps)), steps * 2)
    assert 2_500 < len(said) < 4_500
    early = [line for line in said if " s, " in line or re.search(r" ([1-9]|10) min, ", line)]
    assert len(early) >= 10 * 60 / 25  # every 20 seconds or so in the first ten minutes


def test_the_end_is_always_said(clock):
    assert len(plain(clock, [0, 1, 2], [1, 2, 3], 3)) == 2


def test_durations_are_in_the_unit_one_would_say():
    shown = {0.04: "0.0 s", 59.9: "59.9 s", 61: "1 min", 3_599: "1 h 00 min", 5_400: "1 h 30 min", 864_000: "10.0 days"}
    assert {seconds: terminal._duration(seconds) for seconds in shown} == shown


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_bracket_in_a_name_is_a_bracket(is_terminal):
    out = io.StringIO()
    console = Console(file=out, width=160, force_terminal=is_terminal, color_system=None, legacy_windows=False)
    with Watcher(console) as watcher:
        watcher.warn("runs[/old]/[red]first/checkpoint-5: damaged")
        watcher.say("runs[/old]: read")
        watcher.progress("[bold]")(1, 2, "[/] and [dim]")
    for line in ("runs[/old]/[red]first/checkpoint-5: damaged", "runs[/old]: read", "[bold]", "[/] and [dim]"):
        assert line in out.getvalue()


def test_a_bracket_in_a_table_is_a_bracket(capsys):
    terminal.print_table("[/a]", ["[b]", "[red]"], [["[/c]", 0.5]])
    assert {"[/a]", "[b]", "[red]", "[/c]", "0.500"} <= set(re.split(r"[\s│┃]+", capsys.readouterr().out))


@pytest.mark.parametrize(("width", "seen"), [(80, "22,200 tokens/s"), (120, "packing 93%"), (160, "12.4 GiB")])
def test_the_bar_leaves_room_for_what_is_said(width, seen):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with Watcher(console) as watcher:
        watcher.progress("pretrain")(500, 1_000, WHAT)
    last = [line for line in re.split(r"[\r\n]", console.file.getvalue()) if "50%" in line][-1]
    assert "pretrain" in last
    assert "━" in last
    assert seen in last
