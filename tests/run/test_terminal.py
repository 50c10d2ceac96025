"""What people see where there is no terminal, and on terminals of any width."""

import io
import json
import re
import subprocess
import sys

import pytest
from rich.console import Console
from rich.text import Text

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


# ------------------------------------------------------------------------------ what data must not do to a terminal

HOSTILE = {
    "clears the screen": "\x1b[2J",
    "link": "\x1b]8;;https://example.invalid\x1b\\text\x1b]8;;\x1b\\",
    "title": "\x1b]0;mine\x07",
    "C1 introducer": "\x9b2J",
    "C1 command string": "\x9d0;mine\x9c",
    "carriage return": "safe\roverwritten",
    "backspaces": "safe\x08\x08\x08\x08evil",
    "bell": "\x07",
    "delete": "\x7f",
    "vertical tab": "\x0b\x0c",
    "bidi override": "\u202egpj.exe\u202c",
    "isolate": "\u2066a\u2069",
    "line separator": "a\u2028b\u2029c",
    "NUL": "a\0b",
    "half a character": "\ud83d",
}
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("made", [Console, terminal.Terminal])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_that_is_said_commands_the_terminal(clock, made, text):
    console = made(file=io.StringIO(), width=200)
    watcher = Watcher(console)
    watcher.say(f"one {text} two")
    watcher.warn(f"one {text} two")
    watcher.progress(f"stage {text}")(1, 1, f"what {text}")
    assert not COMMANDS.search(console.file.getvalue())
    assert console.file.getvalue().count("one ") == 2


def test_an_error_of_a_schema_is_one_line_without_the_address_of_its_library(monkeypatch, capsys):
    from tessera import cli
    from tessera.results.result import Result

    def fails():
        Result(model="m", task="t", metric="f1", kind="k", protocol={}, results={})

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said == "error: fingerprint: is missing; data: is missing\n"
    assert "pydantic" not in said


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_tables_lines_and_errors_are_harmless_too(monkeypatch, capsys, text):
    from tessera import cli

    terminal.print_table(f"title {text}", ["name", f"c {text}"], [[f"r {text}", 1.0], [Text(f"t {text}"), 2.0]])
    terminal.Terminal(stderr=True).print(Text.assemble(("error:", "red"), f" {text}"), soft_wrap=True)
    terminal.Terminal().print(text)

    def fails():
        raise ValueError(f"{text} is wrong")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr()
    assert "is wrong" in said.err
    assert not COMMANDS.search(said.out + said.err)


def test_bars_on_a_terminal_command_it_and_their_data_does_not():
    out = io.StringIO()
    with Watcher(Console(file=out, width=160, force_terminal=True, color_system=None, legacy_windows=False)) as watcher:
        watcher.progress("mid")(1, 2, "loss \x1b[2J\u202e")
    assert "\x1b[2J" not in out.getvalue()
    assert "\u202e" not in out.getvalue()


def test_plain_text_of_every_script_is_left_as_it_is():
    for text in (
        "a [/b] [red]",
        "Hvussu eitur t\u00fa?",
        "\u05e9\u05dc\u05d5\u05dd",
        "\U0001f468\u200d\U0001f469",
        "tab\tline\n",
        ":smile:",
    ):
        assert terminal.harmless(text) == text
        console = terminal.Terminal(file=io.StringIO(), width=200)
        console.print(text, end="")
        assert console.file.getvalue() == text.expandtabs(8)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_json_says_the_same_without_commands(text):
    given = json.dumps({text: [text]}, ensure_ascii=False)
    assert json.loads(terminal.harmless_json(given)) == json.loads(given)
    assert not COMMANDS.search(terminal.harmless_json(given))


def test_what_is_logged_does_not_command_the_terminal():
    script = "from tessera import cli; import logging; cli.app = lambda: logging.getLogger('x').warning('%s', chr(27))"
    done = subprocess.run([sys.executable, "-c", f"{script}; cli.main()"], capture_output=True, text=True, check=True)
    assert done.stderr == "\ufffd\n"
