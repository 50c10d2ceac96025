"""What the golden tests see of tessera: commands, and the files that they leave. Nothing is imported but the command.

A recording holds no more of a result than is said here, so results may gain keys; a language is known by its first
three letters, so its code may be written in any way.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import golden_text
import torch
from golden_text import RECORDED, TASKS

from tessera.cli import main

HOUSE = Path(__file__).parents[2]
ANEW = "If that is meant: python tests/golden/record.py, and say in the change why it moved."
TRAINED = [name for name, task in TASKS.items() if task["kind"] not in ("bitext", "probe")]
Json = dict[str, Any]


def tessera(*words: str | Path) -> str:
    """Runs a command in this process and returns what it prints."""
    said, before = io.StringIO(), sys.argv
    sys.argv = ["tessera", *map(str, words)]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except SystemExit as end:
        if end.code:
            raise AssertionError(
                f"tessera {' '.join(map(str, words))} ended with {end.code}:\n{said.getvalue()}"
            ) from None
    finally:
        sys.argv = before
    return said.getvalue()


def printed(*words: str | Path) -> str:
    """What a command prints in a process of its own, where no terminal has a say in widths and colours."""
    kept = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE", "LINES")}
    done = subprocess.run(
        [sys.executable, "-m", "tessera", *map(str, words)],
        cwd=HOUSE, env={**kept, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False, timeout=1_800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return "".join(line.rstrip() + "\n" for line in done.stdout.splitlines())


def environment() -> Json:
    """Where sums of floats come out the same to the last bit."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    kept = ("vendor_id", "cpu family", "model", "model name", "stepping")
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": " ".join(found[key] for key in kept if key in found) or platform.processor(),
        **{name: version(name) for name in ("numpy", "scikit-learn")},
    }


def read(name: str) -> Any:
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------------- making


def setting(folder: Path) -> Path:
    """A folder with everything that commands need: corpus, data, the models `first` and `second`."""
    golden_text.write_corpus(folder / "corpus")
    golden_text.write_data(folder / "data")
    for name in ("first", "second"):
        golden_text.write_model(folder / name)
    return folder


def checksums(place: Path, out: Path) -> dict[str, str]:
    """`tessera prepare`: SHA-256 of the tokenizer and of every file of both stores."""
    recipe = golden_text.write_recipe(out.with_suffix(".yaml"), place / "corpus", place / "data")
    tessera("prepare", recipe, "--out", out)
    stores = [path for name in ("train", "held_out") for path in (out / "shards" / name).rglob("*") if path.is_file()]
    paths = [out / "tokenizer" / "tokenizer.json", *stores]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def losses(place: Path, out: Path) -> Json:
    """`tessera train`: of each phase the losses of its steps and the bits per byte of held-out text, as logged.

    The tokenizer is the recorded one, so that a change in how tokenizers are trained is told once, by `checksums`.
    """
    recipe = golden_text.write_recipe(
        out.with_suffix(".yaml"), place / "corpus", place / "data", place / "first" / "tokenizer.json"
    )
    tessera("train", recipe, "--out", out)
    found: Json = {}
    for phase in ("first", "second"):
        lines = [json.loads(line) for line in (out / phase / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["kind"] == "step"]
        held = [line for line in lines if line["kind"] == "held_out"]
        found[phase] = {
            "tokens": [line["tokens"] for line in steps],
            "loss": [line["loss"] for line in steps],
            "bits_per_byte": [
                {language(code): row["bits_per_byte"] for code, row in line["languages"].items()} for line in held
            ],
        }
    return found


# -------------------------------------------------------------------------------------------------------------- judging


def evaluate(place: Path, out: Path, task: str, model: str = "first", *more: str) -> Json:
    """`tessera evaluate --task`: the result, as its file has it."""
    data = place / "data"
    words = ["--task", f"{data / 'tasks.yaml'}:{task}", "--protocol", f"{data / 'protocol.yaml'}:short"]
    tessera("evaluate", place / model, *words, "--data", data, "--out", out, "--dtype", "float32", *more)
    return result(out, task)


def evaluate_recipe(place: Path, run: Path, out: Path, model: str = "first") -> dict[str, Json]:
    """`tessera evaluate --recipe` with the held-out shards of a run: the result of each task."""
    held_out = run / "shards" / "held_out"
    recipe = run.with_suffix(".yaml")
    tessera("evaluate", place / model, "--recipe", recipe, "--held-out", held_out, "--out", out, "--dtype", "float32")
    return {task: result(out, task) for task in ("held_out", "mining", "topics")}


def result(out: Path, task: str) -> Json:
    """The result of a task, whatever its file is called."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))]
    (one,) = (whole for whole in found if whole["task"] == task)
    return one


def scores(whole: Json) -> Json:
    """What is pinned of a result. Other keys may come and go."""
    return {
        "kind": whole["kind"],
        "results": {language(code): row for code, row in whole["results"].items()},
        "average": whole["average"],
        "examples": {language(code): count for code, count in whole["examples"].items()},
    }


def choice(whole: Json) -> Json:
    """What is pinned of a result that rests on trials, besides its scores."""
    return {"chosen": {language(group): how for group, how in whole["chosen"].items()}, "interval": whole["interval"]}


def language(code: str) -> str:
    """`fao` of fao and fao_Latn."""
    return code[:3]


def trial_files(out: Path) -> dict[str, Path]:
    """The files of trials by where they lie."""
    return {str(path.relative_to(out)): path for path in sorted((out / "trials").rglob("*.json"))}


def trials_of(task: str) -> list[str]:
    """The recorded trials of the model `first` on a task; on `choice-after` also those that it begins with."""
    folders = [f"trials/first.{name}/" for name in ((task, "siqa") if task == "choice-after" else (task,))]
    return [name for name in read("identities.json") if name.startswith(tuple(folders))]


def identities(out: Path) -> dict[str, str]:
    """What each trial is known by: canonical JSON."""
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in trial_files(out).items()}
    return {name: json.dumps(trial["identity"], sort_keys=True) for name, trial in found.items()}


def trials(folder: Path, names: Iterable[str]) -> dict[str, Json]:
    """All that trials say but for when, where and by which version they were run."""
    found = {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in names}
    passing = ("seconds", "device", "tessera")
    return {name: {key: trial[key] for key in trial if key not in passing} for name, trial in found.items()}


def courses(several: dict[str, Json]) -> dict[str, Json]:
    """Of each trial that trains: how many steps and tokens, and the loss of the last tenth of them."""
    kept = ("steps", "tokens", "loss")
    return {name: {key: trial[key] for key in kept if key in trial} for name, trial in several.items()}


# ------------------------------------------------------------------------------------------------------------ comparing


def leaves(what: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested objects and lists, with its place."""
    if isinstance(what, dict):
        for key, value in what.items():
            yield from leaves(value, f"{place}/{key}")
    elif isinstance(what, list):
        yield f"{place}/length", len(what)
        for number, value in enumerate(what):
            yield from leaves(value, f"{place}/{number}")
    else:
        yield place, what


def changes(recorded: Any, now: Any, near: Any = None) -> str:
    """A line for each recorded value that is another now; '' where none is. What is there now besides is not looked at.

    near  (place) -> how far floats may lie from what was recorded; None: not at all
    """
    found, lines = dict(leaves(now)), []
    for place, value in leaves(recorded):
        other = found.get(place)
        same = other == value
        if near is not None and isinstance(value, float) and isinstance(other, (int, float)):
            same = math.isclose(value, other, rel_tol=0, abs_tol=near(place, value))
        if not same:
            lines.append(f"{place}: was {value!r}, is {other!r}\n")
    return "".join(lines)
